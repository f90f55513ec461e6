"""Gemma Scope 1 (Lieberum et al. 2024, arXiv 2408.05147): ``params.npz`` and nothing else; the path tells the rest."""

from __future__ import annotations

import re

from neurosae.sae.formats import tensor_files
from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles

NAME = "Gemma Scope"
FILES = "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz"
_AXES = {"w_enc": "DF", "b_enc": "F", "w_dec": "FD", "b_dec": "D", "threshold": "F"}
_MODELS = {2304: "gemma-2-2b", 3584: "gemma-2-9b", 4608: "gemma-2-27b"}
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|att|mlp|transcoders)")
_STREAMS = {  # hook, what to know about it
    "res": ("blocks.{}.hook_resid_post", ()),
    "att": ("blocks.{}.attn.hook_z", ("reads the heads' outputs side by side, before the output projection",)),
    "mlp": ("blocks.{}.hook_mlp_out", ("reads the MLP's output after post_feedforward_layernorm",)),
    "transcoders": ("blocks.{}.ln2.hook_normalized", ("a transcoder: decoding predicts the MLP's output",)),
}


def matches(source: SavedFiles) -> bool:
    """Whether an npz archive, which no other format uses, holds a JumpReLU SAE."""
    return tensor_files.is_npz(source.weights) and {n.lower() for n in source.header} >= {"w_enc", "w_dec", "threshold"}


def hook_name(source: SavedFiles) -> str | None:
    """Layer from ``layer_12``, stream from the repository's name; both are in the path."""
    repository, layers = _repository(source), re.findall(r"/layer_(\d+)/", _path(source))
    return _STREAMS[repository[3]][0].format(layers[-1]) if repository and layers else None


def read(source: SavedFiles) -> Checkpoint:
    """JumpReLU; the decoder bias is not subtracted from the input."""
    repository = _repository(source)
    spelling = {name.lower(): name for name in source.header}
    layout = {spelling.get(name, name): (name.replace("w_", "W_"), axes) for name, axes in _AXES.items()}
    tensors = source.read(layout)
    width = tensors["W_dec"].shape[1]
    if repository is None:
        return Checkpoint("jumprelu", tensors, hook_name(source), _MODELS.get(width), False)
    model = f"gemma-2-{repository[1]}" + ("-it" if repository[2] == "it" else "")
    transcodes = repository[3] == "transcoders"
    return Checkpoint(
        "jumprelu_transcoder" if transcodes else "jumprelu",
        tensors,
        hook_name(source),
        model,
        apply_b_dec_to_input=False,
        options={"d_out": width} if transcodes else {},
        notes=_STREAMS[repository[3]][1],
    )


def _path(source: SavedFiles) -> str:
    # Not resolved: in the hub's cache files are links to a folder that says nothing.
    return source.weights.absolute().as_posix()


def _repository(source: SavedFiles) -> re.Match[str] | None:
    return _REPOSITORY.search(_path(source))
