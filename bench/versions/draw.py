"""Plots (SVG): bytes per version by method, and how a store grows."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from bench.versions.stored import Stored


def draw_percents(results: Mapping[str, Sequence[Stored]], path: Path) -> None:
    """Draw what the version after the first takes, for each sequence and method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(stored.method for rows in results.values() for stored in rows))
    figure, axes = plt.subplots(figsize=(11, 4.5), layout="constrained")
    width = 0.8 / len(methods)
    for column, method in enumerate(methods):
        for place, rows in enumerate(results.values()):
            for stored in rows:
                if stored.method == method:
                    label = method if place == 0 else None
                    at = place + (column - (len(methods) - 1) / 2) * width
                    axes.bar(at, stored.first_percent, width, color=f"C{column}", label=label)
    axes.set_xticks(range(len(results)), list(results), rotation=15)
    axes.set_ylabel("bytes of a version, % of its files")
    axes.set_title("What the second version takes, given the first")
    axes.legend(ncols=len(methods), fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path)
    plt.close(figure)


def draw_growth(name: str, rows: Sequence[Stored], path: Path) -> None:
    """Draw the size of the store version by version."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    raw = rows[0].raw_bytes
    axes.plot(list(raw), [size / 1e6 for size in accumulate(raw.values())], color="gray", label="copies")
    for stored in rows:
        if len(stored.added_bytes) == len(raw):
            sizes = [size / 1e6 for size in accumulate(stored.added_bytes.values())]
            axes.plot(list(raw), sizes, linewidth=2.5 if stored.method == "ckptfs" else 1.2, label=stored.method)
    axes.set_xticks(range(0, len(raw), 2))
    axes.set_xlabel("version")
    axes.set_ylabel("MB in the store")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{name}: the store over {len(raw)} versions")
    axes.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)
