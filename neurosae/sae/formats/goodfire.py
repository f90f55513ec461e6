"""Goodfire's SAEs of Llama 3: one pickled state dict, ReLU, nothing subtracted from the input."""

from __future__ import annotations

import re

from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles

NAME = "Goodfire"
FILES = "Llama-3.1-8B-Instruct-SAE-l19.pth"
_LAYOUT = {
    "encoder_linear.weight": ("W_enc", "FD"),
    "encoder_linear.bias": ("b_enc", "F"),
    "decoder_linear.weight": ("W_dec", "DF"),
    "decoder_linear.bias": ("b_dec", "D"),
}
# The two that were published: (latents, width) -> block, language model.
_KNOWN: dict[tuple[int, ...], tuple[int, str]] = {
    (65536, 4096): (19, "meta-llama/Llama-3.1-8B-Instruct"),
    (65536, 8192): (50, "meta-llama/Llama-3.3-70B-Instruct"),
}


def matches(source: SavedFiles) -> bool:
    """Whether the two linear layers have Goodfire's names."""
    return source.header.keys() >= {"encoder_linear.weight", "decoder_linear.weight"}


def hook_name(source: SavedFiles) -> str | None:
    """The residual stream after the block that the file's name (``-l19``) or the SAE's size tells."""
    named = re.search(r"-l(\d+)$", source.weights.stem)
    known = _KNOWN.get(source.header["encoder_linear.weight"].shape)
    block = int(named[1]) if named else known[0] if known else None
    return None if block is None else f"blocks.{block}.hook_resid_post"


def read(source: SavedFiles) -> Checkpoint:
    """A plain ReLU SAE."""
    tensors = source.read(_LAYOUT)
    named = re.match(r"(Llama-3\.\d-\d+B-Instruct)-SAE", source.weights.name)
    known = _KNOWN.get(tuple(tensors["W_dec"].shape))
    model = f"meta-llama/{named[1]}" if named else known[1] if known else None
    return Checkpoint("standard", tensors, hook_name(source), model, apply_b_dec_to_input=False)
