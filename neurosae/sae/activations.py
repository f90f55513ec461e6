"""Activations at scale: a corpus through the language model into shards on disk, clean tokens only."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from neurosae.corpora import sentences
from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json
from neurosae.forward import pad, run_batch
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.sites import Site

_CHUNK = 512  # contexts tokenised and sorted by length together


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

    def contexts(self, texts: Iterator[str]) -> Iterator[tuple[int, str]]:
        """Yield (text number, context)."""
        for number, text in enumerate(texts):
            if self.sentences_every and number % self.sentences_every == 0:
                yield from ((number, sentence) for sentence in sentences(text))
            else:
                yield number, text


def clean_activations(
    language_model: LanguageModel, texts: list[str], site: Site, context: int, tokens_per_batch: int = 2048
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (activations of clean tokens, number of outlier tokens dropped), batch by batch.

    The sink token in front of every context is masked, and so is every position above 10 times the site's median norm.
    """
    limit = LIMIT * median_norms(language_model, [site])[site]
    ids = sorted(language_model.token_ids(texts, context), key=len)
    start = 0
    while start < len(ids):
        stop = start + 1
        while stop < len(ids) and len(ids[stop]) * (stop - start + 1) <= tokens_per_batch:
            stop += 1
        batch = ids[start:stop]
        activations = run_batch(language_model, batch, [site])[0]
        _, real = pad(batch, language_model.sink_token)
        real[:, 0] = False
        kept = activations[real.to(activations.device)]
        normal = kept.float().norm(dim=-1) <= limit
        yield kept[normal].cpu(), int((~normal).sum())
        start = stop


def capture_shards(
    language_model: LanguageModel,
    texts: Iterator[str],
    site: Site,
    folder: Path,
    *,
    n_tokens: int,
    plan: ContextPlan = ContextPlan(),
    shard_tokens: int = 200_000,
) -> None:
    """Fill a folder with shards ``part000.safetensors`` (bfloat16, clean tokens x d_model) until `n_tokens` are there.

    Resumable: finished shards are kept and the texts they cover are skipped. Memory does not grow with the corpus.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = sorted(folder.glob("part*.safetensors"))
    done, next_text = 0, 0
    for shard in shards:
        with safe_open(shard, "pt") as stream:
            done += stream.get_slice("acts").get_shape()[0]
            next_text = int(stream.get_tensor("last_row")) + 1
    bar = tqdm(total=n_tokens, initial=done, desc=f"capturing {site}", unit="token", unit_scale=True)
    contexts: Iterator[tuple[int, str]] = itertools.dropwhile(lambda item: item[0] < next_text, plan.contexts(texts))
    pending: list[torch.Tensor] = []
    held, started, dropped = 0, time.time(), 0
    while done < n_tokens and (chunk := list(itertools.islice(contexts, _CHUNK))):
        # A chunk ends with a whole text, so that a shard covers whole texts.
        last = chunk[-1][0]
        for item in contexts:
            if item[0] != last:
                contexts = itertools.chain([item], contexts)
                break
            chunk.append(item)
        for activations, outliers in clean_activations(language_model, [t for _, t in chunk], site, plan.context):
            pending.append(activations.bfloat16())
            held, dropped = held + len(activations), dropped + outliers
            bar.update(len(activations))
        if held >= shard_tokens or done + held >= n_tokens:
            shards.append(_write_shard(folder / f"part{len(shards):03d}.safetensors", pending, last))
            done, held, pending = done + held, 0, []
    if pending:
        shards.append(_write_shard(folder / f"part{len(shards):03d}.safetensors", pending, last))
        done += held
    bar.close()
    write_json(
        folder / "shards.json",
        {
            "site": str(site),
            "model": language_model.name,
            "fingerprint": language_model.fingerprint,
            "tokens": done,
            "outliers_dropped_this_run": dropped,
            "seconds_this_run": round(time.time() - started),
            "context": plan.context,
            "sentences_every": plan.sentences_every,
        },
    )
    if done < n_tokens:
        raise UserError(f"The corpus gave {done:,} clean tokens, {n_tokens:,} were asked for", where="--tokens")


def _write_shard(path: Path, activations: list[torch.Tensor], last_text: int) -> Path:
    with atomic_path(path) as temporary:
        save_file({"acts": torch.cat(activations), "last_row": torch.tensor(last_text)}, temporary)
    return path


class ShardReader:
    """Shuffled batches from a folder of shards, for as many epochs as wanted; the order depends on the seed alone.

    Parameters
    ----------
    folder : Path
    batch_size : int
    seed : int

    Notes
    -----
    Shards are memory-mapped: the operating system keeps what fits. Iterating from step s gives the batches that an
    uninterrupted run would have seen, so that training resumes exactly.
    """

    def __init__(self, folder: Path, batch_size: int, seed: int) -> None:
        self.shards = [_map_bfloat16(path) for path in sorted(folder.glob("part*.safetensors"))]
        if not self.shards:
            raise UserError(f"There are no activation shards in {folder}")
        self.ends = np.cumsum([len(shard) for shard in self.shards])
        self.n = int(self.ends[-1])
        self.batch_size, self.seed = min(batch_size, self.n), seed
        self.step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Full batches per epoch; the rows left over change from epoch to epoch."""
        return self.n // self.batch_size

    def __iter__(self) -> ShardReader:
        return self

    def __next__(self) -> torch.Tensor:
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if index == 0 or not hasattr(self, "_order"):
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
        self.step += 1
        return self.rows(self._order[index * self.batch_size : (index + 1) * self.batch_size])

    def rows(self, which: np.ndarray) -> torch.Tensor:
        """Some rows as float32, in the order asked for."""
        which = np.asarray(which)
        shard_of = np.searchsorted(self.ends, which, side="right")
        out = torch.empty(len(which), self.shards[0].shape[1])
        for number in np.unique(shard_of):
            here = np.flatnonzero(shard_of == number)
            offset = self.ends[number] - len(self.shards[number])
            out[torch.from_numpy(here)] = self.shards[number][torch.from_numpy(which[here] - offset)].float()
        return out


def _map_bfloat16(path: Path) -> torch.Tensor:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length))["acts"]
    rows, width = entry["shape"]
    start = 8 + length + entry["data_offsets"][0]
    raw = np.memmap(path, np.int16, "c", start, (rows, width))
    return torch.from_numpy(raw).view(torch.bfloat16)
