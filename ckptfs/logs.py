"""Log lines on standard error: text for people, JSON for collectors, or fields in systemd's journal.

Which of them comes from the environment, so that all processes of a mount agree: CKPTFS_LOG_FORMAT is `text` (the
default), `json`, `journal`, or `auto` (text on a terminal, the journal where standard error leads there, else JSON).
CKPTFS_LOG_MOUNT is the name that a supervisor has for the mount. A message is words, then `key=value` pairs; both JSON
and journal get the pairs as fields.
"""

import ast
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

FORMAT_VARIABLE = "CKPTFS_LOG_FORMAT"
MOUNT_VARIABLE = "CKPTFS_LOG_MOUNT"
FORMATS = ("auto", "text", "json", "journal")

_JOURNAL = "/run/systemd/journal/socket"
_PAIR = re.compile(r"""(?:^|\s)([a-z][a-z0-9_]*)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)""")
# syslog(3)
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def configure(*, verbose: bool, identifier: str = "ckptfs") -> None:
    """Send the log lines of ckptfs, and warnings of everything else, to standard error.

    Args:
        verbose: Debug lines too.
        identifier: Of the program, for the journal.
    """
    wanted = os.environ.get(FORMAT_VARIABLE, "text")
    mount = os.environ.get(MOUNT_VARIABLE)
    found = _automatic() if wanted == "auto" else wanted
    handler: logging.Handler
    if found == "journal" and os.path.exists(_JOURNAL):
        handler = _JournalHandler(identifier, mount)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonFormatter(mount) if found == "json" else _text_formatter(mount))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # what no line of ours tells. Source: "Optimization" in Python's logging HOWTO
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("ckptfs", "ckptfsd"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


def fields_of(message: str) -> dict[str, str]:
    """Return the `key=value` pairs of a message, quotes undone."""
    return {key: _unquoted(value) for key, value in _PAIR.findall(message)}


def _automatic() -> str:
    if sys.stderr.isatty():
        return "text"
    # systemd.exec(5): device and inode of what it connected standard error to
    status = os.fstat(sys.stderr.fileno())
    return "journal" if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}" else "json"


def _text_formatter(mount: str | None) -> logging.Formatter:
    name = f"%(name)s [{mount}]" if mount else "%(name)s"
    return logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, mount: str | None) -> None:
        super().__init__()
        self._mount = mount

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time.replace("+00:00", "Z"), "level": record.levelname, "logger": record.name}
        line |= {"message": message, **({"mount": self._mount} if self._mount else {}), **fields_of(message)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _JournalHandler(logging.Handler):
    """Datagrams to the journal. Source: systemd's "Native Journal Protocol"."""

    def __init__(self, identifier: str, mount: str | None) -> None:
        super().__init__()
        self._fields = {"SYSLOG_IDENTIFIER": identifier, **({"CKPTFS_MOUNT": mount} if mount else {})}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            fields = {f"CKPTFS_{key.upper()}": value for key, value in fields_of(message).items()} | self._fields
            if record.exc_info:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
            fields |= {"MESSAGE": message, "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)), "LOGGER": record.name}
            self._socket.sendto(_datagram(fields), _JOURNAL)
        except Exception:
            self.handleError(record)


def _datagram(fields: Mapping[str, str]) -> bytes:
    rows = []
    for key, value in fields.items():
        data = value.encode(errors="backslashreplace")
        # a value of several lines carries its length
        length = len(data).to_bytes(8, "little")
        rows.append(
            b"%s\n%s%s\n" % (key.encode(), length, data) if b"\n" in data else b"%s=%s\n" % (key.encode(), data)
        )
    return b"".join(rows)


def _unquoted(value: str) -> str:
    if value[:1] not in ("'", '"'):
        return value
    try:
        return str(ast.literal_eval(value))
    except (SyntaxError, ValueError):
        return value
