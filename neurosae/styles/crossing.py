"""Prompts crossed: every style in every wording with every topic, in an order in which arrays can be reshaped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.errors import UserError
from neurosae.inference.bootstrap import MIN_GROUPS
from neurosae.stimuli import StimulusSet


@dataclass(frozen=True, eq=False)
class Crossing:
    """S = C x V x I prompts: C styles, V wordings of each, I topics.

    Attributes
    ----------
    styles : tuple of C str
    n_wordings : int
        V; wording v of one style need have nothing to do with wording v of another.
    topics : tuple of I str
    table : DataFrame of S rows
        The stimuli, sorted by style, wording and topic: a column of values reshapes to [C, V, I]. Columns of the
        stimulus table, and `number` (of the wording, from 0) and `topic`.
    """

    styles: tuple[str, ...]
    n_wordings: int
    topics: tuple[str, ...]
    table: pd.DataFrame

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, V, I)."""
        return len(self.styles), self.n_wordings, len(self.topics)

    @property
    def style_S(self) -> NDArray[np.intp]:
        """Number of each prompt's style."""
        return np.repeat(np.arange(len(self.styles)), self.n_wordings * len(self.topics))

    @property
    def wording_S(self) -> NDArray[np.intp]:
        """Number of each prompt's wording over all styles, 0 to C V - 1."""
        return np.repeat(np.arange(len(self.styles) * self.n_wordings), len(self.topics))

    @property
    def topic_S(self) -> NDArray[np.intp]:
        """Number of each prompt's topic."""
        return np.tile(np.arange(len(self.topics)), len(self.styles) * self.n_wordings)

    def style(self, name: str, where: str = "style") -> int:
        """Number of a style.

        Raises
        ------
        UserError
            There is none of that name.
        """
        if name not in self.styles:
            raise UserError(f"There is no style '{name}'", where=where, allowed=", ".join(self.styles))
        return self.styles.index(name)


def cross(stimuli: StimulusSet, n_topics: int | None = None) -> Crossing:
    """Sort the prompts of a set by style, wording and topic, and check that each combination is there once.

    Parameters
    ----------
    stimuli : StimulusSet
        One factor, the style; made by a template, whose wordings are those of the factor's slot and whose other slot is
        the topic. The template says by `target` which slot all styles share.
    n_topics : int, optional
        Keep so many topics, spread over the file; all by default.

    Raises
    ------
    UserError
        Several factors, no template, styles with different numbers of wordings or fewer than two, an incomplete
        crossing, no target, or fewer topics than a bootstrap needs.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> crossing = cross(stimuli.load("expertise"), n_topics=10)
    >>> crossing.shape, crossing.styles[:2]
    ((6, 4, 10), ('standard', 'padding'))
    """
    table, where = stimuli.table, str(stimuli.path)
    if len(stimuli.factors) != 1:
        raise UserError(f"The set has the factors {', '.join(stimuli.factors)}", where=where, allowed="one: the style")
    factor, styles = next(iter(stimuli.factors.items()))
    if table[["template", "family"]].isna().to_numpy().any():
        raise UserError("Some stimuli come from no template", where=where, suggestion="See stimuli/expertise.yaml")
    if (table["target_start"] < 0).any():
        raise UserError(
            "The template does not say what all styles share", where=where, suggestion="Add `target: question` to it"
        )
    number = table.groupby(factor, sort=False)["wording"].transform(lambda column: pd.factorize(column)[0])
    topics = list(dict.fromkeys(table["family"]))
    kept = _spread(topics, n_topics)
    table = table.assign(number=number.astype(int), topic=table["family"])
    table = table[table["topic"].isin(kept)]
    place = [table[factor].map(styles.index), table["number"], table["topic"].map(kept.index)]
    table = table.iloc[np.lexsort(place[::-1])].reset_index(drop=True)
    n_wordings = int(table["number"].max()) + 1
    counts = table.groupby([factor, "number", "topic"]).size()
    if n_wordings < 2 or len(counts) != len(styles) * n_wordings * len(kept) or (counts != 1).any():
        raise UserError(
            "The styles are not crossed with wordings and topics",
            where=where,
            allowed="the same number of wordings (2 or more) in every style, each once with every topic",
        )
    return Crossing(styles, n_wordings, tuple(kept), table)


def _spread(topics: list[str], n: int | None) -> list[str]:
    """Evenly spaced topics."""
    n = len(topics) if n is None else n
    if not MIN_GROUPS <= n <= len(topics):
        raise UserError(f"{n} topics", where="topics", allowed=f"{MIN_GROUPS} to the {len(topics)} of the set")
    return [topics[i] for i in np.linspace(0, len(topics) - 1, n).round().astype(int)]
