"""A folder of shards: the activations of a corpus on disk, where each is from, and shuffled batches out of it.

``part000.safetensors``, ``part001.safetensors``, ... hold `acts` (bfloat16, tokens x d_model); ``part000.parquet``
beside each has one row per activation; ``shards.json`` says what all of them are of. Every file appears whole or not
at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neurosae.errors import UserError
from neurosae.files import atomic_path

RECORD = "shards.json"
ORIGIN = ("text", "context", "position", "token_id")


class Shard(NamedTuple):
    """A shard, memory-mapped: only the rows that are used are read."""

    path: Path
    acts_TD: torch.Tensor
    last_text: int


def open_shards(folder: Path) -> list[Shard]:
    """The shards of a complete folder, in order.

    Raises
    ------
    UserError
        No shards, one that is missing, damaged or of another width, fewer tokens than were captured.
    """
    shards = finished_shards(folder)
    held, captured = sum(len(shard.acts_TD) for shard in shards), captured_tokens(folder)
    if held < captured:
        raise UserError(f"{folder} was to hold {captured:,} tokens and has {held:,}: its last shards are missing")
    if not held:
        raise UserError(f"There are no activation shards in {folder}")
    return shards


def finished_shards(folder: Path) -> list[Shard]:
    """The shards that a capture has written so far, in order; there may be none.

    Raises
    ------
    UserError
        A gap, a file that is no shard, shards of different widths.
    """
    found = set(folder.glob("part*.safetensors"))
    paths = [_shard_path(folder, number) for number in range(len(found))]
    if missing := [path for path in paths if path not in found]:
        raise UserError(f"{missing[0]} is missing, but {min(found.difference(paths)).name} is there")
    shards = [_open(path) for path in paths]
    for shard in shards:
        width, first = shard.acts_TD.shape[1], shards[0].acts_TD.shape[1]
        if width != first:
            raise UserError(f"{shard.path} has activations of width {width}, the shards before it have {first}")
    return shards


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"part{number:03d}.safetensors"


def _open(path: Path) -> Shard:
    try:
        with safe_open(path, "pt") as stream:
            acts_TD, last_text = stream.get_tensor("acts"), int(stream.get_tensor("last_row"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path} is no activation shard: {error}",
            suggestion="Delete it and those with higher numbers, then run the capture again",
        ) from error
    if acts_TD.ndim != 2 or not acts_TD.is_floating_point():
        raise UserError(
            f"{path} is no activation shard: it holds {acts_TD.dtype} of shape {tuple(acts_TD.shape)}",
            allowed="floating point, tokens x d_model",
        )
    return Shard(path, acts_TD, last_text)


class ShardWriter:
    """Shards of one or several sites under way, one folder per site: what is finished, and the rows of the next one.

    Parameters
    ----------
    folders : sequence of Path

    Attributes
    ----------
    tokens : int
        Rows in finished shards.
    held : int
        Rows added since.
    next_text : int
        The first text that nothing has been added of; whoever adds moves it on.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        # A kill may have come between two folders: the shards that all of them have count.
        finished = list(zip(*map(finished_shards, folders), strict=False))
        for shards in finished:
            if len({(len(shard.acts_TD), shard.last_text) for shard in shards}) > 1:
                raise UserError(f"{shards[0].path} and {shards[1].path} are not of one capture", where="out")
        self.number, self.tokens = len(finished), sum(len(shards[0].acts_TD) for shards in finished)
        self.next_text = finished[-1][0].last_text + 1 if finished else 0
        self.held = 0
        self._pending: list[tuple[Sequence[torch.Tensor], np.ndarray]] = []

    def add(self, activations: Sequence[torch.Tensor], origin: np.ndarray) -> None:
        """Keep rows for the next shard: one tensor (tokens x d_model) per folder, and their `ORIGIN` (tokens x 4)."""
        self._pending.append((activations, origin))
        self.held += len(origin)

    def write(self) -> None:
        """Write what is held; the index of a shard comes before the shard, so that none is ever without."""
        origin = np.concatenate([origin for _, origin in self._pending]).astype(np.int32)
        numbers = {"shard": np.full(self.held, self.number, np.int32), "row": np.arange(self.held, dtype=np.int32)}
        index = pa.table(numbers | dict(zip(ORIGIN, origin.T, strict=True)))
        for i, folder in enumerate(self.folders):
            path = _shard_path(folder, self.number)
            with atomic_path(path.with_suffix(".parquet")) as temporary:
                pq.write_table(index, temporary, compression="zstd")
            acts_TD = torch.cat([activations[i] for activations, _ in self._pending])
            with atomic_path(path) as temporary:
                save_file({"acts": acts_TD, "last_row": torch.tensor(self.next_text - 1)}, temporary)
        self.number, self.tokens = self.number + 1, self.tokens + self.held
        self._pending, self.held = [], 0


def read_index(folder: Path) -> pd.DataFrame:
    """Where every activation of a folder is from: one row each, in the order of `ShardReader.rows`.

    Returns
    -------
    DataFrame, all columns int32
        `shard` and `row` in it; `text`, its number in the corpus from 0, texts that the capture skipped included (the
        files themselves count from the first that it read, `first_text` of the record); `context`, which sentence of
        the text (0 if the text was not cut into sentences); `position` in that context, where the sink token is 0;
        `token_id`.

    Raises
    ------
    UserError
        Shards without an index (those of older captures) or with one of another length.
    """
    tables = []
    for shard in open_shards(folder):
        path = shard.path.with_suffix(".parquet")
        if not path.is_file():
            raise UserError(f"{shard.path} has no index {path.name}", suggestion="Capture anew to get one")
        try:
            tables.append(pq.read_table(path, columns=["shard", "row", *ORIGIN]))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no index of a shard: {error}") from error
        if len(tables[-1]) != len(shard.acts_TD):
            raise UserError(f"{path} has {len(tables[-1]):,} rows, its shard {len(shard.acts_TD):,}")
    index = pa.concat_tables(tables).to_pandas()
    index["text"] += np.int32(read_record(folder / RECORD).get("first_text", 0))
    return index


def export_npy(folder: Path, dtype: str = "float32", block_rows: int = 65_536) -> Path:
    """Write all shards of a folder as one array, ``activations.npy`` (tokens x d_model), in constant memory.

    Parameters
    ----------
    folder : Path
    dtype : {"float32", "float16"}
        float32 holds every bfloat16 value exactly; float16 takes half the disk and holds values up to 65,504.
    block_rows : int, default 65,536
        Rows in memory at once.

    Returns
    -------
    Path
        For ``numpy.load(path, mmap_mode="r")``; the rows are those of `read_index`.

    Raises
    ------
    UserError
        Values that are not finite, or not in that dtype.
    """
    shards = open_shards(folder)
    shape = (sum(len(shard.acts_TD) for shard in shards), shards[0].acts_TD.shape[1])
    with atomic_path(folder / "activations.npy") as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.dtype(dtype), shape)
        start = 0
        for shard in shards:
            for block_TD in shard.acts_TD.split(block_rows):
                with np.errstate(over="ignore"):
                    values = block_TD.float().numpy().astype(dtype)
                if not np.isfinite(values).all():
                    raise UserError(f"{shard.path} has values that are not finite or too large for {dtype}")
                array[start : start + len(values)] = values
                start += len(values)
        array.flush()
    return folder / "activations.npy"


class ShardReader:
    """Shuffled batches from a folder of shards, for as many epochs as wanted; the order depends on the seed alone.

    Parameters
    ----------
    folder : Path
    batch_size : int
    seed : int

    Raises
    ------
    UserError
        See `open_shards`; when rows are read, values that are not finite.

    Notes
    -----
    Shards are memory-mapped: the operating system keeps what fits. Iterating from step s gives the batches that an
    uninterrupted run would have seen, so that training resumes exactly.
    """

    def __init__(self, folder: Path, batch_size: int, seed: int) -> None:
        opened = open_shards(folder)
        self.paths, self.shards = [shard.path for shard in opened], [shard.acts_TD for shard in opened]
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
            values = self.shards[number][torch.from_numpy(which[here] - offset)].float()
            if not torch.isfinite(values).all():
                raise UserError(f"{self.paths[number]} has values that are not finite")
            out[torch.from_numpy(here)] = values
        return out


def shards_digest(folder: Path, samples: int = 16) -> str:
    """Hash of the activations in a folder: the shape of every shard and evenly spaced rows of it.

    Indices, the record and what else lies there, such as an exported array, do not count.

    Raises
    ------
    UserError
        See `open_shards`.
    """
    summary = hashlib.sha256()
    for shard in open_shards(folder):
        n, width = shard.acts_TD.shape
        summary.update(f"{shard.path.name} {n} {width} {shard.acts_TD.dtype}".encode())
        summary.update(shard.acts_TD[:: max(1, n // samples)].float().numpy().tobytes())
    return summary.hexdigest()[:16]


def captured_tokens(folder: Path) -> int:
    """How many tokens a folder holds by its own record; 0 without a record."""
    return int(read_record(folder / RECORD).get("tokens", 0))


def check_request(record: Path, request: dict[str, Any]) -> None:
    """Refuse a request that differs from the one that a folder was begun with.

    Parameters
    ----------
    record : Path
        JSON file with the first request; where there is none, any request is the first.
    request : dict
        Only what is named here is compared.

    Raises
    ------
    UserError
        Names what differs.
    """
    known = read_record(record)
    changed = [name for name in request if known.get(name) != request[name]]
    if known and changed:
        raise UserError(
            f"{record.parent} was begun with another {', '.join(changed)}",
            where="out",
            suggestion="Choose another folder, or delete this one to start over",
        )


def read_record(path: Path) -> dict[str, Any]:
    """What a JSON file says; empty where there is none.

    Raises
    ------
    UserError
        A file that is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged", suggestion="Delete it if you know what the folder holds") from error
