"""Train a grid of small SAEs on the same activations and see how width and k change what they reconstruct and know.

A finished cell holds ``cell.json``; the same command goes on where it stopped. FVU, L0 and dead latents
are measured on texts that no SAE saw; completeness as in ``experiments.describe_sae``.

Examples
--------
python -m experiments.sae_scaling --corpus corpus.parquet --tokens 1000000 --width 512 1024 2048 4096 --out scaling
python -m experiments.sae_scaling --shards my-sae/shards --held-out-corpus other.parquet --k 16 32 --out scaling
python -m experiments.sae_scaling --smoke-test --out scaling-smoke
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments import options as shared
from experiments.describe_sae import ordinary_texts
from neurosae import models, plots
from neurosae.console import Parser, Summary
from neurosae.corpora import identity, read_texts, shipped_texts
from neurosae.dictionary import members
from neurosae.dictionary.completeness import Mentions, background_rates, completeness, read_background, read_mentions
from neurosae.dictionary.scaling import power_law, reconstruction
from neurosae.errors import UserError
from neurosae.files import digest, write_json, write_text
from neurosae.models import LanguageModel
from neurosae.sae.activations import ContextPlan, capture_request, capture_shards
from neurosae.sae.loading import load
from neurosae.sae.saving import save
from neurosae.sae.shards import RECORD, check_request, read_record, shards_digest
from neurosae.sae.training import train
from neurosae.sae.training_data import ShardData
from neurosae.sae.training_plan import TrainingPlan
from neurosae.sites import Site

log = logging.getLogger("neurosae.sae_scaling")
_LR, _LR_WIDTH = 7e-4, 6144  # the learning rate that suits so many latents
_SMOKE = {
    "width": [32, 64, 128, 256],
    "k": [8],
    "tokens": 4000,
    "held_out": 40,
    "background": 100,
    "batch_size": 256,
    "members": ["months"],
    "corpus": None,
    "shards": None,
    "held_out_corpus": None,
}


def parser() -> Parser:
    """Command-line options."""
    plan = TrainingPlan()
    p = shared.command("sae_scaling", __doc__, "Every finished cell is on disk.")
    group = p.add_argument_group("data, one of the first three")
    data = group.add_mutually_exclusive_group(required=True)
    data.add_argument("--shards", type=Path, help="train on this folder of experiments.capture (default: none)")
    data.add_argument("--corpus", help="capture activations of this corpus first, into OUT/shards (default: none)")
    data.add_argument("--smoke-test", action="store_true", help="tiny SAEs on the texts that ship, under a minute")
    group.add_argument("--site", default="15", help="block or hook name to capture, with --corpus")
    group.add_argument("--tokens", type=int, default=500_000, help="clean tokens to capture")
    group.add_argument("--held-out", type=int, default=300, help="texts to measure on")
    group.add_argument(
        "--held-out-corpus", help="where they are from (default: the first of --corpus; with --shards: texts that ship)"
    )
    sae = p.add_argument_group("SAEs")
    sae.add_argument("--width", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="numbers of latents")
    sae.add_argument("--k", type=int, nargs="+", default=[plan.k], help="active latents per token")
    sae.add_argument("--epochs", type=float, default=1.0, help="passes over the tokens")
    sae.add_argument("--batch-size", type=int, default=1024, help="tokens per step: bounds memory")
    sae.add_argument(
        "--lr",
        type=float,
        default=_LR,
        help=f"at {_LR_WIDTH} latents; others get it by 1 / sqrt(width), Gao et al. 2024",
    )
    sae.add_argument("--seed", type=int, default=0, help="of the weights and of the order of tokens")
    known = p.add_argument_group("what they know")
    known.add_argument("--members", nargs="+", default=["all"], help="member lists, see experiments.describe_sae")
    known.add_argument(
        "--background", type=int, help="ordinary texts that tell which latents are rare (default: all that ship)"
    )
    shared.add_model(p, default=None, otherwise=f"that of --shards, else {models.DEFAULT}")
    p.output.add_argument("--out", type=Path, required=True, help="folder for cells, the table and figures")
    return p


@dataclass(frozen=True)
class Bench:
    """What every cell is measured on, read once."""

    held_out_TD: np.ndarray
    background: tuple[np.ndarray, np.ndarray]
    mentions: dict[str, Mentions]

    def measure(self, sae: Any) -> dict[str, float]:
        """Reconstruction of the held-out texts, and the share of each list's members that have their own latent."""
        rates_2F = background_rates(sae, self.background)
        tables = {name: completeness(sae, mentions, rates_2F) for name, mentions in self.mentions.items()}
        everything = pd.concat(tables.values())
        return {
            **reconstruction(sae, self.held_out_TD),
            "completeness": float(everything["dedicated"].mean()),
            "mean_member_f1": float(everything["f1"].mean()),
            **{f"completeness_{name}": float(table["dedicated"].mean()) for name, table in tables.items()},
        }


def run(options: argparse.Namespace) -> Summary:
    """Capture if needed, train and measure what is missing, write the table, draw."""
    if options.smoke_test:
        vars(options).update(_SMOKE)
    lists = members.load_all(options.members)
    plans = [
        _plan(options, width, k) for width, k in itertools.product(sorted(set(options.width)), sorted(set(options.k)))
    ]
    for name in ("held_out", "background"):
        if (value := getattr(options, name)) is not None and value < 2:
            raise UserError(f"{value} texts", where=f"--{name.replace('_', '-')}", allowed="2 or more")
    held_out = list(itertools.islice(_texts(options.held_out_corpus or options.corpus), options.held_out))
    record = _record(options.shards)
    language_model = shared.load_model(options, record.get("model"))
    site = Site.parse(record.get("site", options.site))
    shards = _shards(options, language_model, site)
    background = ordinary_texts(lists, options.background)
    measured_on = {
        "shards": shards_digest(shards),
        "model": language_model.fingerprint,
        "held_out": digest(held_out),
        "background": digest(background),
        "members": [each.model_dump() for each in lists],
    }
    bench: Bench | None = None
    rows = []
    for plan in plans:
        folder = options.out / "cells" / f"width{plan.n_latents}-k{plan.k}-{digest([asdict(plan), measured_on])}"
        if not (folder / "cell.json").is_file():
            log.info("training %d latents, k = %d", plan.n_latents, plan.k)
            bench = bench or _read(language_model, held_out, background, lists, site)
            _train(plan, shards, site, language_model, folder)
            found = bench.measure(load(str(folder / "sae"), options.device))
            write_json(folder / "cell.json", {"n_latents": plan.n_latents, "k": plan.k, **found})
        rows.append(json.loads((folder / "cell.json").read_text(encoding="utf-8")))
    return report(pd.DataFrame(rows), options.out)


def _plan(options: argparse.Namespace, width: int, k: int) -> TrainingPlan:
    default = TrainingPlan()
    return TrainingPlan(
        n_latents=width,
        k=k,
        k_start=max(k, min(default.k_start, width)),
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr * (_LR_WIDTH / width) ** 0.5 if width > 0 else options.lr,
        seed=options.seed,
    )


def _texts(corpus: str | None) -> Iterator[str]:
    return read_texts(corpus) if corpus else iter(shipped_texts())


def _record(shards: Path | None) -> dict[str, Any]:
    """Language model and site of ready shards; nothing if there are none yet."""
    if not shards:
        return {}
    record = read_record(shards / RECORD)
    if not {"model", "site"} <= set(record):
        raise UserError(
            f"{shards} holds no {RECORD} with a model and a site",
            where="--shards",
            suggestion="Use experiments.capture",
        )
    return record


def _shards(options: argparse.Namespace, language_model: LanguageModel, site: Site) -> Path:
    """The folder to train on; captured now, without the texts that are measured on, if it does not exist."""
    if options.shards:
        check_request(options.shards / RECORD, {"model": language_model.name})
        return Path(options.shards)
    folder = options.out / "shards"
    reserved = _reserved(options)
    plan = ContextPlan()
    request = {"corpus": "texts that ship", "reserved": reserved}
    if options.corpus:
        request = capture_request(options.corpus, language_model.name, options.dtype, [site], plan, reserved=reserved)
    capture_shards(
        language_model,
        itertools.islice(_texts(options.corpus), reserved, None),
        site,
        folder,
        n_tokens=options.tokens,
        shard_tokens=min(200_000, max(1, options.tokens)),
        plan=plan,
        request=request,
        first_text=reserved,
    )
    return folder


def _reserved(options: argparse.Namespace) -> int:
    """How many texts at the beginning of the corpus are measured on, whichever option names it."""
    if options.held_out_corpus and identity(options.held_out_corpus) != identity(options.corpus):
        return 0
    return int(options.held_out)


def _read(
    language_model: LanguageModel,
    held_out: list[str],
    background: list[str],
    lists: Sequence[members.MemberList],
    site: Site,
) -> Bench:
    return Bench(
        np.concatenate(read_background(language_model, held_out, site)),
        read_background(language_model, background, site),
        {each.name: read_mentions(language_model, each, site) for each in lists},
    )


def _train(plan: TrainingPlan, shards: Path, site: Site, language_model: LanguageModel, folder: Path) -> None:
    metadata = {"model_name": language_model.name, "hook_name": str(site), "prepend_bos": True}
    data = ShardData(shards, plan.batch_size, plan.seed)
    sae = train(data, plan, folder, metadata=metadata, device=language_model.device)
    save(sae, folder / "sae")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def report(cells: pd.DataFrame, out: Path) -> Summary:
    """Write ``scaling.csv``, ``power_law.csv`` and the figure, and print the tables."""
    laws = {}
    for k in sorted(cells["k"].unique().tolist()):
        rows = cells[cells["k"] == k]
        laws[k] = power_law(rows["n_latents"].to_numpy(), rows["fvu"].to_numpy())
    fits = pd.DataFrame([{"k": k, **asdict(law)} for k, law in laws.items()])
    write_text(out / "scaling.csv", cells.to_csv(index=False))
    write_text(out / "power_law.csv", fits.to_csv(index=False))
    shown = cells[["n_latents", "k", "fvu", "l0", "dead_share", "completeness", "mean_member_f1", "n_tokens"]]
    print(f"\nMeasured on held-out texts\n\n{shown.to_string(index=False, float_format='{:.3f}'.format)}")
    print(f"\nFVU = coefficient * width ** -exponent\n\n{fits.to_string(index=False, float_format='{:.3f}'.format)}")
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    fitted = " (dashed: power law)" if any(law.valid for law in laws.values()) else ""
    plots.scaling_curve(cells, "fvu", f"clean FVU, held out{fitted}", laws, axes[0])
    axes[0].set_yscale("log")
    for which in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
        which("{x:.2f}")
    plots.scaling_curve(cells, "dead_share", "share of latents that never fire on these", ax=axes[1])
    plots.scaling_curve(cells, "completeness", "share of members with their own latent", ax=axes[2])
    plots.save(figure, out / "figures" / "scaling")
    best = cells.iloc[int(cells["fvu"].argmin())]
    sentences = [
        f"Of {len(cells)} SAEs the one with {best['n_latents']:,.0f} latents and k = {best['k']:.0f} leaves least "
        f"unexplained: {best['fvu']:.1%} of the variance of {best['n_tokens']:,.0f} held-out tokens; "
        f"{best['dead_share']:.1%} of its latents never fire there, {best['completeness']:.1%} of the members have one."
    ]
    sentences += [
        f"k = {k}: unexplained variance falls with width to the power of {-law.exponent:.2f}."
        for k, law in laws.items()
        if law.valid
    ]
    return Summary(
        sentences,
        {"cells": cells.to_dict("records"), "power_law": fits.to_dict("records")},
        out,
        {
            "figures/scaling.png": "figures against width",
            "scaling.csv": "every SAE",
            "power_law.csv": "the fits",
            "cells": "the SAEs themselves",
        },
        ["python -m experiments.train_sae CORPUS --latents N --out my-sae   # train one for longer"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
