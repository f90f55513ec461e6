"""What a run of the comparison says at its end: the answer in a few sentences, where it is, and how to go deeper."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.options import next_command, with_interval
from neurosae import plots
from neurosae.console import Summary
from neurosae.runs import RunFolder
from neurosae.study.contrast_run import ContrastRun, Tables
from neurosae.study.stages import Findings

FILES = {
    "report.html": "everything to read, in a browser",
    "figures/method_comparison.png": "the methods side by side",
    "tables/claims.csv": "the claims with effects, intervals and verdicts",
    "tables/scorecard.csv": "every variant with every outcome",
    "tables/variants.csv": "held-out scores of every variant",
    "manifest.json": "versions, settings and times",
}


def of_contrast(
    run: ContrastRun, folder: RunFolder, tables: Tables, findings: Findings, options: argparse.Namespace
) -> Summary:
    """Of one contrast.

    Parameters
    ----------
    run : ContrastRun
    folder : RunFolder
    tables : Tables
    findings : Findings
    options : argparse.Namespace
        What was asked for.
    """
    methods = tables.variants[~tables.variants["control"]]
    best = methods.iloc[0] if len(methods) else tables.variants.iloc[0]
    name = " / ".join(dict.fromkeys([run.stimuli.name, run.contrast]))
    claims = tables.claims[tables.claims["n_cells"] > 0]
    everything = argparse.Namespace(**vars(options) | {"concept": "all", "contrast": None})
    return Summary(
        [
            f"'{name}' is decoded best by {_variant(best)}: held-out AUROC "
            f"{with_interval(best['auroc'], best['auroc_ci_low'], best['auroc_ci_high'])} "
            f"(the best of {max(len(methods), 1)}: optimistic).{_words(tables.variants)}",
            *(_claim(row) for row in claims.to_dict("records")),
            *_beyond(findings.card),
        ],
        {
            "concept": run.stimuli.name,
            "contrast": run.contrast,
            "best": best.to_dict(),
            "claims": findings.claims.to_dict("records"),
            "scorecard": findings.card.to_dict("records"),
        },
        folder.path,
        FILES,
        [
            next_command("layer_sweep", options, "sweep", "from which block on it is there", sae=False),
            next_command("contrast_map", options, "map", "in which features, at which token", sae=False),
            next_command("generalise", options, "transfer", "does it hold for other stimuli"),
            next_command("combinatorial", everything, str(options.out), "do the claims hold across contrasts"),
        ],
    )


def of_several(summaries: Sequence[Summary], folder: RunFolder | None, across: pd.DataFrame | None) -> Summary:
    """Of several contrasts: the claims across them where they were asked for, and the best of each."""
    names = [f"{each.found['concept']}/{each.found['contrast']}" for each in summaries]
    sentences = [f"{len(summaries)} contrasts: {', '.join(names)}."]
    found: dict[str, Any] = {"runs": [{"folder": each.folder, **each.found} for each in summaries]}
    if folder is None or across is None:
        folders = {str(each.folder): name for each, name in zip(summaries, names, strict=True)}
        return Summary([*sentences, *(f"{name}: {path}" for path, name in folders.items())], found)
    decoding = across[across["outcome"] == "decoding"]
    sentences += [f"{row['claim']}: {row['verdict']}." for row in decoding.to_dict("records")]
    files = {"report.html": "everything to read, in a browser", "tables/claims_across_contrasts.csv": "the claims"}
    return Summary(sentences, found | {"across": across.to_dict("records")}, folder.path, files)


def of_plans(plans: Sequence[str], contrasts: Sequence[ContrastRun]) -> Summary:
    """Of a dry run."""
    n = sum(len(run.variants) for run in contrasts)
    names = [f"{run.stimuli.name}/{run.contrast}" for run in contrasts]
    return Summary(
        [f"{n} variants in {len(contrasts)} contrasts would be compared; nothing was computed."],
        {"contrasts": names, "variants": [variant.name for variant in contrasts[0].variants]},
        answer="\n".join(plans),
    )


def _variant(row: Any) -> str:
    name = f"{plots.LABELS[row['representation']]}, {plots.selector_label(row['selector'])}"
    return name + (f", k = {row['k']}" if row["k"] else "")


def _words(variants: pd.DataFrame) -> str:
    words = variants[variants["representation"] == "bag_of_words"]
    return f" Bag of words: {words['auroc'].iloc[0]:.2f}." if len(words) else ""


def _claim(row: dict[Any, Any]) -> str:
    effect = with_interval(row["delta"], row["ci_low"], row["ci_high"], 3)
    return f"{row['claim'].replace('_', ' ')}: {row['verdict']}; difference in AUROC {effect}."


def _beyond(card: pd.DataFrame) -> list[str]:
    """The best variants by what the later stages measured."""
    asked = {
        "discovery_ap": ("discovery_low", "discovery_high", "Graded sentences are retrieved with average precision"),
        "causal_shift": ("causal_low", "causal_high", "Steering shifts held-out endings, in nats per token, by"),
    }
    sentences = []
    for value, (low, high, what) in asked.items():
        if value in card and np.isfinite(card[value].to_numpy(dtype=float)).any():
            row = card.iloc[int(np.nanargmax(card[value].to_numpy(dtype=float)))]
            beside = f"chance {row['discovery_chance']:.2f}; " if value == "discovery_ap" else ""
            if value == "causal_shift" and np.isfinite(row["causal_p_random"]):
                beside = f"p = {row['causal_p_random']:.2f} against random directions; "
            estimate = with_interval(row[value], row[low], row[high])
            sentences.append(f"{what} {estimate} at best ({beside}{_variant(row)}).")
    return sentences
