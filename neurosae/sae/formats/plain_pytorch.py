"""A plain PyTorch autoencoder, ``Sequential(Linear, ReLU)`` and a decoder without bias; it does not say its site."""

from __future__ import annotations

import torch

from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles

NAME = "plain PyTorch"
FILES = "a state dict with encoder.0.weight, encoder.0.bias and decoder.weight"
_LAYOUT = {
    "encoder.0.weight": ("W_enc", "FD"),
    "encoder.0.bias": ("b_enc", "F"),
    "decoder.weight": ("W_dec", "DF"),
}


def matches(source: SavedFiles) -> bool:
    """Whether the encoder is the first module of a Sequential."""
    return "encoder.0.weight" in source.header


def hook_name(source: SavedFiles) -> str | None:
    """Unknown: the file holds weights only."""
    return None


def read(source: SavedFiles) -> Checkpoint:
    """ReLU, no decoder bias."""
    tensors = source.read(_LAYOUT)
    tensors["b_dec"] = torch.zeros(tensors["W_dec"].shape[1])
    return Checkpoint("standard", tensors, None, None, apply_b_dec_to_input=False)
