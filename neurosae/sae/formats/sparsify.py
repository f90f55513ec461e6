"""sparsify (EleutherAI): TopK SAEs in folders named after the module whose output they read."""

from __future__ import annotations

import re
from typing import Any

from neurosae.sae.formats.checkpoint import Checkpoint, SavedFiles, json_object

NAME = "sparsify"
FILES = "layers.5/{cfg.json, sae.safetensors}"
_LAYOUT = {
    "encoder.weight": ("W_enc", "FD"),
    "encoder.bias": ("b_enc", "F"),
    "W_dec": ("W_dec", "FD"),
    "b_dec": ("b_dec", "D"),
}
_STREAMS = {"": "hook_resid_post", "mlp": "hook_mlp_out"} | dict.fromkeys(
    ("attn", "self_attn", "attention"), "hook_attn_out"
)


def matches(source: SavedFiles) -> bool:
    """Whether the encoder is a linear layer and the decoder a bare matrix."""
    return source.header.keys() >= {"encoder.weight", "W_dec"}


def hook_name(source: SavedFiles) -> str | None:
    """From the folder: ``layers.5`` is the residual stream after block 5, ``layers.5.mlp`` what its MLP adds."""
    place = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.?(\w*)", source.weights.absolute().parent.name)
    if place is None or place[2] not in _STREAMS:
        return None
    if (source.config("d_in", "k") or {}).get("transcode"):
        return f"blocks.{place[1]}.mlp.hook_in" if place[2] == "mlp" else None
    return f"blocks.{place[1]}.{_STREAMS[place[2]]}"


def read(source: SavedFiles) -> Checkpoint:
    """The k largest of relu(W (x - b_dec) + b) over all latents; transcoders subtract nothing."""
    if (config := source.config("d_in", "k")) is None:
        raise source.error("there is no configuration beside it", allowed=FILES)
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        what = "signed TopK" if config.get("signed") else f"activation '{config['activation']}'"
        raise source.error(f"{what} is not read", allowed="activation 'topk'")
    if config.get("skip_connection"):
        raise source.error("'W_skip' adds the input to the output: skip transcoders are not read", allowed="TopK SAEs")
    transcodes = bool(config.get("transcode"))
    return Checkpoint(
        "topk",
        source.read(_LAYOUT, {"D": config["d_in"], "F": _n_latents(config)}),
        hook_name(source),
        _model(source),
        apply_b_dec_to_input=not transcodes,
        options={"k": config["k"]},
        notes=("a transcoder: decoding predicts the module's output",) if transcodes else (),
    )


def _n_latents(config: dict[str, Any]) -> Any:
    """``num_latents``; 0 means that the expansion factor counts."""
    return config.get("num_latents") or config["d_in"] * config.get("expansion_factor", 0)


def _model(source: SavedFiles) -> str | None:
    """From the configuration of the whole run, one folder up."""
    run = source.weights.absolute().parent.parent / "config.json"
    return (json_object(run) or {}).get("model") if run.is_file() else None
