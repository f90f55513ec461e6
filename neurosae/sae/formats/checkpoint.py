"""What a reader is given (`SavedFiles`), what it returns (`Checkpoint`), and the checks between the two."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from neurosae.errors import UserError
from neurosae.sae.formats import tensor_files
from neurosae.sae.formats.tensor_files import TensorInfo
from neurosae.sites import Site

_LARGEST_CONFIG = 1_000_000  # bytes
_CHECKED_AT_ONCE = 2**24  # values
_AUTOENCODER = {"W_enc": "DF", "b_enc": "F", "W_dec": "FD", "b_dec": "D"}
_TRANSCODER = {"W_enc": "DF", "b_enc": "F", "W_dec": "FO", "b_dec": "O"}
_SKIP = {"W_skip": "OD"}
_THRESHOLD = {"threshold": "F"}
# Tensors and axes of SAELens' classes: D is the width that is read, F the latents, O the width that is written.
ARCHITECTURES: dict[str, dict[str, str]] = {
    "standard": _AUTOENCODER,
    "topk": _AUTOENCODER,
    "jumprelu": _AUTOENCODER | _THRESHOLD,
    "gated": {"W_enc": "DF", "b_gate": "F", "b_mag": "F", "r_mag": "F", "W_dec": "FD", "b_dec": "D"},
    "transcoder": _TRANSCODER,
    "skip_transcoder": _TRANSCODER | _SKIP,
    "jumprelu_transcoder": _TRANSCODER | _THRESHOLD,
    "jumprelu_skip_transcoder": _TRANSCODER | _THRESHOLD | _SKIP,
}


@dataclass(frozen=True)
class Checkpoint:
    """An SAE in one orientation and with every scaling folded in, whatever format it came from.

    Attributes
    ----------
    architecture : str
        A key of `ARCHITECTURES`.
    tensors : dict of str to torch.Tensor
        In SAELens' orientation: ``W_enc`` (D, F), ``b_enc`` (F,), ``W_dec`` (F, D), ``b_dec`` (D,), and what else the
        architecture has. Vectors are float32; matrices keep the precision they are stored in unless something was
        folded in, and may be transposed views of a memory-mapped file.
    hook_name : str or None
        TransformerLens' name of the place it was trained on; None if the checkpoint does not say.
    model : str or None
        Name of the language model; None if the checkpoint does not say.
    apply_b_dec_to_input : bool
        Whether ``b_dec`` is subtracted before encoding.
    options : dict
        Further fields of SAELens' configuration, such as ``k``.
    metadata : dict
        Further entries of SAELens' metadata.
    notes : tuple of str
        What a reader of results should know.
    """

    architecture: str
    tensors: Mapping[str, torch.Tensor]
    hook_name: str | None
    model: str | None
    apply_b_dec_to_input: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def site(self) -> Site | None:
        """The hook as a site, None if it is unknown or none that neurosae listens at."""
        try:
            return Site.parse(self.hook_name) if self.hook_name else None
        except UserError:
            return None


@dataclass(frozen=True)
class SavedFiles:
    """One file of tensors with its header, and the JSON files that may describe it."""

    weights: Path
    header: dict[str, TensorInfo]

    @cached_property
    def configs(self) -> dict[Path, dict[str, Any]]:
        """JSON objects beside the weights, or one folder up if there are none beside them."""
        return _json_objects(self.weights.parent) or _json_objects(self.weights.parent.parent)

    def config(self, *keys: str) -> dict[str, Any] | None:
        """The first JSON object that has all these keys."""
        return next((found for found in self.configs.values() if found.keys() >= set(keys)), None)

    def error(self, what: str, **more: Any) -> UserError:
        """An error about this file."""
        return UserError(f"{self.weights}: {what}", where="sae", **more)

    def read(
        self,
        layout: Mapping[str, tuple[str, str]],
        sizes: Mapping[str, int] | None = None,
        ignore: Collection[str] = (),
    ) -> dict[str, torch.Tensor]:
        """Read, check and orient the tensors of a format.

        Parameters
        ----------
        layout : mapping
            Name in the file -> (name in SAELens, axes in the file). Axes are letters, as in ``"FD"``; ``""`` is a
            number, which is repeated for every latent.
        sizes : mapping, optional
            What the configuration says about the axes; tensors that differ contradict it.
        ignore : collection of str
            Tensors of the format that inference does not need.

        Returns
        -------
        dict of str to torch.Tensor
            By SAELens' names and in its orientation: vectors in float32; matrices as stored, so that those of a
            memory-mapped file are not copied.

        Raises
        ------
        UserError
            A missing, surplus or misshapen tensor, or values that are not finite; names the file and the tensor.
        """
        known = dict(sizes or {})
        for axis, n in known.items():
            if not isinstance(n, int) or n < 1:
                raise self.error(f"the configuration gives {n!r} as the size of {axis}", allowed="integers from 1")
        for name, (_, axes) in layout.items():
            if name not in self.header:
                raise self.error(f"the tensor '{name}' is missing", allowed=", ".join(layout))
            shape = self.header[name].shape
            expected = [known.setdefault(a, n) for a, n in zip(axes, shape, strict=False)]
            if len(axes) != len(shape) or list(shape) != expected:
                wanted = ", ".join(f"{a} = {known[a]}" if a in known else a for a in axes) or "a number"
                reason = ": the configuration contradicts the tensors" if sizes else ""
                raise self.error(f"'{name}' has shape {tuple(shape)}, not ({wanted}){reason}")
        if surplus := sorted(self.header.keys() - layout.keys() - set(ignore)):
            raise self.error(f"'{surplus[0]}' is no tensor of this format", allowed=", ".join(layout))
        stored = tensor_files.tensors(self.weights)
        return dict(self._oriented(stored, layout, known))

    def _oriented(
        self, stored: dict[str, torch.Tensor], layout: Mapping[str, tuple[str, str]], sizes: Mapping[str, int]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, (target, axes) in layout.items():
            tensor = stored.pop(name)
            if not all(torch.isfinite(part).all() for part in tensor.reshape(-1).split(_CHECKED_AT_ONCE)):
                raise self.error(f"'{name}' has values that are not finite")
            if len(axes) < 2:
                tensor = tensor.float().expand(sizes["F"] if not axes else -1).contiguous()
            transposed = (target, axes) in {("W_enc", "FD"), ("W_dec", "DF")}
            yield target, tensor.T if transposed else tensor


def fold_decoder_norms(tensors: dict[str, torch.Tensor]) -> None:
    """Make decoder rows unit vectors in place: latents are multiplied by their row's norm, reconstructions stay.

    A latent whose row is zero writes nothing, and is silenced.
    """
    tensors |= {name: tensors[name].float() for name in ("W_enc", "W_dec")}
    norm_F = tensors["W_dec"].norm(dim=1)
    tensors["W_dec"] = tensors["W_dec"] / torch.where(norm_F > 0, norm_F, 1)[:, None]
    for name in tensors.keys() & {"W_enc", "b_enc", "threshold", "b_gate", "b_mag"}:
        tensors[name] = tensors[name] * norm_F


def json_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None for a list or a file too large to be a configuration."""
    if path.stat().st_size > _LARGEST_CONFIG:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})", where="sae") from error
    return content if isinstance(content, dict) else None


def _json_objects(folder: Path) -> dict[Path, dict[str, Any]]:
    objects = ((path, json_object(path)) for path in sorted(folder.glob("*.json")))
    return {path: found for path, found in objects if found is not None}
