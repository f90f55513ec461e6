"""Checkpoints of SAELens' trainer: weights of the training class, and beside them the scale of its inputs.

While training, SAELens multiplies activations by one scalar (or whitens them) and folds that into the weights only at
the end. A checkpoint from before that, used on activations as they are, is a different, broken SAE.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from neurosae.errors import UserError
from neurosae.models import resolve_device

SCALER = "activation_scaler.json"
_SCALED = {"expected_average_only_in": "scaling_factor", "covariance_whitening": "whitening"}


def checkpoint_folder(path: Path) -> Path | None:
    """The folder that SAELens' trainer wrote while it trained, given it or a file in it; None for anything else."""
    folder = path.parent if path.is_file() else path
    return folder if (folder / SCALER).is_file() else None


def load_checkpoint(folder: Path, device: str = "cpu") -> Any:
    """Load a checkpoint of SAELens' trainer for raw activations: the scale of training is folded into the weights.

    Parameters
    ----------
    folder : Path
        With ``cfg.json``, ``sae_weights.safetensors`` and ``activation_scaler.json``.
    device : str, default "cpu"

    Returns
    -------
    sae_lens.SAE
        The inference class in evaluation mode: a BatchTopK SAE comes as a JumpReLU SAE with the threshold of that
        moment, as at the end of training.

    Raises
    ------
    UserError
        Missing, truncated or contradictory files; a scale that is not known; values that are not finite.
    """
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.activation_scaler import ActivationScaler

    scaler = ActivationScaler()
    try:
        architecture = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))["architecture"]
        trained = get_sae_training_class(architecture)[0].load_from_disk(folder, dtype="float32")
        scaler.load(folder / SCALER)
        _fold(trained, scaler, folder)
        tensors = trained.state_dict()
        trained.process_state_dict_for_saving_inference(tensors)
        sae = SAE.from_dict(trained.cfg.get_inference_sae_cfg_dict())
        sae.load_state_dict(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{folder} is no complete checkpoint of SAELens' trainer ({reason})", where="checkpoint"
        ) from error
    for name, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"'{name}' of {folder} has values that are not finite", where="checkpoint")
    return sae.to(resolve_device(device)).eval()


def _fold(trained: Any, scaler: Any, folder: Path) -> None:
    """Fold the scale of the inputs into the weights, or refuse where the configuration wants one that is not there."""
    wanted = _SCALED.get(trained.cfg.normalize_activations)
    if wanted and getattr(scaler, wanted) is None:
        raise UserError(
            f"{folder / SCALER} has no {wanted}, the configuration says "
            f"normalize_activations='{trained.cfg.normalize_activations}'",
            where="checkpoint",
            suggestion="Take the finished SAE: its scale is folded in",
        )
    if scaler.scaling_factor is not None:
        if not 0 < scaler.scaling_factor < float("inf"):
            raise UserError(f"{folder / SCALER} has the scaling factor {scaler.scaling_factor}", where="checkpoint")
        trained.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        trained.fold_activation_whitening(
            mean=scaler.whitening.mean,
            whitening_matrix=scaler.whitening.matrix,
            unwhitening_matrix=scaler.whitening.inverse_matrix,
        )
