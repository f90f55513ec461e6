"""Where the activations of a training come from: finished shards, a corpus that is captured first, or one streamed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurosae import models
from neurosae.corpora import read_texts
from neurosae.errors import UserError
from neurosae.files import write_json
from neurosae.models import LanguageModel
from neurosae.sae.activations import ContextPlan, capture_request, capture_shards
from neurosae.sae.shards import RECORD, captured_tokens, check_request, finished_shards, read_record
from neurosae.sae.training import training_steps
from neurosae.sae.training_data import ShardData, StreamData, TrainingData
from neurosae.sae.training_plan import TrainingPlan
from neurosae.sites import Site

_CAPTURE, _PLAN = "capture.json", "plan.json"  # what a folder was begun with


@dataclass(frozen=True)
class TrainingSource:
    """Where the activations come from, and what the card says about it.

    Attributes
    ----------
    data : TrainingData
    model : str
    site : Site
    contexts : ContextPlan
    corpus : str or None
        None for shards of another capture.
    tokens : int
    texts : callable
        How many texts were read so far.
    request : dict
        What the activations depend on.
    """

    data: TrainingData
    model: str
    site: Site
    contexts: ContextPlan
    corpus: str | None
    tokens: int
    texts: Callable[[], int]
    request: dict[str, Any]

    @property
    def name(self) -> str:
        """The corpus without the folders above it."""
        return Path(self.corpus).name if self.corpus else "shards"


@dataclass(frozen=True)
class Reading:
    """How a corpus is read: its first texts are held out, the others go through the language model.

    Attributes
    ----------
    corpus : str
        See `neurosae.corpora.read_texts`.
    held_out : int
        Whole texts that are on the other side.
    tokens : int
        Clean tokens to read.
    site : Site
    contexts : ContextPlan
    model, device, dtype, device_map
        See `neurosae.models.load`.
    """

    corpus: str
    held_out: int
    tokens: int
    site: Site
    contexts: ContextPlan
    model: str
    device: str
    dtype: str
    device_map: str | None

    def request(self, **more: Any) -> dict[str, Any]:
        """What the activations depend on."""
        return capture_request(
            self.corpus, self.model, self.dtype, [self.site], self.contexts, held_out=self.held_out, **more
        )

    def training_texts(self) -> Callable[[], Iterator[str]]:
        """The corpus behind the held-out texts.

        Raises
        ------
        UserError
            A corpus that cannot be read so far, or ends there.
        """

        def texts() -> Iterator[str]:
            return itertools.islice(read_texts(self.corpus), self.held_out, None)

        if next(texts(), None) is None:
            raise UserError(f"{self.corpus} has no text behind the first {self.held_out:,}", where="held_out")
        return texts

    def language_model(self) -> LanguageModel:
        """The language model that reads it."""
        return models.load(self.model, self.device, self.dtype, device_map=self.device_map)


def from_shards(folder: Path, plan: TrainingPlan, model: str = models.DEFAULT) -> TrainingSource:
    """Finished shards, whoever captured them.

    Parameters
    ----------
    folder : Path
    plan : TrainingPlan
    model : str
        Where the language model is now, if not where it was at the capture.
    """
    data = ShardData(folder, plan.batch_size, plan.seed)
    about = _shards_record(folder)
    contexts = ContextPlan(about["context"], about["sentences_every"])
    n_texts = finished_shards(folder)[-1].last_text + 1
    named = model if model != models.DEFAULT else about["model"]
    return TrainingSource(data, named, Site.parse(about["site"]), contexts, None, data.n, lambda: n_texts, about)


def _shards_record(folder: Path) -> dict[str, Any]:
    """What the shards are of, as their capture wrote it."""
    try:
        about = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {name: about[name] for name in ("model", "site", "context", "sentences_every", "tokens")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / RECORD} does not say what the shards are of", where="shards", suggestion="Finish the capture"
        ) from error


def captured(reading: Reading, plan: TrainingPlan, out: Path) -> TrainingSource:
    """Shards of a corpus in ``out/shards``, captured as far as they are missing."""
    shards, request = out / "shards", reading.request()
    refuse_another(out, request, plan)
    if captured_tokens(shards) < reading.tokens:
        training_steps(plan, reading.tokens, min(plan.batch_size, reading.tokens))
        texts = reading.training_texts()
        language_model = reading.language_model()
        reading.site.check(language_model.n_blocks)
        reading.contexts.check(language_model)
        # Already now: what a killed capture leaves can only be continued as what it is.
        keep(out, request, plan)
        capture_shards(
            language_model,
            texts(),
            reading.site,
            shards,
            n_tokens=reading.tokens,
            plan=reading.contexts,
            first_text=reading.held_out,
        )
    return dataclasses.replace(from_shards(shards, plan, reading.model), corpus=reading.corpus, request=request)


def streamed(reading: Reading, plan: TrainingPlan, out: Path, buffer: int) -> TrainingSource:
    """A corpus through the language model while the SAE is trained; `buffer` tokens are shuffled together."""
    request = reading.request(streamed=reading.tokens)
    refuse_another(out, request, plan)
    texts = reading.training_texts()
    data = StreamData(
        reading.language_model(),
        texts,
        reading.site,
        reading.contexts,
        n_tokens=reading.tokens,
        batch_size=plan.batch_size,
        buffer_tokens=buffer,
        seed=plan.seed,
    )
    return TrainingSource(
        data,
        reading.model,
        reading.site,
        reading.contexts,
        reading.corpus,
        reading.tokens,
        lambda: data.position,
        request,
    )


def refuse_another(out: Path, request: dict[str, Any], plan: TrainingPlan) -> None:
    """Refuse activations or a plan that differ from those that the folder was begun with."""
    check_request(out / _CAPTURE, request)
    known, defaults = read_record(out / _PLAN), _as_json(TrainingPlan())
    # Options that an older record does not have were at their defaults.
    asked = {name: value for name, value in _as_json(plan).items() if name in known or value != defaults[name]}
    check_request(out / _PLAN, asked)


def keep(out: Path, request: dict[str, Any], plan: TrainingPlan) -> None:
    """Write what later runs in this folder are held to, once nothing can refuse this one any more."""
    for name, record in ((_CAPTURE, request), (_PLAN, _as_json(plan))):
        if not (out / name).is_file():
            write_json(out / name, record)


def _as_json(plan: TrainingPlan) -> dict[str, Any]:
    return dict(json.loads(json.dumps(dataclasses.asdict(plan))))
