"""The picture shows what the runs told."""

import re
from xml.etree import ElementTree

from examples.plot import draw

WHOLE = {step: 1 / step for step in range(1, 11)}


def polylines(picture: str) -> list[int]:
    """Return the number of points of each line."""
    root = ElementTree.fromstring(picture)
    return [len(line.attrib["points"].split()) for line in root.iter("{http://www.w3.org/2000/svg}polyline")]


def picture(title: str = "a < b") -> str:
    before = {step: loss for step, loss in WHOLE.items() if step <= 6}
    after = {step: loss for step, loss in WHOLE.items() if step >= 5}
    return draw(title, "what the run said", whole=WHOLE, before=before, after=after, killed_step=6, resumed_step=4)


def test_the_lines_have_every_step_that_was_told() -> None:
    # never interrupted; lost, from the version's step on; kept; resumed
    assert polylines(picture()) == [10, 3, 4, 6]


def test_the_resumed_line_lies_on_the_one_that_nothing_interrupted() -> None:
    points = [set(points.split()) for points in re.findall(r'points="([^"]*)"', picture())]
    assert points[3] < points[0]


def test_it_says_where_the_kill_was_and_from_which_step_training_went_on() -> None:
    assert "kill -9 after step 6" in picture()
    assert "after step 4" in picture()
    assert "what the run said" in picture()
    assert "a &lt; b" in picture()
