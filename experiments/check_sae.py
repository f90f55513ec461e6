"""Does an SAE fit the language model, the hook and the scaling that it declares? Says in words which reading fits.

Measures the SAE as declared, then tries the blocks before and after, other streams, scaled inputs, the decoder's bias
read the other way, and, where encoder and decoder look unrelated, repairs of the weights. Exit code 0: the declared
reading fits; 3: another one does, or none.

Examples
--------
python -m experiments.check_sae
python -m experiments.check_sae path/to/sae@15 --model gpt2 --corpus held_out.parquet --texts 200
python -m experiments.check_sae llama_scope_lxr_8x/l15r_8x --model meta-llama/Llama-3.1-8B --dtype bfloat16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from experiments import options as shared
from neurosae.console import DONE, NO, Parser, Summary
from neurosae.sae import loading
from neurosae.sae.check_sae import check_sae
from neurosae.sae.evaluation import Evaluation
from neurosae.sae.self_check import SelfCheck

_HEADER = {
    "fvu_clean": "FVU",
    "fvu_uncentred": "uncentred",
    "l0": "L0",
    "output_scale": "best output scale",
    "fvu_rescaled": "FVU with it",
    "subtract_b_dec": "b_dec subtracted",
    "per_token": "per token",
}


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("check_sae", __doc__)
    p.bound_memory = ("tokens",)
    what = p.add_argument_group("what")
    what.add_argument(
        "sae",
        nargs="?",
        default=loading.DEFAULT,
        help="a bundled name, a file or folder, a hub name; @SITE behind it overrules its hook",
    )
    shared.add_texts(what, default=200)
    what.add_argument("--tokens", type=int, default=4000, help="clean tokens to compare readings on; bounds memory")
    shared.add_model(p, default=None)
    return p


def run(options: argparse.Namespace) -> Summary:
    """Measure, compare, print; the verdict is the code."""
    found = check_sae(
        options.sae,
        corpus=options.corpus,
        texts=options.texts,
        context=options.context,
        tokens=options.tokens,
        **shared.model_of(options),
    )
    print(f"{found.sae}, declared for {found.site} of {found.language_model}\n")
    print(measured(found.figures))
    print(f"\nThe declared reading, and the best one of every site, on {found.check.n_tokens:,} clean tokens:\n")
    print(readings(found.check))
    print(f"\nMedian cosine of encoder columns and decoder rows: {found.check.decoder.cosine:.3f} (chance: 0)")
    return Summary(
        found.sentences,
        found.as_dict(),
        then=[f"python -m experiments.evaluate_sae {options.sae}"] if found.fits else (),
        code=DONE if found.fits else NO,
    )


def measured(figures: Evaluation) -> str:
    """The figures of the SAE as declared, one a line."""
    rows = [
        ("FVU, clean", f"{figures.fvu_clean:.4g}  centred, without sink and outlier tokens"),
        ("FVU, naive", f"{figures.fvu_naive:.4g}  with them"),
        ("FVU, uncentred", f"{figures.fvu_uncentred:.4g}  clean tokens"),
        ("L0", f"{figures.l0:.4g}"),
        ("silent latents", f"{figures.dead:.2%}  on these {figures.n_tokens:,} tokens of {figures.n_texts:,} texts"),
        ("CE increase", f"{figures.ce_spliced - figures.ce:+.4g}  nats per token, from {figures.ce:.4g}"),
    ]
    return "\n".join(f"{name:<16}{text}" for name, text in rows)


def readings(check: SelfCheck) -> str:
    """The table of readings as plain text."""
    words = {name: check.table[name].map({True: "yes", False: "no"}) for name in ("per_token", "subtract_b_dec")}
    table = check.table.assign(**words)
    with pd.option_context("display.width", None, "display.max_columns", None):
        return table.rename(columns=_HEADER).to_string(index=False, float_format=lambda value: f"{value:.4g}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says, 3 if the declared reading does not fit."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
