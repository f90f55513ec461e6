"""What a run prints and draws."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments import scorecard_report
from experiments.options import number
from neurosae import plots
from neurosae.decoding.variants import ALL, CONTROL_K, PCA
from neurosae.report import write_report
from neurosae.runs import RunFolder, best_selecting, features_table
from neurosae.study.contrast_run import ContrastRun, Tables
from neurosae.study.stages import Findings

_SHOWN = 12
_LEXICAL = 0.60
NO_CELLS = "the grid has no matched cells for it"
_LEVEL = 0.05


def print_and_draw(contrast_run: ContrastRun, folder: RunFolder, tables: Tables, findings: Findings) -> None:
    """Print the answer to the run's question, then draw the figures."""
    print(summary(contrast_run, tables), flush=True)
    if findings.results:
        print(f"\n{scorecard_report.summary(findings)}", flush=True)
    draw(contrast_run, folder, tables)
    scorecard_report.draw(findings, folder.path / "figures")
    write_report(folder.path)


def write_and_print_across(folder: RunFolder, across: pd.DataFrame) -> None:
    """Print and keep the claims with the contrast as the unit."""
    folder.write_table("claims_across_contrasts", across)
    print("\nAcross contrasts (the contrast is the unit)\n")
    print(across.to_string(index=False))
    write_report(folder.path)


def summary(contrast_run: ContrastRun, tables: Tables) -> str:
    """The ranked table and the claims, as text."""
    variants = tables.variants
    baseline = variants[variants["representation"] == "bag_of_words"]
    n = len(contrast_run.sides.rows)
    settings = contrast_run.settings
    head = (
        f"\n{contrast_run.stimuli.name}, contrast {contrast_run.contrast}: {n} stimuli, {len(variants)} variants, "
        f"{settings.n_repeats} x {settings.n_splits} folds, pairs and families kept together"
    )
    shown = variants.head(_SHOWN)
    if len(baseline):
        shown = pd.concat([shown, baseline[~baseline.index.isin(shown.index)]])
    parts = [
        head,
        "",
        f"Best {min(_SHOWN, len(variants))} of {len(variants)} variants by held-out AUROC",
        "",
        _ranked(shown).to_string(index=False),
    ]
    if len(baseline):
        parts += ["", _baseline_sentence(baseline.iloc[0])]
    claims = scorecard_report.answers(
        tables.claims.assign(reason=np.where(tables.claims["n_cells"] == 0, NO_CELLS, ""))
    )
    parts += ["", "Claims about method families (held-out AUROC, matched cells)", "", claims]
    ceiling = variants[(variants["representation"] == "raw") & (variants["selector"] == ALL)]
    if len(ceiling) and ceiling["auroc_p"].iloc[0] > _LEVEL:
        parts += ["", "Not even all neurons decode this contrast: the claims compare methods that all fail."]
    for family, reason in contrast_run.left_out.items():
        parts += ["", f"Left out: {family.representation} with {family.selector}, {family.ensemble} ({reason})."]
    parts += [
        "",
        f"These claims hold for this stimulus population, {settings.source.model} and {settings.source.sae} only; "
        "general statements need --concept all.",
    ]
    return "\n".join(parts)


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    varying = [name for name in ("ensemble", "block", "pooling") if rows.loc[_selecting(rows), name].nunique() > 1]
    return pd.DataFrame(
        {
            "rank": rows["rank"],
            "representation": rows["representation"],
            "selector": rows["selector"],
            "k": rows["k"],
            **{name: rows[name] for name in varying},
            "AUROC": rows["auroc"].map("{:.3f}".format),
            "95 % interval": [
                f"{a:.3f} to {b:.3f}" for a, b in zip(rows["auroc_ci_low"], rows["auroc_ci_high"], strict=True)
            ],
            "p": [
                number(p, 3) if reason == "" else "-"
                for p, reason in zip(rows["auroc_p"], rows["chance_reason"], strict=True)
            ],
            "accuracy": rows["balanced_accuracy"].map("{:.3f}".format),
            "new domain": [number(v) for v in rows["new_domain_auroc"]],
            "stability": [number(v) for v in rows["stability"]],
            "valid": [f"{n:.0f}" for n in rows["mean_valid_features"]],
        }
    )


def _baseline_sentence(row: pd.Series) -> str:
    lexical = row["balanced_accuracy"] > _LEXICAL
    verdict = "the set is lexical: words alone tell the conditions apart" if lexical else "words alone do not solve it"
    return f"Bag of words: accuracy {row['balanced_accuracy']:.3f} on held-out groups, so {verdict}."


def _selecting(variants: pd.DataFrame) -> pd.Series:
    """Variants of the main representations that select features."""
    return variants["representation"].isin(["raw", "sae"]) & ~variants["selector"].isin([ALL, PCA])


def _one_setting(contrast_run: ContrastRun, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the first ensemble and pooling and of one block, so that a figure compares like with like."""
    grid = contrast_run.settings.grid
    block = grid.sae_block if grid.sae_block in grid.blocks else grid.blocks[0]
    main = table["ensemble"] == grid.ensembles[0]
    pooled = (table["pooling"] == grid.poolings[0]) | (table["representation"] == "bag_of_words")
    return table[main & pooled & ((table["block"] == block) | (table["representation"] != "raw"))]


def draw(contrast_run: ContrastRun, folder: RunFolder, tables: Tables) -> None:
    """All figures of a run; with several ensembles, blocks or poolings, all but the curve show the first of each."""
    where = folder.path / "figures"
    about = f"{contrast_run.contrast}, n = {len(contrast_run.sides.rows)} stimuli"
    plots.save(plots.specification_curve(tables.variants, title=about).figure, where / "specification_curve")
    plots.save(plots.claims(tables.claims).figure, where / "claims")
    variants = _one_setting(contrast_run, tables.variants)
    features = _one_setting(contrast_run, features_table(tables.cells))
    chosen = variants[_selecting(variants)]
    if chosen.empty:
        return
    ks = sorted(chosen["k"].unique())
    k = CONTROL_K if CONTROL_K in ks else ks[-1]
    plots.save(plots.method_comparison(variants, k, title=about).figure, where / "method_comparison")
    present = [r for r in ("raw", "sae") if r in set(chosen["representation"])]
    size = {"squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(present), figsize=(5.5 * len(present), 4.2), sharey=True, **size)
    for ax, representation in zip(axes[0], present, strict=True):
        plots.score_against_k(variants, representation, ax, title=about, legend=representation == present[-1])
    plots.save(figure, where / "score_against_k")
    figure, axes = plt.subplots(1, len(present), figsize=(6.2 * len(present), 5.2), **size)
    for ax, representation in zip(axes[0], present, strict=True):
        plots.selection_overlap(features, representation, k, ax)
    plots.save(figure, where / "selection_overlap")
    plots.save(_best_ensemble(contrast_run, tables), where / "best_ensemble")


def _best_ensemble(contrast_run: ContrastRun, tables: Tables) -> Any:
    """Held-out output of the best variant that selects features."""
    best = best_selecting(tables.cells)
    assert best is not None  # variants that select were drawn before
    sides = contrast_run.sides
    # Domains are free text, and two dollars would make a formula of it.
    domain_S = [text.replace("$", r"\$") if isinstance(text, str) else text for text in sides.table["domain"]]
    decisions = pd.DataFrame({"decision": best["decision"], "side": sides.labels_S, "domain": domain_S})
    method = f"{plots.LABELS[best['representation']]}, {plots.selector_label(best['selector'])}, k = {best['k']}"
    title = f"{method}: AUROC {best['auroc']['mean']:.3f}"
    target, foil = sides.names
    return plots.stimulus_activation(decisions, target, foil, title).figure
