"""From what a corpus says about an ensemble to an explanation with its scores: the whole of it, for one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from neurosae.autointerp.examples import DECILES, Evidence, Example, Stratum, split, token_spans
from neurosae.autointerp.explainers import Explanation, explain_by_reading, explain_by_words
from neurosae.autointerp.judges import Judge, Writer
from neurosae.autointerp.lexical import distinctive_words
from neurosae.autointerp.scorers import (
    Embed,
    Graded,
    detection,
    embedding_match,
    grade_blind,
    grade_pattern,
    mean_grades,
    rubric,
    word_match,
)
from neurosae.autointerp.scores import Score, Settings, against_random
from neurosae.discovery.search import Discovery

KEYS = ["about", "scorer", "name"]
RANDOM_ENSEMBLES, COSTLY_RANDOM_ENSEMBLES = 19, 4
"""Ensembles of random features beside an explained one: 19 are the fewest that can reach p = .05."""
_SETS: tuple[Stratum, ...] = ("top", "random", "decile")  # a sentence in two sets belongs to the first of them


@dataclass(frozen=True)
class Concept:
    """What a judge looks for; see `neurosae.autointerp.judges.GradeRequest`."""

    name: str
    definition: str
    rule: str


@dataclass(frozen=True)
class Readers:
    """Who reads the texts.

    Attributes
    ----------
    judge : Judge
        Grades texts for the concept.
    writer : Writer, optional
        Also explains in words of its own.
    embed : callable, optional
        Texts to vectors [S, D].
    patterns : bool, default True
        Whether the judge grades discovered patterns too; the gold grades cannot.
    """

    judge: Judge
    writer: Writer | None = None
    embed: Embed | None = None
    patterns: bool = True


@dataclass(frozen=True, eq=False)
class Interpretation:
    """What an ensemble stands for, as far as texts tell.

    Attributes
    ----------
    explanations : tuple of Explanation
        The lexical one, and that of the writer where there is one.
    words : DataFrame
        Distinctive words of the set explained from; see `neurosae.autointerp.lexical.distinctive_words`.
    scores : DataFrame
        One row per score: `about` ("concept", or the kind of explanation), `scorer` ("rubric"; "judge", "words" and
        "embedding" for detection), and the fields of `neurosae.autointerp.scores.Score`.
    means : DataFrame
        `neurosae.autointerp.scorers.mean_grades` with `about`.
    graded : dict of str to Graded
        What the judge said, by `about`.
    n_near_duplicates : int
        Texts left out because of a stronger near-duplicate.
    """

    explanations: tuple[Explanation, ...]
    words: pd.DataFrame
    scores: pd.DataFrame
    means: pd.DataFrame
    graded: dict[str, Graded]
    n_near_duplicates: int


def evidence_of(discovery: Discovery, ensemble: int = 0) -> Evidence:
    """What a discovery kept for one ensemble, each sentence once.

    Sentences that the SAE was trained on are left out: what they show may be memory. Random controls that are among the
    strongest count as such. Deciles are those of the discovery's uniform sample.

    Parameters
    ----------
    discovery : Discovery
    ensemble : int, default 0
        Its number.
    """
    kept = discovery.texts[(discovery.texts["ensemble"] == ensemble) & ~discovery.texts["in_sae_training"]]
    kept = kept.assign(priority=kept["set"].map(_SETS.index)).sort_values("priority", kind="stable")
    kept = kept.drop_duplicates("sentence")
    tokens = dict(iter(discovery.tokens[discovery.tokens["ensemble"] == ensemble].groupby("sentence")))
    sampled_N = np.sort(discovery.scores_NE[:, ensemble])
    examples = []
    for row in kept.to_dict("records"):
        below = int(np.searchsorted(sampled_N, row["score"]))
        decile = row["decile"] or min(DECILES, 1 + below * DECILES // len(sampled_N))
        own = tokens[row["sentence"]]
        spans = token_spans(row["text"], own["token"], own["contribution"])
        examples.append(Example(str(row["sentence"]), row["text"], row["score"], row["set"], decile, spans))
    return Evidence(tuple(examples))


def interpret(
    evidence: Evidence, concept: Concept, readers: Readers, settings: Settings | None = None
) -> Interpretation:
    """Explain an ensemble from one half of its texts and score explanation and concept on the other half.

    Parameters
    ----------
    evidence : Evidence
    concept : Concept
        The target, which the texts are graded for whatever the explanation says.
    readers : Readers
    settings : Settings, optional

    Raises
    ------
    UserError
        Too few texts; what stops a judge or writer altogether.

    Examples
    --------
    >>> from neurosae.discovery import gold
    >>> from neurosae.autointerp.examples import gather
    >>> from neurosae.autointerp.gold_judge import GoldJudge
    >>> corpus = gold.load()
    >>> evidence = gather(corpus.table["text"].tolist(), corpus.grades("golden_gate"))  # a perfect ranking
    >>> readers = Readers(GoldJudge(corpus), patterns=False)
    >>> found = interpret(evidence, Concept("golden_gate", "The bridge.", ""), readers, Settings(200, 99))
    >>> found.words["word"][:2].tolist()
    ['bridge', 'golden']
    >>> bool(found.scores.set_index("name").loc["top - random", "value"] > 2)
    True
    """
    settings = settings or Settings()
    explain, score, n_near_duplicates = split(evidence, settings.seed)
    words = distinctive_words(
        [e.text for e in explain.examples],
        [e.stratum == "top" for e in explain.examples],
        n_permutations=settings.n_permutations,
        seed=settings.seed,
    )
    explanations = [explain_by_words(explain)]
    if readers.writer:
        explanations.append(explain_by_reading(explain, readers.writer))
    graded = {
        "concept": grade_blind(readers.judge, score, concept.name, concept.definition, concept.rule, seed=settings.seed)
    }
    found = [("concept", "rubric", score) for score in rubric(graded["concept"], settings)]
    for explanation in explanations:
        about = explanation.kind
        if not explanation.text:
            continue
        if explanation.words:
            found += [(about, "words", s) for s in word_match(explanation, score, settings)]
        if readers.embed:
            found.append((about, "embedding", embedding_match(explanation, score, readers.embed, settings)))
        if readers.patterns:
            graded[about] = grade_pattern(readers.judge, score, explanation, seed=settings.seed)
            found += [(about, "rubric", s) for s in rubric(graded[about], settings)]
            found += [(about, "judge", s) for s in detection(graded[about], settings)]
    means = [mean_grades(part, settings).assign(about=about) for about, part in graded.items()]
    return Interpretation(
        explanations=tuple(explanations),
        words=words,
        scores=_table(found),
        means=pd.concat(means, ignore_index=True),
        graded=graded,
        n_near_duplicates=n_near_duplicates,
    )


def beside_random(scores: pd.DataFrame, random: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put beside every score what ensembles of random features, explained and scored in the same way, have.

    Parameters
    ----------
    scores : DataFrame
        `Interpretation.scores`.
    random : R DataFrames
        The same of every random ensemble.

    Returns
    -------
    DataFrame
        With `random_mean`, `above_random` (the difference) and its range `above_low` to `above_high`, `p_random` (rank
        among the random ensembles), `smallest_p_random`, `n_random` and `n_random_missing` (random ensembles without
        this score), `random_reason`.
    """
    others = [table.set_index(KEYS)["value"] for table in random]
    rows = []
    for row in scores.to_dict("records"):
        key = tuple(row[name] for name in KEYS)
        score = against_random(row["value"], [values.get(key, np.nan) for values in others])
        rows.append(
            {
                "random_mean": row["value"] - score.value,
                "above_random": score.value,
                "above_low": score.low,
                "above_high": score.high,
                "p_random": score.p,
                "smallest_p_random": score.smallest_p,
                "n_random": score.n_second,
                "n_random_missing": score.n_unanswered,
                "random_reason": score.reason,
            }
        )
    return pd.concat([scores.reset_index(drop=True), pd.DataFrame(rows)], axis=1)


def random_ensembles(judge: Judge) -> int:
    """How many ensembles of random features stand beside an explained one, where nobody says how many.

    A judge that also writes is a language model, asked for minutes or for money: too few for a p below .05, and
    `outcome` says so.

    Examples
    --------
    >>> from neurosae.autointerp.gold_judge import GoldJudge
    >>> from neurosae.discovery import gold
    >>> random_ensembles(GoldJudge(gold.load()))
    19
    """
    return COSTLY_RANDOM_ENSEMBLES if isinstance(judge, Writer) else RANDOM_ENSEMBLES


class Outcome(StrEnum):
    """Whether a concept comes out in the texts that drive an ensemble."""

    NOT_SCORED = "cannot be said"
    BEYOND_RANDOM = "above shuffled labels and random features"
    TOO_FEW_RANDOM = "above shuffled labels; too few random ensembles for more"
    NOT_BEYOND_RANDOM = "above shuffled labels, as random features are"
    NOT_OUT = "not above shuffled labels"

    @property
    def comes_out(self) -> bool:
        """Whether the texts show more of the concept than under shuffled labels."""
        return self not in (Outcome.NOT_SCORED, Outcome.NOT_OUT)


def outcome(scores: pd.DataFrame, alpha: float = 0.05) -> Outcome:
    """What the scores say about the target concept.

    Parameters
    ----------
    scores : DataFrame
        Of `beside_random`.
    alpha : float, default 0.05
        For both tests: against shuffled set labels and against random features.
    """
    row = _of_concept(scores)
    if row["reason"]:
        return Outcome.NOT_SCORED
    if not row["p"] <= alpha:
        return Outcome.NOT_OUT
    if row["p_random"] <= alpha:
        return Outcome.BEYOND_RANDOM
    reachable = row["smallest_p_random"] <= alpha  # not where no random ensemble has this score
    return Outcome.NOT_BEYOND_RANDOM if reachable else Outcome.TOO_FEW_RANDOM


def verdict(scores: pd.DataFrame, concept: str, alpha: float = 0.05) -> str:
    """Say in one sentence whether the target concept comes out in the texts that drive the ensemble.

    Parameters
    ----------
    scores : DataFrame
        Of `beside_random`.
    concept : str
    alpha : float, default 0.05
        As in `outcome`.
    """
    row = _of_concept(scores)
    size = f"top texts grade {row['value']:+.2f} against random ones [{row['low']:.2f}, {row['high']:.2f}]"
    said = {
        Outcome.NOT_SCORED: f"Whether '{concept}' comes out cannot be said: {row['reason']}.",
        Outcome.BEYOND_RANDOM: f"'{concept}' comes out: {size}, more than shuffled labels and random features give.",
        Outcome.TOO_FEW_RANDOM: f"'{concept}' comes out above shuffled labels ({size}); too few random ensembles for "
        "more.",
        Outcome.NOT_BEYOND_RANDOM: f"'{concept}' comes out above shuffled labels, but random features do as well: "
        f"{size}.",
        Outcome.NOT_OUT: f"'{concept}' does not come out: {size}, as shuffled labels may give.",
    }
    return said[outcome(scores, alpha)]


def _of_concept(scores: pd.DataFrame) -> pd.Series:
    """The score that answers for the concept: grades of the strongest texts above those of random ones."""
    return scores[(scores["about"] == "concept") & (scores["name"] == "top - random")].iloc[0]


def _table(found: list[tuple[str, str, Score]]) -> pd.DataFrame:
    return pd.DataFrame([{"about": about, "scorer": scorer, **score.as_dict()} for about, scorer, score in found])
