"""What the pages of the frameworks show can be copied, and what is said where one is missing arrives."""

import ast
import pickle
import re
from pathlib import Path

import pytest

from ckptfs.integrations.missing import MissingPackageError

_PAGES = sorted((Path(__file__).parents[2] / "docs" / "frameworks").glob("*.md"))


@pytest.mark.parametrize("page", [page for page in _PAGES if page.name != "README.md"], ids=lambda page: page.stem)
def test_every_snippet_of_a_page_is_python(page: Path) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert snippets
    for snippet in snippets:
        ast.parse(snippet, page.name)


def test_what_a_worker_says_of_a_missing_package_reaches_its_parent() -> None:
    said = MissingPackageError("torch", "torch")
    told = pickle.loads(pickle.dumps(said))
    assert (str(told), told.name, told.hint) == (str(said), "torch", "pip install 'ckptfs[torch]'")
