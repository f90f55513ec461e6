"""Scorers: how much of the target concept, and of an explanation, is there in texts the explainer has not seen?

A judge reads every text alone, in shuffled order, and is not told which set it is from. What it does not answer is
counted and left out, never replaced by a number. Every score comes with its interval and its chance; see
`neurosae.autointerp.scores`, whose `against_random` compares with ensembles of random features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.autointerp.examples import DECILES, ScoreSet, require, text_hash, words
from neurosae.autointerp.explainers import Explanation
from neurosae.autointerp.judges import PRESENT, GradeRequest, Judge
from neurosae.autointerp.scores import (
    Score,
    Settings,
    auroc,
    balanced_accuracy,
    compare_sets,
    interval,
    mean,
    mean_difference,
)
from neurosae.errors import UserError
from neurosae.inference.bootstrap import MIN_GROUPS

Array = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Array]

PATTERN_RULE = (
    "3: the pattern as described is plainly there and is the point of the text. 2: it is clearly there, but in passing "
    "or only in part. 1: a trace of it. 0: it is not there; a shared topic or word alone does not count unless the "
    "description names it."
)
"""What grades 0 to 3 mean for a discovered pattern."""


@dataclass(frozen=True, eq=False)
class Graded:
    """A set to score on, read by a judge.

    Attributes
    ----------
    table : DataFrame
        One row per text, strongest first: `id`, `text`, `stratum`, `decile`, `score`, `grade` (NaN where unanswered),
        `probability` (NaN where the judge gives none), `answered`, `reason`.
    concept, judge : str
        What was looked for, and the judge's name.
    """

    table: pd.DataFrame
    concept: str
    judge: str

    @property
    def n_unanswered(self) -> int:
        """Texts without a grade."""
        return int((~self.table["answered"]).sum())


def grade_blind(judge: Judge, examples: ScoreSet, concept: str, definition: str, rule: str, *, seed: int = 0) -> Graded:
    """Let a judge grade every text for a concept, in an order that says nothing about scores or sets.

    Parameters
    ----------
    judge : Judge
    examples : ScoreSet
    concept, definition, rule : str
        See `neurosae.autointerp.judges.GradeRequest`.
    seed : int, default 0
        Of the order.

    Raises
    ------
    UserError
        A set to explain from; what stops the judge altogether.
    """
    known = require(examples, ScoreSet).examples
    order = np.random.default_rng([seed, len(known)]).permutation(len(known))
    grades = judge.grade([GradeRequest(known[i].text, concept, definition, rule) for i in order])
    if len(grades) != len(known):
        raise UserError(f"The judge {judge.name} gave {len(grades)} grades for {len(known)} texts")
    by_row = dict(zip(order.tolist(), grades, strict=True))
    rows = [
        (e.id, e.text, e.stratum, e.decile, e.score, g.value, g.probability, g.answered, g.reason)
        for e, g in ((example, by_row[i]) for i, example in enumerate(known))
    ]
    names = ["id", "text", "stratum", "decile", "score", "grade", "probability", "answered", "reason"]
    kinds = {"score": float, "grade": float, "probability": float, "answered": bool, "decile": int}
    return Graded(pd.DataFrame(rows, columns=names).astype(kinds), concept, judge.name)


def grade_pattern(judge: Judge, examples: ScoreSet, explanation: Explanation, *, seed: int = 0) -> Graded:
    """Let a judge grade every text for a discovered pattern; see `grade_blind`.

    Raises
    ------
    UserError
        An explanation without text, or one that was made from one of these texts.
    """
    _held_out(explanation, examples)
    return grade_blind(judge, examples, "a described pattern", explanation.text, PATTERN_RULE, seed=seed)


def rubric(graded: Graded, settings: Settings | None = None) -> list[Score]:
    """Compare mean grades (0-3) between sets.

    Returns
    -------
    list of Score
        ``"top - random"``; ``"top - bottom"`` against the weakest decile; ``"upper - lower"``, the upper against the
        lower half of the corpus with the top left out: does the concept also rise with the score below the top?
    """
    table, settings = graded.table, settings or Settings()
    top, rest = table["stratum"] == "top", table["stratum"] != "top"
    contrasts = {
        "top - random": (top, table["stratum"] == "random"),
        "top - bottom": (top, rest & (table["decile"] == 1)),
        "upper - lower": (rest & (table["decile"] > DECILES // 2), rest & (table["decile"] <= DECILES // 2)),
    }
    return [
        compare_sets(name, table.loc[first, "grade"], table.loc[second, "grade"], mean_difference, settings)
        for name, (first, second) in contrasts.items()
    ]


def mean_grades(graded: Graded, settings: Settings | None = None) -> pd.DataFrame:
    """Mean grade of the top, of the random controls and of every decile of the rest.

    Returns
    -------
    DataFrame
        `set`, `n`, `n_unanswered`, `mean`, `low`, `high` (95 % bootstrap interval over texts), `reason` (why a
        number is missing). Equal grades in a set give an interval without width: read it with `n`.
    """
    table, settings = graded.table, settings or Settings()
    sets = {"top": table["stratum"] == "top", "random": table["stratum"] == "random"}
    for decile in range(DECILES, 0, -1):
        sets[f"decile {decile}"] = (table["stratum"] != "top") & (table["decile"] == decile)
    rows = []
    for name, chosen in sets.items():
        grades = table.loc[chosen, "grade"].to_numpy()
        value = grades[np.isfinite(grades)]
        average = float(value.mean()) if len(value) else np.nan
        low, high, reason = np.nan, np.nan, "no grade" if not len(value) else ""
        if len(value) >= MIN_GROUPS:
            low, high = interval(mean(value), len(value), settings)
        elif len(value):
            reason = f"no interval from fewer than {MIN_GROUPS} texts"
        rows.append((name, len(value), len(grades) - len(value), average, low, high, reason))
    return pd.DataFrame(rows, columns=["set", "n", "n_unanswered", "mean", "low", "high", "reason"])


def detection(graded: Graded, settings: Settings | None = None) -> list[Score]:
    """Tell whether the graded pattern says which texts drive the ensemble: top texts against as many random controls.

    Both sets have the same size, and both scores are those of a guess (.5) for a judge that always answers "none" or
    always "yes": ``"balanced accuracy"`` of "grade 2 or more", fixed beforehand, and ``"auroc"`` of the judge's
    probabilities where it gives them for all answered texts, of its grades otherwise.
    """
    settings = settings or Settings()
    top, random = _balanced(graded.table)
    answered = graded.table.loc[graded.table["answered"], "probability"]
    column = "probability" if answered.notna().all() else "grade"
    in_top, in_random = (part["grade"].ge(PRESENT).astype(float).where(part["answered"]) for part in (top, random))
    return [
        compare_sets("balanced accuracy", in_top, in_random, balanced_accuracy, settings),
        compare_sets("auroc", top[column], random[column], auroc, settings),
    ]


def word_match(explanation: Explanation, examples: ScoreSet, settings: Settings | None = None) -> list[Score]:
    """Detection by a lexical explanation alone; needs no judge.

    ``"balanced accuracy"`` of "holds one of its words", and ``"auroc"`` of the sum of the log-odds of the words held.

    Raises
    ------
    UserError
        An explanation that is not lexical, has no text, or has seen one of these texts.
    """
    _held_out(explanation, examples)
    if not explanation.words:
        raise UserError("Only a lexical explanation has words to match", suggestion="Use a judge or the embeddings")
    weight, settings = dict(explanation.words), settings or Settings()

    def evidence(text: str) -> float:
        return sum(weight.get(word, 0.0) for word in sorted(set(words(text))))

    top, random = (part["text"].map(evidence) for part in _balanced(_table(examples)))
    return [
        compare_sets(
            "balanced accuracy", (top > 0).astype(float), (random > 0).astype(float), balanced_accuracy, settings
        ),
        compare_sets("auroc", top, random, auroc, settings),
    ]


def embedding_match(
    explanation: Explanation, examples: ScoreSet, embed: Embed, settings: Settings | None = None
) -> Score:
    """Detection by the cosine between a sentence embedding of the explanation and that of every text: ``"auroc"``.

    Parameters
    ----------
    explanation : Explanation
    examples : ScoreSet
    embed : callable
        Texts to vectors [S, D]. Centre them over a corpus if they share a large common part. A text whose vector is
        zero or not finite has no value: it is counted and left out.
    settings : Settings, optional

    Raises
    ------
    UserError
        An explanation without text or that has seen one of these texts; vectors of another shape, or none for the
        explanation.
    """
    _held_out(explanation, examples)
    parts = _balanced(_table(examples))
    texts = [text for part in parts for text in part["text"]]
    vectors = np.asarray(embed([explanation.text, *texts]), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) + 1:
        raise UserError(f"The embeddings of {len(texts) + 1} texts have shape {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    if not usable[0]:
        raise UserError(f"The embeddings give the explanation no direction: '{explanation.text}'")
    unit = np.where(usable[:, None], vectors, np.nan) / np.where(usable, norms, 1)[:, None]
    cosine, n_top = np.round(unit[1:] @ unit[0], 12), len(parts[0])  # equal texts stay equal
    return compare_sets("auroc", cosine[:n_top], cosine[n_top:], auroc, settings or Settings())


def _held_out(explanation: Explanation, examples: ScoreSet) -> None:
    known = require(examples, ScoreSet).examples
    if not explanation.text:
        raise UserError(f"There is no explanation to score: {explanation.reason}")
    seen = set(explanation.example_hashes)
    leaked = [e.id for e in known if text_hash(e.text) in seen]
    if leaked:
        raise UserError(
            f"The explanation was made from {len(leaked)} of the texts to score it on, such as {leaked[0]}",
            suggestion="Score it on the other set of the same `split`",
        )


def _table(examples: ScoreSet) -> pd.DataFrame:
    return pd.DataFrame([(e.id, e.text, e.stratum) for e in examples.examples], columns=["id", "text", "stratum"])


def _balanced(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Top texts and random controls, equally many; which ones stay is drawn by their text."""
    parts = [table[table["stratum"] == name] for name in ("top", "random")]
    n = min(map(len, parts))
    drawn = (part.loc[part["text"].map(text_hash).sort_values().index[:n]] for part in parts)
    top, random = (part.sort_index() for part in drawn)
    return top, random
