"""Activations to latents and back: sparse codes, in blocks of tokens and latents, so that memory is an argument."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
import torch

from neurosae.errors import UserError
from neurosae.responses import Responses

MEMORY = 2**26  # bytes of dense values at once; blocks of this size stay near the processor
_TOKENS = 2048  # tokens multiplied at once, where memory allows: enough to use a block of weights well
_FEWEST = 128  # tokens for which another core is worth its while
_NARROWEST = 64  # latents in a block before fewer tokens are taken; whole cache lines
_RELU = ("standard", "transcoder", "skip_transcoder")
_JUMPRELU = ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_TOPK = ("topk",)
_Result = TypeVar("_Result")
_OWN_DECODERS = ("temporal", "matching_pursuit")


def encode_rows(
    sae: Any, values_TD: np.ndarray, *, latents: Sequence[int] | np.ndarray | None = None, memory: int = MEMORY
) -> sp.csr_array:
    """Latents of activation rows, computed in float32 whatever precision the weights are stored in.

    Parameters
    ----------
    sae : sae_lens.SAE
        Its weights may be memory-mapped (``loading.load(..., dtype="stored")``): they are read block by block.
    values_TD : ndarray of shape (T, D)
        Raw activations, in the model's own units.
    latents : sequence of int, optional
        Only these, in this order. ReLU and JumpReLU SAEs compute no others; TopK and everything else depend on all
        latents, which are computed and then selected.
    memory : int, default 2**26
        Bytes of dense values (pre-activations, converted weights) held at once; the result comes on top. It changes
        speed, not results, except for rounding in the last digit of the matrix product.

    Returns
    -------
    csr_array of shape (T, F) or (T, len(latents)), float32
        Column indices sorted; only what is not zero is stored. A JumpReLU latent is active above its threshold, not
        at it. Of equal pre-activations, TopK prefers the lower latent.

    Raises
    ------
    UserError
        Activations of another width or with values that are not finite; latents that do not exist.

    Notes
    -----
    One matrix product per block, into a buffer that is used again; what is active is collected at once. On the CPU
    every core has blocks of its own: as many as torch may use (``torch.get_num_threads()``). TopK keeps, for every
    token, a lower bound of its k-th largest pre-activation over the blocks so far, so that few candidates survive,
    and takes the k largest of all candidates at the end: exact, for any block size. Architectures that are not one
    product and a threshold (gated and others) go through ``sae.encode`` in blocks of tokens.

    References
    ----------
    Rajamanoharan et al. (2024), Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders.
    Gao et al. (2024), Scaling and evaluating sparse autoencoders.

    Examples
    --------
    >>> from neurosae.sae.loading import load
    >>> x_TD = np.random.default_rng(0).normal(size=(3, 576)) * 20
    >>> encode_rows(load(), x_TD, latents=[5, 2, 6000]).shape
    (3, 3)
    """
    values_TD = np.asanyarray(values_TD)
    if values_TD.ndim != 2 or values_TD.shape[1] != sae.cfg.d_in:
        raise UserError(
            f"The SAE reads activations of width {sae.cfg.d_in}, the language model gives {_width(values_TD)}",
            where="sae",
            suggestion="Choose an SAE that was trained on this language model",
        )
    wanted = None if latents is None else _existing(latents, sae.cfg.d_sae)
    with torch.inference_mode():
        if sae.cfg.architecture() in (*_RELU, *_JUMPRELU, *_TOPK):
            return _encode_linear(sae, values_TD, wanted, memory)
        return _encode_any(sae, values_TD, wanted, memory)


def decode_rows(sae: Any, codes_TF: sp.csr_array, *, memory: int = MEMORY) -> np.ndarray:
    """Reconstructions from sparse codes: the decoder rows of active latents, weighted and added, in float32.

    Parameters
    ----------
    sae : sae_lens.SAE
    codes_TF : csr_array of shape (T, F)
        Of all latents, as `encode_rows` returns them.
    memory : int, default 2**26
        Bytes of decoder rows gathered at once.

    Returns
    -------
    ndarray of shape (T, D), float32
        What ``sae.decode`` gives for the dense codes; the skip connection of a transcoder is not in it.

    Raises
    ------
    UserError
        Codes of another width; an SAE whose reconstructions have to be scaled back by the norm of each input.

    Examples
    --------
    >>> from neurosae.sae.loading import load
    >>> sae = load()
    >>> decode_rows(sae, encode_rows(sae, np.ones((3, 576)))).shape
    (3, 576)
    """
    if codes_TF.ndim != 2 or codes_TF.shape[1] != sae.cfg.d_sae:
        raise UserError(f"The SAE has {sae.cfg.d_sae} latents, the codes have shape {codes_TF.shape}", where="decode")
    if sae.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale"):
        raise UserError(
            f"normalize_activations is '{sae.cfg.normalize_activations}': codes alone do not tell the input's norm",
            where="decode",
            suggestion="Use sae.decode right after sae.encode",
        )
    if sae.cfg.architecture() in _OWN_DECODERS:
        raise UserError(f"'{sae.cfg.architecture()}' has a decoder of its own: use sae.decode", where="decode")
    codes_TF = sp.csr_array(codes_TF)
    device, width = sae.W_dec.device, sae.W_dec.shape[1]
    out_TD = np.empty((codes_TF.shape[0], width), np.float32)
    with torch.inference_mode():
        for start, stop in _row_blocks(codes_TF.indptr, max(1, memory // (4 * width))):
            part = codes_TF[start:stop]
            active, index = np.unique(part.indices, return_inverse=True)
            rows_AD = sae.W_dec[torch.from_numpy(active).to(device)].float()
            if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
                rows_AD = rows_AD / rows_AD.norm(dim=-1, keepdim=True)
            sums_TD = torch.nn.functional.embedding_bag(
                torch.from_numpy(index).to(device),
                rows_AD,
                torch.from_numpy(part.indptr[:-1].astype(np.int64)).to(device),
                mode="sum",
                per_sample_weights=torch.from_numpy(part.data.astype(np.float32)).to(device),
            )
            out_TD[start:stop] = (sums_TD + sae.b_dec.float()).cpu()
    return out_TD


def _row_blocks(starts: np.ndarray, n_entries: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows with at most so many entries in all, at least one row each; `starts` is a CSR ``indptr``."""
    start = 0
    while start < len(starts) - 1:
        stop = max(start + 1, int(np.searchsorted(starts, starts[start] + n_entries, side="right")) - 1)
        yield start, stop
        start = stop


def encode(sae: Any, responses: Responses, name: str, *, memory: int = MEMORY) -> Responses:
    """The same stimuli and tokens, as latents of an SAE.

    The sink and outlier tokens stay silent: the SAE never saw their like, and their codes would be dense.

    Parameters
    ----------
    sae : sae_lens.SAE
    responses : Responses
        Raw activations of the SAE's site.
    name : str
        Of the SAE, for the labels of the result.
    memory : int, default 2**26
        See `encode_rows`.
    """
    known = (responses.tokens["role"] != "sink") & responses.tokens["normal"]
    rows = np.flatnonzero(known.to_numpy(dtype=bool))
    codes = encode_rows(sae, np.asarray(responses.values[rows]), memory=memory)
    counts = np.zeros(len(responses.tokens), dtype=codes.indptr.dtype)
    counts[rows] = np.diff(codes.indptr)
    starts = np.concatenate([[0], np.cumsum(counts)])
    shape = (len(responses.tokens), codes.shape[1])
    spread = sp.csr_array((codes.data, codes.indices, starts), shape=shape)
    return responses.with_values(spread, features="latents", sae=name)


def _width(values: np.ndarray) -> str:
    return str(values.shape[1]) if values.ndim == 2 else f"shape {values.shape}"


def _existing(latents: Sequence[int] | np.ndarray, n_latents: int) -> np.ndarray:
    wanted = np.atleast_1d(np.asarray(latents))
    if wanted.size and (wanted.ndim > 1 or wanted.dtype.kind not in "iu"):
        raise UserError("latents are not a list of whole numbers", where="latents")
    wanted = wanted.astype(np.int64)
    if ((wanted < 0) | (wanted >= n_latents)).any():
        bad = wanted[(wanted < 0) | (wanted >= n_latents)][0]
        raise UserError(f"There is no latent {bad}", where="latents", allowed=f"0 to {n_latents - 1}")
    return wanted


def _float32_reader(sae: Any) -> Any:
    """The same SAE, sharing its weights, with SAELens' own preprocessing done in float32 and on flat rows."""
    reader = copy.copy(sae)
    reader.dtype = torch.float32
    reader.turn_off_forward_pass_hook_z_reshaping()  # rows hold the heads side by side already
    return reader


def _rows(values_TD: np.ndarray, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Some rows as a float32 tensor, checked."""
    x_TD = torch.from_numpy(np.array(values_TD[start:stop], dtype=np.float32))
    if not torch.isfinite(x_TD).all():
        row = start + int((~torch.isfinite(x_TD)).any(dim=1).nonzero()[0])
        raise UserError(f"The activations hold values that are not finite, in row {row}", where="encode")
    return x_TD.to(device)


def _encode_any(sae: Any, values_TD: np.ndarray, wanted: np.ndarray | None, memory: int) -> sp.csr_array:
    """Dense ``sae.encode`` in blocks of tokens; weights of another precision are converted once, as a whole."""
    if any(parameter.dtype != torch.float32 for parameter in sae.parameters()):
        sae = copy.deepcopy(sae).to(dtype=torch.float32)
    reader = _float32_reader(sae)
    n_tokens = max(1, memory // (12 * sae.cfg.d_sae))  # pre-activations, their mask as numbers, codes
    parts = []
    for start in range(0, len(values_TD), n_tokens):
        x_TD = _rows(values_TD, start, start + n_tokens, sae.W_dec.device)
        codes_TF = sp.csr_array(reader.encode(x_TD).to_dense().float().cpu().numpy())
        parts.append(codes_TF if wanted is None else codes_TF[:, wanted])
    n_columns = sae.cfg.d_sae if wanted is None else len(wanted)
    return _stacked(parts, (0, n_columns))


def _encode_linear(sae: Any, values_TD: np.ndarray, wanted: np.ndarray | None, memory: int) -> sp.csr_array:
    """One product and a threshold, or the k largest; blocks of tokens are shared out among the processor's cores."""
    all_needed = sae.cfg.architecture() in _TOPK
    encoder = _LinearEncoder(sae, None if wanted is None or all_needed else torch.from_numpy(wanted))
    device, reader, n_total = sae.W_dec.device, _float32_reader(sae), len(values_TD)
    n_workers = max(1, min(torch.get_num_threads(), n_total // _FEWEST)) if device.type == "cpu" else 1
    memory //= n_workers
    n_tokens = max(1, min(_TOKENS, -(-n_total // n_workers), memory // (5 * _NARROWEST)))
    bytes_per_latent = 5 * n_tokens + (4 * sae.cfg.d_in if encoder.copies_weights else 0)
    n_latents = memory // bytes_per_latent
    if n_latents > _NARROWEST:  # rows of a block that straddle cache lines cost a quarter of the speed
        n_latents -= n_latents % _NARROWEST
    n_latents = max(1, min(n_latents, encoder.n_latents))
    starts = range(0, n_total, n_tokens)
    one_at_a_time = Lock()  # SAELens keeps the norms of its last input on the object

    def share(worker: int) -> list[sp.csr_array]:
        buffers = _Buffers(n_tokens * n_latents, device)
        parts = []
        for start in starts[worker::n_workers]:
            with one_at_a_time:
                x_TD = reader.process_sae_in(_rows(values_TD, start, start + n_tokens, device))
            codes_TF = encoder.encode(x_TD, n_latents, buffers)
            parts.append(codes_TF[:, wanted] if all_needed and wanted is not None else codes_TF)
        return parts

    shares = _in_threads(share, n_workers)
    parts = [shares[block % n_workers][block // n_workers] for block in range(len(starts))]
    return _stacked(parts, (0, encoder.n_latents if wanted is None else len(wanted)))


def _in_threads(function: Callable[[int], _Result], n_workers: int) -> list[_Result]:
    """``function(0)`` to ``function(n_workers - 1)``, each in a thread of its own in which torch uses one core.

    One product per core instead of one product by all: nothing waits for the slowest core, and what is not a product
    (the search for active latents) is shared out as well.
    """
    if n_workers == 1:
        return [function(0)]

    def alone(worker: int) -> _Result:
        torch.set_num_threads(1)  # of this thread, and of those that begin later
        with torch.inference_mode():
            return function(worker)

    n_before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_workers) as pool:
            return list(pool.map(alone, range(n_workers)))
    finally:
        torch.set_num_threads(n_before)


def _stacked(parts: list[sp.csr_array], empty: tuple[int, int]) -> sp.csr_array:
    codes_TF = sp.csr_array(sp.vstack(parts, format="csr")) if parts else sp.csr_array(empty, dtype=np.float32)
    codes_TF.sort_indices()
    return codes_TF


class _Buffers:
    """Room for one block of pre-activations and for which of them are active."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._values = torch.empty(size, device=device)
        self._active = torch.empty(size, dtype=torch.bool, device=device)

    def shaped(self, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        size = shape[0] * shape[1]
        return self._values[:size].view(shape), self._active[:size].view(shape)


@dataclass(frozen=True)
class _LinearEncoder:
    """``x @ W_enc + b_enc`` and a threshold or the k largest, for all latents or only for `columns`."""

    sae: Any
    columns: torch.Tensor | None

    @property
    def n_latents(self) -> int:
        return self.sae.cfg.d_sae if self.columns is None else len(self.columns)

    @property
    def copies_weights(self) -> bool:
        return self.columns is not None or self.sae.W_enc.dtype != torch.float32

    def _weights(self, block: slice) -> torch.Tensor:
        columns = block if self.columns is None else self.columns[block].to(self.sae.W_enc.device)
        return self.sae.W_enc[:, columns].float()

    def _selected(self, vector_F: torch.Tensor) -> torch.Tensor:
        vector_F = vector_F.float()
        return vector_F if self.columns is None else vector_F[self.columns.to(vector_F.device)]

    @cached_property
    def bias_F(self) -> torch.Tensor:
        return self._selected(self.sae.b_enc)

    @cached_property
    def bound_F(self) -> torch.Tensor:
        """A latent is active above this; never below 0, since a ReLU comes first."""
        if self.sae.cfg.architecture() in _JUMPRELU:
            return self._selected(self.sae.threshold).clamp(min=0)
        return torch.zeros_like(self.bias_F)

    @cached_property
    def scale_F(self) -> torch.Tensor | None:
        if not getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            return None
        return torch.cat([rows.float().norm(dim=-1) for rows in self.sae.W_dec.split(2**14)])

    def encode(self, x_TD: torch.Tensor, n_latents: int, buffers: _Buffers) -> sp.csr_array:
        """Codes of one block of tokens, in blocks of `n_latents`."""
        k = self.sae.cfg.k if self.sae.cfg.architecture() in _TOPK else None
        largest_TK = x_TD.new_zeros(len(x_TD), k or 0)
        parts = []
        for start in range(0, self.n_latents, n_latents):
            block = slice(start, min(start + n_latents, self.n_latents))
            pre_TF, active_TF = buffers.shaped((len(x_TD), block.stop - start))
            torch.addmm(self.bias_F[block], x_TD, self._weights(block), out=pre_TF)
            if self.scale_F is not None:
                pre_TF *= self.scale_F[block]
            if k is None:
                bound = self.bound_F[block]
            else:
                largest_TK = torch.cat([largest_TK, _group_maxima(pre_TF, 4 * k)], 1).topk(k, sorted=False).values
                bound = _just_below(largest_TK.amin(1, keepdim=True))
            torch.gt(pre_TF, bound, out=active_TF)
            parts.append(_sparse(pre_TF, active_TF))
        if not parts:
            return sp.csr_array((len(x_TD), 0), dtype=np.float32)
        codes_TF = sp.csr_array(sp.hstack(parts, format="csr"))
        return codes_TF if k is None else _k_largest(codes_TF, k)


def _group_maxima(pre_TF: torch.Tensor, at_least: int) -> torch.Tensor:
    """Largest value of each group of latents: the k-th largest of these is at most the k-th largest of all.

    Groups of up to 16, fewer where there would not be `at_least` groups.
    """
    size = max(1, min(16, pre_TF.shape[1] // at_least))
    n_groups = pre_TF.shape[1] // size
    grouped = pre_TF[:, : size * n_groups].unflatten(1, (size, n_groups)).amax(1)
    return torch.cat([grouped, pre_TF[:, size * n_groups :]], 1)


def _just_below(bound: torch.Tensor) -> torch.Tensor:
    """The next smaller number, so that what equals the bound is above it; not below 0."""
    return torch.nextafter(bound, bound.new_tensor(-torch.inf)).clamp(min=0)


def _sparse(pre_TF: torch.Tensor, active_TF: torch.Tensor) -> sp.csr_array:
    if active_TF.device.type == "cpu":  # numpy's search is five times faster than torch's
        where = torch.from_numpy(np.flatnonzero(active_TF.numpy()))
    else:
        where = active_TF.flatten().nonzero()[:, 0]
    data = pre_TF.flatten()[where].cpu().numpy()
    rows, columns = np.divmod(where.cpu().numpy(), pre_TF.shape[1])
    starts = np.searchsorted(rows, np.arange(len(pre_TF) + 1))
    return sp.csr_array((data, columns.astype(np.int32), starts.astype(np.int32)), shape=tuple(pre_TF.shape))


def _k_largest(codes_TF: sp.csr_array, k: int) -> sp.csr_array:
    """The k largest of every row; of equal ones those of the lowest columns."""
    rows = np.repeat(np.arange(codes_TF.shape[0]), np.diff(codes_TF.indptr))
    order = np.lexsort((-codes_TF.data, rows))  # stable, so that columns decide between equals
    rank = np.arange(codes_TF.nnz) - codes_TF.indptr[rows]
    kept = np.sort(order[rank < k])
    starts = np.searchsorted(rows[kept], np.arange(codes_TF.shape[0] + 1))
    return sp.csr_array((codes_TF.data[kept], codes_TF.indices[kept], starts), shape=codes_TF.shape)
