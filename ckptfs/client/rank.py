"""Which rank of a distributed job this process is."""

import os
import sys
from typing import NamedTuple

from ckptfs.errors import InvalidInputError


class Rank(NamedTuple):
    """Which one of how many."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def current_rank() -> Rank:
    """Return the rank of this process: of torch.distributed where that is in use, else of RANK and LOCAL_RANK.

    Raises:
        InvalidInputError: One of the variables is no number.
    """
    rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    # only looked at if the program has imported it
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is not None and torch_distributed.is_available() and torch_distributed.is_initialized():
        rank, world = torch_distributed.get_rank(), torch_distributed.get_world_size()
    # without word of several machines, all ranks are on this one
    return Rank(rank, world, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", world))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError as error:
        raise InvalidInputError(f"${name} is {text!r}, expected a number") from error
