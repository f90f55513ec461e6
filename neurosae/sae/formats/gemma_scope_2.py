"""Gemma Scope 2, SAEs and transcoders of Gemma 3: ``params.safetensors`` in lower case, and ``config.json``."""

from __future__ import annotations

import re
from typing import Any

from neurosae.sae.formats import tensor_files
from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles

NAME = "Gemma Scope 2"
FILES = "resid_post/layer_17_width_16k_l0_medium/{config.json, params.safetensors}"
_LAYOUT = {
    "w_enc": ("W_enc", "DF"),
    "b_enc": ("b_enc", "F"),
    "w_dec": ("W_dec", "FD"),
    "b_dec": ("b_dec", "D"),
    "threshold": ("threshold", "F"),
}
_HOOKS = {  # what follows "model.layers.17." in the configuration -> hook after "blocks.17."
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "pre_feedforward_layernorm.output": "ln2.hook_normalized",
}
_FOLDERS = {  # name of the folder above -> the same, for the few folders without a configuration
    "resid_post": "output",
    "attn_out": "self_attn.o_proj.input",
    "mlp_out": "post_feedforward_layernorm.output",
    "transcoder": "pre_feedforward_layernorm.output",
}


def matches(source: SavedFiles) -> bool:
    """Whether the weights have Gemma Scope 2's lower-case names."""
    return source.header.keys() >= {"w_enc", "w_dec"} and tensor_files.kind(source.weights) == "safetensors"


def hook_name(source: SavedFiles) -> str | None:
    """From ``hf_hook_point_in``, else from the names of the two folders above."""
    place = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", str(_config(source).get("hf_hook_point_in", "")))
    return f"blocks.{place[1]}.{_HOOKS[place[2]]}" if place and place[2] in _HOOKS else None


def read(source: SavedFiles) -> Checkpoint:
    """JumpReLU; the decoder bias is not subtracted; transcoders may add an affine map of the input."""
    config = _config(source)
    if (architecture := config.get("architecture", "jump_relu")) != "jump_relu":
        raise source.error(f"the architecture '{architecture}' is not known", allowed="jump_relu")
    place_in, place_out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    transcodes = place_out is not None and place_out != place_in
    skips = "affine_skip_connection" in source.header
    if skips != bool(config.get("affine_connection", skips)):
        raise source.error("'affine_skip_connection' and the configuration's affine_connection contradict each other")
    if skips and not transcodes:
        raise source.error("'affine_skip_connection' belongs to a transcoder, but no hf_hook_point_out is configured")
    layout = dict(_LAYOUT)
    if transcodes:
        layout |= {"w_dec": ("W_dec", "FO"), "b_dec": ("b_dec", "O")}
    if skips:
        layout["affine_skip_connection"] = ("W_skip", "DO")
    tensors = source.read(layout)
    if skips:  # stored (input, output); SAELens multiplies by the transpose
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    name = "jumprelu" + ("_skip" if skips else "") + ("_transcoder" if transcodes else "")
    return Checkpoint(
        name,
        tensors,
        hook_name(source),
        _model(config),
        apply_b_dec_to_input=False,
        options={"d_out": tensors["W_dec"].shape[1]} if transcodes else {},
        metadata={"hf_hook_name": place_in} if place_in else {},
        notes=("a transcoder: decoding predicts the MLP's output",) if transcodes else (),
    )


def _config(source: SavedFiles) -> dict[str, Any]:
    if (config := source.config("hf_hook_point_in")) is not None:
        return config
    folder = source.weights.absolute().parent
    layer, stream = re.match(r"layer_(\d+)", folder.name), folder.parent.name.removesuffix("_all")
    if layer is None or stream not in _FOLDERS:
        return {}
    guess = {"hf_hook_point_in": f"model.layers.{layer[1]}.{_FOLDERS[stream]}"}
    if stream == "transcoder":
        guess["hf_hook_point_out"] = f"model.layers.{layer[1]}.{_FOLDERS['mlp_out']}"
    return guess


def _model(config: dict[str, Any]) -> str | None:
    """The hub's name: the configurations write ``gemma-v3-1b-pt``, and the smallest base model has no suffix."""
    if not (name := config.get("model_name")):
        return None
    name = str(name).removeprefix("google/").replace("-v3", "-3")
    return "google/" + ("gemma-3-270m" if name == "gemma-3-270m-pt" else name)
