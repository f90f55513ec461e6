"""Train a sparse autoencoder on a language model's activations: capture, train, check what was saved, write a card.

Examples
--------
python -m experiments.train_sae corpus.parquet --out my-sae --tokens 3000000
python -m experiments.train_sae corpus.jsonl --out tiny --tokens 50000 --latents 1024 --held-out 40
python -m experiments.train_sae hf:roneneldan/TinyStories --out streamed --streaming --tokens 20000000
python -m experiments.train_sae --shards acts --architecture topk --out from-shards
python -m experiments.train_sae --config my-sae.yaml
python -m experiments.train_sae --smoke-test

Started again after a kill, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import options as shared
from neurosae.console import Parser, Summary
from neurosae.corpora import shipped_texts
from neurosae.errors import UserError
from neurosae.files import write_text
from neurosae.sae.train_sae import train_sae
from neurosae.sae.training_plan import TrainingPlan

_OUT, _SMOKE_OUT = Path("results/sae"), Path("results/sae-smoke-test")
_SMOKE_PLAN = {
    "n_latents": 512,
    "k": 8,
    "epochs": 4.0,
    "batch_size": 256,
    "lr": 2e-3,
    "dead_after_tokens": 5000,
}
_SMOKE = {
    "tokens": 4000,
    "held_out": 24,
    "context": 32,
    "checkpoint_every": 50,
    "description": "Smoke test on the texts that ship with neurosae: far too few for an SAE of any use.",
}


def parser() -> Parser:
    """Command-line options; every long name is also a key of --config."""
    p = shared.command("train_sae", __doc__, "Every finished shard and the last checkpoint are on disk.")
    formats = ".parquet, .jsonl, .jsonl.zst, .jsonl.gz or .txt, a folder of these, or hf:NAME[:CONFIG][#SPLIT]"
    # Suppressed, so that an absent argument does not replace --corpus.
    data = p.add_argument_group("data")
    data.add_argument("corpus", nargs="?", default=argparse.SUPPRESS, help=formats)
    data.add_argument("--corpus", help="the same, for --config (default: none)")
    where = ("shards", "streaming", "buffer", "site", "tokens", "held_out", "held_out_corpus", "context")
    shared.add_arguments(data, train_sae, *where, "capture_dtype")
    data.add_argument("--smoke-test", action="store_true", help="everything once, small, on built-in texts")
    shared.add_model(p)
    sae = p.add_argument_group("SAE")
    shape = ("architecture", "n_latents", "k", "sparsity_coefficient", "matryoshka_widths")
    course = ("epochs", "batch_size", "lr", "dead_after_tokens", "seed")
    shared.add_arguments(sae, TrainingPlan, *shape, *course, n_latents="latents")
    p.output.add_argument("--out", type=Path, help=f"folder for everything (default: {_OUT}, or {_SMOKE_OUT})")
    shared.add_arguments(p.output, train_sae, "checkpoint_every", "log", "description")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Capture or stream, train, check, and show the card."""
    asked = shared.given(options, train_sae)
    if options.smoke_test:
        if options.corpus or options.shards:
            raise UserError("A smoke test has texts of its own", where="--smoke-test", suggestion="Leave it out")
        asked = {**_SMOKE, "out": _SMOKE_OUT, **asked}
        asked["corpus"] = _built_in_corpus(Path(asked["out"]))
    found = train_sae(**{"out": _OUT, **asked}, plan=plan_of(options))
    print(found.card)
    return Summary(
        found.sentences,
        found.as_dict(),
        found.folder,
        {"README.md": "the card", "training.json": "figures and plan", "training.csv": "the log"},
        [
            f"python -m experiments.evaluate_sae {found.folder}   # everything about it, with its strongest texts",
            f"python -m experiments.combinatorial --concept success --model {found.model} --sae {found.folder}",
        ],
    )


def plan_of(options: argparse.Namespace) -> TrainingPlan:
    """The plan that the options describe."""
    usual: dict[str, Any] = {"k": TrainingPlan.k, "epochs": 1.0 if options.streaming else TrainingPlan.epochs}
    asked = usual | (_SMOKE_PLAN if options.smoke_test else {}) | shared.given(options, TrainingPlan)
    return TrainingPlan(**asked, k_start=max(asked["k"], TrainingPlan.k_start))


def _built_in_corpus(out: Path) -> str:
    path = out / "built-in texts.jsonl"
    write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in shipped_texts()))
    return str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says, 3 if the stored SAE is not the trained one."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
