"""What the modules that answer requests have in common: what they work on, and keeping names as they are meanwhile."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ckptfs.fs.operations import Operations
from ckptfs.fs.transport.handle_book import HandleBook
from ckptfs.fs.transport.nodes import Nodes
from ckptfs.fs.transport.open_handles import OpenHandles
from ckptfs.fs.transport.paths import Paths
from ckptfs.fs.transport.wire import Handler, Reply, Request


@dataclass(slots=True, kw_only=True)
class Requests(ABC):
    """The requests of some kind: answers them."""

    operations: Operations
    nodes: Nodes
    paths: Paths
    book: HandleBook
    handles: OpenHandles

    @abstractmethod
    def handlers(self) -> dict[int, Handler]:
        """Return what answers each opcode of theirs."""

    def new_mode(self, directory_id: int, mode: int, umask: int) -> int:
        """Return the mode of something new: a default access control list of its directory takes the umask's place."""
        path = self.nodes.path(self.nodes.get(directory_id))
        if path is None or not mode & umask or self.operations.xattrs.hands_down_list(path):
            return mode
        return mode & ~umask


_Requests = TypeVar("_Requests", bound=Requests)


def steady(handler: Callable[[_Requests, Request], Reply]) -> Callable[[_Requests, Request], Reply]:
    """Return a handler that keeps names as they are while it runs; it must not take long."""

    @functools.wraps(handler)
    def run(requests: _Requests, request: Request) -> Reply:
        if requests.paths.is_of_versions(request.node):
            # nothing is renamed there, and a version may have to be fetched
            return handler(requests, request)
        with requests.paths.names:
            return handler(requests, request)

    return run
