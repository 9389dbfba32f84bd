"""A plot (SVG) of the figures that are ratios to a peer."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure


def draw_ratios(figures: Sequence[Figure], title: str, path: Path) -> None:
    """Draw each peer's ratio with its spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [(figure, peer) for figure in figures if figure.unit == "s" for peer in figure.peers][::-1]
    chart, axes = plt.subplots(figsize=(9, 0.35 * len(rows) + 1.4), layout="constrained")
    for row, (figure, peer) in enumerate(rows):
        ratios = figure.ratios(peer)
        axes.plot([min(ratios), max(ratios)], [row, row], color="tab:blue", linewidth=2)
        axes.plot(statistics.median(ratios), row, "o", color="tab:blue")
        if figure.target is not None and peer == figure.against:
            axes.plot(figure.target, row, "|", color="tab:red", markersize=14)
    axes.axvline(1.0, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{figure.name} / {peer}" for figure, peer in rows])
    axes.set_xscale("log", base=2)
    axes.set_xlabel("ckptfs / peer, same round (dot: median, line: range, red: target)")
    chart.suptitle(title, fontsize="medium")
    chart.savefig(path)
    plt.close(chart)
