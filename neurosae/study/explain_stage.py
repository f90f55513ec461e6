"""The stage `explain`: what do the sentences that drive a variant have in common, and is it the concept?"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from neurosae.autointerp.calibration import calibrate, gold_rule, held_out
from neurosae.autointerp.embedding_judge import EmbeddingJudge
from neurosae.autointerp.examples import gather
from neurosae.autointerp.gold_judge import GoldJudge
from neurosae.autointerp.interpretation import (
    Concept,
    Interpretation,
    Outcome,
    Readers,
    beside_random,
    interpret,
    outcome,
    random_ensembles,
    verdict,
)
from neurosae.autointerp.judges import Writer
from neurosae.autointerp.scorers import PATTERN_RULE
from neurosae.autointerp.scores import Settings
from neurosae.decoding.fitted import FittedEnsemble
from neurosae.decoding.variants import Variant
from neurosae.errors import UserError
from neurosae.files import write_json
from neurosae.inference import resampling_weights
from neurosae.inference.bootstrap import MIN_GROUPS
from neurosae.runs.comparison import VARIANT
from neurosae.runs.scorecard import answer, over_draws, weighted_means
from neurosae.study.work import StageResult, Work

FORMAT = 1  # of the records
PER_DECILE = 10
_CALIBRATED_ON = 200  # graded sentences a judge is asked about, so that the verdict costs little
_PERMUTATIONS = 999
_ROUGH = Settings(n_bootstrap=50, n_permutations=19)  # of random features, whose values count and not their intervals
_COLUMNS = ("explanation", "target_score", "target_low", "target_high", "target_difference", "target_p",
            "target_difference_random", "target_p_random", "words_auroc", "words_p", "words_p_random",
            "explanation_reason")  # fmt: skip


def explain(work: Work) -> StageResult:
    """Explain the representatives by one half of the sentences that drive them, and score on the other half."""
    concept, reason = _concept(work)
    readers = _readers(work)
    settings = {
        "format": FORMAT,
        "concept": asdict(concept),
        "corpus": work.corpus_identity(),
        "judge": readers.judge.name,
        "resamples": work.settings.resamples,
        "random_features": _n_random(work, readers),
        "seed": work.run.settings.seed,
    }
    random: dict[Variant, list[pd.DataFrame]] = {}
    variants = work.representatives()
    for variant in variants:
        if work.folder.record("explain", variant, settings) is not None:
            continue
        control = replace(variant, selector="random")
        try:
            if control not in random:
                random[control] = _random(work, control, concept, readers)
            found = _interpreted(work, work.fit(variant), concept, readers, _settings(work))
            values = _values(found, beside_random(found.scores, random[control]), concept.name, reason)
        except UserError as error:
            values = {"reason": error.what}
        work.folder.write_record("explain", variant, settings, values)
    records = {v: work.folder.record("explain", v, settings) or {} for v in variants}
    rows = [work.keys[v] | _row(record) for v, record in records.items()]
    write_json(work.folder.path / "explanations.json", [records[v] for v in variants])
    scores = pd.DataFrame(rows, columns=[*VARIANT, *_COLUMNS])
    notes = _notes(records, concept, readers, reason)
    if trust := _trust(work, concept, readers):
        notes += (trust,)
    return StageResult(scores, _claims(work, records, scores, reason), records, notes)


def _concept(work: Work) -> tuple[Concept, str]:
    """What the judge looks for; with the gold grades, perhaps the reason why it cannot."""
    name, reason = work.graded_concept()
    if name:
        return Concept(name, *gold_rule(work.corpus, name)), ""
    concept = Concept(work.target, work.run.stimuli.definition, PATTERN_RULE)
    return concept, reason if work.settings.judge is None else ""


def _trust(work: Work, concept: Concept, readers: Readers) -> str:
    """How far to trust a judge that is not the gold grades: its agreement with them on sentences it has not seen."""
    if work.settings.judge is None:
        return ""
    if not work.graded_concept()[0]:
        return f"The corpus has no grades for '{concept.name}': how far to trust {readers.judge.name} is not known."
    settings: dict[str, Any] = {"judge": readers.judge.name, "concept": asdict(concept)}
    settings |= {
        "corpus": work.corpus_identity(),
        "limit": _CALIBRATED_ON,
        "seed": work.run.settings.seed,
        "format": FORMAT,
    }
    said = work.folder.shared("explain", "calibration", settings)
    if said is None:
        found = calibrate(readers.judge, work.corpus, concept.name, limit=_CALIBRATED_ON, seed=work.run.settings.seed)
        said = {"verdict": found.verdict, "n": found.n, "figures": _plain(found.figures.reset_index())}
        work.folder.write_shared("explain", "calibration", settings, said)
    return str(said["verdict"])


def _readers(work: Work) -> Readers:
    judge = work.settings.judge
    if judge is None:
        return Readers(GoldJudge(work.corpus), patterns=False)
    return Readers(
        judge,
        writer=judge if isinstance(judge, Writer) else None,
        embed=judge.embed if isinstance(judge, EmbeddingJudge) else None,
    )


def _n_random(work: Work, readers: Readers) -> int:
    """Ensembles of random features: as the settings say, else as the judge allows."""
    asked = work.settings.random_features
    return random_ensembles(readers.judge) if asked is None else asked


def _settings(work: Work) -> Settings:
    return Settings(work.settings.resamples, _PERMUTATIONS, work.run.settings.seed)


def _interpreted(
    work: Work, ensemble: FittedEnsemble, concept: Concept, readers: Readers, settings: Settings
) -> Interpretation:
    rows = np.arange(len(work.corpus.table))
    if readers.judge.name.startswith("embeddings"):  # this judge has learned from the other half
        rows = np.flatnonzero(held_out(work.corpus))
    scores_S = work.decisions(ensemble)
    spans = work.sentences.spans(ensemble, work.bench) if readers.writer else None
    evidence = gather(
        [work.sentences.texts[row] for row in rows],
        scores_S[rows],
        ids=[str(row) for row in rows],
        spans=[spans[row] for row in rows] if spans else None,
        per_decile=PER_DECILE,
        seed=settings.seed,
    )
    return interpret(evidence, concept, readers, settings)


def _random(work: Work, control: Variant, concept: Concept, readers: Readers) -> list[pd.DataFrame]:
    """Scores of ensembles of random features, each explained and scored in the same way."""
    first = work.run.settings.seed + 1  # the seed itself is that of the variant `random`
    ensembles = [work.fit(control, first + draw) for draw in range(_n_random(work, readers))]
    rough = replace(_ROUGH, seed=work.run.settings.seed)
    return [_interpreted(work, ensemble, concept, readers, rough).scores for ensemble in ensembles]


def _values(found: Interpretation, scores: pd.DataFrame, concept: str, reason: str) -> dict[str, Any]:
    graded = found.graded["concept"].table
    top = graded[(graded["stratum"] == "top") & graded["answered"]]
    return {
        "reason": reason,
        "explanations": [explanation.as_dict() for explanation in found.explanations],
        "words": _plain(found.words.head(10)),
        "scores": _plain(scores),
        "means": _plain(found.means),
        "top": {"sentence": top["id"].astype(int).tolist(), "grade": top["grade"].tolist()},
        "n_near_duplicates": found.n_near_duplicates,
        "verdict": verdict(scores, concept),
    }


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, which knows no NaN."""
    rows: list[dict[str, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[assignment]
    return rows


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS, np.nan) | {"explanation": "", "explanation_reason": record["reason"]}
    if "scores" not in record:
        return row
    top = next(m for m in record["means"] if m["about"] == "concept" and m["set"] == "top")
    row |= {"target_score": top["mean"], "target_low": top["low"], "target_high": top["high"]}
    row["explanation"] = " | ".join(e["text"] for e in record["explanations"] if e["text"])
    row["explanation_reason"] = record["reason"] or top["reason"]
    for score in record["scores"]:
        if (score["about"], score["name"]) == ("concept", "top - random"):
            row |= {"target_difference": score["value"], "target_p": score["p"]}
            row |= {"target_difference_random": score["random_mean"], "target_p_random": score["p_random"]}
        if (score["scorer"], score["name"]) == ("words", "auroc"):
            row |= {"words_auroc": score["value"], "words_p": score["p"], "words_p_random": score["p_random"]}
    return {name: np.nan if value is None else value for name, value in row.items()}


def _claims(work: Work, records: dict[Variant, dict[str, Any]], scores: pd.DataFrame, reason: str) -> pd.DataFrame:
    """Paired over sentences: the top sentences of every variant are resampled together."""
    known = [v for v, record in records.items() if len(record.get("top", {}).get("grade", ())) >= MIN_GROUPS]
    if not known:
        why = reason or "no variant has graded texts"
        return answer(scores.iloc[:0], "explanation", None, work.scope, why)
    weights_BS = resampling_weights(np.arange(len(work.corpus.table)), work.settings.resamples, work.run.settings.seed)
    tops = [records[v]["top"] for v in known]
    draws_VB = np.array([weighted_means(top["grade"], weights_BS[:, top["sentence"]]) for top in tops])
    values_V = [np.mean(top["grade"]) for top in tops]
    rows = pd.DataFrame([work.keys[v] for v in known])
    return answer(rows, "explanation", over_draws(values_V, draws_VB), work.scope)


def _notes(records: dict[Variant, dict[str, Any]], concept: Concept, readers: Readers, reason: str) -> tuple[str, ...]:
    if reason:
        return (f"Explanation: {reason}; words only.",)
    found = [_outcome(record) for record in records.values() if "scores" in record]
    out, beyond = sum(each.comes_out for each in found), found.count(Outcome.BEYOND_RANDOM)
    return (
        f"Explanation, judged by {readers.judge.name}: '{concept.name}' comes out in the sentences that drive {out} of "
        f"{len(found)} variants above shuffled labels, and in {beyond} of them above random features as well "
        "(uncorrected for the number of variants).",
    )


def _outcome(record: dict[str, Any]) -> Outcome:
    """Whether the concept comes out, from the scores as stored, without NaN."""
    scores = pd.DataFrame(record["scores"])
    numbers = ["p", "p_random", "smallest_p_random"]
    return outcome(scores.assign(**scores[numbers].astype(float)))
