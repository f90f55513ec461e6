"""The gold corpus: sentences of many kinds, each graded 0 to 3 for every built-in concept by a written rule.

It ships in ``stimuli/gold``: `corpus.csv` (sentences and final grades), `grades.csv` (both blind grades and the
adjudicated one) and `RULE.md`. Sentences and grades were written by language models, not by people: each sentence was
graded twice, blind, and disagreements were adjudicated. `agreement` is that of two such graders, who may share their
mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.errors import UserError, unknown_name
from neurosae.inference.bootstrap import bootstrap_interval

CONCEPTS = ("success", "continuation", "golden_gate", "conjunction", "positive")
"""What every sentence is graded for."""
OF_STIMULI = {
    "success": "success",
    "success_composed": "success",
    "continuation": "continuation",
    "golden_gate_bridge": "golden_gate",
    "logic": "conjunction",
    "valence": "positive",
}
"""Graded concept of each built-in stimulus set."""
FEWEST = 1200
GRADES = (0, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class GoldCorpus:
    """Graded sentences.

    Attributes
    ----------
    table : DataFrame
        One row per sentence: `id`, `text`, `register`, one column of final grades per concept, and what else the file
        holds (`written_for`: the concept a sentence was written for, `hard_negative`: whether to be mistaken for it).
    graders : DataFrame
        One row per sentence and concept: `id`, `concept`, `first`, `second`, `final`.
    rule : str
        The rule of grading, Markdown.
    concepts : tuple of str

    Examples
    --------
    >>> corpus = load()
    >>> corpus.grades("success").shape == (len(corpus.table),)
    True
    """

    table: pd.DataFrame
    graders: pd.DataFrame
    rule: str
    concepts: tuple[str, ...] = CONCEPTS

    def grades(self, concept: str) -> NDArray[np.int64]:
        """Final grades [S] of a concept."""
        if concept not in self.concepts:
            raise unknown_name("graded concept", concept, self.concepts)
        return self.table[concept].to_numpy(dtype=np.int64)

    def prevalence(self) -> pd.DataFrame:
        """How many sentences have each grade, per concept, and the share that is relevant (grade 2 or 3)."""
        rows = []
        for concept in self.concepts:
            grades_S = self.grades(concept)
            counts = {f"grade_{grade}": int((grades_S == grade).sum()) for grade in GRADES}
            rows.append({"concept": concept, **counts, "relevant_share": float((grades_S >= 2).mean())})
        return pd.DataFrame(rows)

    def agreement(self, *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
        """How far the two blind graders agree.

        Parameters
        ----------
        n, seed : int, default 2000 and 0
            Resamples of sentences for the interval.

        Returns
        -------
        DataFrame
            Per concept: `kappa` (quadratic weights), `low`, `high` (95 %, BCa), `n_sentences`, `n_disagreements`; these
            were adjudicated.

        References
        ----------
        Cohen (1968), Psychological Bulletin 70.
        """
        rows = []
        for concept in self.concepts:
            both = self.graders[self.graders["concept"] == concept]
            first_S, second_S = both["first"].to_numpy(dtype=float), both["second"].to_numpy(dtype=float)

            def statistic(
                weights_BS: np.ndarray, first_S: np.ndarray = first_S, second_S: np.ndarray = second_S
            ) -> np.ndarray:
                return weighted_kappa(first_S, second_S, weights_BS)

            found = bootstrap_interval(statistic, np.arange(len(both)), n=n, seed=seed)
            row = {"concept": concept, "kappa": float(found.estimate), "low": float(found.low)}
            row |= {"high": float(found.high), "n_sentences": len(both)}
            rows.append(row | {"n_disagreements": int((first_S != second_S).sum())})
        return pd.DataFrame(rows)


def load(folder: Path | None = None) -> GoldCorpus:
    """Read the gold corpus and check it.

    Parameters
    ----------
    folder : Path, optional
        Default: ``stimuli/gold`` of the current folder, then that of the repository around the package.

    Raises
    ------
    UserError
        A missing file or column, fewer than 1,200 sentences, a sentence twice or empty, a grade that is not 0 to 3,
        grades without a sentence, a final grade that differs from the corpus.
    """
    places = [Path("stimuli/gold"), Path(__file__).parents[2] / "stimuli" / "gold"] if folder is None else [folder]
    place = next((place for place in places if (place / "corpus.csv").is_file()), None)
    if place is None:
        raise UserError(f"There is no gold corpus in {places[-1]}", allowed="a folder with corpus.csv and grades.csv")
    table = _read(place / "corpus.csv", ("id", "text", "register", *CONCEPTS))
    graders = _read(place / "grades.csv", ("id", "concept", "first", "second", "final"))
    try:
        rule = (place / "RULE.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The rule of grading cannot be read ({error})", where=str(place / "RULE.md")) from error
    _check_sentences(table, str(place / "corpus.csv"))
    _check_grades(table, CONCEPTS, str(place / "corpus.csv"))
    _check_grades(graders, ("first", "second", "final"), str(place / "grades.csv"))
    _check_graders(table, graders, str(place / "grades.csv"))
    return GoldCorpus(table, graders, rule)


def concept_of(stimulus_set: str, target: str) -> str:
    """Graded concept that a contrast of a stimulus set should retrieve.

    Parameters
    ----------
    stimulus_set : str
        Name of the set.
    target : str
        Level the contrast is about (`neurosae.decoding.fitted.FittedEnsemble.target`).

    Raises
    ------
    UserError
        The set or this contrast of it was not graded.

    Examples
    --------
    >>> concept_of("golden_gate_bridge", "golden_gate")
    'golden_gate'
    """
    concept = OF_STIMULI.get(stimulus_set)
    if concept is None or concept != target:
        graded = ", ".join(f"{name} ({level})" for name, level in OF_STIMULI.items())
        raise UserError(
            f"The gold corpus has no grades for '{target}' of '{stimulus_set}'", where="gold", allowed=graded
        )
    return concept


def weighted_kappa(first_S: np.ndarray, second_S: np.ndarray, weights_BS: np.ndarray) -> np.ndarray:
    """Cohen's kappa with quadratic weights, for many resamples: 1 - E(x - y)^2 / E(x - y')^2, y' drawn apart from x.

    Parameters
    ----------
    first_S, second_S : arrays [S]
    weights_BS : array [B, S]
        How often every sentence occurs.

    Returns
    -------
    array [B]
        NaN where both graders give one and the same grade throughout.

    Examples
    --------
    >>> weighted_kappa(np.array([0.0, 1, 3]), np.array([0.0, 1, 3]), np.ones((1, 3))).tolist()
    [1.0]
    """
    share_BS = weights_BS / weights_BS.sum(axis=1, keepdims=True)
    x_B, y_B = share_BS @ first_S, share_BS @ second_S
    spread_B = share_BS @ first_S**2 - x_B**2 + share_BS @ second_S**2 - y_B**2 + (x_B - y_B) ** 2
    missed_B = share_BS @ (first_S - second_S) ** 2
    defined_B = spread_B > 1e-12
    return np.where(defined_B, 1 - missed_B / np.where(defined_B, spread_B, 1), np.nan)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"This file cannot be read ({error})", where=str(path)) from error
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"There is no column '{missing[0]}'", where=str(path), allowed=", ".join(columns))
    return table


def _check_sentences(table: pd.DataFrame, where: str) -> None:
    if len(table) < FEWEST:
        raise UserError(f"Only {len(table)} sentences", where=where, allowed=f"{FEWEST} or more")
    for column in ("id", "text"):
        blank = table[column].astype(str).str.strip() == ""
        if blank.any():
            raise UserError(f"'{column}' is empty", where=f"{where}, row {int(blank.argmax()) + 2}")
        if (twice := table[column].duplicated()).any():
            row = int(twice.argmax())
            what = f"'{str(table[column].iloc[row])[:60]}' stands there twice"
            raise UserError(what, where=f"{where}, row {row + 2}")


def _check_grades(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    for column in columns:
        bad = ~table[column].isin(GRADES)
        if bad.any():
            row = int(bad.argmax())
            what = f"'{column}' of {table['id'].iloc[row]} is '{table[column].iloc[row]}'"
            raise UserError(what, where=where, allowed="0, 1, 2, 3")


def _check_graders(table: pd.DataFrame, graders: pd.DataFrame, where: str) -> None:
    """Every sentence was graded once for every concept, and the final grades are those of the corpus."""
    finals = table.melt(["id"], list(CONCEPTS), var_name="concept", value_name="corpus")
    both = finals.merge(graders, on=["id", "concept"], how="outer")
    odd = both[both["corpus"].isna() | both["first"].isna() | (both["corpus"] != both["final"])]
    if len(odd) or len(both) != len(finals):
        example = odd.iloc[0] if len(odd) else both[both.duplicated(["id", "concept"])].iloc[0]
        raise UserError(f"Grades of {example['id']} for '{example['concept']}' do not match corpus.csv", where=where)
