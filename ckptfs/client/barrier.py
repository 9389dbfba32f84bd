"""Saving together with the ranks on the same machine.

Ranks meet at a socket in the directory itself, which containers that share the mount but neither network nor /tmp have
in common. Jobs that share a mount meet each at a socket of their own. The local rank 0 listens and saves; the others
come, wait, and are told the outcome. The socket has lost its name before the marker is touched, so that it is in no
version of this job. Who dies is noticed by the others at once.
"""

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ckptfs.client.rank import Rank
from ckptfs.errors import CkptfsError

BARRIER_TIMEOUT_S = 1800.0
"""As long as torch.distributed waits for a collective operation; a rank may be writing its part of a large model."""

_NAME = ".ckptfs-ranks"
_LOOK_S = 0.02

# what the ranks of a job have in common and other jobs have not: by torch.distributed and torchrun, Slurm, Open MPI
_OF_A_JOB = (
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "OMPI_MCA_ess_base_jobid"),
)


class BarrierError(CkptfsError):
    """The ranks did not meet, or the one that saves for all failed."""

    hint = "every local rank calls save(barrier=True), as often as the others"


def together(directory: Path, rank: Rank, save: Callable[[], int], timeout_s: float | None = None) -> int:
    """Wait until all local ranks are here, have the first of them save, and return its version's number in all of them.

    Args:
        directory: Where they meet.
        rank: This one.
        save: What the first of them does.
        timeout_s: How long to wait at most; None waits BARRIER_TIMEOUT_S.

    Raises:
        BarrierError: Not all came in time, or the first one died or failed; in itself, what `save` raises.
        OSError: The first one cannot listen there; EROFS, in all of them, where nothing can be written.
    """
    if rank.local_world == 1:
        return save()
    deadline_s = time.monotonic() + (BARRIER_TIMEOUT_S if timeout_s is None else timeout_s)
    # a socket's path is at most 108 bytes long, a directory's 4096
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if is_read_only(fd):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))  # else the others wait for the one that cannot listen
        place = f"/proc/self/fd/{fd}/{_NAME}{_job()}"
        if rank.local_rank == 0:
            return _lead(place, rank.local_world - 1, save, deadline_s)
        return _follow(place, rank.local_rank, deadline_s)
    finally:
        os.close(fd)


def is_read_only(directory: int | Path) -> bool:
    """True if nothing can be written to the filesystem of a directory."""
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _job() -> str:
    """Return what is added to the name for this job; nothing where its launcher says nothing of it."""
    said = [os.environ.get(name, "") for name in _OF_A_JOB]
    return f"-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}" if any(said) else ""


def _lead(place: str, others: int, save: Callable[[], int], deadline_s: float) -> int:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC))
        _unlink(place)  # of a run that was killed here
        listener.bind(place)
        try:
            listener.listen(others)
            followers = [stack.enter_context(_accept(listener, deadline_s, others)) for _ in range(others)]
        finally:
            _unlink(place)
        try:
            version = save()
        except BaseException as error:
            _tell(followers, {"error": str(error) or type(error).__name__})
            raise
        _tell(followers, {"version": version})
        return version


def _accept(listener: socket.socket, deadline_s: float, others: int) -> socket.socket:
    listener.settimeout(max(0.0, deadline_s - time.monotonic()))
    try:
        return listener.accept()[0]
    except (TimeoutError, BlockingIOError) as error:
        raise BarrierError(f"not all of the {others} other local ranks came to save") from error


def _tell(followers: list[socket.socket], answer: dict[str, Any]) -> None:
    for follower in followers:
        try:
            follower.send(json.dumps(answer).encode())
        except OSError:
            pass  # it is dead


def _follow(place: str, local_rank: int, deadline_s: float) -> int:
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as leader:
            leader.settimeout(max(_LOOK_S, deadline_s - time.monotonic()))
            try:
                leader.connect(place)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                # it has not come yet, or the name is left from one that was killed
                if time.monotonic() > deadline_s:
                    raise BarrierError(f"local rank 0 did not come to save with local rank {local_rank}") from error
                time.sleep(_LOOK_S)
                continue
            try:
                text = leader.recv(1 << 16)
            except TimeoutError as error:
                raise BarrierError("not all local ranks came to save, or saving took too long") from error
            except OSError:
                text = b""
        if not text:
            raise BarrierError("local rank 0 ended before it had saved")
        answer = json.loads(text)
        if "error" in answer:
            raise BarrierError(f"local rank 0 could not save: {answer['error']}")
        return int(answer["version"])


def _unlink(place: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(place)
