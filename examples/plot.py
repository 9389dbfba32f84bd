"""A loss curve as SVG: before the kill, after it, and that of a run that nothing interrupted."""

from collections.abc import Callable, Mapping
from xml.sax.saxutils import escape

Curve = Mapping[int, float]

_WIDTH, _HEIGHT = 760, 312
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 16, 48, 56
_WHOLE, _BEFORE, _AFTER, _KILL = "#c4c4c4", "#1f6fb4", "#e0731d", "#c22"


def draw(
    title: str, caption: str, *, whole: Curve, before: Curve, after: Curve, killed_step: int, resumed_step: int
) -> str:
    """Return the picture.

    Args:
        title: What is written above it.
        caption: What is written below it.
        whole: Step to loss, of the run that nothing interrupted.
        before: Of the run that was killed; what no version has is drawn dashed.
        after: Of the run that went on.
        killed_step: The last before the kill.
        resumed_step: The step of the version that it went on from; 0 if it began anew.
    """
    losses = [*whole.values(), *before.values(), *after.values()]
    low, high = min(losses), max(losses)
    last = max(*whole, *before, *after)
    x = _scale(1, last, _LEFT, _WIDTH - _RIGHT)
    y = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)

    def polyline(curve: Curve, color: str, style: str = "") -> str:
        points = " ".join(f"{x(step):.1f},{y(curve[step]):.1f}" for step in sorted(curve))
        return f'<polyline points="{points}" fill="none" stroke="{color}" {style}/>'

    kept = {step: loss for step, loss in before.items() if step <= resumed_step}
    lost = {step: loss for step, loss in before.items() if step >= resumed_step}
    parts = [
        *_axes(x, y, last, low, high),
        polyline(whole, _WHOLE, 'stroke-width="7" stroke-linecap="round"'),
        polyline(lost, _BEFORE, 'stroke-width="2" stroke-dasharray="3 3"'),
        polyline(kept, _BEFORE, 'stroke-width="2"'),
        polyline(after, _AFTER, 'stroke-width="2"'),
        f'<line x1="{x(killed_step):.1f}" x2="{x(killed_step):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
        f'stroke="{_KILL}" stroke-dasharray="2 4"/>',
        _text(x(killed_step) + 4, _TOP + 10, f"kill -9 after step {killed_step}", _KILL),
        *_legend(resumed_step),
        _text(_LEFT, 18, title, "#222", 14),
        # in two lines: a wide font would not fit it in one
        *(_text(8, _HEIGHT - 22 + 14 * n, line, "#222", 10) for n, line in enumerate(caption.split("; "))),
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _axes(x: Callable[[float], float], y: Callable[[float], float], last: int, low: float, high: float) -> list[str]:
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" fill="none" stroke="#888"/>',
    ]
    for part in (0.0, 0.5, 1.0):
        loss, step = low + part * (high - low), round(1 + part * (last - 1))
        parts.append(_text(8, y(loss) + 4, f"{loss:.4g}", "#555"))
        parts.append(_text(x(step) - 8, _HEIGHT - _BOTTOM + 16, str(step), "#555"))
    return parts


def _legend(resumed_step: int) -> list[str]:
    parts, left = [], float(_LEFT)
    for color, name in (
        (_BEFORE, "until the kill (dashed: in no version)"),
        (_AFTER, f"resumed on an empty cache after step {resumed_step}"),
        (_WHOLE, "never interrupted"),
    ):
        parts.append(f'<rect x="{left}" y="29" width="14" height="5" fill="{color}"/>')
        parts.append(_text(left + 19, 36, name, "#555"))
        left += 40 + 6.2 * len(name)
    return parts


def _text(x: float, y: float, text: str, color: str, size: int = 11) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{color}">{escape(text)}</text>'


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """Return the function that maps [low, high] to [begin, end]."""
    span = (high - low) or 1.0
    return lambda value: begin + (value - low) / span * (end - begin)
