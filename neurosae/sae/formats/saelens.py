"""SAELens' own folders: a configuration and weights, of version 6 and before."""

from __future__ import annotations

from typing import Any

import torch

from neurosae.sae.formats.checkpoint import ARCHITECTURES, Checkpoint, SavedFiles

NAME = "SAELens"
FILES = "cfg.json + sae_weights.safetensors"
_OPTIONS = ("k", "d_out", "normalize_activations", "reshape_activations", "rescale_acts_by_decoder_norm")
# Scalings that depend on the training data and leave no trace in the weights.
_UNFOLDED = ("expected_average_only_in", "covariance_whitening")


def matches(source: SavedFiles) -> bool:
    """Whether the weights have SAELens' names and a configuration says ``d_in`` and ``d_sae``."""
    return source.header.keys() >= {"W_enc", "W_dec", "b_dec"} and source.config("d_in", "d_sae") is not None


def hook_name(source: SavedFiles) -> str | None:
    """The hook in ``metadata``, or on the top level as before version 6."""
    config = source.config("d_in", "d_sae") or {}
    found = _metadata(config).get("hook_name") or config.get("hook_name") or config.get("hook_point")
    return str(found) if found else None


def read(source: SavedFiles) -> Checkpoint:
    """Read the SAE; its configuration is brought up to version 6 by SAELens itself."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    raw = source.config("d_in", "d_sae") or {}
    try:
        config: dict[str, Any] = handle_config_defaulting(dict(raw))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise source.error(f"the configuration cannot be understood ({error})") from error
    architecture = str(config.get("architecture", "standard"))
    if architecture not in ARCHITECTURES:
        raise source.error(f"the architecture '{architecture}' is not known", allowed=", ".join(ARCHITECTURES))
    layout = {name: (name, axes) for name, axes in ARCHITECTURES[architecture].items()}
    sizes = {"D": config["d_in"], "F": config["d_sae"]}
    if "O" in "".join(ARCHITECTURES[architecture].values()) and "d_out" in config:
        sizes["O"] = config["d_out"]
    options = {name: config[name] for name in _OPTIONS if config.get(name) is not None}
    scaling = options.get("normalize_activations")
    notes = (f"trained with normalize_activations='{scaling}', taken as folded in",) if scaling in _UNFOLDED else ()
    if scaling in _UNFOLDED:
        options["normalize_activations"] = "none"
    return Checkpoint(
        architecture,
        _without_unit_scaling(source, layout, sizes),
        hook_name(source),
        _metadata(config).get("model_name"),
        bool(config.get("apply_b_dec_to_input", True)),
        options,
        _metadata(config),
        notes,
    )


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    metadata = config.get("metadata")
    return dict(metadata) if isinstance(metadata, dict) else {}


def _without_unit_scaling(
    source: SavedFiles, layout: dict[str, tuple[str, str]], sizes: dict[str, int]
) -> dict[str, torch.Tensor]:
    """Old versions stored a scaling factor of ones; any other one belongs to finetuning that SAELens 6 dropped."""
    if "scaling_factor" not in source.header:
        return source.read(layout, sizes)
    tensors = source.read(layout | {"scaling_factor": ("scaling_factor", "F")}, sizes)
    if not torch.equal(tensors.pop("scaling_factor"), torch.ones(sizes["F"])):
        raise source.error("'scaling_factor' is not all ones: finetuned scalings are not supported")
    return tensors
