"""The log lines of the daemon are those that docs/DAEMON.md tells of."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OF_MOUNTS = {"captured", "captured again", "committed", "store unavailable"}
"""Not the daemon's own."""


def split(message: str) -> tuple[str, set[str]]:
    """Return the words that a message begins with, and its keys."""
    words, *_ = re.split(r" ?\b[a-z_]+=|: | \.\.\.|%s", message, maxsplit=1)
    return words.strip(), set(re.findall(r"\b([a-z_]+)=", message))


def documented() -> dict[str, set[str]]:
    """Return words to keys; `...` is a key that stands for any."""
    _, _, section = (ROOT / "docs/DAEMON.md").read_text().partition("| message | when |\n")
    rows = [line.split("|")[1] for line in section.partition("\n\n")[0].splitlines()[1:]]
    told: dict[str, set[str]] = {}
    for message in re.findall(r"`([^`]+)`", " ".join(rows)):
        words, keys = split(message)
        told[words] = told.get(words, set()) | keys | ({"..."} if message.endswith("...") else set())
    return told


def logged() -> Iterator[tuple[str, set[str]]]:
    for path in (ROOT / "daemon/ckptfsd").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                message, *values = node.args
                assert isinstance(message, ast.Constant)
                text = str(message.value)
                firsts = [text]
                if text.startswith("%s "):  # one of two beginnings
                    assert isinstance(values[0], ast.IfExp)
                    firsts = [ast.literal_eval(each) + text[2:] for each in (values[0].body, values[0].orelse)]
                yield from map(split, firsts)


def test_every_line_of_the_daemon_is_documented_with_its_keys_and_there_are_no_others() -> None:
    told = documented()
    lines = list(logged())
    assert len(lines) > 20
    assert {words for words, _ in lines} == told.keys() - OF_MOUNTS
    for words, keys in lines:
        assert "..." in told[words] or told[words] >= keys, words
