"""How good is an SAE? Figures on held-out texts, what its latents do, and the texts that drive the largest of them.

Writes a report in Markdown, the same as JSON, and two figures, all with the moment in their names: nothing is replaced.
A checkpoint of SAELens' trainer is measured with the scale of its training folded in.

Examples
--------
python -m experiments.evaluate_sae
python -m experiments.evaluate_sae path/to/sae@15 --model gpt2 --corpus held_out.parquet --texts 2000
python -m experiments.evaluate_sae --checkpoint runs/mine/checkpoints/1048576 --corpus held_out.parquet
python -m experiments.evaluate_sae --smoke-test
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import options as shared
from neurosae import plots
from neurosae.console import Parser, Summary
from neurosae.errors import UserError
from neurosae.sae import loading
from neurosae.sae.evaluate_sae import SaeEvaluation, evaluate_sae

_SMOKE = {"texts": 12, "spliced_texts": 3, "context": 48, "top": 5}


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("evaluate_sae", __doc__)
    what = p.add_argument_group("what")
    which = what.add_mutually_exclusive_group()
    which.add_argument("sae", nargs="?", default=loading.DEFAULT, help="a bundled name, a file or folder, a hub name")
    which.add_argument(
        "--checkpoint", help="a checkpoint of SAELens' trainer, a file or folder in any known format (default: SAE)"
    )
    shared.add_texts(what)
    shared.add_model(p, default=None)
    how = p.add_argument_group("how")
    how.add_argument("--spliced-texts", type=int, default=40, help="texts for the cross-entropies")
    how.add_argument("--batch-size", type=int, default=8, help="texts at once: bounds memory")
    how.add_argument("--top", type=int, default=20, help="latents listed with their texts")
    how.add_argument("--examples", type=int, default=5, help="texts per listed latent")
    how.add_argument("--smoke-test", action="store_true", help="a few short texts: does everything run?")
    p.output.add_argument("--out", type=Path, help="folder of the report (default: results/sae/NAME)")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Measure and write."""
    if options.smoke_test:
        vars(options).update(_SMOKE)
    spec = options.checkpoint or options.sae
    if options.checkpoint and not Path(loading.split(spec)[0]).exists():
        raise UserError(f"There is no file or folder '{spec}'", where="--checkpoint")
    found = evaluate_sae(
        spec,
        corpus=options.corpus,
        texts=options.texts,
        context=options.context,
        spliced_texts=options.spliced_texts,
        top=options.top,
        examples=options.examples,
        **shared.model_of(options),
        batch_size=options.batch_size,
        progress=True,
    )
    folder = options.out or Path("results", "sae", _name(spec))
    report = found.save(folder, draw(found, folder))
    return Summary(
        found.sentences,
        found.as_dict()["figures"] | {"largest_latents": found.top_latents["latent"].tolist()},
        folder,
        {report.name: "the report", report.with_suffix(".json").name: "the same for programs"},
        [f"python -m experiments.check_sae {spec}   # does it fit the hook it declares?"],
    )


def _name(spec: str) -> str:
    """A folder's name out of a name or a path."""
    return re.sub(r"[^\w.-]+", "-", "-".join(Path(spec).parts[-3:])).strip("-.")


def draw(found: SaeEvaluation, folder: Path) -> dict[str, str]:
    """Draw both figures beside the report; returns their names by what they show."""
    drawn = {
        "firing density": plots.firing_density(*found.firing_density, found.n_never_fired, found.figures.n_tokens),
        "L0": plots.l0_histogram(found.tokens_by_l0),
    }
    names = {title: f"{title.lower().replace(' ', '_')}-{found.stamp}.png" for title in drawn}
    for title, ax in drawn.items():
        plots.save(ax.figure, folder / names[title])
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
