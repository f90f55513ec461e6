"""The later stages of a run, and what all stages say together: the scorecard, and the claims for every outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurosae.errors import unknown_name
from neurosae.runs import RunFolder, domains_table
from neurosae.runs.scorecard import new_domain_claims, scorecard
from neurosae.study.contrast_run import ContrastRun, Tables
from neurosae.study.discover_stage import discover
from neurosae.study.evidence_stage import keep
from neurosae.study.explain_stage import explain
from neurosae.study.steer_stage import steer
from neurosae.study.work import STAGES, StageResult, StageSettings, Work, representatives

TABLES = {"discover": "discovery", "explain": "explanations", "steer": "steering"}
_RUN: dict[str, Callable[[Work], StageResult]] = {"discover": discover, "explain": explain, "steer": steer}
# Rough seconds of a 2-core machine, for --dry-run only: once, and per variant looked at; `steer` with 16 words a text.
_SECONDS = {"discover": (45.0, 0.4), "explain": (5.0, 0.6), "steer": (70.0, 3.3), "evidence": (40.0, 0.0)}
_WORDS = 16


@dataclass(frozen=True)
class Findings:
    """What all stages say.

    Attributes
    ----------
    card : DataFrame
        `neurosae.runs.scorecard.scorecard`.
    claims : DataFrame
        Every outcome's answers.
    results : dict of str to StageResult
        By stage.
    work : Work
    """

    card: pd.DataFrame
    claims: pd.DataFrame
    results: dict[str, StageResult]
    work: Work


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """Stages in their order, from words that may hold commas; `select` is always among them.

    Raises
    ------
    UserError
        A stage that does not exist.

    Examples
    --------
    >>> chosen(["steer,discover"])
    ('select', 'discover', 'steer')
    """
    names = [name for word in words for name in word.replace(",", " ").split()]
    for name in names:
        if name not in STAGES:
            raise unknown_name("stage", name, STAGES, where="stages")
    return tuple(stage for stage in STAGES if stage == "select" or stage in names)


def run_stages(
    run: ContrastRun, folder: RunFolder, tables: Tables, stages: Sequence[str], settings: StageSettings
) -> Findings:
    """Run what is asked for beyond `select`, each from where it was interrupted, and write all tables."""
    work = Work(run, folder, settings)
    claims = [
        tables.claims.assign(outcome="decoding", reason=""),
        new_domain_claims(domains_table(tables.cells), work.scope),
    ]
    results: dict[str, StageResult] = {}
    timings: dict[str, float] = {}
    for stage in stages:
        if stage in _RUN:
            with _timed(stage, timings):
                results[stage] = _RUN[stage](work)
            folder.write_table(TABLES[stage], results[stage].scores)
            claims.append(results[stage].claims)
    card = scorecard(tables.variants, [result.scores for result in results.values()])
    everything = pd.concat([_labelled(table, run) for table in claims], ignore_index=True)
    folder.write_table("scorecard", card)
    folder.write_table("claims", everything)
    if "evidence" in stages:
        with _timed("evidence", timings):
            keep(work, tables, tuple(stages), results)
    folder.add_to_manifest({"stages": list(stages), "stage_timings": timings})
    return Findings(card, everything, results, work)


@contextmanager
def _timed(stage: str, timings: dict[str, float]) -> Iterator[None]:
    """Seconds that a stage takes, on the clock and of the processor."""
    started, busy = time.time(), time.process_time()
    yield
    timings[f"{stage}_s"] = round(time.time() - started, 1)
    timings[f"{stage}_cpu_s"] = round(time.process_time() - busy, 1)


def plan(run: ContrastRun, stages: Sequence[str]) -> str:
    """Stages, what they look at and the expected minutes, in words."""
    lines, n_few = [], len(representatives(run.settings.grid, run.variants))
    words = float(np.mean([len(text.split()) for text in run.stimuli.table["text"]]))
    for stage in stages:
        if stage in _SECONDS:
            n = len(run.variants) if stage == "discover" else n_few
            once, each = _SECONDS[stage]
            longer = words / _WORDS if stage == "steer" else 1.0
            minutes = longer * (once + each * n) / 60
            lines.append(f"  stage {stage}: {n} variants, about {minutes:.1f} minutes on 2 cores")
    return "\n".join([f"  stages: {', '.join(stages)}", *lines])


def _labelled(table: pd.DataFrame, run: ContrastRun) -> pd.DataFrame:
    """Contrast and outcome in front."""
    rest = table.drop(columns=["concept", "contrast", "outcome"], errors="ignore")
    labels = {"concept": run.stimuli.name, "contrast": run.contrast, "outcome": table["outcome"]}
    return pd.concat([pd.DataFrame(labels, index=table.index), rest], axis=1)
