"""Answers to prompts of every style, judged blind, and how their quality goes with active latents and with length.

The judge sees the bare question and the answer, in a random order, never the style. Every judge is measured on the way:
it also grades each answer beside the question of another topic, and must tell which belong together. That is the least
a judge of answers must do; it does not show that it knows right answers from wrong ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from neurosae.autointerp.calibration import weighted_auc
from neurosae.autointerp.judges import GradeRequest, Judge
from neurosae.capture import make_prompts
from neurosae.errors import UserError
from neurosae.inference import bootstrap_interval, holm, permutation_p
from neurosae.inference.bootstrap import MIN_GROUPS
from neurosae.models import LanguageModel
from neurosae.sites import Site
from neurosae.steering.endings import Endings
from neurosae.steering.generation import generate
from neurosae.styles.crossing import Crossing

Array = NDArray[np.float64]
QualityJudge = Callable[[Sequence[str], Sequence[str]], Array]
"""Questions and answers to a quality each; NaN where there is none."""

CONCEPT = "good answer"
DEFINITION = "The answer is correct, addresses the question that was asked, and helps the person who asked it."
RULE = (
    "0: no answer to this question, or nonsense. 1: touches the question, but is mostly wrong, empty or unhelpful. "
    "2: answers it, with gaps or errors. 3: answers it correctly and helpfully."
)
GOOD, WEAK = 0.8, 0.5
LIKELIHOOD = "likelihood"


def write_answers(
    language_model: LanguageModel,
    crossing: Crossing,
    chat: bool | dict[str, Any],
    n_topics: int,
    *,
    n_tokens: int = 40,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Greedy answers to a sample of topics, in every style; topic i uses wording i modulo V.

    Returns
    -------
    DataFrame, C rows per topic
        `row` (in the crossing's table), `style`, `topic` (number), `question` (the shared part), `answer`,
        `answer_tokens`.

    Raises
    ------
    UserError
        Fewer topics than a bootstrap needs, or more than there are.
    """
    n_styles, n_wordings, n_all = crossing.shape
    if not MIN_GROUPS <= n_topics <= n_all:
        raise UserError(f"Answers to {n_topics} topics", where="answers", allowed=f"0, or {MIN_GROUPS} to {n_all}")
    topics = np.linspace(0, n_all - 1, n_topics).round().astype(int)
    rows = [
        (c * n_wordings + i % n_wordings) * n_all + topic for i, topic in enumerate(topics) for c in range(n_styles)
    ]
    chosen = crossing.table.iloc[rows].reset_index(drop=True)
    ids = [prompt.ids for prompt in make_prompts(language_model, chosen, chat)]
    new = generate(language_model, ids, n_tokens=n_tokens, batch_size=batch_size)
    return pd.DataFrame(
        {
            "row": rows,
            "style": [crossing.styles[c] for _ in topics for c in range(n_styles)],
            "topic": np.repeat(topics, n_styles),
            "question": [
                text[start:end]
                for text, start, end in zip(chosen["text"], chosen["target_start"], chosen["target_end"], strict=True)
            ],
            "answer": [language_model.tokenizer.decode(tokens).strip() for tokens in new],
            "answer_tokens": [len(tokens) for tokens in new],
        }
    )


def likelihood(language_model: LanguageModel, chat: bool | dict[str, Any], *, batch_size: int = 16) -> QualityJudge:
    """The substitute for a judge where there is none: log probability of the answer after the bare question.

    Mean log p per token, in nats, of the model that wrote it. It says how expected an answer is, not how good; and it
    prefers answers such as the model gives to a plain question, so that a lower value for another style is no lower
    quality. An empty answer has none.
    """

    def judge(questions: Sequence[str], answers: Sequence[str]) -> Array:
        prompts = [prompt.ids for prompt in make_prompts(language_model, pd.DataFrame({"text": list(questions)}), chat)]
        endings = language_model.tokenizer(list(answers), add_special_tokens=False).input_ids
        usable = [i for i, ending in enumerate(endings) if ending]
        quality = np.full(len(answers), np.nan)
        if usable:
            texts = [[*prompts[i], *endings[i]] for i in usable]
            starts = [len(prompts[i]) for i in usable]
            # Nothing is steered: the last block leaves the least to be held.
            site = Site(language_model.n_blocks - 1)
            quality[usable] = Endings(language_model, texts, starts, site, batch_size=batch_size).log_p()[0]
        return quality

    return judge


def graded(judge: Judge) -> QualityJudge:
    """Grades 0 to 3 of a judge of `neurosae.autointerp`; NaN where it did not answer."""

    def grades(questions: Sequence[str], answers: Sequence[str]) -> Array:
        asked = [
            GradeRequest(f"Question: {question}\nAnswer: {answer}", CONCEPT, DEFINITION, RULE)
            for question, answer in zip(questions, answers, strict=True)
        ]
        return np.array([np.nan if grade.value is None else float(grade.value) for grade in judge.grade(asked)])

    return grades


@dataclass(frozen=True)
class Judged:
    """Answers with their quality, and how far to trust it.

    Attributes
    ----------
    answers : DataFrame
        As from `write_answers`, with `quality` (NaN where the judge gave none: counted in `n_unanswered`).
    auc, low, high : float
        Probability that an answer is rated above the same answer beside another topic's question; 95 % interval over
        topics. 0.5 without an interval where it could not be measured.
    n_unanswered : int
    verdict : str
        One sentence.
    """

    answers: pd.DataFrame
    auc: float
    low: float
    high: float
    n_unanswered: int
    verdict: str


def judge_blind(answers: pd.DataFrame, judge: QualityJudge, name: str, *, n: int = 2000, seed: int = 0) -> Judged:
    """Judge answers without their styles, in a random order, each also beside a question it does not belong to.

    Parameters
    ----------
    answers : DataFrame
        From `write_answers`.
    judge : QualityJudge
    name : str
        Of the judge, for the verdict.
    n, seed : int, default 2000 and 0
        Resamples of topics; the seed also shuffles.
    """
    topics = list(dict.fromkeys(answers["topic"]))
    next_topic = dict(zip(topics, [*topics[1:], topics[0]], strict=True))
    question_of = answers.drop_duplicates("topic").set_index("topic")["question"]
    swapped = question_of.loc[answers["topic"].map(next_topic)]
    questions = np.array([*answers["question"], *swapped], dtype=object)
    texts = np.array([*answers["answer"], *answers["answer"]], dtype=object)
    order = np.random.default_rng(seed).permutation(len(texts))
    quality = np.empty(len(texts))
    quality[order] = judge(list(questions[order]), list(texts[order]))
    own, other = np.split(quality, 2)
    both = np.isfinite(own) & np.isfinite(other)
    auc, low, high = _tells_apart(own[both], other[both], answers["topic"].to_numpy()[both], n, seed)
    missing = int((~np.isfinite(own)).sum())
    return Judged(answers.assign(quality=own), auc, low, high, missing, _verdict(name, auc, low, high, missing))


def _tells_apart(own_S: Array, other_S: Array, topic_S: NDArray, n: int, seed: int) -> tuple[float, float, float]:
    if len(np.unique(topic_S)) < MIN_GROUPS:
        return 0.5, 0.0, 1.0
    scores, positive = np.concatenate([own_S, other_S]), np.repeat([True, False], len(own_S))
    interval = bootstrap_interval(
        lambda weights_BS: weighted_auc(positive, scores, weights_BS), np.tile(topic_S, 2), n=n, seed=seed
    )
    return float(interval.estimate), float(interval.low), float(interval.high)


def _verdict(name: str, auc: float, low: float, high: float, missing: int) -> str:
    if low >= GOOD:
        said = "tells answers from answers to another question, the least that is needed"
    elif low > WEAK:
        said = "tells answers from answers to another question only weakly: do not build on its ratings"
    else:
        said = "is not shown to tell answers from answers to another question: do not use its ratings"
    numbers = f"AUC {auc:.2f} [{low:.2f}, {high:.2f}]"
    return f"{name} {said} ({numbers}{f'; {missing} answers without a rating' if missing else ''})."


def relations(table: pd.DataFrame, *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Correlate every two of some columns within topics, plainly and with all other columns held.

    Parameters
    ----------
    table : DataFrame
        `topic` and two or more columns of numbers.
    n, seed : int, default 2000 and 0
        Shufflings within topics.

    Returns
    -------
    DataFrame, one row per pair of columns
        `first`, `second`, `r`; `partial`, `low`, `high` (95 %, Fisher's z with the standard error of the shuffled
        residuals), `p` (residuals of `first` shuffled within topics; Freedman & Lane 1983), `p_holm` (over the
        rows with a value), `n` rows, `n_topics`, `reason` (why there is no value: r and partial are 0 and p is 1 then).

    Notes
    -----
    Test and interval take residuals as exchangeable within a topic.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> length = rng.normal(size=80)
    >>> active, quality = length + rng.normal(size=(2, 80)) / 2
    >>> topic = np.repeat(np.arange(10), 8)
    >>> table = pd.DataFrame({"topic": topic, "length": length, "active": active, "quality": quality})
    >>> found = relations(table, n=200).set_index(["first", "second"]).loc[("active", "quality")]
    >>> bool(found["r"] > 0.6), bool(found["low"] < 0 < found["high"])
    (True, True)
    """
    names = [str(name) for name in table if name != "topic"]
    topic_S = pd.factorize(table["topic"])[0]
    values = table[names].to_numpy(dtype=np.float64)
    values_SK = values - pd.DataFrame(values).groupby(topic_S).transform("mean").to_numpy()
    spread_K = values_SK.std(axis=0)
    constant = {name for name, spread in zip(names, spread_K, strict=True) if spread < 1e-12}
    used = [k for k, name in enumerate(names) if name not in constant]
    rows: list[dict[str, Any]] = []
    for i, j in itertools.combinations(range(len(names)), 2):
        row: dict[str, Any] = {"first": names[i], "second": names[j], "n": len(table), "n_topics": topic_S.max() + 1}
        if reason := ", ".join(sorted({names[i], names[j]} & constant)):
            nothing = {"r": 0.0, "partial": 0.0, "low": -1.0, "high": 1.0, "p": 1.0}
            rows.append(row | nothing | {"reason": f"{reason} does not vary within topics"})
            continue
        held = [k for k in used if k not in (i, j)]
        columns_SK = values_SK[:, [i, j, *held]] / spread_K[[i, j, *held]]
        rows.append(row | _relation(columns_SK, topic_S, n, seed) | {"reason": ""})
    found = pd.DataFrame(rows)
    tested = found["reason"] == ""
    found["p_holm"] = 1.0
    if tested.any():
        found.loc[tested, "p_holm"] = holm(found.loc[tested, "p"])
    return found[["first", "second", "r", "partial", "low", "high", "p", "p_holm", "n", "n_topics", "reason"]]


def _relation(columns_SK: Array, topic_S: NDArray[np.intp], n: int, seed: int) -> dict[str, float]:
    """Correlation of the first two columns, plain and given the others."""
    left_SH, size_H, _ = np.linalg.svd(columns_SK[:, 2:], full_matrices=False)
    basis_SH = left_SH[:, size_H > 1e-10]
    x_S, y_S = (column_S - basis_SH @ (basis_SH.T @ column_S) for column_S in columns_SK[:, :2].T)
    shuffled_BS = np.array([_within(x_S, topic_S, np.random.default_rng([seed, draw])) for draw in range(n)])
    shuffled_BS -= shuffled_BS @ basis_SH @ basis_SH.T
    partial = float(_correlations(x_S[None], y_S)[0])
    null_B = _correlations(shuffled_BS, y_S)
    low, high = _interval(partial, null_B)
    return {
        "r": float(_correlations(columns_SK[:, 0][None], columns_SK[:, 1])[0]),
        "partial": partial,
        "low": low,
        "high": high,
        "p": float(permutation_p(partial, null_B, "two-sided")),
    }


def _interval(r: float, null_B: Array) -> tuple[float, float]:
    """95 % interval of a correlation: Fisher's z, with the standard error that it has where nothing is related."""
    z, *z_B = np.arctanh(np.clip([r, *null_B], -1 + 1e-15, 1 - 1e-15))
    half = stats.norm.ppf(0.975) * float(np.sqrt(np.mean(np.square(z_B))))
    return (float(np.tanh(z - half)), float(np.tanh(z + half))) if half > 0 else (-1.0, 1.0)


def _within(column_S: Array, topic_S: NDArray[np.intp], rng: np.random.Generator) -> Array:
    """Values shuffled within topics."""
    shuffled_S = np.empty_like(column_S)
    shuffled_S[np.argsort(topic_S, kind="stable")] = column_S[np.lexsort((rng.random(len(column_S)), topic_S))]
    return shuffled_S


def _correlations(x_BS: Array, y_S: Array) -> Array:
    """Cosines [B], which are correlations of columns without a mean; 0 where nothing is left of one."""
    length_B = np.linalg.norm(x_BS, axis=1) * np.linalg.norm(y_S)
    return x_BS @ y_S / np.where(length_B > 1e-12, length_B, np.inf)
