"""From the items and templates of a stimulus file to rows: one per stimulus."""

from __future__ import annotations

import itertools
import math
import string
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from neurosae.errors import unknown_name
from neurosae.stimuli.files import ANY_LEVEL, COLUMNS, Item, Keys, SourceFile, StimulusFile, Template

MAX_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Row:
    """One stimulus.

    Attributes
    ----------
    keys : tuple
        Its place in the file.
    id, text : str
    levels : mapping of str to str
        Level of every factor.
    pair, family, group, template, wording, domain : str or None
    target_start, target_end : int
        Characters of the target span in the text, -1 if there is none.
    ratings : mapping of str to float
    """

    keys: Keys
    id: str
    text: str
    levels: Mapping[str, str]
    pair: str | None = None
    family: str | None = None
    group: str | None = None
    template: str | None = None
    wording: str | None = None
    domain: str | None = None
    target_start: int = -1
    target_end: int = -1
    ratings: Mapping[str, float] = field(default_factory=dict)


def rows(file: StimulusFile, source: SourceFile) -> list[Row]:
    """All stimuli of a file, checked.

    Raises
    ------
    UserError
        Duplicate ids, unknown or missing levels, fewer than two conditions, unbalanced pairs, a target that is not in
        its text (or twice), a template that does not fit its slots; with file and line.
    """
    expand = _Expansion(file, source)
    items: list[tuple[Item, Keys]] = [(item, ("items", i)) for i, item in enumerate(file.items)]
    templates: list[tuple[Template, Keys]] = [(entry, ("templates", i)) for i, entry in enumerate(file.templates)]
    ids = [(item.id, keys) for item, keys in items] + [(template.id, keys) for template, keys in templates]
    _check_unique(ids, source)
    found = [row for item, keys in items for row in expand.item(item, keys)]
    found += [row for template, keys in templates for row in expand.template(template, keys)]
    _check_unique([(row.id, row.keys) for row in found], source)
    if len({tuple(row.levels.items()) for row in found}) < 2:
        raise source.error("The set has fewer than two conditions", "items", suggestion="Add items of another level")
    _check_pairs(found, source)
    _check_ratings(found, file, source)
    return found


class _Choice(NamedTuple):
    """One wording that may fill a slot; the level is empty where the slot is not a factor."""

    level: str
    wording: str
    label: str


class _Expansion:
    """Expands the items and templates of one file."""

    def __init__(self, file: StimulusFile, source: SourceFile) -> None:
        self.factors, self.source = file.factors, source
        self.factor_of = {level: factor for factor, levels in file.factors.items() for level in levels}
        self.versions_are_pairs = [len(levels) for levels in file.factors.values()] == [2]

    def item(self, item: Item, keys: Keys) -> Iterator[Row]:
        """One row, or one per version."""
        given = self._given_levels(item, keys)
        if item.condition is not None:
            given = self._with_condition(given, item.condition, (*keys, "condition"))
        if (item.text is None) == (item.versions is None):
            raise self.source.error(f"The item '{item.id}' needs a text or versions, and not both", *keys)
        if item.versions is None:
            assert item.text is not None
            start, end = self._span(item.text, item.target, keys)
            yield Row(
                keys=keys,
                id=item.id,
                text=item.text,
                levels=self._complete(given, item.id, keys),
                pair=item.pair,
                family=item.family,
                group=item.group,
                domain=item.domain,
                target_start=start,
                target_end=end,
                ratings=item.ratings,
            )
            return
        for key in ("pair", "family", "target", "ratings"):
            if key in item.model_fields_set:
                raise self.source.error(
                    f"The item '{item.id}' has versions and also '{key}'",
                    *(*keys, key),
                    suggestion="Give `target` and `ratings` in each version; the item itself is the family",
                )
        if not item.versions:
            raise self.source.error(f"The item '{item.id}' has no versions", *keys, "versions")
        pair = item.id if self.versions_are_pairs and len(item.versions) == 2 else None
        for name, version in item.versions.items():
            place = (*keys, "versions", name)
            start, end = self._span(version.text, version.target, place)
            yield Row(
                keys=place,
                id=f"{item.id}:{name}",
                text=version.text,
                levels=self._complete(self._with_condition(given, name, place), item.id, place),
                pair=pair,
                family=item.id,
                group=item.group,
                domain=item.domain,
                target_start=start,
                target_end=end,
                ratings=version.ratings,
            )

    def template(self, template: Template, keys: Keys) -> Iterator[Row]:
        """One row per combination of the slots."""
        parts = self._parts(template, keys)
        choices = {slot: self._choices(template, slot, keys) for slot in template.slots}
        total = math.prod(map(len, choices.values()))
        if total > MAX_COMBINATIONS:
            raise self.source.error(
                f"The template '{template.id}' makes {total:,} stimuli", *keys, allowed=f"at most {MAX_COMBINATIONS:,}"
            )
        for combination in itertools.product(*choices.values()):
            chosen = dict(zip(choices, combination, strict=True))
            of_factors = [choice for slot, choice in chosen.items() if slot in self.factors]
            others = [choice.wording for slot, choice in chosen.items() if slot not in self.factors]
            levels = {slot: choice.level for slot, choice in chosen.items() if slot in self.factors}
            family = ":".join([template.id, *others])
            text, spans = _filled(parts, chosen)
            start, end = spans[template.target] if template.target else (-1, -1)
            yield Row(
                keys=keys,
                id=f"{family}:{'/'.join(choice.label for choice in of_factors)}",
                text=text,
                levels=self._complete(levels, template.id, keys),
                family=family,
                template=template.id,
                wording=" | ".join(choice.wording for choice in of_factors),
                domain=template.domain,
                target_start=start,
                target_end=end,
            )

    def _given_levels(self, item: Item, keys: Keys) -> dict[str, str]:
        """Levels given by keys named like factors."""
        given = {}
        for key, level in (item.model_extra or {}).items():
            where = self.source.where(*keys, key)
            if key not in self.factors:
                raise unknown_name("key", key, [*Item.model_fields, *self.factors], where=where)
            if level not in self.factors[key]:
                raise unknown_name(f"level of '{key}'", str(level), self.factors[key], where=where)
            given[key] = level
        return given

    def _with_condition(self, given: dict[str, str], condition: str, keys: Keys) -> dict[str, str]:
        """Add the levels of a condition such as "positive/factual"."""
        levels = dict(given)
        for level in (part.strip() for part in condition.split("/")):
            if level not in self.factor_of:
                raise unknown_name("level", level, self.factor_of, where=self.source.where(*keys))
            factor = self.factor_of[level]
            if factor in levels:
                raise self.source.error(
                    f"The factor '{factor}' is given twice, as '{levels[factor]}' and '{level}'", *keys
                )
            levels[factor] = level
        return levels

    def _complete(self, levels: dict[str, str], name: str, keys: Keys) -> dict[str, str]:
        """The levels in the order of the factors, if none is missing."""
        for factor in self.factors:
            if factor not in levels:
                what = f"The item '{name}' has no level for the factor '{factor}'"
                raise self.source.error(what, *keys, allowed=", ".join(self.factors[factor]))
        return {factor: levels[factor] for factor in self.factors}

    def _span(self, text: str, target: str | None, keys: Keys) -> tuple[int, int]:
        if target is None:
            return -1, -1
        start, place = text.find(target), (*keys, "target")
        if start < 0:
            raise self.source.error(f"The target '{target}' is not in the text", *place, allowed="an exact substring")
        if text.find(target, start + 1) >= 0:
            what = f"The target '{target}' is in the text more than once"
            raise self.source.error(what, *place, suggestion="Add a neighbouring word to it")
        return start, start + len(target)

    def _parts(self, template: Template, keys: Keys) -> list[tuple[str, str | None]]:
        """The template as (literal, slot after it); slots are only looked up, never formatted."""
        place = (*keys, "template")
        try:
            parsed = list(string.Formatter().parse(template.template))
        except ValueError as error:
            what = f"The template is malformed: {error}"
            raise self.source.error(what, *place, allowed="{slot}, or {{ for a brace") from None
        for _, slot, form, conversion in parsed:
            if form or conversion:
                raise self.source.error(f"The slot '{slot}' has a format", *place, allowed="{slot} alone")
            if slot is not None and slot not in template.slots:
                raise unknown_name("slot", slot, template.slots, where=self.source.where(*place))
        used = {slot for _, slot, _, _ in parsed}
        for slot in template.slots:
            if slot not in used:
                raise self.source.error(f"The slot '{slot}' is not in the template", *keys, "slots", slot)
        if template.target is not None and sum(template.target == slot for _, slot, _, _ in parsed) != 1:
            what = f"The target '{template.target}' is not a slot that stands once in the template"
            raise self.source.error(what, *keys, "target", allowed=", ".join(template.slots))
        return [(literal, slot) for literal, slot, _, _ in parsed]

    def _choices(self, template: Template, slot: str, keys: Keys) -> list[_Choice]:
        """What may stand in a slot."""
        place, wordings = (*keys, "slots", slot), template.slots[slot]
        is_factor = slot in self.factors
        if is_factor == (ANY_LEVEL in wordings):
            kind = "a mapping of levels to wordings" if is_factor else "a list (only factors have levels)"
            raise self.source.error(f"The slot '{slot}' is not {kind}", *place)
        for level, texts in wordings.items():
            if is_factor and level not in self.factors[slot]:
                where = self.source.where(*place, level)
                raise unknown_name(f"level of '{slot}'", level, self.factors[slot], where=where)
            if not texts or len(set(texts)) < len(texts):
                raise self.source.error(f"The slot '{slot}' is empty or has a wording twice", *place, level)
        return [
            _Choice(level, text, f"{level}.{n}" if len(texts) > 1 else level)
            for level, texts in wordings.items()
            for n, text in enumerate(texts, 1)
        ]


def _filled(
    parts: list[tuple[str, str | None]], chosen: Mapping[str, _Choice]
) -> tuple[str, dict[str, tuple[int, int]]]:
    """The text of a template, and from which character to which each slot goes."""
    text, spans = "", {}
    for literal, slot in parts:
        text += literal
        if slot is not None:
            spans[slot] = len(text), len(text) + len(chosen[slot].wording)
            text += chosen[slot].wording
    return text, spans


def _check_unique(ids: list[tuple[str, Keys]], source: SourceFile) -> None:
    first: dict[str, Keys] = {}
    for name, keys in ids:
        if name in first:
            line = source.where(*first[name]).rpartition(":")[2]
            raise source.error(f"The id '{name}' occurs twice; first on line {line}", *keys)
        first[name] = keys


def _check_pairs(found: list[Row], source: SourceFile) -> None:
    members = defaultdict(list)
    for row in found:
        if row.pair is not None:
            members[row.pair].append(row)
    for pair, both in members.items():
        if len(both) != 2:
            raise source.error(
                f"The pair '{pair}' has {len(both)} member{'s' * (len(both) != 1)}",
                *(*both[-1].keys, "pair"),
                allowed="two; larger sets are families",
            )
        if both[0].levels == both[1].levels:
            raise source.error(
                f"Both members of the pair '{pair}' have the condition '{'/'.join(both[0].levels.values())}'",
                *(*both[-1].keys, "pair"),
            )


def _check_ratings(found: list[Row], file: StimulusFile, source: SourceFile) -> None:
    taken = {*COLUMNS, *file.factors}
    for row in found:
        for rating in row.ratings:
            if rating in taken:
                what = f"A rating cannot be called '{rating}', which is a column already"
                raise source.error(what, *row.keys, "ratings", rating)
