"""The stage `discover`: how well does the decision of every variant retrieve the concept among graded sentences?"""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from neurosae.decoding.variants import Variant
from neurosae.discovery.ranking import chance_average_precision, retrieval
from neurosae.discovery.search import word_scores
from neurosae.errors import UserError
from neurosae.runs.comparison import VARIANT
from neurosae.runs.scorecard import answer, over_draws
from neurosae.study.work import Array, StageResult, Work

FORMAT = 1  # of the records
_COLUMNS = ("discovery_ap", "discovery_low", "discovery_high", "discovery_chance", "discovery_ndcg",
            "discovery_ndcg_low", "discovery_ndcg_high", "discovery_ndcg_chance", "discovery_reason")  # fmt: skip


def discover(work: Work) -> StageResult:
    """Score every graded sentence by every variant fitted to all stimuli, and compare the rankings with the grades."""
    concept, reason = work.graded_concept()
    variants = list(work.keys)
    if not concept:
        missing = dict.fromkeys(_COLUMNS, np.nan) | {"discovery_reason": reason}
        scores = pd.DataFrame([work.keys[v] | missing for v in variants])
        claims = answer(pd.DataFrame(columns=VARIANT), "discovery", None, work.scope, reason)
        return StageResult(scores, claims, {}, (f"Discovery: {reason}.",))
    settings = {
        "format": FORMAT,
        "concept": concept,
        "corpus": work.corpus_identity(),
        "resamples": work.settings.resamples,
        "seed": work.run.settings.seed,
    }
    pending = [v for v in variants if work.folder.record("discover", v, settings) is None]
    grades_S = work.corpus.grades(concept)
    jobs = []
    for variant in pending:
        try:
            jobs.append((variant, _decisions(work, variant)))
        except UserError as error:
            work.folder.write_record("discover", variant, settings, {"reason": error.what})
    found = joblib.Parallel(n_jobs=work.run.settings.jobs, return_as="generator")(
        joblib.delayed(_retrieved)(scores_S, grades_S, work.settings.resamples, work.run.settings.seed)
        for _, scores_S in jobs
    )
    for (variant, _), values in zip(jobs, found, strict=True):
        work.folder.write_record("discover", variant, settings, values)
    records = {v: work.folder.record("discover", v, settings) or {} for v in variants}
    scores = pd.DataFrame([work.keys[v] | _row(record) for v, record in records.items()])
    return StageResult(scores, _claims(work, records, scores), records, _notes(work, scores, grades_S))


def _decisions(work: Work, variant: Variant) -> Array:
    if variant.representation == "bag_of_words":
        return word_scores(work.run.stimuli, work.run.contrast, work.corpus.table["text"].tolist())
    return work.decisions(work.fit(variant))


def _retrieved(scores_S: Array, grades_S: NDArray[np.int64], resamples: int, seed: int) -> dict[str, Any]:
    """Metrics with intervals, and average precision in every resample of sentences."""
    with threadpool_limits(limits=1):
        found = retrieval(scores_S, grades_S, cuts=(), n=resamples, seed=seed)
    return {
        "reason": "",
        "metrics": found.table.to_dict("records"),
        "draws": found.draws["average_precision"].tolist(),
    }


def _row(record: dict[str, Any]) -> dict[str, Any]:
    if record["reason"]:
        return dict.fromkeys(_COLUMNS, np.nan) | {"discovery_reason": record["reason"]}
    ap, ndcg = (next(m for m in record["metrics"] if m["metric"] == name) for name in ("average_precision", "ndcg"))
    numbers = [m[name] for m in (ap, ndcg) for name in ("value", "low", "high", "chance")]
    return dict(zip(_COLUMNS, [*numbers, ""], strict=True))


def _claims(work: Work, records: dict[Variant, dict[str, Any]], scores: pd.DataFrame) -> pd.DataFrame:
    known = (scores["discovery_reason"] == "").to_numpy()
    if not known.any():
        return answer(scores.iloc[:0], "discovery", None, work.scope, str(scores["discovery_reason"].iloc[0]))
    draws_VB = np.array([record["draws"] for record in records.values() if not record["reason"]])
    rows = scores[known].reset_index(drop=True)
    return answer(rows, "discovery", over_draws(rows["discovery_ap"], draws_VB), work.scope)


def _notes(work: Work, scores: pd.DataFrame, grades_S: NDArray[np.int64]) -> tuple[str, ...]:
    """What the best variant must be seen beside."""
    known = scores[scores["discovery_reason"] == ""]
    if known.empty:
        return (f"Discovery: {scores['discovery_reason'].iloc[0]}.",)
    features = known[known["representation"] != "bag_of_words"]
    if features.empty:
        return ()
    best = features.iloc[int(features["discovery_ap"].argmax())]
    parts = [f"chance {chance_average_precision(grades_S):.3f}"]
    words = known[known["representation"] == "bag_of_words"]
    if len(words):
        parts.append(f"bag of words {words['discovery_ap'].iloc[0]:.3f}")
    random = known[known["selector"] == "random"]
    if len(random):
        parts.append(f"random features at best {random['discovery_ap'].max():.3f}")
    above = int((features["discovery_low"] > features["discovery_chance"]).sum())
    text = (
        f"Discovery: {int((grades_S >= 2).sum())} of {len(grades_S)} sentences written and graded by language models "
        f"show '{work.graded_concept()[0]}'. Of {len(features)} variants, {above} have an average precision whose "
        f"interval lies above chance (uncorrected). The largest of all is {best['discovery_ap']:.3f} "
        f"[{best['discovery_low']:.3f}, {best['discovery_high']:.3f}] ({best['representation']}, {best['selector']}, "
        f"k = {best['k']}; optimistic, as the largest of many), beside {', '.join(parts)}."
    )
    if best["discovery_ap"] < 2 * best["discovery_chance"]:
        return text, "No variant retrieves the concept to speak of: the claims on discovery compare methods that fail."
    if len(words) and words["discovery_ap"].iloc[0] >= best["discovery_ap"]:
        return text, "The words of the stimuli retrieve it at least as well as any feature: discovery is lexical here."
    return (text,)
