"""The one door: every filesystem operation leaves through it, with a result or with an OSError that has an errno.

Why it must be one: fusepy reports an OSError without errno as success of the call (DESIGN.md 2), and a transport must
never see an exception that it cannot turn into a reply.
"""

import errno
import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ckptfs.errors import CkptfsError, os_error
from ckptfs.fs.counters import count_failed_request
from ckptfs.threads import NO_THREAD, is_no_thread

_P = ParamSpec("_P")
_R = TypeVar("_R")

log = logging.getLogger(__name__)


def through_door(operation: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return the operation with every failure turned into an OSError whose errno is positive.

    An OSError with an errno is an answer and passes unlogged. An error of ours is logged with its facts, unless its
    errno says that the caller asked for what cannot be. Anything else is EIO, logged with its traceback if it is a
    fault of ours.
    """

    @functools.wraps(operation)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return operation(*args, **kwargs)
        except OSError as error:
            if error.errno is not None and error.errno > 0:
                raise
            count_failed_request("EIO")
            log.exception("failed operation=%s errno=none", operation.__name__)
            raise os_error(errno.EIO) from error
        except CkptfsError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EFBIG):
                count_failed_request(errno.errorcode.get(error.errno, str(error.errno)))
                log.warning("failed operation=%s error=%r", operation.__name__, error.fact)
            raise OSError(error.errno, error.fact) from error
        except Exception as error:
            count_failed_request("EIO")
            if is_no_thread(error):
                log.warning("failed operation=%s error=%r", operation.__name__, NO_THREAD)
            else:
                log.exception("failed operation=%s", operation.__name__)
            raise os_error(errno.EIO) from error

    return guarded
