"""A grid of small SAEs on the same activations: how do width and k change what they reconstruct and know?"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurosae import models
from neurosae.corpora import identity, texts_of
from neurosae.dictionary.completeness import (
    Mentions,
    background_rates,
    completeness,
    ordinary_texts,
    read_background,
    read_mentions,
)
from neurosae.dictionary.members import MemberList, load_all
from neurosae.dictionary.scaling import PowerLaw, power_law, reconstruction
from neurosae.errors import UserError, at_least
from neurosae.files import digest, write_json, write_table
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
_LR_WIDTH = 6144  # so many latents are suited by the learning rate asked for


@dataclass(frozen=True)
class SaeScaling:
    """What became of each SAE of a grid.

    Attributes
    ----------
    folder : Path
        ``cells`` holds the SAEs.
    cells : DataFrame
        One row per SAE: `n_latents`, `k`; `fvu`, `l0`, `dead_share`, `n_tokens` on held-out texts; `completeness`, the
        share of all members with a latent of their own, `mean_member_f1`, and the share of each list.
    laws : dict of int to PowerLaw
        FVU against width at each k; not valid where there is none.
    """

    folder: Path
    cells: pd.DataFrame
    laws: dict[int, PowerLaw]

    @property
    def power_law(self) -> pd.DataFrame:
        """One row per `k`, with the fields of `PowerLaw`."""
        return pd.DataFrame([{"k": k, **asdict(law)} for k, law in self.laws.items()])

    @property
    def sentences(self) -> tuple[str, ...]:
        """The SAE that leaves least unexplained, and the laws, in words."""
        best = self.cells.iloc[int(self.cells["fvu"].argmin())]
        return (
            f"Of {len(self.cells)} SAEs the one with {best['n_latents']:,.0f} latents and k = {best['k']:.0f} leaves "
            f"least unexplained: {best['fvu']:.1%} of the variance of {best['n_tokens']:,.0f} held-out tokens; "
            f"{best['dead_share']:.1%} of its latents never fire there, {best['completeness']:.1%} of the members have "
            "one.",
            *(
                f"k = {k}: unexplained variance falls with width to the power of {-law.exponent:.2f}."
                for k, law in self.laws.items()
                if law.valid
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Both tables as plain data."""
        return {"cells": self.cells.to_dict("records"), "power_law": self.power_law.to_dict("records")}

    def save(self, folder: str | Path | None = None) -> None:
        """Write the tables ``scaling`` and ``power_law``, by default beside the cells."""
        write_table(Path(folder or self.folder), "scaling", self.cells)
        write_table(Path(folder or self.folder), "power_law", self.power_law)


def sae_scaling(
    corpus: str | Path | None = None,
    *,
    out: str | Path,
    shards: str | Path | None = None,
    site: str = "15",
    tokens: int = 500_000,
    held_out: int = 300,
    held_out_corpus: str | Path | None = None,
    width: Sequence[int] = (512, 1024, 2048, 4096),
    k: Sequence[int] = (TrainingPlan.k,),
    epochs: float = 1.0,
    batch_size: int = 1024,
    lr: float = 7e-4,
    seed: int = 0,
    members: Sequence[str] = ("all",),
    background: int | None = None,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
) -> SaeScaling:
    """Capture if needed, then train and measure every SAE of the grid that is not there yet.

    Parameters
    ----------
    corpus : str or Path, optional
        Capture activations of this corpus first, into ``out/shards``. Default: texts that ship, where there are no
        shards.
    out : str or Path
        Gets a folder ``cells`` with every SAE; the same call goes on where it stopped.
    shards : str or Path, optional
        Train on this folder of a capture. Default: none.
    site : str, default "15"
        Block or hook name to capture.
    tokens : int, default 500,000
        Clean tokens to capture.
    held_out : int, default 300
        Texts to measure on, 2 or more.
    held_out_corpus : str or Path, optional
        Where they are from. Default: the first of the corpus, or texts that ship where there are shards.
    width : sequence of int, default (512, 1024, 2048, 4096)
        Numbers of latents.
    k : sequence of int, default (32,)
        Active latents per token.
    epochs : float, default 1
        Passes over the tokens.
    batch_size : int, default 1024
        Tokens per step: bounds memory.
    lr : float, default 7e-4
        At 6144 latents; others get it by 1 / sqrt(width), as in Gao et al. 2024.
    seed : int, default 0
        Of the weights and of the order of tokens.
    members : sequence of str, default ("all",)
        Lists of known members; see `neurosae.dictionary.members`.
    background : int, optional
        Ordinary texts that tell which latents are rare, 2 or more. Default: all that ship.
    model : str, optional
        Default: that of the shards, else the bundled one.
    device, dtype, device_map
        See `neurosae.models.load`.

    Raises
    ------
    UserError
        A number out of range, unknown names, a corpus or shards that cannot be read, shards of another language model.

    References
    ----------
    Gao et al. (2024), Scaling and evaluating sparse autoencoders.

    Examples
    --------
    >>> found = sae_scaling("corpus.parquet", out="scaling", width=[512, 1024, 2048, 4096])  # doctest: +SKIP
    >>> found.cells, found.power_law  # doctest: +SKIP
    """
    out, lists = Path(out), load_all(members)
    grid = itertools.product(sorted(set(width)), sorted(set(k)))
    plans = [plan_of(n, each, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed) for n, each in grid]
    at_least(2, held_out=held_out, **({} if background is None else {"background": background}))
    unseen = list(itertools.islice(texts_of(held_out_corpus or corpus), held_out))
    record = _record(Path(shards)) if shards else {}
    language_model = models.load(model or record.get("model") or models.DEFAULT, device, dtype, device_map=device_map)
    where = Site.parse(record.get("site", site))
    if shards:
        folder = Path(shards)
        check_request(folder / RECORD, {"model": language_model.name})
    else:
        reserved = n_reserved(corpus, held_out_corpus, held_out)
        folder = capture(language_model, where, out / "shards", corpus, reserved=reserved, tokens=tokens, dtype=dtype)
    ordinary = ordinary_texts(lists, background)
    measured_on = {
        "shards": shards_digest(folder),
        "model": language_model.fingerprint,
        "held_out": digest(unseen),
        "background": digest(ordinary),
        "members": [each.model_dump() for each in lists],
    }
    yardstick: Yardstick | None = None
    rows = []
    for plan in plans:
        cell = out / "cells" / f"width{plan.n_latents}-k{plan.k}-{digest([asdict(plan), measured_on])}"
        if not (cell / "cell.json").is_file():
            log.info("training %d latents, k = %d", plan.n_latents, plan.k)
            yardstick = yardstick or Yardstick.read(language_model, unseen, ordinary, lists, where)
            train_cell(plan, folder, where, language_model, cell)
            found = yardstick.measure(load(str(cell / "sae"), device))
            write_json(cell / "cell.json", {"n_latents": plan.n_latents, "k": plan.k, **found})
        rows.append(json.loads((cell / "cell.json").read_text(encoding="utf-8")))
    cells = pd.DataFrame(rows)
    return SaeScaling(out, cells, laws_of(cells))


@dataclass(frozen=True)
class Yardstick:
    """What every cell is measured on, read once."""

    held_out_TD: np.ndarray
    background: tuple[np.ndarray, np.ndarray]
    mentions: dict[str, Mentions]

    @classmethod
    def read(
        cls,
        language_model: LanguageModel,
        held_out: list[str],
        background: list[str],
        lists: Sequence[MemberList],
        site: Site,
    ) -> Yardstick:
        """Held-out texts, ordinary ones, and every mention of the members."""
        return cls(
            np.concatenate(read_background(language_model, held_out, site)),
            read_background(language_model, background, site),
            {each.name: read_mentions(language_model, each, site) for each in lists},
        )

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


def plan_of(width: int, k: int, *, epochs: float, batch_size: int, lr: float, seed: int) -> TrainingPlan:
    """The plan of one cell: the learning rate falls with the root of the width."""
    return TrainingPlan(
        n_latents=width,
        k=k,
        k_start=max(k, min(TrainingPlan.k_start, width)),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr * (_LR_WIDTH / width) ** 0.5 if width > 0 else lr,
        seed=seed,
    )


def _record(shards: Path) -> dict[str, Any]:
    """Language model and site of ready shards."""
    record = read_record(shards / RECORD)
    if not {"model", "site"} <= set(record):
        raise UserError(
            f"{shards} holds no {RECORD} with a model and a site",
            where="shards",
            suggestion="Use experiments.capture",
        )
    return record


def n_reserved(corpus: str | Path | None, held_out_corpus: str | Path | None, held_out: int) -> int:
    """How many texts at the beginning of the corpus are measured on, whichever argument names it."""
    if held_out_corpus and (not corpus or identity(held_out_corpus) != identity(corpus)):
        return 0
    return held_out


def capture(
    language_model: LanguageModel,
    site: Site,
    folder: Path,
    corpus: str | Path | None,
    *,
    reserved: int,
    tokens: int,
    dtype: str,
) -> Path:
    """Activations of a corpus, or of the texts that ship, without its first texts, which are measured on."""
    plan = ContextPlan()
    request = {"corpus": "texts that ship", "reserved": reserved}
    if corpus:
        request = capture_request(corpus, language_model.name, dtype, [site], plan, reserved=reserved)
    capture_shards(
        language_model,
        itertools.islice(texts_of(corpus), reserved, None),
        site,
        folder,
        n_tokens=tokens,
        shard_tokens=min(200_000, max(1, tokens)),
        plan=plan,
        request=request,
        first_text=reserved,
    )
    return folder


def train_cell(plan: TrainingPlan, shards: Path, site: Site, language_model: LanguageModel, folder: Path) -> None:
    """Train one SAE of the grid and keep it without its checkpoints."""
    metadata = {"model_name": language_model.name, "hook_name": str(site), "prepend_bos": True}
    data = ShardData(shards, plan.batch_size, plan.seed)
    sae = train(data, plan, folder, metadata=metadata, device=language_model.device)
    save(sae, folder / "sae")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def laws_of(cells: pd.DataFrame) -> dict[int, PowerLaw]:
    """The power law of each k; see `neurosae.dictionary.scaling.power_law`."""
    laws = {}
    for k in sorted(cells["k"].unique().tolist()):
        rows = cells[cells["k"] == k]
        laws[k] = power_law(rows["n_latents"].to_numpy(), rows["fvu"].to_numpy())
    return laws
