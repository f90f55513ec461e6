"""An SAE of equal size trained by SAELens' own trainer at its defaults, on the same shards: what the recipe is worth.

Only width, k and the data are given; learning rate, schedule, initialisation, auxiliary loss, normalisation and number
of tokens (2,000,000) are SAELens'. The result is evaluated on held-out texts exactly as the SAE that ships.

Examples
--------
python -m benchmarks.saelens_defaults my-sae/shards --corpus held_out.parquet --latents 9216 --out peer --json
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, LanguageModelSAERunnerConfig
from sae_lens.config import LoggingConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer

from neurosae import models
from neurosae.corpora import read_texts
from neurosae.sae.evaluation import evaluate
from neurosae.sae.loading import load
from neurosae.sae.shards import ShardReader


def train_with_defaults(
    shards: Path, n_latents: int, k: int, n_tokens: int, site: str, model: str, seed: int = 0
) -> BatchTopKTrainingSAE:
    """SAELens' BatchTopK class and trainer, everything but size, k and data left as it comes."""
    torch.manual_seed(seed)
    reader = ShardReader(shards, LanguageModelSAERunnerConfig.train_batch_size_tokens, seed)
    metadata = SAEMetadata(model_name=model, hook_name=site, prepend_bos=True)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(d_in=reader.shards[0].shape[1], d_sae=n_latents, k=k, metadata=metadata)
    )
    defaults = LanguageModelSAERunnerConfig(
        sae=sae.cfg, training_tokens=n_tokens, logger=LoggingConfig(log_to_wandb=False)
    )
    SAETrainer(defaults.to_sae_trainer_config(), sae, reader).fit()
    return sae


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, print."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.saelens_defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("shards", type=Path, help="folder of activation shards")
    p.add_argument("--corpus", type=Path, required=True, help="held-out texts")
    p.add_argument("--texts", type=int, default=600, help="how many of them (default: %(default)s)")
    p.add_argument("--latents", type=int, required=True)
    p.add_argument("--k", type=int, default=32)
    p.add_argument(
        "--tokens",
        type=int,
        default=LanguageModelSAERunnerConfig.training_tokens,
        help="default: %(default)s, SAELens' own",
    )
    p.add_argument("--model", default=models.DEFAULT)
    p.add_argument("--out", type=Path, required=True, help="folder for the finished SAE")
    p.add_argument("--json", action="store_true")
    options = p.parse_args(arguments)
    started, about = time.time(), json.loads((options.shards / "shards.json").read_text())
    sae = train_with_defaults(options.shards, options.latents, options.k, options.tokens, about["site"], options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    sae.save_inference_model(options.out)
    texts = list(itertools.islice(read_texts(options.corpus), options.texts))
    quality = evaluate(load(str(options.out)), models.load(options.model), texts)
    row: dict[str, Any] = {
        "peer": f"sae-lens {version('sae-lens')}, BatchTopK at its defaults",
        "latents": options.latents,
        "k": options.k,
        "tokens": options.tokens,
        "minutes": round((time.time() - started) / 60, 1),
        **quality.as_dict(),
    }
    print(json.dumps(row) if options.json else "\n".join(f"{name:14}{value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
