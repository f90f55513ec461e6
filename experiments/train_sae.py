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
import dataclasses
import itertools
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import options as shared
from experiments import train_options
from experiments.train_options import BUFFER, OTHER_TEXTS, SITE, TOKENS
from neurosae import console, models
from neurosae.console import Parser, Summary
from neurosae.corpora import read_texts, shipped_texts
from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json, write_text
from neurosae.models import LanguageModel
from neurosae.sae import overlap
from neurosae.sae.activations import ContextPlan, capture_request, capture_shards
from neurosae.sae.card import card
from neurosae.sae.evaluation import Evaluation, evaluate
from neurosae.sae.loading import load
from neurosae.sae.saving import refuse_if_changed, save
from neurosae.sae.shards import RECORD, captured_tokens, check_request, finished_shards, read_record
from neurosae.sae.training import train, training_steps
from neurosae.sae.training_data import ShardData, StreamData, TrainingData
from neurosae.sae.training_plan import TrainingPlan
from neurosae.sites import Site

log = logging.getLogger("neurosae.train_sae")
_CAPTURE, _PLAN = "capture.json", "plan.json"  # what a folder was begun with


def parser() -> Parser:
    """Command-line options."""
    return train_options.parser(__doc__)


def plan_of(options: argparse.Namespace) -> TrainingPlan:
    """The plan that the options describe."""
    same = ("architecture", "k", "sparsity_coefficient", "batch_size", "lr", "dead_after_tokens", "seed")
    return TrainingPlan(
        n_latents=options.latents,
        k_start=max(options.k, TrainingPlan.k_start),
        epochs=_epochs(options),
        matryoshka_widths=tuple(options.matryoshka_widths),
        **{name: getattr(options, name) for name in same},
    )


def _epochs(options: argparse.Namespace) -> float:
    if options.streaming:
        return 1.0
    return TrainingPlan.epochs if options.epochs is None else options.epochs


@dataclass(frozen=True)
class Source:
    """Where the activations come from, and what the card says about it."""

    data: TrainingData
    model: str
    site: Site
    contexts: ContextPlan
    corpus: str | None  # None: somebody else's shards
    tokens: int
    texts: Callable[[], int]  # how many texts were read so far
    request: dict[str, Any]  # what the activations depend on

    @property
    def name(self) -> str:
        """The corpus without the folders above it."""
        return Path(self.corpus).name if self.corpus else "shards"


def from_shards(folder: Path, options: argparse.Namespace, plan: TrainingPlan) -> Source:
    """Finished shards, whoever captured them."""
    data = ShardData(folder, plan.batch_size, plan.seed)
    about = _shards_record(folder)
    # A model in a folder may have moved since the capture: then --model says where it is.
    model = options.model if options.model != models.DEFAULT else about["model"]
    contexts = ContextPlan(about["context"], about["sentences_every"])
    n_texts = finished_shards(folder)[-1].last_text + 1
    return Source(data, model, Site.parse(about["site"]), contexts, None, data.n, lambda: n_texts, about)


def _shards_record(folder: Path) -> dict[str, Any]:
    """What the shards are of, as their capture wrote it."""
    try:
        about = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {name: about[name] for name in ("model", "site", "context", "sentences_every", "tokens")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / RECORD} does not say what the shards are of", where="--shards", suggestion="Finish the capture"
        ) from error


def captured(options: argparse.Namespace, plan: TrainingPlan, corpus: str) -> Source:
    """Shards of a corpus, captured as far as they are missing."""
    site, contexts, n_tokens = _wanted(options)
    shards = options.out / "shards"
    request = capture_request(corpus, options.model, options.capture_dtype, [site], contexts, held_out=options.held_out)
    _refuse_another(options.out, request, plan)
    if captured_tokens(shards) < n_tokens:
        training_steps(plan, n_tokens, min(plan.batch_size, n_tokens))
        texts = _training_texts(corpus, options)
        language_model = _reader(options)
        site.check(language_model.n_blocks)
        contexts.check(language_model)
        # Already now: what a killed capture leaves can only be continued as what it is.
        _keep(options.out, request, plan)
        capture_shards(
            language_model, texts(), site, shards, n_tokens=n_tokens, plan=contexts, first_text=options.held_out
        )
    return dataclasses.replace(from_shards(shards, options, plan), corpus=corpus, request=request)


def streamed(options: argparse.Namespace, plan: TrainingPlan, corpus: str) -> Source:
    """A corpus through the language model while the SAE is trained."""
    site, contexts, n_tokens = _wanted(options)
    request = capture_request(
        corpus, options.model, options.capture_dtype, [site], contexts, held_out=options.held_out, streamed=n_tokens
    )
    _refuse_another(options.out, request, plan)
    texts = _training_texts(corpus, options)
    data = StreamData(
        _reader(options),
        texts,
        site,
        contexts,
        n_tokens=n_tokens,
        batch_size=plan.batch_size,
        buffer_tokens=BUFFER if options.buffer is None else options.buffer,
        seed=plan.seed,
    )
    return Source(data, options.model, site, contexts, corpus, n_tokens, lambda: data.position, request)


def _wanted(options: argparse.Namespace) -> tuple[Site, ContextPlan, int]:
    context = ContextPlan().context if options.context is None else options.context
    n_tokens = TOKENS if options.tokens is None else options.tokens
    if n_tokens < 1:
        raise UserError(f"{n_tokens} tokens", where="--tokens", allowed="integers from 1")
    return Site.parse(options.site or SITE), ContextPlan(context), n_tokens


def _reader(options: argparse.Namespace) -> LanguageModel:
    return models.load(options.model, options.device, options.capture_dtype, device_map=options.device_map)


def _training_texts(corpus: str, options: argparse.Namespace) -> Callable[[], Any]:
    """The corpus behind the held-out texts: whole texts are on one side or the other.

    Raises
    ------
    UserError
        A corpus that cannot be read so far, or ends there.
    """

    def texts() -> Iterator[str]:
        return itertools.islice(read_texts(corpus), options.held_out, None)

    if next(texts(), None) is None:
        raise UserError(f"{corpus} has no text behind the first {options.held_out:,}", where="--held-out")
    return texts


def run(options: argparse.Namespace) -> Summary:
    """Capture or stream, train, then finish."""
    started = time.time()
    plan = plan_of(options)
    device = models.resolve_device(options.device)
    corpus = _built_in_corpus(options.out) if options.smoke_test else options.corpus
    if options.shards:
        source = from_shards(options.shards, options, plan)
        _refuse_another(options.out, source.request, plan)
    else:
        source = (streamed if options.streaming else captured)(options, plan, corpus)
    training_steps(plan, source.data.n, source.data.batch_size)
    _keep(options.out, source.request, plan)
    log.info("training %s with %d latents on %s", plan.architecture, plan.n_latents, device)
    sae = train(
        source.data,
        plan,
        options.out,
        metadata={
            "model_name": source.model,
            "hook_name": str(source.site),
            "prepend_bos": True,
            "context_size": source.contexts.context,
            "dataset": source.name,
        },
        device=device,
        checkpoint_every=options.checkpoint_every,
        log=options.log,
    )
    language_model = shared.load_model(options, source.model)
    with atomic_path(options.out / "sae") as folder:
        save(sae, folder)
        evaluations = _finish(folder, sae, source, options, plan, language_model, started)
    print((options.out / "sae" / "README.md").read_text(encoding="utf-8"))
    return _summary(options.out, plan, source, evaluations)


def _summary(out: Path, plan: TrainingPlan, source: Source, evaluations: dict[str, Evaluation]) -> Summary:
    """What was trained, and how good it is on texts that it has not seen."""
    sentences = [
        f"Trained {plan.n_latents:,} latents ({plan.architecture}) at {source.site} of {source.model} on "
        f"{source.tokens:,} tokens; the stored SAE reads as the trained one did."
    ]
    sentences += [
        f"On {name}: {each.fvu_clean:.1%} of the variance unexplained, {each.l0:.1f} active latents per token, "
        f"{each.dead:.1%} never fired, {each.ce_spliced - each.ce:.3f} nats per token lost when spliced in."
        for name, each in evaluations.items()
    ]
    return Summary(
        sentences,
        {"figures": {name: each.as_dict() for name, each in evaluations.items()}, "tokens": source.tokens},
        out / "sae",
        {"README.md": "the card", "training.json": "figures and plan", "training.csv": "the log"},
        [
            f"python -m experiments.evaluate_sae {out / 'sae'}   # everything about it, with its strongest texts",
            f"python -m experiments.combinatorial --concept success --model {source.model} --sae {out / 'sae'}",
        ],
    )


def _finish(
    folder: Path,
    sae: Any,
    source: Source,
    options: argparse.Namespace,
    plan: TrainingPlan,
    language_model: LanguageModel,
    started: float,
) -> dict[str, Evaluation]:
    """Check the stored SAE against the trained one, measure it, and put the card and its evidence beside it."""
    held_out = _held_out(source, options)
    refuse_if_changed(sae, folder, language_model, next(iter(held_out.values()))[:20])
    stored = load(str(folder), str(language_model.device))
    evaluations = {name: evaluate(stored, language_model, texts) for name, texts in held_out.items()}
    if source.corpus:
        used = itertools.islice(_training_texts(source.corpus, options)(), source.texts())
        np.save(folder / overlap.FILE, overlap.hash_texts(used), allow_pickle=False)
    about = {
        "plan": dataclasses.asdict(plan),
        "context": dataclasses.asdict(source.contexts),
        "model": source.model,
        "site": str(source.site),
        "corpus": source.name,
        "capture_dtype": options.capture_dtype if source.corpus else None,
        "held_out_texts": options.held_out if source.corpus else None,
        "streaming": options.streaming,
        "tokens": source.tokens,
        "texts": source.texts(),
        "held_out": {name: figures.as_dict() for name, figures in evaluations.items()},
        "minutes_this_run": round((time.time() - started) / 60),
    }
    write_json(folder / "training.json", about)
    shutil.copy(options.out / "training.csv", folder)
    write_text(folder / "README.md", card(about, plan, evaluations, options.description))
    return evaluations


def _held_out(source: Source, options: argparse.Namespace) -> dict[str, list[str]]:
    """Texts that the SAE was not trained on, by name; those that ship if there are no others."""
    found = {}
    if source.corpus:
        texts = list(itertools.islice(read_texts(source.corpus), options.held_out))
        found["held-out texts of the corpus"] = texts
    if options.held_out_corpus:
        texts = list(itertools.islice(read_texts(options.held_out_corpus), OTHER_TEXTS))
        found[f"texts of {Path(options.held_out_corpus).name}"] = texts
    return found or {"texts that ship with neurosae": shipped_texts()[: options.held_out]}


def _built_in_corpus(out: Path) -> str:
    path = out / "built-in texts.jsonl"
    write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in shipped_texts()))
    return str(path)


def _refuse_another(out: Path, request: dict[str, Any], plan: TrainingPlan) -> None:
    """Refuse activations or a plan that differ from those that the folder was begun with."""
    check_request(out / _CAPTURE, request)
    known, defaults = read_record(out / _PLAN), _as_json(TrainingPlan())
    # Options that an older record does not have were at their defaults.
    asked = {name: value for name, value in _as_json(plan).items() if name in known or value != defaults[name]}
    check_request(out / _PLAN, asked)


def _keep(out: Path, request: dict[str, Any], plan: TrainingPlan) -> None:
    """Write what later runs in this folder are held to, once nothing can refuse this one any more."""
    for name, record in ((_CAPTURE, request), (_PLAN, _as_json(plan))):
        if not (out / name).is_file():
            write_json(out / name, record)


def _as_json(plan: TrainingPlan) -> dict[str, Any]:
    return dict(json.loads(json.dumps(dataclasses.asdict(plan))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says, 3 if the stored SAE is not the trained one."""
    return console.main(parser(), run, arguments, train_options.read_options)


if __name__ == "__main__":
    sys.exit(main())
