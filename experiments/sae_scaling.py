"""Train a grid of small SAEs on the same activations and see how width and k change what they reconstruct and know.

A finished cell holds ``cell.json``; the same command goes on where it stopped. FVU, L0 and dead latents
are measured on texts that no SAE saw; completeness as in ``experiments.describe_sae``.

Examples
--------
python -m experiments.sae_scaling --corpus corpus.parquet --tokens 1000000 --width 512 1024 2048 4096 --out scaling
python -m experiments.sae_scaling --shards my-sae/shards --held-out-corpus other.parquet --k 16 32 --out scaling
python -m experiments.sae_scaling --smoke-test --out scaling-smoke
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import options as shared
from neurosae import models, plots
from neurosae.console import Parser, Summary
from neurosae.dictionary.sae_scaling import SaeScaling, sae_scaling

_SMOKE = {
    "width": [32, 64, 128, 256],
    "k": [8],
    "tokens": 4000,
    "held_out": 40,
    "background": 100,
    "batch_size": 256,
    "members": ["months"],
    "held_out_corpus": None,
}
_FILES = {
    "figures/scaling.png": "figures against width",
    "scaling.csv": "every SAE",
    "power_law.csv": "the fits",
    "cells": "the SAEs themselves",
}


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("sae_scaling", __doc__, "Every finished cell is on disk.")
    group = p.add_argument_group("data, one of the first three")
    data = group.add_mutually_exclusive_group(required=True)
    shared.add_arguments(data, sae_scaling, "shards", "corpus")
    data.add_argument("--smoke-test", action="store_true", help="tiny SAEs on the texts that ship, under a minute")
    shared.add_arguments(group, sae_scaling, "site", "tokens", "held_out", "held_out_corpus")
    sae = p.add_argument_group("SAEs")
    shared.add_arguments(sae, sae_scaling, "width", "k", "epochs", "batch_size", "lr", "seed")
    known = p.add_argument_group("what they know")
    shared.add_arguments(known, sae_scaling, "members", "background")
    shared.add_model(p, default=None, otherwise=f"that of --shards, else {models.DEFAULT}")
    p.output.add_argument("--out", type=Path, required=True, help="folder for cells, the table and figures")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Capture if needed, train and measure what is missing, write the table, draw."""
    found = sae_scaling(**shared.given(options, sae_scaling) | (_SMOKE if options.smoke_test else {}))
    found.save()
    show(found)
    plots.save(plots.scaling(found.cells, found.laws), found.folder / "figures" / "scaling")
    return Summary(
        found.sentences,
        found.as_dict(),
        found.folder,
        _FILES,
        ["python -m experiments.train_sae CORPUS --latents N --out my-sae   # train one for longer"],
    )


def show(found: SaeScaling) -> None:
    """Print both tables."""
    columns = ["n_latents", "k", "fvu", "l0", "dead_share", "completeness", "mean_member_f1", "n_tokens"]
    shown = found.cells[columns].to_string(index=False, float_format="{:.3f}".format)
    print(f"\nMeasured on held-out texts\n\n{shown}")
    laws = found.power_law.to_string(index=False, float_format="{:.3f}".format)
    print(f"\nFVU = coefficient * width ** -exponent\n\n{laws}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
