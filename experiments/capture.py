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
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import options as shared
from neurosae.console import Parser, Summary
from neurosae.corpora import read_texts
from neurosae.errors import UserError
from neurosae.sae.activations import ContextPlan, capture_request, capture_sites, folder_requests
from neurosae.sae.shards import RECORD, captured_tokens, check_request, export_npy
from neurosae.sites import Site


def parser() -> Parser:
    """Command-line options."""
    plan = ContextPlan()
    p = shared.command("capture", __doc__, "Every finished shard is on disk.")
    what = p.add_argument_group("what")
    what.add_argument(
        "--corpus",
        required=True,
        help=".parquet, .jsonl, .jsonl.zst, .jsonl.gz or .txt, a folder of these, or hf:NAME[:CONFIG][#SPLIT]",
    )
    what.add_argument("--site", required=True, nargs="+", help="blocks or hook names: 15, 15.mlp_out")
    what.add_argument("--tokens", type=int, default=1_000_000, help="clean tokens to capture")
    shared.add_model(p, dtype="bfloat16")  # as the shards
    how = p.add_argument_group("how")
    how.add_argument("--context", type=int, default=plan.context, help="longest context in tokens")
    how.add_argument(
        "--sentences-every",
        type=int,
        default=plan.sentences_every,
        help="every n-th text is read as single sentences; 0: none",
    )
    how.add_argument("--batch-tokens", type=int, default=2048, help="tokens per pass: bounds memory; more for a GPU")
    how.add_argument("--shard-tokens", type=int, default=200_000, help="tokens per shard: bounds memory")
    p.output.add_argument("--out", type=Path, required=True, help="folder for the shards")
    p.output.add_argument(
        "--npy", choices=["float16", "float32"], help="write the finished shards as activations.npy, too (default: no)"
    )
    return p


def run(options: argparse.Namespace) -> Summary:
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
        language_model = shared.load_model(options)
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
    exported = [export_npy(folder, options.npy) for folder in folders.values() if options.npy]
    tokens = {str(site): captured_tokens(folder) for site, folder in folders.items()}
    return Summary(
        [f"{site}: activations of {n:,} clean tokens, in {folders[Site.parse(site)]}." for site, n in tokens.items()],
        {"tokens": tokens, "model": options.model, "npy": exported},
        options.out,
        {RECORD: "what the shards are of", "activations.npy": "all activations"},
        [f"python -m experiments.train_sae --shards {folder} --out my-sae" for folder in list(folders.values())[:1]],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
