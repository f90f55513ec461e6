"""dictionary_learning (Marks et al.): a pickled ``ae.pt`` and the trainer's configuration."""

from __future__ import annotations

import re
from typing import Any

import torch

from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles, fold_decoder_norms

NAME = "dictionary_learning"
FILES = "ae.pt + config.json"
_ENCODER = {"encoder.weight": ("W_enc", "FD"), "decoder.weight": ("W_dec", "DF")}
_LINEAR = {**_ENCODER, "encoder.bias": ("b_enc", "F")}
_MATRICES = {name: (name, axes) for name, axes in {"W_enc": "DF", "b_enc": "F", "W_dec": "FD", "b_dec": "D"}.items()}
_GATED = {"gate_bias": ("b_gate", "F"), "mag_bias": ("b_mag", "F"), "r_mag": ("r_mag", "F")}
# Class -> architecture, its tensors, whether b_dec is subtracted from the input, whether the activations that the
# library returns are multiplied by the decoder norms.
_CLASSES: dict[str, tuple[str, dict[str, tuple[str, str]], bool, bool]] = {
    "AutoEncoder": ("standard", {**_LINEAR, "bias": ("b_dec", "D")}, True, False),
    "AutoEncoderNew": ("standard", {**_LINEAR, "decoder.bias": ("b_dec", "D")}, False, False),
    "AutoEncoderTopK": ("topk", {**_LINEAR, "b_dec": ("b_dec", "D")}, True, False),
    "BatchTopKSAE": ("jumprelu", {**_LINEAR, "b_dec": ("b_dec", "D"), "threshold": ("threshold", "")}, True, False),
    "MatryoshkaBatchTopKSAE": ("jumprelu", {**_MATRICES, "threshold": ("threshold", "")}, True, False),
    "JumpReluAutoEncoder": ("jumprelu", {**_MATRICES, "threshold": ("threshold", "F")}, False, True),
    "GatedAutoEncoder": ("gated", {**_ENCODER, **_GATED, "decoder_bias": ("b_dec", "D")}, True, True),
}
_BUFFERS = ("threshold", "group_sizes")  # TopK stores a threshold too, and does not use it
_STREAMS = {"resid_post": "resid_post", "resid_pre": "resid_pre", "mlp": "mlp_out", "att": "attn_out"}


def matches(source: SavedFiles) -> bool:
    """Whether a dictionary's tensors come with the configuration of its trainer."""
    return bool(source.header.keys() & {"encoder.weight", "W_enc"}) and source.config("trainer") is not None


def hook_name(source: SavedFiles) -> str | None:
    """From the trainer's ``layer`` and ``submodule_name``, which is ``resid_post_layer_8`` or a module's path."""
    trainer = _trainer(source)
    layer, name = trainer.get("layer"), str(trainer.get("submodule_name") or "resid_post")
    if not isinstance(layer, int):
        return None
    if re.search(r"(?:layers|h|blocks)\.\d+$", name):
        return f"blocks.{layer}.hook_resid_post"
    stream = next((stream for part, stream in _STREAMS.items() if part in name), None)
    return f"blocks.{layer}.hook_{stream}" if stream else None


def read(source: SavedFiles) -> Checkpoint:
    """Read any of its classes; BatchTopK becomes JumpReLU at the threshold measured in training."""
    trainer = _trainer(source)
    if (name := trainer.get("dict_class")) not in _CLASSES:
        raise source.error(f"dict_class '{name}' is not read", allowed=", ".join(_CLASSES))
    architecture, layout, subtracts, scaled = _CLASSES[name]
    if "k" in source.header:
        layout = {**layout, "k": ("k", "")}
    sizes = {"D": trainer.get("activation_dim"), "F": trainer.get("dict_size")}
    tensors = source.read(layout, {axis: n for axis, n in sizes.items() if n is not None}, ignore=_BUFFERS)
    k = _k(source, trainer, tensors)
    options: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if layout.get("threshold", ("", "F"))[1] == "" and tensors["threshold"][0] < 0:
        architecture, notes = "topk", ("no threshold was measured in training: read as TopK for each token",)
        del tensors["threshold"]
    if architecture == "topk":
        options = {"k": k}
    if scaled:
        fold_decoder_norms(tensors)
    model = trainer.get("lm_name")
    return Checkpoint(architecture, tensors, hook_name(source), model, subtracts, options, notes=notes)


def _trainer(source: SavedFiles) -> dict[str, Any]:
    trainer = (source.config("trainer") or {})["trainer"]
    if not isinstance(trainer, dict):
        raise source.error("'trainer' in the configuration is no object")
    return trainer


def _k(source: SavedFiles, trainer: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """k from the weights, which must be the configured one if both are there."""
    if "k" not in tensors:
        return trainer.get("k")
    k = int(tensors.pop("k")[0])
    if trainer.get("k", k) != k:
        raise source.error(f"'k' is {k}, the configuration says {trainer['k']}: they contradict each other")
    return k
