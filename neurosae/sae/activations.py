"""Activations at scale: a corpus through the language model into shards on disk, clean tokens only."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from neurosae.corpora import identity, sentences
from neurosae.errors import UserError, at_least
from neurosae.files import write_json
from neurosae.forward import pad, run_batch
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.progress import progress_bar
from neurosae.sae.shards import RECORD, ShardWriter, check_request, read_record
from neurosae.sites import Site

log = logging.getLogger(__name__)

_CHUNK = 64, 512  # fewest and most contexts that are tokenised and sorted by length together


@dataclass(frozen=True)
class ContextPlan:
    """How texts become contexts.

    Attributes
    ----------
    context : int, default 256
        Longest context in tokens, the sink token included; the rest of a text is left out.
    sentences_every : int, default 4
        Every n-th text is cut into single sentences, each a context of its own, so that the SAE also knows sentences
        that stand alone, as stimuli do. 0: never.
    """

    context: int = 256
    sentences_every: int = 4

    def contexts(self, texts: Iterable[str], skip: int = 0) -> Iterator[tuple[int, str]]:
        """Yield (text number, context), without those of the first `skip` texts."""
        for number, text in itertools.islice(enumerate(texts), skip, None):
            if self.sentences_every and number % self.sentences_every == 0:
                yield from ((number, sentence) for sentence in sentences(text))
            else:
                yield number, text

    def check(self, language_model: LanguageModel) -> None:
        """Refuse a context that the language model cannot read."""
        if not 2 <= self.context <= language_model.context:
            allowed = f"2 to {language_model.context} tokens"
            raise UserError(f"A context of {self.context}", where="context", allowed=allowed)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder while the block lasts; the folder is created, and removed if nothing came.

    Raises
    ------
    UserError
        Another run is at it; a folder that cannot be written.
    """
    existed = folder.exists()
    path = folder / ".lock"
    lock = FileLock(str(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another run is writing to {folder}", where="out", suggestion="Let it end, or choose another folder"
        ) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error})", where="out") from error
    try:
        yield
    finally:
        # Before the release, so that nobody else's is removed; where open files cannot be, it stays and does no harm.
        with suppress(OSError):
            path.unlink()
        lock.release()
        if not existed:
            with suppress(OSError):
                folder.rmdir()


class CleanBatch(NamedTuple):
    """Clean tokens of some texts: one tensor (tokens x d_model) per site, where they are from, what was dropped."""

    activations: list[torch.Tensor]
    origin: np.ndarray  # (tokens, 3): number of the text, position in it, token id
    outliers: int


def clean_batches(
    language_model: LanguageModel, texts: Sequence[str], sites: Sequence[Site], context: int, tokens_per_batch: int
) -> Iterator[CleanBatch]:
    """Read texts batch by batch, sorted by length, and keep the tokens that are clean at every one of the sites.

    The sink token in front of every context is left out, and so is every position above 10 times a site's median norm.
    A batch depends on the lengths of the texts alone.

    Raises
    ------
    UserError
        Activations that are not finite.
    """
    norms = median_norms(language_model, sites)
    ids = language_model.token_ids(texts, context)
    for rows in _batches(ids, tokens_per_batch):
        batch = [ids[row] for row in rows]
        tokens, real = pad(batch, language_model.sink_token)
        real[:, 0] = False
        normal = torch.ones(int(real.sum()), dtype=torch.bool)
        heard = []
        for site, activations in zip(sites, run_batch(language_model, batch, sites), strict=True):
            heard.append(activations[real.to(activations.device)])
            norm = heard[-1].float().norm(dim=-1).cpu()
            if not torch.isfinite(norm).all():
                raise UserError(
                    f"{language_model.name} gives activations at {site} that are not finite",
                    where="dtype",
                    suggestion="Choose bfloat16 or float32: float16 overflows in many models",
                )
            normal &= norm <= LIMIT * norms[site]
        text, position = real.nonzero(as_tuple=True)
        origin = torch.stack([torch.tensor(rows)[text], position, tokens[real]], dim=1)[normal]
        kept = [values[normal.to(values.device)].cpu() for values in heard]
        yield CleanBatch(kept, origin.numpy().astype(np.int32), int((~normal).sum()))


def clean_activations(
    language_model: LanguageModel, texts: list[str], site: Site, context: int, tokens_per_batch: int = 2048
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (activations of clean tokens, number of outlier tokens dropped): `clean_batches` at one site."""
    for batch in clean_batches(language_model, texts, [site], context, tokens_per_batch):
        yield batch.activations[0], batch.outliers


def _batches(ids: Sequence[Sequence[int]], tokens_per_batch: int) -> Iterator[list[int]]:
    """Row numbers, shortest first (stable); a padded batch has at most so many tokens, or one row."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if batch and len(ids[row]) * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def capture_shards(
    language_model: LanguageModel,
    texts: Iterable[str],
    site: Site,
    folder: Path,
    *,
    n_tokens: int,
    plan: ContextPlan = ContextPlan(),
    shard_tokens: int = 200_000,
    tokens_per_batch: int = 2048,
    request: dict[str, Any] | None = None,
    first_text: int = 0,
) -> None:
    """Fill a folder with shards of one site; see `capture_sites`."""
    capture_sites(
        language_model,
        texts,
        {site: folder},
        n_tokens=n_tokens,
        plan=plan,
        shard_tokens=shard_tokens,
        tokens_per_batch=tokens_per_batch,
        request=request,
        first_text=first_text,
    )


def capture_sites(
    language_model: LanguageModel,
    texts: Iterable[str],
    folders: dict[Site, Path],
    *,
    n_tokens: int,
    plan: ContextPlan = ContextPlan(),
    shard_tokens: int = 200_000,
    tokens_per_batch: int = 2048,
    request: dict[str, Any] | None = None,
    first_text: int = 0,
) -> None:
    """Fill one folder per site with shards until `n_tokens` clean tokens are there: one pass for all sites.

    The rows of all sites coincide: a token is kept if it is clean at every one. Finished shards are kept and the texts
    that they cover are skipped, so that a killed run loses no more than the shard it was at and, started again, gives
    what an uninterrupted one gives, bit by bit. Memory does not grow with the corpus: one shard of every site is held.

    Parameters
    ----------
    language_model : LanguageModel
    texts : iterable of str
        The corpus from its beginning, also when a capture goes on.
    folders : dict of Site to Path
    n_tokens : int
        Clean tokens wanted. There may be some thousands more, because whole texts are kept.
    plan : ContextPlan
    shard_tokens : int, default 200,000
        A shard is written when it has so many clean tokens; bounds memory at about twice that many rows per site.
    tokens_per_batch : int, default 2048
        Tokens per forward pass; a GPU wants more. Other values, also of `shard_tokens`, change rounding errors only.
    request : dict, optional
        What else the shards depend on (`capture_request`). Kept in the folders' records; a capture that differs in it,
        in the language model, the sites or the plan does not go on.
    first_text : int, default 0
        How many texts of the corpus lie before the first of `texts`. Kept in the folders' records, for `read_index`; a
        record that does not say it gets it.

    Raises
    ------
    UserError
        A corpus that is too small (what it gave is kept), a folder that holds something else, a damaged shard, a
        context that the language model cannot read, activations that are not finite, a folder that another run is
        filling.
    """
    plan.check(language_model)
    at_least(1, tokens=n_tokens, shard_tokens=shard_tokens)
    sites = [site.check(language_model.n_blocks) for site in folders]
    made_by = {"model": language_model.name, "fingerprint": language_model.fingerprint, **dataclasses.asdict(plan)}
    requests = folder_requests((request or {}) | made_by | {"first_text": first_text}, folders)
    records = {folder / RECORD: about for folder, about in requests.items()}
    with ExitStack() as alone:
        for folder in requests:
            alone.enter_context(only_run(folder))
        for record, about in records.items():
            # A record of an earlier version does not say where the texts began; any request fits it in this.
            check_request(record, about if "first_text" in read_record(record) else about | {"first_text": None})
        writer = ShardWriter(list(folders.values()))
        found, dropped, started = writer.tokens, 0, time.perf_counter()
        # Already now, so that what a killed run leaves can only be continued as what it is.
        _write_records(records, found)
        chunks = _chunks(plan.contexts(texts, writer.next_text), shard_tokens // plan.context)
        with progress_bar(total=n_tokens, initial=found, desc="capturing", unit=" tokens", unit_scale=True) as bar:
            while writer.tokens < n_tokens and (chunk := next(chunks, None)):
                for batch in _read_chunk(language_model, chunk, sites, plan.context, tokens_per_batch):
                    writer.add(batch.activations, batch.origin)
                    dropped += batch.outliers
                    bar.update(len(batch.origin))
                writer.next_text = chunk[-1][0] + 1
                if writer.held >= min(shard_tokens, n_tokens - writer.tokens):
                    writer.write()
        if writer.held:
            writer.write()
        _write_records(records, writer.tokens)
    rate = (writer.tokens - found) / (time.perf_counter() - started)
    log.info(f"{writer.tokens:,} clean tokens, {rate:,.0f} tokens/s, {dropped:,} outliers left out")
    if writer.tokens < n_tokens:
        raise UserError(f"The corpus gave {writer.tokens:,} clean tokens, {n_tokens:,} were asked for", where="tokens")


def _write_records(records: dict[Path, dict[str, Any]], tokens: int) -> None:
    for record, about in records.items():
        write_json(record, read_record(record) | about | {"tokens": tokens})


def _chunks(contexts: Iterator[tuple[int, str]], fitting: int) -> Iterator[list[tuple[int, str]]]:
    """Lists of contexts, about what fits into a shard, that end with a whole text: a shard covers whole texts."""
    size = int(np.clip(fitting, *_CHUNK))
    chunk: list[tuple[int, str]] = []
    for _, of_text in itertools.groupby(contexts, key=operator.itemgetter(0)):
        chunk += of_text
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read_chunk(
    language_model: LanguageModel, chunk: list[tuple[int, str]], sites: list[Site], context: int, tokens_per_batch: int
) -> Iterator[CleanBatch]:
    """The clean tokens of a chunk, in bfloat16; their origin is (text, context within it, position, token id)."""
    number = np.array([text for text, _ in chunk])
    within = np.arange(len(chunk)) - np.searchsorted(number, number)
    for batch in clean_batches(language_model, [text for _, text in chunk], sites, context, tokens_per_batch):
        row = batch.origin[:, 0]
        origin = np.column_stack([number[row], within[row], batch.origin[:, 1:]])
        yield batch._replace(activations=[values.bfloat16() for values in batch.activations], origin=origin)


def capture_request(
    corpus: str | Path, model: str, dtype: str, sites: Sequence[Site], plan: ContextPlan, **more: Any
) -> dict[str, Any]:
    """Everything that shards depend on besides how many there are, known before the language model is loaded.

    Raises
    ------
    UserError
        No such corpus.
    """
    listed = " ".join(map(str, sites))
    about = {"corpus": identity(corpus), "model": model, "dtype": dtype, "site": listed}
    return about | dataclasses.asdict(plan) | more


def folder_requests(request: dict[str, Any], folders: dict[Site, Path]) -> dict[Path, dict[str, Any]]:
    """The request as each site's folder records it: its own site, and all those at which its tokens are clean."""
    together = [str(site) for site in folders]
    return {folder: request | {"site": str(site), "clean_at": together} for site, folder in folders.items()}
