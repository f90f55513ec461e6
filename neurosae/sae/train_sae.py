"""Train a sparse autoencoder on a language model's activations: capture, train, check what was saved, write a card."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_lens import TrainingSAE

from neurosae import models
from neurosae.corpora import read_texts, shipped_texts
from neurosae.errors import UserError, at_least
from neurosae.files import atomic_path, write_json, write_text
from neurosae.sae import overlap
from neurosae.sae.activations import ContextPlan
from neurosae.sae.card import card
from neurosae.sae.evaluation import Evaluation, evaluate
from neurosae.sae.loading import load
from neurosae.sae.saving import refuse_if_changed, save
from neurosae.sae.training import train, training_steps
from neurosae.sae.training_plan import TrainingPlan
from neurosae.sae.training_source import Reading, TrainingSource, captured, from_shards, keep, refuse_another, streamed
from neurosae.sites import Site

_logger = logging.getLogger("neurosae.train_sae")
_SITE, _TOKENS, _BUFFER = "15", 3_000_000, 500_000
_OTHER_TEXTS = 2000  # of the held-out corpus


@dataclass(frozen=True)
class TrainedSae:
    """A trained SAE: what it is, where it is, and how good it is on texts that it has not seen.

    Attributes
    ----------
    folder : Path
        The SAE with its card: a name for every verb that takes an SAE.
    plan : TrainingPlan
    model, site : str
    tokens : int
        Clean tokens of one pass.
    evaluations : dict of str to Evaluation
        By name of the held-out data, measured on the stored weights.
    """

    folder: Path
    plan: TrainingPlan
    model: str
    site: str
    tokens: int
    evaluations: dict[str, Evaluation]

    @property
    def log(self) -> pd.DataFrame:
        """Rows of ``training.csv``: `step`, `tokens`, `fvu`, `l0`, `dead`, `lr`, `loss` and the losses."""
        return pd.read_csv(self.folder / "training.csv")

    @property
    def card(self) -> str:
        """What it is, how it was made and how good it is, in Markdown."""
        return (self.folder / "README.md").read_text(encoding="utf-8")

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was trained and how good it is, in words."""
        return (
            f"Trained {self.plan.n_latents:,} latents ({self.plan.architecture}) at {self.site} of {self.model} on "
            f"{self.tokens:,} tokens; the stored SAE reads as the trained one did.",
            *(
                f"On {name}: {each.fvu_clean:.1%} of the variance unexplained, {each.l0:.1f} active latents per token, "
                f"{each.dead:.1%} never fired, {each.ce_spliced - each.ce:.3f} nats per token lost when spliced in."
                for name, each in self.evaluations.items()
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Figures and tokens as plain data."""
        figures = {name: each.as_dict() for name, each in self.evaluations.items()}
        return {"figures": figures, "tokens": self.tokens}


def train_sae(
    corpus: str | Path | None = None,
    *,
    out: str | Path,
    plan: TrainingPlan | None = None,
    shards: str | Path | None = None,
    streaming: bool = False,
    buffer: int | None = None,
    site: str | None = None,
    tokens: int | None = None,
    held_out: int = 600,
    held_out_corpus: str | Path | None = None,
    context: int | None = None,
    capture_dtype: str = "bfloat16",
    model: str = models.DEFAULT,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
    checkpoint_every: int = 200,
    log: str | None = None,
    description: str = "",
) -> TrainedSae:
    """Capture or stream activations, train an SAE on them, check and measure what was stored, and write its card.

    Started again after a kill, the same call goes on from the last checkpoint.

    Parameters
    ----------
    corpus : str or Path, optional
        .parquet, .jsonl, .jsonl.zst, .jsonl.gz or .txt, a folder of these, or hf:NAME[:CONFIG][#SPLIT]. Default: none,
        where there are shards.
    out : str or Path
        Folder for everything; the SAE and its card are in its folder ``sae``.
    plan : TrainingPlan, optional
        The SAE and its training. Default: `TrainingPlan()`, with one epoch where the corpus is streamed.
    shards : str or Path, optional
        Train on the shards of a capture; see `neurosae.sae.activations.capture_shards`. Default: on the corpus.
    streaming : bool, default False
        One pass without shards: nothing is kept on disk.
    buffer : int, optional
        Tokens shuffled together with streaming: bounds memory. Default: 500,000.
    site : str, optional
        Block or hook name. Default: 15, the residual stream after that block.
    tokens : int, optional
        Clean tokens to capture or stream. Default: 3,000,000.
    held_out : int, default 600
        First texts of the corpus, kept for evaluation only.
    held_out_corpus : str or Path, optional
        Evaluate on its first 2,000 texts, too. Default: none.
    context : int, optional
        Longest context in tokens. Default: 256.
    capture_dtype : {"bfloat16", "float32", "float16"}, default "bfloat16"
        Of the language model's weights while it is captured.
    model : str
        The language model; where shards were captured of another one, that one by default.
    device, dtype, device_map
        See `neurosae.models.load`.
    checkpoint_every : int, default 200
        Steps between checkpoints: what a kill loses.
    log : {"tensorboard", "wandb"}, optional
        Where the log goes besides training.csv. Default: neither.
    description : str, optional
        A paragraph about the data and its licence, for the card. Default: none.

    Raises
    ------
    UserError
        Arguments that contradict each other or are out of range, a corpus, shards or a language model that cannot be
        read, a folder that was begun with another request, a training that diverges.
    CheckFailed
        The stored SAE does not read as the trained one did.

    Examples
    --------
    >>> plan = TrainingPlan(n_latents=1024, k=16)
    >>> found = train_sae("corpus.parquet", out="my-sae", plan=plan, tokens=50_000)  # doctest: +SKIP
    >>> found.folder, found.log["fvu"].iloc[-1]  # doctest: +SKIP
    """
    started = time.time()
    plan = plan or TrainingPlan(epochs=1.0 if streaming else TrainingPlan.epochs)
    _refuse_contradictions(corpus, shards, streaming, plan, buffer=buffer, tokens=tokens, site=site, context=context)
    tokens = _TOKENS if tokens is None else tokens
    at_least(1, held_out=held_out, tokens=tokens)
    out, trained_on = Path(out), models.resolve_device(device)
    if shards is not None:
        source = from_shards(Path(shards), plan, model)
        refuse_another(out, source.request, plan)
    else:
        contexts = ContextPlan() if context is None else ContextPlan(context)
        where = Site.parse(site or _SITE)
        reading = Reading(str(corpus), held_out, tokens, where, contexts, model, device, capture_dtype, device_map)
        source = (
            streamed(reading, plan, out, _BUFFER if buffer is None else buffer)
            if streaming
            else captured(reading, plan, out)
        )
    unseen = _held_out(source, held_out, held_out_corpus)
    training_steps(plan, source.data.n, source.data.batch_size)
    keep(out, source.request, plan)
    sae = _trained(source, plan, out, trained_on, checkpoint_every, log)
    language_model = models.load(source.model, device, dtype, device_map=device_map)
    with atomic_path(out / "sae") as folder:
        save(sae, folder)
        refuse_if_changed(sae, folder, language_model, next(iter(unseen.values()))[:20])
        stored = load(str(folder), str(language_model.device))
        evaluations = {name: evaluate(stored, language_model, texts) for name, texts in unseen.items()}
        about = _about(source, plan, evaluations, streaming, started)
        if source.corpus:
            about |= {"capture_dtype": capture_dtype, "held_out_texts": held_out}
            _keep_hashes(source.corpus, held_out, source.texts(), folder)
        write_json(folder / "training.json", about)
        shutil.copy(out / "training.csv", folder)
        write_text(folder / "README.md", card(about, plan, evaluations, description))
    return TrainedSae(out / "sae", plan, source.model, str(source.site), source.tokens, evaluations)


def _refuse_contradictions(
    corpus: str | Path | None, shards: str | Path | None, streaming: bool, plan: TrainingPlan, **asked: Any
) -> None:
    """Refuse arguments that cannot be meant together."""
    named = [name for name, value in (("corpus", corpus), ("shards", shards)) if value is not None]
    if len(named) != 1:
        raise UserError(f"Activations from {' and '.join(named) or 'nowhere'}", allowed="a corpus, or shards")
    senseless = {"with shards": ["tokens", "site", "context"]} if shards is not None else {}
    senseless |= {} if streaming else {"without streaming": ["buffer"]}
    for how, names in senseless.items():
        for name in names:
            if asked[name] is not None:
                raise UserError(f"{name} has no meaning {how}", where=name, suggestion="Leave it out")
    if streaming and shards is not None:
        raise UserError("Shards are not streamed", where="streaming", suggestion="Leave it out")
    if streaming and plan.epochs != 1:
        raise UserError(f"{plan.epochs:g} epochs of a stream, which is read once", where="epochs", allowed="1")


def _trained(
    source: TrainingSource, plan: TrainingPlan, out: Path, device: torch.device, checkpoint_every: int, log: str | None
) -> TrainingSAE:
    _logger.info("training %s with %d latents on %s", plan.architecture, plan.n_latents, device)
    return train(
        source.data,
        plan,
        out,
        metadata={
            "model_name": source.model,
            "hook_name": str(source.site),
            "prepend_bos": True,
            "context_size": source.contexts.context,
            "dataset": source.name,
        },
        device=device,
        checkpoint_every=checkpoint_every,
        log=log,
    )


def _held_out(source: TrainingSource, held_out: int, other: str | Path | None) -> dict[str, list[str]]:
    """Texts that the SAE was not trained on, by name; those that ship if there are no others."""
    found = {}
    if source.corpus:
        found["held-out texts of the corpus"] = list(itertools.islice(read_texts(source.corpus), held_out))
    if other:
        found[f"texts of {Path(other).name}"] = list(itertools.islice(read_texts(other), _OTHER_TEXTS))
    return found or {"texts that ship with neurosae": shipped_texts()[:held_out]}


def _about(
    source: TrainingSource, plan: TrainingPlan, evaluations: dict[str, Evaluation], streaming: bool, started: float
) -> dict[str, Any]:
    """What ``training.json`` holds, of shards that somebody else captured."""
    return {
        "plan": dataclasses.asdict(plan),
        "context": dataclasses.asdict(source.contexts),
        "model": source.model,
        "site": str(source.site),
        "corpus": source.name,
        "capture_dtype": None,
        "held_out_texts": None,
        "streaming": streaming,
        "tokens": source.tokens,
        "texts": source.texts(),
        "held_out": {name: figures.as_dict() for name, figures in evaluations.items()},
        "minutes_this_run": round((time.time() - started) / 60),
    }


def _keep_hashes(corpus: str, held_out: int, n_texts: int, folder: Path) -> None:
    """Put hashes of the training texts beside the SAE: see `neurosae.sae.overlap`."""
    used = itertools.islice(read_texts(corpus), held_out, held_out + n_texts)
    np.save(folder / overlap.FILE, overlap.hash_texts(used), allow_pickle=False)
