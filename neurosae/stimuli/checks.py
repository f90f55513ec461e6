"""Confound checks of stimulus sets: does anything but the concept tell the two sides of a contrast apart?

``python -m neurosae.stimuli check stimuli/*.yaml`` prints them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from wordfreq import zipf_frequency

from neurosae import console
from neurosae.console import DONE, NO, Parser, Summary
from neurosae.errors import UserError
from neurosae.stimuli import StimulusSet, load
from neurosae.stimuli.contrasts import Contrast

LEXICAL = 0.60  # balanced accuracy of the bag of words above which a contrast is called lexical
NEAR_DUPLICATE = 0.7  # TF-IDF cosine
COMMON_OPENING = 0.05  # share of texts that begin with the same three words
WORD = r"[^\W_]+(?:['’][^\W_]+)*"

_NOTABLE = 0.05  # p of a difference between the two sides that is worth a sentence
_DESCRIPTION = """Does anything but the concept tell the two sides of each contrast apart? Exit code 3: words alone do.

Examples
--------
python -m neurosae.stimuli check success
python -m neurosae.stimuli check my_concepts/patience.yaml --no-model
"""

Surprisal = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class CheckReport:
    """What the checks of one stimulus set found; ``print(report)`` shows all tables.

    Attributes
    ----------
    name : str
    contrasts : DataFrame
        One row per contrast: `contrast`, `design`, `n_target`, `n_foil`, `n_groups`, `bag_of_words` (cross-validated
        balanced accuracy, NaN if there is none), `lexical`, `note` (why not paired, why no accuracy).
    cells : DataFrame
        One row per cell of the factors, with `n` stimuli.
    confounds : DataFrame
        One row per contrast and `measure` (tokens or words, surprisal, zipf, ratings): `target`, `foil` (means),
        `difference`, `test`, `n` (differences or stimuli tested), `p` (two-sided), `note` (why a value is NaN).
    openings : DataFrame
        The five commonest first three words: `opening`, `n`, `share`, `warn`.
    duplicates : DataFrame
        The closest near-duplicates over groups (up to 20): `id_a`, `id_b`, `cosine`.
    n_duplicates : int
        Their full number.
    annotations : DataFrame
        What the stimuli carry: `column`, `n` stimuli that have it, `note` (why it is empty).
    """

    name: str
    contrasts: pd.DataFrame
    cells: pd.DataFrame
    confounds: pd.DataFrame
    openings: pd.DataFrame
    duplicates: pd.DataFrame
    n_duplicates: int
    annotations: pd.DataFrame

    def __str__(self) -> str:
        """All tables as plain text."""
        sections = [
            ("contrasts", self.contrasts),
            ("stimuli per cell", self.cells),
            ("confounds (target against foil)", self.confounds),
            ("commonest openings", self.openings),
            (f"near-duplicates: {self.n_duplicates}", self.duplicates),
            ("annotations", self.annotations),
        ]
        texts = [f"=== {self.name} ==="]
        for title, table in sections:
            body = table.to_string(index=False, float_format="{:.3f}".format, na_rep="-") if len(table) else "none"
            texts.append(f"{title}\n{body}")
        return "\n\n".join(texts) + "\n"


def check(
    stimuli: StimulusSet, tokenizer: Any = None, surprisal: Surprisal | None = None, *, seed: int = 0
) -> CheckReport:
    """Check a stimulus set for confounds.

    Differences are tested on what is exchangeable: on the differences of block means (Wilcoxon signed-rank test) for
    pairs, families and interactions, on stimuli (Mann-Whitney) without. Word frequencies are those of English.

    Parameters
    ----------
    stimuli : StimulusSet
    tokenizer : Hugging Face tokenizer, optional
        Counts tokens. Without it words are counted.
    surprisal : callable, optional
        Texts -> mean surprisal of each in nats per token.
    seed : int, default 0
        Of the folds of the bag of words.

    Returns
    -------
    CheckReport

    Examples
    --------
    >>> from neurosae.stimuli import load
    >>> report = check(load("continuation"))
    >>> report.contrasts["design"].tolist()
    ['pairs']
    """
    texts = stimuli.table["text"].tolist()
    measures, notes = _measures(stimuli, texts, tokenizer, surprisal)
    duplicates, n_duplicates = near_duplicates(texts, stimuli.table["id"].tolist(), stimuli.groups())
    contrasts = stimuli.contrasts.values()
    return CheckReport(
        name=stimuli.name,
        contrasts=pd.DataFrame([_contrast_row(stimuli, contrast, seed) for contrast in contrasts]),
        cells=_cells(stimuli),
        confounds=pd.DataFrame(
            [
                {"contrast": contrast.name, "measure": name, **_compare(stimuli, contrast, values), "note": notes[name]}
                for contrast in contrasts
                for name, values in measures.items()
            ]
        ),
        openings=_openings(texts),
        duplicates=duplicates,
        n_duplicates=n_duplicates,
        annotations=_annotations(stimuli),
    )


def bag_of_words_accuracy(
    texts: Sequence[str], y: np.ndarray, groups: np.ndarray, seed: int = 0, repeats: int = 5, folds: int = 5
) -> float:
    """How well the mere presence of words predicts the label, on groups that were held out.

    Binary word counts and a logistic regression in stratified, grouped cross-validation.

    Parameters
    ----------
    texts : sequence of str, length S
    y : array of int, shape (S,)
        Two classes.
    groups : array of int, shape (S,)
        Stimuli of one group stay in one fold.
    seed : int, default 0
        Repeat r shuffles with seed + r.
    repeats, folds : int, default 5

    Returns
    -------
    float
        Balanced accuracy (chance .5), averaged over the repeats.

    Raises
    ------
    UserError
        A class occurs in fewer groups than there are folds, or a text has no words.

    Examples
    --------
    >>> texts = ["it rained", "it snowed"] * 10
    >>> bag_of_words_accuracy(texts, np.tile([0, 1], 10), np.repeat(np.arange(10), 2))
    1.0
    """
    texts_S, y, groups = np.asarray(texts, dtype=object), np.asarray(y), np.asarray(groups)
    fewest = min(len(np.unique(groups[y == label])) for label in np.unique(y))
    if fewest < folds:
        raise UserError(f"One side has only {fewest} independent groups, too few for {folds} folds")
    if not all(re.search(WORD, text) for text in texts):
        raise UserError("A text has no words")
    model = make_pipeline(
        CountVectorizer(binary=True, token_pattern=WORD), LogisticRegression(max_iter=1000, random_state=0)
    )
    accuracies = []
    for repeat in range(repeats):
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
        predicted = cross_val_predict(model, texts_S, y, groups=groups, cv=split)
        accuracies.append(balanced_accuracy_score(y, predicted))
    return float(np.mean(accuracies))


def near_duplicates(
    texts: Sequence[str], ids: Sequence[str], groups: np.ndarray, keep: int = 20, block_size: int = 1000
) -> tuple[pd.DataFrame, int]:
    """Texts of different groups whose TF-IDF cosine is above .7.

    Parameters
    ----------
    texts, ids : sequence of str, length S
    groups : array of int, shape (S,)
    keep : int, default 20
        Rows of the table, the closest first.
    block_size : int, default 1000
        Texts compared with all others at a time; bounds memory at block_size x S.

    Returns
    -------
    table : DataFrame
        Columns `id_a`, `id_b`, `cosine`.
    n : int
        Number of near-duplicates.
    """
    vectors = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit_transform(texts).tocsr()
    closest, n = pd.DataFrame({"a": [], "b": [], "cosine": []}).astype({"a": int, "b": int}), 0
    for start in range(0, len(texts), block_size):
        cosines = (vectors[start : start + block_size] @ vectors.T).tocoo()
        a, b = cosines.row + start, cosines.col
        found = (cosines.data > NEAR_DUPLICATE) & (a < b) & (groups[a] != groups[b])
        n += int(found.sum())
        block = pd.DataFrame({"a": a[found], "b": b[found], "cosine": cosines.data[found]})
        closest = pd.concat([closest, block]).sort_values(["cosine", "a", "b"], ascending=[False, True, True])
        closest = closest.head(keep)
    names = np.asarray(ids, dtype=object)
    table = {"id_a": names[closest["a"]], "id_b": names[closest["b"]], "cosine": closest["cosine"].to_numpy()}
    return pd.DataFrame(table), n


def _words(text: str) -> list[str]:
    return re.findall(WORD, text.lower())


def _measures(
    stimuli: StimulusSet, texts: list[str], tokenizer: Any, surprisal: Surprisal | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Values per stimulus that ought not to differ between conditions, and why some are missing."""
    words = [_words(text) for text in texts]
    measures: dict[str, np.ndarray] = {}
    if tokenizer is None:
        measures["words"] = np.array([len(each) for each in words], dtype=np.float64)
    else:
        lengths = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        measures["tokens"] = np.array(lengths, dtype=np.float64)
    nothing = np.full(len(texts), np.nan)
    measures["surprisal"] = nothing if surprisal is None else np.asarray(surprisal(texts), dtype=np.float64)
    measures["zipf"] = np.array(
        [np.mean([zipf_frequency(word, "en") for word in each]) if each else np.nan for each in words]
    )
    for rating in stimuli.ratings:
        measures[rating] = stimuli.table[rating].to_numpy()
    notes = {}
    for measure, values in measures.items():
        missing = int((~np.isfinite(values)).sum())
        notes[measure] = f"{missing} of {len(texts)} stimuli have no value" if missing else ""
    if surprisal is None:
        notes["surprisal"] = "no language model was given"
    return measures, notes


def _compare(stimuli: StimulusSet, contrast: Contrast, values_S: np.ndarray) -> dict[str, Any]:
    """Means of the two sides and the test of their difference that suits the design."""
    rows, y = contrast.labels(stimuli.table)
    design = stimuli.design(contrast)
    table = pd.DataFrame({"value": values_S[rows], "y": y, "block": stimuli.blocks(contrast, rows)})
    table = table[np.isfinite(table["value"])]
    target, foil = (table["value"][table["y"] == side].to_numpy() for side in (1, 0))
    means = [float(side.mean()) if len(side) else np.nan for side in (target, foil)]
    if design == "unpaired":
        test, n = "Mann-Whitney", len(table)
        tested = len(target) > 0 and len(foil) > 0
        p = float(stats.mannwhitneyu(target, foil).pvalue) if tested and table["value"].nunique() > 1 else 1.0
    else:
        of_blocks = table.groupby(["block", "y"])["value"].mean().unstack("y").reindex(columns=[0, 1]).dropna()
        differences = np.round((of_blocks[1] - of_blocks[0]).to_numpy(), 12)  # equal means are ties, not 1e-17 apart
        test, n = f"Wilcoxon, {design}", len(differences)
        tested = n > 0
        p = float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
    return {
        "target": means[0],
        "foil": means[1],
        "difference": means[0] - means[1],
        "test": test,
        "n": n,
        "p": p if tested else np.nan,
    }


def _contrast_row(stimuli: StimulusSet, contrast: Contrast, seed: int) -> dict[str, Any]:
    rows, y = contrast.labels(stimuli.table)
    groups, texts = stimuli.groups()[rows], stimuli.table["text"].iloc[rows].tolist()
    design, notes = stimuli.design(contrast), []
    if design not in ("pairs", "interaction"):
        notes.append(f"not paired: {stimuli.why_not('pairs', contrast) or 'declared otherwise'}")
    try:
        accuracy = bag_of_words_accuracy(texts, y, groups, seed)
    except UserError as error:
        accuracy = np.nan
        notes.append(f"no bag of words: {error.what}")
    return {
        "contrast": contrast.name,
        "design": design,
        "n_target": int(y.sum()),
        "n_foil": int((y == 0).sum()),
        "n_groups": len(np.unique(groups)),
        "bag_of_words": accuracy,
        "lexical": bool(accuracy > LEXICAL),
        "note": "; ".join(notes),
    }


def _cells(stimuli: StimulusSet) -> pd.DataFrame:
    factors = list(stimuli.factors)
    every_cell = pd.MultiIndex.from_product(list(stimuli.factors.values()), names=factors)
    counts = stimuli.table.set_index(factors).groupby(level=factors).size()
    # With one factor, groupby gives a plain index; a table of tuples serves any number of factors.
    n = {cell if isinstance(cell, tuple) else (cell,): int(count) for cell, count in counts.items()}
    return every_cell.to_frame(index=False).assign(n=[n.get(cell, 0) for cell in every_cell])


def _openings(texts: list[str]) -> pd.DataFrame:
    openings = pd.Series([" ".join(_words(text)[:3]) for text in texts]).value_counts(sort=False)
    top = openings.sort_values(ascending=False, kind="stable").head(5)
    share = top.to_numpy() / len(texts)
    return pd.DataFrame({"opening": top.index, "n": top.to_numpy(), "share": share, "warn": share > COMMON_OPENING})


def _annotations(stimuli: StimulusSet) -> pd.DataFrame:
    table = stimuli.table
    counts = {column: int(table[column].notna().sum()) for column in ("pair", "family", "group", "template", "domain")}
    counts["target span"] = int((table["target_start"] >= 0).sum())
    counts["ratings"] = int(table[list(stimuli.ratings)].notna().any(axis=1).sum()) if stimuli.ratings else 0
    rows = []
    for column, n in counts.items():
        note = f"no stimulus of the file has a {column.removesuffix('s')}" if n == 0 else ""
        rows.append({"column": column, "n": n, "note": note})
    return pd.DataFrame(rows)


def parser() -> Parser:
    """Command-line options."""
    p = Parser("python -m neurosae.stimuli", __doc__, only_commands=True)
    commands = p.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="check stimulus sets for confounds", description=_DESCRIPTION)
    command.add_argument("sets", nargs="+", metavar="SET", help="name of a set, or path of a YAML file")
    command.add_argument("--no-model", action="store_true", help="count words instead of tokens, and no surprisal")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Check every set; 3 if a contrast of a concept is lexical (an instrument may be: its conditions are wordings)."""
    sets = [load(name) for name in options.sets]
    tokenizer, surprisal = (None, None) if options.no_model else _language_model()
    reports = [check(stimuli, tokenizer, surprisal) for stimuli in sets]
    of_concepts = [report for report, stimuli in zip(reports, sets, strict=True) if stimuli.is_concept]
    lexical = [report.name for report in of_concepts if report.contrasts["lexical"].any()]
    tables = ("contrasts", "confounds", "openings", "duplicates")
    return Summary(
        [_sentence(report) for report in reports],
        {report.name: {name: getattr(report, name).to_dict("records") for name in tables} for report in reports},
        then=[f"python -m experiments.combinatorial --concept {options.sets[0]}"] if not lexical else (),
        answer="\n".join(map(str, reports)),
        code=NO if lexical else DONE,
    )


def _sentence(report: CheckReport) -> str:
    """The verdict on one set, in words."""
    contrasts, confounds = report.contrasts, report.confounds
    lexical = contrasts[contrasts["lexical"]]
    different = confounds[confounds["p"] < _NOTABLE]
    parts = [
        f"words alone tell apart {', '.join(lexical['contrast'])}" if len(lexical) else "words alone do not solve it"
    ]
    if len(different):
        pairs = (f"{row['measure']} in {row['contrast']} (p = {row['p']:.1g})" for row in different.to_dict("records"))
        parts.append(f"the sides differ in {', '.join(pairs)}")
    parts.append(f"{report.n_duplicates} near-duplicates")
    accuracies = ", ".join(f"{row['contrast']} {row['bag_of_words']:.2f}" for row in contrasts.to_dict("records"))
    return f"{report.name}: {'; '.join(parts)}. Bag of words (balanced accuracy, chance .5): {accuracies}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m neurosae.stimuli check``; exit codes as `neurosae.console` says, 3 if a contrast is lexical."""
    return console.main(parser(), run, arguments)


def _language_model() -> tuple[Any, Surprisal]:
    from neurosae import models  # heavy, and not needed with --no-model

    language_model = models.load()
    return language_model.tokenizer, lambda texts: models.surprisal(language_model, texts)
