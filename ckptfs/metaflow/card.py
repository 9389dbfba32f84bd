"""The card of a step: its versions over time, those of all attempts."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from ckptfs.metaflow.reference import Reference

CARD = "checkpoints"

# a card is read by a person, and each row costs it a few hundred bytes
_MOST_ROWS = 200


def attach(flow: Any, step_name: str) -> None:
    """Give a step the card, once; one that the step has itself stays the one of `current.card.append`."""
    from metaflow.decorators import _attach_decorators_to_step

    (step,) = (each for each in flow if each.name == step_name)
    cards = [deco for deco in step.decorators if deco.name == "card"]
    others = [deco for deco in cards if deco.attributes["id"] != CARD]
    if len(others) == 1:
        # else Metaflow, which sees two, drops what is appended without an id
        others[0].attributes["customize"] = True
    if len(others) == len(cards):
        _attach_decorators_to_step(step, [f"card:type=blank,id={CARD}"])


def fill(card: Any, loaded: Reference | None, references: Iterable[Reference]) -> None:
    """Write what a task began with and its versions, newest first, into its card."""
    from metaflow.cards import Markdown, Table, VegaChart

    shown = list(islice(references, _MOST_ROWS))
    card.append(Markdown("# Checkpoints"))
    if loaded is not None:
        card.append(Markdown(f"This attempt began with `{loaded['key']}`, saved at {loaded['created_on']}."))
    if not shown:
        return
    card.append(VegaChart(_timeline(shown)))
    card.append(
        Table(
            [[each["version_id"], _attempt(each), each["created_on"], each["name"], _words(each)] for each in shown],
            headers=["version", "attempt", "saved (UTC)", "name", "metadata"],
        )
    )
    if len(shown) == _MOST_ROWS:
        card.append(Markdown(f"Older ones: `ckptfs log {shown[0]['url']}`"))


def _attempt(each: Reference) -> int | str:
    return "" if each["attempt"] is None else int(each["attempt"])


def _words(each: Reference) -> str:
    return " ".join(f"{name}={value}" for name, value in each["metadata"].items())


def _timeline(references: Sequence[Reference]) -> dict[str, Any]:
    """Return a chart of version over time, a colour for each attempt."""
    rows = [
        {
            "version": each["version_id"],
            "attempt": str(_attempt(each)),
            "saved": datetime.fromisoformat(each["created_on"]).isoformat(),
            "metadata": _words(each),
        }
        for each in references
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": rows},
        "width": "container",
        "mark": {"type": "point", "filled": True},
        "encoding": {
            "x": {"field": "saved", "type": "temporal"},
            "y": {"field": "version", "type": "quantitative"},
            "color": {"field": "attempt", "type": "nominal"},
            "tooltip": [{"field": name} for name in ("version", "attempt", "saved", "metadata")],
        },
    }
