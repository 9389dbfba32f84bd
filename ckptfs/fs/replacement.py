"""The whole tree becomes another version: what whoever brings requests is to make of that.

A program asks by names and by what it has open, and a transport knows both from before. So nobody uses a name while the
tree changes, and until the transport has followed; then it tells the kernel.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager

from ckptfs.fs.attributes import Look

Follow = Callable[[Container[bytes], Look], None]
"""Called when the tree is the other one, before anybody can use it, with the paths that may lead to other inodes than
before, and with what looks into the tree as it was: at least at what went of it that is no file.
"""

Replacing = Callable[[], AbstractContextManager[Follow]]
"""Nobody uses a name in its block; what it gives is called if anything was replaced. After the block the kernel is
told, which waits for requests that are under way.
"""


@contextmanager
def unserved() -> Iterator[Follow]:
    """A tree that nobody has been shown."""
    yield lambda paths, before: None
