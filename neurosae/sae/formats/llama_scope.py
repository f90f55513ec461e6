"""Llama Scope (He et al. 2024, arXiv 2410.20526): trained on scaled activations, used here on raw ones."""

from __future__ import annotations

import math
import re
from typing import Any

from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles, fold_decoder_norms

NAME = "Llama Scope"
FILES = "hyperparams.json + checkpoints/final.safetensors"
_LAYOUT = {
    "encoder.weight": ("W_enc", "FD"),
    "encoder.bias": ("b_enc", "F"),
    "decoder.weight": ("W_dec", "DF"),
    "decoder.bias": ("b_dec", "D"),
}
_KEYS = ("hook_point_in", "d_model", "d_sae")


def matches(source: SavedFiles) -> bool:
    """Whether a pair of linear layers comes with Llama Scope's hyperparameters."""
    return source.header.keys() >= {"encoder.weight", "decoder.weight"} and source.config(*_KEYS) is not None


def hook_name(source: SavedFiles) -> str | None:
    """``hook_point_in``: R is the residual stream after the MLP, A the attention's output, M the MLP's."""
    return str((source.config(*_KEYS) or {})["hook_point_in"])


def read(source: SavedFiles) -> Checkpoint:
    """Fold the dataset norms, then the decoder norms; the threshold stays, and applies to raw activations.

    ``s = sqrt(d_model) / average norm``, for input and output. TopK training becomes JumpReLU if a threshold was
    measured, as its authors use it.
    """
    config = source.config(*_KEYS) or {}
    if config.get("hook_point_out", config["hook_point_in"]) != config["hook_point_in"]:
        raise source.error("hook_point_in and hook_point_out differ: this is a transcoder, not an SAE")
    tensors = source.read(_LAYOUT, {"D": config["d_model"], "F": config["d_sae"]}, ignore=_norms(source))
    scale_in, scale_out = _scales(source, config)
    tensors["b_enc"] = tensors["b_enc"] / scale_in
    tensors["b_dec"] = tensors["b_dec"] / scale_out
    tensors["W_dec"] = tensors["W_dec"].float() * (scale_in / scale_out)
    if config.get("sparsity_include_decoder_norm"):
        fold_decoder_norms(tensors)
    architecture, options = _activation(source, config)
    if architecture == "jumprelu":
        tensors["threshold"] = tensors["b_enc"].new_full((config["d_sae"],), config["jump_relu_threshold"])
    subtracts = bool(config.get("apply_decoder_bias_to_pre_encoder", False))
    if subtracts and scale_in != scale_out:
        raise source.error("a decoder bias subtracted from the input needs one norm for input and output")
    model = "meta-llama/Llama-3.1-8B" if re.search(r"Llama3_1-8B-Base", source.weights.absolute().as_posix()) else None
    return Checkpoint(architecture, tensors, hook_name(source), model, subtracts, options)


def _norms(source: SavedFiles) -> list[str]:
    """Newer files repeat the dataset's norms among the tensors; the hyperparameters are what counts."""
    return [name for name in source.header if name.startswith("dataset_average_activation_norm.")]


def _scales(source: SavedFiles, config: dict[str, Any]) -> tuple[float, float]:
    normalisation = config.get("norm_activation", "dataset-wise")
    if normalisation in ("none", "inference"):
        return 1.0, 1.0
    if normalisation != "dataset-wise":
        raise source.error(f"norm_activation is '{normalisation}'", allowed="dataset-wise, inference, none")
    norms = config.get("dataset_average_activation_norm") or {}
    try:
        scale_in, scale_out = (math.sqrt(config["d_model"]) / float(norms[end]) for end in ("in", "out"))
    except (TypeError, KeyError, ValueError, ZeroDivisionError) as error:
        raise source.error("dataset_average_activation_norm lacks a positive 'in' and 'out'") from error
    if not (0 < scale_in < math.inf and 0 < scale_out < math.inf):
        raise source.error("dataset_average_activation_norm lacks a positive 'in' and 'out'")
    return scale_in, scale_out


def _activation(source: SavedFiles, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name, threshold = str(config.get("act_fn", "jumprelu")).lower(), config.get("jump_relu_threshold") or 0
    if name in ("jumprelu", "topk") and threshold > 0:
        return "jumprelu", {}
    if name == "topk" and config.get("top_k"):
        return "topk", {"k": config["top_k"]}
    if name in ("relu", "jumprelu"):
        return "standard", {}
    raise source.error(f"act_fn '{name}' is not known or has no top_k", allowed="jumprelu, topk, relu")
