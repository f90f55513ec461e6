"""What the later stages of a run print and draw: the scorecard, the claims for every outcome, one figure per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.options import number
from neurosae import plots
from neurosae.plots import dose_response
from neurosae.runs.comparison import VARIANT
from neurosae.runs.scorecard import OUTCOMES
from neurosae.study.stages import Findings
from neurosae.study.steer_stage import best_effect

_BEST = 10


def summary(findings: Findings) -> str:
    """The scorecard of the best variants and of the representatives, and every claim for every outcome."""
    card, work = findings.card, findings.work
    representatives = pd.DataFrame([work.keys[v] for v in work.representatives()], columns=VARIANT)
    chosen = card.merge(representatives, on=VARIANT)
    parts = [f"Scorecard of the {min(_BEST, len(card))} best variants by held-out AUROC", "", _shown(card.head(_BEST))]
    if findings.results and len(chosen):
        title = f"Scorecard of every selector and representation, k = {chosen['k'].iloc[0]}"
        parts += ["", title, "", _shown(chosen)]
    for result in findings.results.values():
        parts += ["", *result.notes]
    words = card[card["explanation"].fillna("") != ""] if "explanation" in card else card.iloc[:0]
    if len(words):
        parts += ["", "Words that mark the strongest sentences, and whether they also tell others of the strongest:"]
        parts += [
            f"  {_name(row)}: {row['explanation']} (AUROC {number(row['words_auroc'])}, p {number(row['words_p'])})"
            for row in words.head(3).to_dict("records")
        ]
    others = findings.claims[findings.claims["outcome"] != "decoding"]
    for name in dict.fromkeys(others["outcome"]):
        parts += ["", f"Claims about method families ({OUTCOMES[name].label})", ""]
        parts += [answers(others[others["outcome"] == name])]
    return "\n".join(parts)


def answers(claims: pd.DataFrame) -> str:
    """Claims in words: effect, interval, p and verdict, or the reason why there is none."""
    lines = []
    for row in claims.to_dict("records"):
        if row["n_cells"] == 0:
            lines.append(f"  {row['claim']}: not tested, {row['reason']}")
            continue
        lines.append(
            f"  {row['claim']}: {row['delta']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f}), "
            f"p {_p(row['p_holm'])} after Holm, {row['n_cells']} cells\n      -> {row['verdict']}"
        )
    lines += [f"  ({note})" for note in dict.fromkeys(claims.loc[claims["n_cells"] > 0, "reason"]) if note]
    return "\n".join(lines)


def draw(findings: Findings, where: Path) -> None:
    """One figure per stage that has something to show."""
    work = findings.work
    names = work.run.stimuli.name, work.run.contrast
    about = f"{names[0]}, k = {work.k}"
    shown = findings.card[findings.card["k"] == work.k]
    if "discover" in findings.results and shown["discovery_ap"].notna().any():
        title = f"Do their decisions retrieve the concept? ({about}, {len(work.corpus.table)} sentences)"
        plots.save(plots.retrieval(shown, title).figure, where / "discovery")
    if "explain" in findings.results and shown["target_score"].notna().any():
        concept, _ = work.graded_concept()
        average = float(work.corpus.grades(concept).mean()) if concept else None
        title = f"Do the sentences that drive them show the concept? ({about})"
        plots.save(plots.target_score(shown, average, title).figure, where / "explanations")
    if "steer" in findings.results and (best := best_effect(findings.results["steer"])):
        variant, effect = best
        colour = plots.PALETTE[variant.representation]
        title = f"{about}, {plots.LABELS[variant.representation]}, {plots.selector_label(variant.selector)}"
        plots.save(dose_response(effect, colour=colour, title=title).figure, where / "dose_response")


def _shown(card: pd.DataFrame) -> str:
    """The columns a person compares, numbers with their intervals."""
    table = card[["rank", "representation", "selector", "k"]].copy()
    table["AUROC"] = _with_interval(card, "auroc", "auroc_ci_low", "auroc_ci_high")
    table["new domain"] = card["new_domain_auroc"].map(number)
    table["stability"] = card["stability"].map(number)
    if "discovery_ap" in card:
        table["discovery AP"] = _with_interval(card, "discovery_ap", "discovery_low", "discovery_high")
    if "target_score" in card and card["target_score"].notna().any():
        table["target grade"] = _with_interval(card, "target_score", "target_low", "target_high")
        table["p (labels)"] = card["target_p"].map(number)
    if "causal_shift" in card and card["causal_shift"].notna().any():
        table["shift, nats"] = _with_interval(card, "causal_shift", "causal_low", "causal_high")
        table["norm"] = card["causal_norm"].map(lambda value: number(value, 0))
        table["p (directions)"] = card["causal_p_random"].map(number)
    return table.to_string(index=False)


def _with_interval(card: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    rows = zip(card[value], card[low], card[high], strict=True)
    return [f"{number(v)} [{number(a)}, {number(b)}]" if np.isfinite(v) else "-" for v, a, b in rows]


def _name(row: dict[Any, Any]) -> str:
    return f"{row['representation']}, {row['selector']}, k = {row['k']}"


def _p(value: float) -> str:
    return "not computed" if not np.isfinite(value) else "< 0.001" if value < 0.001 else f"= {value:.3f}"
