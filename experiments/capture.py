"""Capture a corpus: its activations at one or several sites as shards on disk, with an index of where each is from.

Examples
--------
python -m experiments.capture --corpus pile.jsonl.zst --site 15 --out acts --tokens 3000000
python -m experiments.capture --corpus texts/ --site 7 15 15.mlp_out --out acts --npy float16
python -m experiments.capture --corpus hf:roneneldan/TinyStories --site 3 --out acts --model EleutherAI/pythia-70m

Started again after a kill, the same command goes on with the shard it was at; with more --tokens it adds to what is
there. Several sites give one folder each below --out. In Python, a batch, and everything about one text of the corpus:

    from itertools import islice
    from pathlib import Path
    from neurosae import models
    from neurosae.corpora import read_texts
    from neurosae.sae.shards import ShardReader, read_index

    reader, index = ShardReader(Path("acts"), batch_size=4096, seed=0), read_index(Path("acts"))
    batch = next(reader)                                     # 4096 x d_model, shuffled over all shards
    text = next(islice(read_texts("pile.jsonl.zst"), 7, None))
    rows = index[index["text"] == 7]
    tokens = models.load().tokenizer.convert_ids_to_tokens(rows["token_id"])
    for activation, token in zip(reader.rows(rows.index), tokens):
        print(token, activation.norm(), text[:40])
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.options import add_model, command, end, load_model
from neurosae.corpora import read_texts
from neurosae.errors import UserError
from neurosae.sae.activations import ContextPlan, capture_request, capture_sites, folder_requests
from neurosae.sae.shards import RECORD, captured_tokens, check_request, export_npy
from neurosae.sites import Site

log = logging.getLogger("capture")


def parser() -> argparse.ArgumentParser:
    """Command-line options."""
    plan = ContextPlan()
    p = command("capture", __doc__)
    p.add_argument(
        "--corpus",
        required=True,
        help=".parquet, .jsonl, .jsonl.zst, .jsonl.gz or .txt, a folder of these, or hf:NAME[:CONFIG][#SPLIT]",
    )
    p.add_argument("--site", required=True, nargs="+", help="blocks or hook names: 15, 15.mlp_out")
    p.add_argument("--out", type=Path, required=True, help="folder for the shards")
    p.add_argument("--tokens", type=int, default=1_000_000, help="clean tokens to capture (default: %(default)s)")
    add_model(p)
    p.set_defaults(dtype="bfloat16")  # as the shards
    p.add_argument("--context", type=int, default=plan.context, help="longest context in tokens (default: %(default)s)")
    p.add_argument(
        "--sentences-every",
        type=int,
        default=plan.sentences_every,
        help="every n-th text is read as single sentences; 0: none (default: %(default)s)",
    )
    p.add_argument(
        "--batch-tokens", type=int, default=2048, help="tokens per pass; more for a GPU (default: %(default)s)"
    )
    p.add_argument("--shard-tokens", type=int, default=200_000, help="tokens per shard (default: %(default)s)")
    p.add_argument("--npy", choices=["float16", "float32"], help="write the finished shards as activations.npy, too")
    return p


def run(options: argparse.Namespace) -> None:
    """Capture what is missing, then export."""
    sites = list(dict.fromkeys(Site.parse(name) for name in options.site))
    folders = {site: options.out / str(site) if len(sites) > 1 else options.out for site in sites}
    plan = ContextPlan(options.context, options.sentences_every)
    if options.out.is_file():
        raise UserError(f"{options.out} is a file", where="--out", allowed="a folder")
    request = capture_request(options.corpus, options.model, options.dtype, sites, plan)
    for folder, about in folder_requests(request, folders).items():
        if not (folder / RECORD).is_file() and any(folder.glob("part*.safetensors")):
            raise UserError(f"{folder} holds shards without a {RECORD}", where="--out", allowed="a new folder")
        check_request(folder / RECORD, about)
    if not all(0 < options.tokens <= captured_tokens(folder) for folder in folders.values()):
        language_model = load_model(options)
        capture_sites(
            language_model,
            read_texts(options.corpus),
            folders,
            n_tokens=options.tokens,
            plan=plan,
            shard_tokens=options.shard_tokens,
            tokens_per_batch=options.batch_tokens,
            request=request,
        )
    for site, folder in folders.items():
        log.info("%s: %s tokens in %s", site, f"{captured_tokens(folder):,}", folder)
        if options.npy:
            log.info("%s", export_npy(folder, options.npy))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit code 2 on bad input."""
    options = parser().parse_args(arguments)
    return end(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
