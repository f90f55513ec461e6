"""Texts of stimuli, sentences and language models as HTML: always escaped, isolated in direction, long ones folded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from neurosae.report.wording import is_number, number

LONG = 420
"""Characters from which a text is folded."""
LEVELS = 9
"""Shades of a heat map; colours come from classes, because the page allows no inline style."""
_UNSEEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, direction marks, what has no width, half surrogate pairs, tags; the joiner of emoji is none of them."""


def visible(text: Any) -> str:
    """Control, direction and hidden marks as names, so that a reader sees what the model has read.

    >>> visible("a\u202eb")
    'a⟨U+202E⟩b'
    """
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", str(text))


def folded(text: Any) -> Markup:
    """A text as one paragraph; a long one behind its beginning.

    >>> str(folded("<b>"))
    '<bdi class="text" dir="auto">&lt;b&gt;</bdi>'
    """
    shown = visible(text)
    whole = Markup('<bdi class="text" dir="auto">{}</bdi>').format(shown)
    if len(shown) <= LONG:
        return whole
    head = Markup('<bdi class="text" dir="auto">{}…</bdi> <span class="more">{:,} characters</span>').format(
        shown[: LONG // 2], len(str(text))
    )
    return Markup('<details class="fold"><summary>{}</summary>{}</details>').format(head, whole)


def heat_map(text: str, tokens: Sequence[Sequence[Any]] | None, strongest: float) -> Markup:
    """A text whose tokens are shaded by activation; what cannot be shaded is still shown.

    Parameters
    ----------
    text : str
    tokens : sequence of (start, end, activation), optional
        Spans in characters, in order; those that do not fit the text are left unshaded.
    strongest : float
        Absolute activation of the darkest shade.

    Examples
    --------
    >>> str(heat_map("a<b", [[0, 1, 2.0]], 2.0))
    '<bdi class="text heat" dir="auto"><span class="h9" title="2.00">a</span>&lt;b</bdi>'
    """
    parts, place = [], 0
    for start, end, value in tokens or []:
        if not (place <= start < end <= len(text)) or not is_number(value):
            continue
        level = min(LEVELS, round(LEVELS * abs(value) / strongest)) if strongest > 0 else 0
        parts.append(Markup("{}").format(visible(text[place:start])))
        shown = visible(text[start:end])
        if level:
            name = f"h{level}" if value > 0 else f"h{level} below"
            parts.append(Markup('<span class="{}" title="{}">{}</span>').format(name, number(value), shown))
        else:
            parts.append(Markup("{}").format(shown))
        place = end
    parts.append(Markup("{}").format(visible(text[place:])))
    if len(text) > LONG and not tokens:
        return folded(text)
    whole = Markup('<bdi class="text heat" dir="auto">{}</bdi>').format(Markup("").join(parts))
    if len(text) <= LONG:
        return whole
    head = Markup('<bdi class="text" dir="auto">{}…</bdi> <span class="more">{:,} characters</span>').format(
        visible(text[: LONG // 2]), len(text)
    )
    return Markup('<details class="fold"><summary>{}</summary>{}</details>').format(head, whole)
