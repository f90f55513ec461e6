"""Train a sparse autoencoder on a language model's activations: capture, train, check what was saved, write a card.

Examples
--------
python -m experiments.train_sae corpus.parquet --out my-sae --tokens 3000000
python -m experiments.train_sae corpus.jsonl --out tiny --tokens 50000 --latents 1024 --held-out 40
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from neurosae import models
from neurosae.corpora import read_texts
from neurosae.errors import UserError
from neurosae.files import atomic_path, folder_digest, sha256_file, write_json, write_text
from neurosae.sae import overlap
from neurosae.sae.activations import ContextPlan, capture_shards
from neurosae.sae.evaluation import Evaluation, evaluate
from neurosae.sae.loading import load
from neurosae.sae.training import SparseBatchTopK, TrainingPlan, train
from neurosae.sites import Site

log = logging.getLogger("train_sae")
_TOLERANCE = 0.01  # the saved SAE may differ from the trained one by so much in FVU


def parser() -> argparse.ArgumentParser:
    """Command-line options."""
    defaults = TrainingPlan()
    p = argparse.ArgumentParser(
        prog="python -m experiments.train_sae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("corpus", type=Path, help="Parquet or JSONL with a column 'text', plain text, or a folder of these")
    p.add_argument("--out", type=Path, required=True, help="folder for shards, checkpoints and the finished SAE")
    p.add_argument("--model", default=models.DEFAULT)
    p.add_argument("--site", default="15", help="block or hook name (default: 15, the residual stream after block 15)")
    p.add_argument("--tokens", type=int, default=3_000_000, help="clean tokens to capture (default: %(default)s)")
    p.add_argument("--held-out", type=int, default=600, help="first texts of the corpus, kept for evaluation only")
    p.add_argument("--held-out-corpus", type=Path, help="evaluate on the first texts of this file too")
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--capture-dtype", choices=list(models.DTYPES), default="bfloat16")
    p.add_argument("--latents", type=int, default=defaults.n_latents)
    p.add_argument("--k", type=int, default=defaults.k)
    p.add_argument("--epochs", type=float, default=defaults.epochs)
    p.add_argument("--batch-size", type=int, default=defaults.batch_size)
    p.add_argument("--lr", type=float, default=defaults.lr)
    p.add_argument("--seed", type=int, default=defaults.seed)
    p.add_argument("--description", default="", help="one paragraph about the data and its licence, for the card")
    return p


def run(options: argparse.Namespace) -> Path:
    """Capture, train, save, reload, evaluate; returns the folder of the finished SAE."""
    site = Site.parse(options.site)
    plan = TrainingPlan(
        n_latents=options.latents,
        k=options.k,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
    )
    contexts = ContextPlan(context=options.context)
    shards, started = options.out / "shards", time.time()
    _same_as_before(options.out / "capture.json", _capture_request(options, site, contexts))
    _same_as_before(options.out / "plan.json", dataclasses.asdict(plan))
    if not _already_captured(shards, options.tokens):
        reader = models.load(options.model, dtype=options.capture_dtype)
        texts = itertools.islice(read_texts(options.corpus), options.held_out, None)
        capture_shards(reader, texts, site, shards, n_tokens=options.tokens, plan=contexts)
        del reader
    log.info("training %d latents, k = %d", plan.n_latents, plan.k)
    sae, trainer = train(
        shards, plan, site, options.model, options.out, context_size=options.context, dataset=options.corpus.name
    )
    folder = options.out / "sae"
    save_shipped(sae, folder)
    language_model = models.load(options.model)
    held_out = {"held-out texts of the corpus": list(itertools.islice(read_texts(options.corpus), options.held_out))}
    if options.held_out_corpus:
        name = f"sentences of {options.held_out_corpus.name}"
        held_out[name] = list(itertools.islice(read_texts(options.held_out_corpus), 2000))
    evaluations = {name: evaluate(load(str(folder)), language_model, texts) for name, texts in held_out.items()}
    _refuse_if_changed(sae, folder, language_model, next(iter(held_out.values()))[:20])
    n_texts = _texts_used(shards)
    used = itertools.islice(read_texts(options.corpus), options.held_out, options.held_out + n_texts)
    with atomic_path(folder / overlap.FILE) as temporary, temporary.open("wb") as stream:
        np.save(stream, overlap.hash_texts(used), allow_pickle=False)
    about = {
        "plan": dataclasses.asdict(plan),
        "context": dataclasses.asdict(contexts),
        "tokens": json.loads((shards / "shards.json").read_text())["tokens"],
        "texts": n_texts,
        "held_out": {name: figures.as_dict() for name, figures in evaluations.items()},
        "minutes_this_run": round((time.time() - started) / 60),
        "history": trainer.history,
    }
    write_json(folder / "training.json", about)
    write_text(folder / "README.md", card(options, site, plan, about, evaluations))
    return folder


def save_shipped(sae: SparseBatchTopK, folder: Path) -> None:
    """Write SAELens' inference format (JumpReLU), weights rounded to bfloat16, the threshold in float32."""
    with atomic_path(folder) as temporary:
        weights, config = sae.save_inference_model(temporary)
        tensors = load_file(weights)
        rounded = {name: t.float() if name == "threshold" else t.bfloat16() for name, t in tensors.items()}
        save_file({name: t.contiguous() for name, t in rounded.items()}, weights)
        about: dict[str, Any] = json.loads(config.read_text())
        config.write_text(json.dumps(about | {"dtype": "float32", "device": "cpu"}, indent=1, sort_keys=True) + "\n")


def card(
    options: argparse.Namespace, site: Site, plan: TrainingPlan, about: dict[str, Any], held_out: dict[str, Evaluation]
) -> str:
    """The SAE's card in Markdown: what it is, how it was made, how good it is."""
    rows = "\n".join(
        f"| {name} | {e.n_texts:,} | {e.n_tokens:,} | {e.fvu_clean:.3f} | {e.fvu_naive:.5f} | {e.fvu_uncentred:.3f} "
        f"| {e.l0:.1f} | {e.dead:.2%} | {e.ce:.3f} | {e.ce_spliced:.3f} | {e.ce_spliced - e.ce:+.3f} |"
        for name, e in held_out.items()
    )
    return f"""# SAE of {options.model}, {site}

BatchTopK sparse autoencoder, {plan.n_latents:,} latents, k = {plan.k}, stored as JumpReLU with one threshold, in SAELens'
format: weights rounded to bfloat16, threshold in float32. It reads raw activations; nothing has to be scaled.

## Use

    from neurosae.sae.loading import load
    sae = load("folder of this card")           # or sae_lens.SAE.load_from_disk(folder)

Put the sink token (id 0, `<|endoftext|>` for the default model) in front of every text and leave it out of everything, as
`neurosae.capture` does. Without it the first word becomes an attention sink and the latents mean nothing.

## Quality, measured on the stored (rounded) weights

| held-out data | texts | clean tokens | FVU, clean | FVU, naive | FVU, uncentred | L0 | dead | CE | CE spliced | increase |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}

FVU is the fraction of variance unexplained. *Clean* is the headline: centred, without sink and outlier tokens. *Naive*
leaves them in: their norms are a hundred times the usual, so that it describes a few tokens that the SAE never saw and
nothing else. CE is in nats per token, with and without the reconstruction in place of clean activations, on the first 40
texts; a dead latent never fired on that data.

## Recipe

{about["tokens"]:,} clean tokens from {about["texts"]:,} texts (every fourth text cut into single sentences, each with its own
sink token; contexts of at most {options.context} tokens), captured in {options.capture_dtype}; the first {options.held_out} texts
of the corpus were held out. {plan.epochs:g} epochs, batch {plan.batch_size:,}, Adam {plan.lr:g} with 5 % warm-up and linear decay
over the last 20 %, gradient clip 1; k falls from {plan.k_start} to {plan.k} over the first tenth; auxiliary loss
{plan.aux_coefficient:g} for latents silent for {plan.dead_after_tokens:,} tokens; seed {plan.seed}. `training.json` has the history,
`{overlap.FILE}` hashes of the sentences of all training texts (`neurosae.sae.overlap`).

## Data and licence

{options.description or "Not described."}
"""


def _capture_request(options: argparse.Namespace, site: Site, contexts: ContextPlan) -> dict[str, Any]:
    """Everything that the shards depend on besides how many there are."""
    if not options.corpus.exists():
        raise UserError(f"There is no corpus {options.corpus}", allowed="a .parquet, .jsonl or .txt file, or a folder")
    size = folder_digest(options.corpus) if options.corpus.is_dir() else sha256_file(options.corpus)
    return {
        "corpus": size,
        "held_out": options.held_out,
        "model": options.model,
        "site": str(site),
        "dtype": options.capture_dtype,
        **dataclasses.asdict(contexts),
    }


def _same_as_before(record: Path, request: dict[str, Any]) -> None:
    """Keep the request, or refuse one that differs from what the folder holds."""
    if not record.is_file():
        write_json(record, request)
        return
    known = json.loads(record.read_text(encoding="utf-8"))
    changed = [name for name in request if known.get(name) != request[name]]
    if changed:
        raise UserError(
            f"{record.parent} was begun with another {', '.join(changed)}",
            where="--out",
            suggestion="Choose another folder, or delete this one to start over",
        )


def _already_captured(shards: Path, n_tokens: int) -> bool:
    record = shards / "shards.json"
    return record.is_file() and json.loads(record.read_text())["tokens"] >= n_tokens


def _texts_used(shards: Path) -> int:
    last = sorted(shards.glob("part*.safetensors"))[-1]
    return int(load_file(last)["last_row"]) + 1


def _refuse_if_changed(
    sae: SparseBatchTopK, folder: Path, language_model: models.LanguageModel, texts: list[str]
) -> None:
    """Trained weights in memory and stored weights must reconstruct alike."""
    with atomic_path(folder.parent / "unrounded") as temporary:
        sae.save_inference_model(temporary)
    before = evaluate(load(str(folder.parent / "unrounded")), language_model, texts, spliced_texts=4)
    after = evaluate(load(str(folder)), language_model, texts, spliced_texts=4)
    if abs(before.fvu_clean - after.fvu_clean) > _TOLERANCE or abs(before.l0 - after.l0) > 0.05 * before.l0:
        raise UserError(
            f"The stored SAE differs from the trained one: FVU {after.fvu_clean:.4f} against {before.fvu_clean:.4f}, "
            f"L0 {after.l0:.2f} against {before.l0:.2f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit code 2 on bad input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser().parse_args(arguments)
    try:
        folder = run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print((folder / "README.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
