"""Responses: what a language model (or an SAE on it) answered to each stimulus, token by token, with labelled axes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
from safetensors.numpy import save_file

from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json

Pooling = Literal["mean", "max", "last", "target", "prompt_end"]
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "last", "target", "prompt_end")
Alignment = Literal["left", "centre", "target", "end"]
ALIGNMENTS: tuple[Alignment, ...] = ("left", "centre", "target", "end")


@dataclass(frozen=True)
class Pooled:
    """One value per stimulus and feature.

    Attributes
    ----------
    values_SF : ndarray or csr_array of shape (S, F)
        Zero rows where a stimulus is not valid.
    valid_S : bool ndarray of shape (S,)
    reason_S : str ndarray of shape (S,)
        Why a stimulus has no value; empty where it has one.
    """

    values_SF: np.ndarray | sp.csr_array
    valid_S: np.ndarray
    reason_S: np.ndarray

    def dense(self) -> np.ndarray:
        """The values as a float64 array."""
        values = self.values_SF.toarray() if isinstance(self.values_SF, sp.csr_array) else self.values_SF
        return np.asarray(values, dtype=np.float64)

    def of(self, rows: np.ndarray, ids: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
        """Values of some stimuli, all of which must have one.

        Parameters
        ----------
        rows : int array [R]
            Which stimuli.
        ids : sequence of str [R], optional
            How they are called; by default their row is named.

        Returns
        -------
        values_RF : float64 array [R, F]

        Raises
        ------
        UserError
            Stimuli without a value; names the first and says why.
        """
        missing = np.flatnonzero(~self.valid_S[rows])
        if len(missing):
            first = rows[missing[0]]
            called = f"row {first}" if ids is None else ids[missing[0]]
            raise UserError(
                f"{len(missing)} of {len(rows)} stimuli have no value under this pooling, the first is {called}: "
                f"{self.reason_S[first]}",
                where="pooling",
                suggestion="Add target spans to the stimulus file, or pool over all tokens",
            )
        return replace(self, values_SF=self.values_SF[rows]).dense()


@dataclass(frozen=True)
class Profiles:
    """Activation over aligned positions.

    Attributes
    ----------
    values_SWF : float32 ndarray of shape (S, W, F)
        Zero where undefined.
    defined_SW : bool ndarray of shape (S, W)
        Where a clean token stands at that position.
    """

    values_SWF: np.ndarray
    defined_SW: np.ndarray


@dataclass(frozen=True)
class Responses:
    """Token rows x features of one site, ragged (no padding), with a token table and a stimulus table.

    Attributes
    ----------
    values : ndarray or csr_array of shape (T, F)
        Activations in the model's own units; float32, or what a lazily loaded file holds.
    tokens : DataFrame of T rows
        `stimulus` (row of the stimulus table), `position`, `token_id`, `token`, `role` ("sink", "template", "text"),
        `target` (inside the target span), `normal` (norm below the limit at this site), `clean` (text of the stimulus
        with a normal norm at every site of the capture: what statistics use).
    stimuli : DataFrame of S rows
    site : str
        Where it was heard, e.g. "blocks.15.hook_resid_post".
    source : dict
        Language model, fingerprint, SAE and the like.

    Notes
    -----
    Rows of one stimulus are contiguous and in reading order.
    """

    values: np.ndarray | sp.csr_array
    tokens: pd.DataFrame
    stimuli: pd.DataFrame
    site: str
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def n_features(self) -> int:
        """Number of features F."""
        return int(cast("tuple[int, int]", self.values.shape)[1])

    def with_values(self, values: np.ndarray | sp.csr_array, **source: Any) -> Responses:
        """The same tokens with other features, e.g. SAE latents."""
        return replace(self, values=values, source=self.source | source)

    def pool(self, how: Pooling = "mean", *, include_sinks: bool = False) -> Pooled:
        """One value per stimulus and feature.

        Parameters
        ----------
        how : {"mean", "max", "last", "target", "prompt_end"}, default "mean"
            Mean or maximum over the clean tokens of the stimulus text, its last clean token, the mean over the
            target span, or the very last token of the prompt (under a chat template a token of the template).
        include_sinks : bool, default False
            Also use the sink, template and outlier tokens.
        """
        if how not in POOLINGS:
            raise UserError(f"Unknown pooling '{how}'", where="pooling", allowed=", ".join(POOLINGS))
        owner, n = self.tokens["stimulus"].to_numpy(), len(self.stimuli)
        use = np.ones(len(owner), bool) if include_sinks else self.tokens["clean"].to_numpy(dtype=bool)
        missing = "no clean token"
        if how == "target":
            use = use & self.tokens["target"].to_numpy(dtype=bool)
            missing = "no clean token in a target span"
        if how == "prompt_end":
            use = _last_of_each(owner, np.ones(len(owner), bool))
        if how == "last":
            use = _last_of_each(owner, use)
        rows = np.flatnonzero(use)
        counts = np.bincount(owner[rows], minlength=n)
        values = _group_max(self.values, rows, owner, n) if how == "max" else self._group_mean(rows, counts)
        valid = counts > 0
        return Pooled(values, valid, np.where(valid, "", missing))

    def _group_mean(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray | sp.csr_array:
        owner = self.tokens["stimulus"].to_numpy()[rows]
        # float64 weights: sums are accumulated in double precision for dense and sparse values alike.
        weights = 1.0 / np.maximum(counts, 1)[owner]
        average = sp.csr_array((weights, (owner, rows)), shape=(len(self.stimuli), len(self.tokens)))
        return cast("np.ndarray | sp.csr_array", average @ self.values)

    def profiles(self, align: Alignment = "left", width: int = 16, features: slice = slice(None)) -> Profiles:
        """Activations in an aligned window.

        Parameters
        ----------
        align : {"left", "centre", "target", "end"}, default "left"
            Which text token is the reference: the first (window starts there), the middle one (window around it), the
            first of the target span (a quarter of the window before it), or the last (window ends there).
        width : int, default 16
            Window length W in tokens.
        features : slice, optional
            Feature block, to bound memory.
        """
        if align not in ALIGNMENTS:
            raise UserError(f"Unknown alignment '{align}'", allowed=", ".join(ALIGNMENTS))
        n = len(self.stimuli)
        block = self.values[:, features]
        out = np.zeros((n, width, cast("tuple[int, int]", block.shape)[1]), dtype=np.float32)
        defined = np.zeros((n, width), dtype=bool)
        clean = self.tokens["clean"].to_numpy(dtype=bool)
        text = (self.tokens["role"] == "text").to_numpy()
        target = self.tokens["target"].to_numpy(dtype=bool)
        owner = self.tokens["stimulus"].to_numpy()
        for s in range(n):
            rows = np.flatnonzero((owner == s) & text)
            start = _window_start(align, width, len(rows), target[rows])
            if start is None:
                continue
            column = np.arange(len(rows)) - start
            keep = (column >= 0) & (column < width) & clean[rows]
            values = block[rows[keep]]
            out[s, column[keep]] = values.toarray() if isinstance(values, sp.csr_array) else values
            defined[s, column[keep]] = True
        return Profiles(out, defined)

    def save(self, folder: Path) -> None:
        """Write a folder with safetensors (values), Parquet (tables) and JSON (what it is), atomically."""
        if isinstance(self.values, sp.csr_array):
            arrays = {"data": self.values.data, "indices": self.values.indices, "indptr": self.values.indptr}
        else:
            arrays = {"values": np.ascontiguousarray(self.values)}
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_file(arrays, temporary / "values.safetensors")
            self.tokens.to_parquet(temporary / "tokens.parquet")
            self.stimuli.to_parquet(temporary / "stimuli.parquet")
            write_json(
                temporary / "responses.json",
                {"site": self.site, "source": self.source, "shape": list(self.values.shape)},
            )

    @classmethod
    def load(cls, folder: Path) -> Responses:
        """Read what `save` wrote; the values stay on disk until they are used (memory-mapped).

        Raises
        ------
        UserError
            If a file is missing or cut short.
        """
        try:
            about = json.loads((folder / "responses.json").read_text(encoding="utf-8"))
            arrays = _map_safetensors(folder / "values.safetensors")
            tokens = pd.read_parquet(folder / "tokens.parquet")
            stimuli = pd.read_parquet(folder / "stimuli.parquet")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} is not a complete set of responses ({error})",
                suggestion="Delete the folder and capture again",
            ) from error
        values: np.ndarray | sp.csr_array
        if "values" in arrays:
            values = arrays["values"]
        else:
            values = sp.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(about["shape"]))
        return cls(values, tokens, stimuli, about["site"], about["source"])


def _last_of_each(owner: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Only the last used row of each stimulus."""
    rows = np.flatnonzero(use)
    last = np.zeros(len(owner), bool)
    if len(rows):
        last[rows[np.append(owner[rows][1:] != owner[rows][:-1], True)]] = True
    return last


def _group_max(
    values: np.ndarray | sp.csr_array, rows: np.ndarray, owner: np.ndarray, n: int
) -> np.ndarray | sp.csr_array:
    if not sp.issparse(values):
        out = np.zeros((n, values.shape[1]))
        for s in np.unique(owner[rows]):
            out[s] = values[rows[owner[rows] == s]].max(axis=0)
        return out
    return sp.csr_array(
        sp.vstack(
            [
                sp.csr_array(values[rows[owner[rows] == s]].max(axis=0).reshape(1, -1))
                if (owner[rows] == s).any()
                else sp.csr_array((1, values.shape[1]))
                for s in range(n)
            ]
        )
    )


def _window_start(align: Alignment, width: int, n_text: int, target: np.ndarray) -> int | None:
    """Text position of the window's first column, None if the stimulus has no such reference."""
    if n_text == 0 or (align == "target" and not target.any()):
        return None
    return {
        "left": 0,
        "centre": n_text // 2 - width // 2,
        "target": int(np.argmax(target)) - width // 4,
        "end": n_text - width,
    }[align]


def _map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Memory-map every array of a safetensors file (the library's own reader copies them)."""
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    begin, size = 8 + length, path.stat().st_size
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        if begin + last > size:
            raise ValueError(f"{path.name} is cut short")
        shape = tuple(entry["shape"])
        arrays[name] = (
            np.memmap(path, kinds[entry["dtype"]], "r", begin + first, shape) if last > first else np.zeros(shape)
        )
    return arrays
