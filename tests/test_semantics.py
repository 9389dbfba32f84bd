"""docs/SEMANTICS.md: every promise of the contract is there, and names tests that exist and are run."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "SEMANTICS.md").read_text()
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NUMBER = re.compile(r"^\| ([A-Z]\d+) \||^\* ([A-Z]\d+): ", re.MULTILINE)

CONTRACT = {"M": 9, "S": 11, "P": 8, "C": 22, "L": 4}
"""How many promises of each part there are: a row cannot go without a trace."""


def test_every_promise_of_the_contract_is_there_once_and_in_its_order() -> None:
    numbers = [in_table or in_list for in_table, in_list in NUMBER.findall(PAGE)]
    expected = [f"{part}{number}" for part, count in CONTRACT.items() for number in range(1, count + 1)]
    assert sorted(numbers) == sorted(expected)
    in_tables = [number for number, _ in NUMBER.findall(PAGE) if number]
    assert in_tables == [number for number in expected if number in in_tables]


def test_every_row_names_a_test() -> None:
    rows = [
        line for line in PAGE.splitlines() if line.startswith("| ") and "shown by" not in line and "---" not in line
    ]
    assert len(rows) > 100
    assert [row for row in rows if not REFERENCE.search(row)] == []


def test_every_test_that_a_promise_names_exists_and_is_one_that_runs() -> None:
    names: dict[str, set[str]] = {}
    for file, name in REFERENCE.findall(PAGE):
        names.setdefault(file, set()).add(name)
    assert sum(map(len, names.values())) > 100
    missing = [f"{file}::{name}" for file in names for name in sorted(names[file] - names_of_tests(ROOT / file))]
    assert missing == []


def test_every_test_that_a_promise_names_is_collected(request: pytest.FixtureRequest) -> None:
    options = request.config.option
    if options.keyword or options.markexpr or options.deselect:
        return  # only some were to be
    collected: dict[str, set[str]] = {}
    for item in request.session.items:
        found = collected.setdefault(item.path.relative_to(ROOT).as_posix(), set())
        found.update({getattr(item, "originalname", item.name), *item.nodeid.split("::")[1:-1]})
    # where a part of a file was asked for, it need not hold them all
    whole = {argument.partition("::")[0] for argument in request.config.args if "::" in argument}
    missing = [
        f"{file}::{name}"
        for file, name in REFERENCE.findall(PAGE)
        if file in collected and file not in whole and name not in collected[file]
    ]
    assert missing == []


def names_of_tests(path: Path) -> set[str]:
    """Return what pytest takes for tests in a file by their names, but for those that are always skipped."""
    if not path.name.startswith("test_") and path.name != "__main__.py":
        return set()
    try:
        nodes = ast.parse(path.read_text()).body
    except FileNotFoundError:
        return set()
    found = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            marks = [ast.unparse(mark).partition("(")[0] for mark in node.decorator_list]
            names = [] if {"pytest.mark.skip", "pytest.mark.xfail"} & set(marks) else [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        found |= {name for name in names if name.startswith(("test_", "Test")) or path.name == "__main__.py"}
    return found
