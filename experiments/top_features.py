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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import options as shared
from neurosae.console import Parser, Summary
from neurosae.sae import loading
from neurosae.sae.prompt_features import POSITIONS, PromptFeatures, neuronpedia_id, read_labels, top_features

_PLACES = {"last": "at the last clean token", "max": "at their maximum", "mean": "on average over clean tokens"}


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
    labels = read_labels(options.labels) if options.labels else {}
    sae, language_model = shared.load_pair(options)
    found = top_features(language_model, sae, options.prompt, options.k, options.position)
    features = described(found.features, labels, neuronpedia_id(options.sae, options.model))
    about = {
        "language_model": language_model.name,
        "sae": options.sae,
        "site": str(loading.site_of(sae)),
        "prompt": options.prompt,
        "position": options.position,
    }
    latents = ", ".join(map(str, features["latent"][:5]))
    place = _PLACES[options.position]
    return Summary(
        [f"{found.n_active} latents are active {place}; the strongest: {latents}."] if latents else (),
        about | as_json(found, features),
        answer=as_text(about, found, features),
        then=[f"python -m experiments.evaluate_sae {options.sae}   # the texts that drive its latents"],
    )


def described(features: pd.DataFrame, labels: Mapping[int, str], neuronpedia: str | None) -> pd.DataFrame:
    """Add the columns `label` and `link`, where there are any.

    Parameters
    ----------
    features : DataFrame
        With the column `latent`.
    labels : mapping of int to str
    neuronpedia : str or None
        Neuronpedia's name of the SAE.
    """
    if labels:
        features = features.assign(label=[labels.get(latent, "") for latent in features["latent"]])
    if neuronpedia:
        features = features.assign(link=[f"https://neuronpedia.org/{neuronpedia}/{i}" for i in features["latent"]])
    return features


def as_text(about: Mapping[str, str], found: PromptFeatures, features: pd.DataFrame) -> str:
    """Both tables as plain text; tokens and labels are quoted, so that line breaks cannot spoil them."""
    head = f"{about['sae']} on {about['language_model']}, {about['site']}"
    place = _PLACES[about["position"]]
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


def as_json(found: PromptFeatures, features: pd.DataFrame) -> dict[str, Any]:
    """The same as lists: features, tokens, and the activations of each listed latent over the tokens.

    Parameters
    ----------
    found : PromptFeatures
    features : DataFrame
        Its features with label and link.
    """
    return {
        "n_active": found.n_active,
        "features": features.to_dict("records"),
        "tokens": found.tokens.to_dict("records"),
        "activations": {str(latent): found.activations[latent].tolist() for latent in found.activations},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
