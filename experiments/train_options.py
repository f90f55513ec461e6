"""Options of the training: what they are, and which contradict each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import options as shared
from neurosae import models
from neurosae.console import Parser
from neurosae.errors import UserError
from neurosae.sae.activations import ContextPlan
from neurosae.sae.training_plan import SPARSITY_COEFFICIENTS, TrainingPlan

SITE, TOKENS, BUFFER = "15", 3_000_000, 500_000
OTHER_TEXTS = 2000  # of --held-out-corpus
_SMOKE_TEST: dict[str, Any] = {
    "tokens": 4000,
    "held_out": 24,
    "context": 32,
    "latents": 512,
    "k": 8,
    "epochs": 4.0,
    "batch_size": 256,
    "lr": 2e-3,
    "dead_after_tokens": 5000,
    "checkpoint_every": 50,
    "out": Path("results/sae-smoke-test"),
    "description": "Smoke test on the texts that ship with neurosae: far too few for an SAE of any use.",
}


def parser(description: str | None) -> Parser:
    """Command-line options; every long name is also a key of --config."""
    defaults = TrainingPlan()
    p = shared.command("train_sae", description, "Every finished shard and the last checkpoint are on disk.")
    formats = ".parquet, .jsonl, .jsonl.zst, .jsonl.gz or .txt, a folder of these, or hf:NAME[:CONFIG][#SPLIT]"
    # Suppressed, so that an absent argument does not replace --corpus.
    data = p.add_argument_group("data")
    data.add_argument("corpus", nargs="?", default=argparse.SUPPRESS, help=formats)
    data.add_argument("--corpus", help="the same, for --config (default: none)")
    data.add_argument("--shards", type=Path, help="train on the shards of experiments.capture (default: on the corpus)")
    data.add_argument("--streaming", action="store_true", help="one pass without shards: nothing is kept on disk")
    data.add_argument(
        "--buffer", type=int, help=f"tokens shuffled together with --streaming: bounds memory (default: {BUFFER})"
    )
    data.add_argument("--site", help=f"block or hook name (default: {SITE}, the residual stream after that block)")
    data.add_argument("--tokens", type=int, help=f"clean tokens to capture or stream (default: {TOKENS})")
    data.add_argument("--held-out", type=int, default=600, help="first texts of the corpus, kept for evaluation only")
    data.add_argument("--held-out-corpus", help=f"evaluate on its first {OTHER_TEXTS:,} texts too (default: none)")
    data.add_argument("--context", type=int, help=f"longest context in tokens (default: {ContextPlan().context})")
    data.add_argument(
        "--capture-dtype", choices=list(models.DTYPES), default="bfloat16", help="of the model while it is captured"
    )
    shared.add_model(p)
    sae = p.add_argument_group("SAE")
    sae.add_argument("--architecture", default=defaults.architecture, help=f"of {', '.join(SPARSITY_COEFFICIENTS)}")
    sae.add_argument("--latents", type=int, default=defaults.n_latents, help="width of the SAE")
    sae.add_argument("--k", type=int, default=defaults.k, help="active latents per token")
    sae.add_argument(
        "--sparsity-coefficient",
        type=float,
        help="weight of the sparsity loss, for jumprelu and standard (default: the architecture's)",
    )
    sae.add_argument(
        "--matryoshka-widths", type=int, nargs="+", default=[], help="rising sizes, up to --latents (default: none)"
    )
    sae.add_argument("--epochs", type=float, help=f"passes over the shards (default: {defaults.epochs:g})")
    sae.add_argument("--batch-size", type=int, default=defaults.batch_size, help="tokens per step: bounds memory")
    sae.add_argument("--lr", type=float, default=defaults.lr, help="learning rate")
    sae.add_argument(
        "--dead-after-tokens", type=int, default=defaults.dead_after_tokens, help="silent so long, a latent is dead"
    )
    sae.add_argument("--seed", type=int, default=defaults.seed, help="of the weights and of the order of tokens")
    data.add_argument("--smoke-test", action="store_true", help="everything once, small, on built-in texts")
    p.output.add_argument("--out", type=Path, default=Path("results/sae"), help="folder for everything")
    p.output.add_argument("--checkpoint-every", type=int, default=200, help="steps: what a kill loses")
    p.output.add_argument("--log", help="tensorboard or wandb, besides training.csv (default: neither)")
    p.output.add_argument(
        "--description", default="", help="a paragraph about the data and its licence, for the card (default: none)"
    )
    return p


def read_options(p: Parser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line over configuration file over defaults, which are small for a smoke test.

    Raises
    ------
    UserError
        Options that contradict each other.
    """
    options = shared.read(p, arguments)
    if options.smoke_test:
        p.set_defaults(**_SMOKE_TEST)
        options = shared.read(p, arguments)
    sources = [name for name in ("corpus", "shards", "smoke_test") if getattr(options, name)]
    if len(sources) != 1:
        raise UserError(
            f"Activations from {' and '.join(sources) or 'nowhere'}", allowed="CORPUS, --shards or --smoke-test"
        )
    if options.shards:
        _refuse_given(options, "--shards", "streaming", "tokens", "site", "context")
    if options.streaming:
        _refuse_given(options, "--streaming", "epochs")
    else:
        _refuse_given(options, "training on shards", "buffer")
    if options.held_out < 1:
        raise UserError(f"{options.held_out} texts held out", where="--held-out", allowed="integers from 1")
    return options


def _refuse_given(options: argparse.Namespace, chosen: str, *names: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UserError(f"--{name} has no meaning with {chosen}", where=f"--{name}", suggestion="Leave it out")
