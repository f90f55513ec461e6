"""Which SAE latents does a prompt drive? The strongest ones, token by token.

Examples
--------
python -m experiments.top_features "The capital of France is"
python -m experiments.top_features "The bridge held." --position mean --k 5 --json > features.json
python -m experiments.top_features "It held." --model meta-llama/Llama-3.1-8B --sae llama_scope_lxr_8x/l31r_8x
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments import options as shared
from neurosae.console import Parser, Summary
from neurosae.sae import loading
from neurosae.sae.prompt_features import POSITIONS
from neurosae.sae.top_features import PLACES, TopFeatures, top_features


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("top_features", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("prompt", help="the text to read")
    what.add_argument("--sae", default=loading.DEFAULT, help="a bundled name, a file or folder, a hub name")
    what.add_argument("--k", type=int, default=10, help="latents to show")
    what.add_argument("--position", default="last", choices=POSITIONS, help="what to rank by")
    what.add_argument("--labels", type=Path, help="JSON or CSV with a label per latent (default: none)")
    shared.add_model(p, default=None)
    return p


def run(options: argparse.Namespace) -> Summary:
    """Find and show."""
    found = top_features(
        options.prompt,
        sae=options.sae,
        k=options.k,
        position=options.position,
        labels=options.labels,
        **shared.model_of(options),
    )
    return Summary(
        found.sentences,
        found.as_dict(),
        answer=as_text(found),
        then=[f"python -m experiments.evaluate_sae {options.sae}   # the texts that drive its latents"],
    )


def as_text(found: TopFeatures) -> str:
    """Both tables as plain text; tokens and labels are quoted, so that line breaks cannot spoil them."""
    head = f"{found.sae} on {found.language_model}, {found.site}"
    features, place = found.features, PLACES[found.position]
    if features.empty:
        return f"{head}\n\nNo latent is active {place}."
    quoted = {name: features[name].map(repr) for name in ("peak_token", "label") if name in features}
    by_token = found.activations.reset_index(drop=True)
    by_token.insert(0, "token", found.tokens["token"].map(repr))
    if not found.tokens["clean"].all():
        by_token["clean"] = found.tokens["clean"].map({True: "", False: "no"})
    return "\n\n".join(
        [
            head,
            f"{len(features)} of {found.n_active} latents active {place}:",
            _plain(features.assign(**quoted)),
            "Token by token, the sink token in front left out:",
            _plain(by_token),
        ]
    )


def _plain(table: pd.DataFrame) -> str:
    with pd.option_context("display.width", None, "display.max_columns", None, "display.max_colwidth", None):
        return table.to_string(index=False, float_format=lambda value: f"{value:.2f}" if value else ".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
