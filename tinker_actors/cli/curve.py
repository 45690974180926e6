"""A loss curve as SVG, with marks where something was broken on purpose."""

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["draw"]

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 40


def draw(losses: Sequence[float], faults: Mapping[int, str], title: str) -> str:
    """An SVG document.

    Args:
        losses: one per step, at least one, not negative.
        faults: what was done at which step, counted from 0.
        title: shown above.
    """
    top = max(losses) or 1.0
    span = max(1, len(losses) - 1)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / span

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top

    points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in enumerate(losses))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        parts.append(
            f'<text x="{LEFT - 8}" y="{y(top * share) + 4:.1f}" text-anchor="end">{top * share:.2f}</text>'
        )
        step = round(span * share)
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 16}" text-anchor="middle">{step}</text>')
    for number, (step, what) in enumerate(sorted(faults.items())):
        place = f"{x(step):.1f}"
        parts.append(f'<path d="M{place} {TOP}V{HEIGHT - BOTTOM}" stroke="#c33" stroke-dasharray="4 3"/>')
        parts.append(
            f'<text x="{place}" dx="5" y="{TOP + 14 + 16 * number}" fill="#c33">{escape(what)}</text>'
        )
    parts.append(f'<polyline points="{points}" fill="none" stroke="#247" stroke-width="1.8"/>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
