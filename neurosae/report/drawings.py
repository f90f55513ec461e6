"""Small drawings inside the page, as SVG that takes its colours from the theme; their words stand in `<title>`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from neurosae.report.wording import is_number, number

_PLACE = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>')


def _svg(name: str, width: int, height: int, words: str, parts: Sequence[Markup]) -> Markup:
    return _PLACE.format(name, width, height, words, words, Markup("").join(parts))


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(name, x1, y1, x2, y2)


def _bar(name: str, x: float, y: float, width: float, height: float, words: str = "") -> Markup:
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    ).format(name, x, y, max(width, 0), max(height, 0), words)


def _text(x: float, y: float, words: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, words)


def forest(value: Any, low: Any, high: Any, reach: float, margin: float = 0.0) -> Markup:
    """One difference with its interval on an axis from -reach to reach, over the zone of equivalence.

    >>> "no interval" in forest(None, None, None, 1.0)
    True
    """
    width, height = 180, 22
    if not (is_number(value) and is_number(low) and is_number(high) and reach > 0):
        return Markup('<span class="muted">no interval</span>')

    def x(v: float) -> float:
        return width / 2 + (width / 2 - 6) * max(-1.0, min(1.0, v / reach))

    words = f"{number(value, 3, sign=True)}, 95 % interval {number(low, 3, sign=True)} to {number(high, 3, sign=True)}"
    parts = [
        _bar("zone", x(-margin), 2, x(margin) - x(-margin), height - 4),
        _line("zero", width / 2, 1, width / 2, height - 1),
        _line("range", x(low), height / 2, x(high), height / 2),
        Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(x(value), height / 2),
    ]
    return _svg("forest", width, height, words, parts)


def histogram(found: Mapping[str, Any], sides: Sequence[str]) -> Markup:
    """Pooled activation per stimulus, the first side upwards, the other downwards, so that position tells them apart.

    Parameters
    ----------
    found : mapping
        `edges`, and per side `counts`, `n` and `silent`.
    sides : sequence of str
        Target and foil.
    """
    edges, counts = [float(e) for e in found.get("edges", [])], found.get("counts", {})
    shown = [side for side in sides if side in counts] or list(counts)[:2]
    if len(edges) < 2 or not shown:
        return Markup('<p class="muted">No activation to show.</p>')
    width, height, pad = 340, 170, 34
    middle, most = (height - 16) / 2, max(1, *(int(c) for side in shown for c in counts[side]))
    step, reach = (width - 2 * pad) / (len(edges) - 1), (height - 16) / 2 - 16
    parts = [_line("zero", pad, middle, width - pad, middle)]
    for side, name, sign in zip(shown, ("target", "foil"), (-1, 1), strict=False):
        for i, count in enumerate(counts[side]):
            tall = reach * int(count) / most
            words = f"{side}: {count} stimuli between {edges[i]:.3g} and {edges[i + 1]:.3g}"
            parts.append(_bar(name, pad + i * step + 1, middle - tall if sign < 0 else middle, step - 2, tall, words))
        n, silent = found.get("n", {}).get(side), found.get("silent", {}).get(side)
        told = f"{side} (n = {n}" + (f", {silent} silent)" if silent else ")")
        parts.append(_text(pad, 11 if sign < 0 else height - 18, told, "start"))
    parts += [
        _text(pad, height - 3, f"{edges[0]:.3g}".replace("-", "−"), "start"),
        _text(width - pad, height - 3, f"{edges[-1]:.3g}".replace("-", "−"), "end"),
    ]
    parts += [_text(width / 2, height - 3, "pooled activation"), _text(pad - 4, middle - reach + 4, str(most), "end")]
    words = "Histogram of the activation per stimulus: " + ", ".join(
        f"{side} above the line" if i == 0 else f"{side} below it" for i, side in enumerate(shown)
    )
    return _svg("chart", width, height, words, parts)


def block_profile(rows: Sequence[Mapping[Any, Any]], here: Collection[Any] = ()) -> Markup:
    """Number of significant features in every block, those of the run marked.

    Parameters
    ----------
    rows : sequence of mapping
        `block`, `n_features`, `n_significant` (corrected over all blocks), `n_significant_within` (within each block).
    here : collection of int
        Blocks that the run has read.
    """
    width, height, pad = 720, 210, 40
    names = [name for name in ("n_significant_within", "n_significant") if name in rows[0]]
    most = max([1, *(int(row[name]) for row in rows for name in names)])
    step, tall = (width - 2 * pad) / max(1, len(rows)), height - 58
    base = height - 34
    parts = [_line("zero", pad, base, width - pad, base), _text(pad - 6, base - tall + 4, str(most), "end")]
    parts += [_text(pad - 6, base + 4, "0", "end"), _text(width / 2, height - 2, "block")]
    every = max(1, -(-len(rows) // 16))
    for i, row in enumerate(rows):
        x, mark = pad + i * step, " here" if row["block"] in here else ""
        words = f"block {row['block']}: {row['n_significant']} of {row['n_features']} features significant"
        for name, look in zip(names, ("pale", "bar")[-len(names) :], strict=True):
            grown = tall * int(row[name]) / most
            parts.append(_bar(look + mark, x + 2, base - grown, step - 4, grown, words))
        if i % every == 0 or mark:
            parts.append(_text(x + step / 2, base + 15, f"▲{row['block']}" if mark else str(row["block"])))
    parts.append(_text(pad, 12, "significant features (family-wise error .05)", "start"))
    peak = max(rows, key=lambda row: row["n_significant"])
    words = f"Significant features per block; most in block {peak['block']}: {peak['n_significant']}"
    return _svg("chart wide", width, height, words, parts)
