"""Say what kind of dictionary an SAE is: latents specific to the conditions of a stimulus set, known members with a
latent of their own, how often a corpus mentions them, and how separate conditions are, in numbers and as maps.

Examples
--------
python -m experiments.describe_sae --concept success --out described
python -m experiments.describe_sae my-sae --concept valence --corpus corpus.parquet --umap --out described
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments import options as shared
from neurosae import plots
from neurosae.console import Parser, Summary
from neurosae.dictionary.completeness import DEDICATED, RARE
from neurosae.dictionary.describe_sae import SaeDescription, describe_sae
from neurosae.sae import loading

_FILES = {
    "figures": "firing rates; completeness and maps where asked for",
    "specificity.csv": "every latent that fires",
    "exclusive.csv": "latents of one condition only, and the number by chance",
    "completeness.csv": "member lists",
    "members.csv": "every member and its latent",
    "separation.csv": "separation of conditions",
}


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("describe_sae", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("sae", nargs="?", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    shared.add_arguments(what, describe_sae, "stimuli", "pooling", stimuli="concept")
    known = p.add_argument_group("what it knows")
    shared.add_arguments(known, describe_sae, "members", "untrained", "background")
    words = p.add_argument_group("how often a corpus mentions it")
    shared.add_arguments(words, describe_sae, "corpus", "texts", "keywords")
    shared.add_model(p, default=None)
    p.output.add_argument("--out", type=Path, required=True, help="folder for tables (CSV) and figures")
    shared.add_arguments(p.output, describe_sae, "umap", "map_latents")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Measure, print short tables, write everything."""
    found = describe_sae(**shared.given(options, describe_sae))
    show(found, options)
    found.save(options.out)
    draw(found, options.out / "figures")
    return Summary(
        found.sentences,
        found.as_dict(),
        options.out,
        _FILES,
        [f"python -m experiments.evaluate_sae {options.sae}   # how good the SAE is, and its largest latents"],
    )


def show(found: SaeDescription, options: argparse.Namespace) -> None:
    """Print what was left out and the short tables."""
    if found.left_out:
        print(f"Left out: {sum(found.left_out.values())} stimuli ({', '.join(sorted(found.left_out))})")
    print(f"{found.sae}: {found.n_latents:,} latents at {found.site} of {found.language_model}")
    _show(f"Latents that fire in one condition of '{found.stimuli}' only, and the number by chance", found.exclusive)
    columns = ["condition", "latent", "rate", "mean", "auroc", "exclusive", "p_exclusive", "gini"]
    _show("Most specific latents, by AUROC (the best of many: optimistic)", found.most_specific[columns])
    _show(
        f"Members with a latent of their own (F1 from {DEDICATED:g} on held-out sentences, at most {RARE:g} of the "
        "tokens of ordinary text)",
        found.completeness.drop(columns="frequency_reason", errors="ignore"),
    )
    if not options.keywords:
        _show("Words that differ most between conditions (share of texts; the best of many)", found.telling_words)
    if found.census is not None:
        _show(f"Census of {options.corpus}", found.census[found.census["keyword"].isin(found.keywords)])
    _show(
        "Separation of conditions in the original space (cosine; decoder: of the latents that prefer each)",
        found.separation,
    )


def draw(found: SaeDescription, folder: Path) -> None:
    """Firing rates; completeness where a corpus was counted; maps where there are any."""
    first = str(found.specificity["condition"].cat.categories[0])
    plots.save(plots.firing_rates(found.specificity, first).figure, folder / "firing_rates")
    if found.frequency:
        title = (
            f"Spearman rho {found.frequency['rho']:.2f} over all {found.frequency['n']} members, "
            f"{found.n_latents:,} latents"
        )
        trained = found.members[found.members["sae"] == "trained"]
        plots.save(plots.completeness_by_frequency(trained, title).figure, folder / "completeness")
    if found.maps is not None:
        plots.save(plots.dictionary_maps(found.maps, found.separation), folder / "maps")


def _show(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n{table.to_string(index=False, float_format=lambda value: f'{value:.3g}')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
