"""The one place where a `Checkpoint` becomes a SAELens object."""

from __future__ import annotations

from typing import Any

import torch

from neurosae.errors import UserError
from neurosae.sae.formats.checkpoint import Checkpoint


def to_saelens(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> Any:
    """Make the SAELens object.

    Parameters
    ----------
    checkpoint : Checkpoint
        With its ``hook_name`` known.
    device : str or torch.device, default "cpu"
    dtype : torch.dtype or None, default torch.float32
        None keeps the tensors as they are, memory-mapped where they are.

    Returns
    -------
    sae_lens.SAE
        In evaluation mode; ``cfg.metadata`` has ``hook_name``, and ``model_name`` and ``notes`` where there are any.

    Raises
    ------
    UserError
        An unknown hook, a k that does not fit the number of latents, options that SAELens does not accept.
    """
    from sae_lens.registry import get_sae_class

    if checkpoint.hook_name is None:
        raise UserError(
            "This SAE does not say which hook it belongs to",
            where="sae",
            suggestion="Add it behind an @, for example path/to/sae@15 or path/to/sae@blocks.15.hook_mlp_out",
        )
    tensors = {name: _as_dtype(tensor, dtype) for name, tensor in checkpoint.tensors.items()}
    n_read, n_latents = tensors["W_enc"].shape
    if checkpoint.architecture == "topk":
        _check_k(checkpoint.options.get("k"), n_latents)
    metadata = {**checkpoint.metadata, "hook_name": checkpoint.hook_name}
    metadata |= {"model_name": checkpoint.model} if checkpoint.model else {}
    metadata |= {"notes": list(checkpoint.notes)} if checkpoint.notes else {}
    sae_class, config_class = get_sae_class(checkpoint.architecture)
    try:
        config = config_class.from_dict(
            {
                **checkpoint.options,
                "architecture": checkpoint.architecture,
                "d_in": n_read,
                "d_sae": n_latents,
                "apply_b_dec_to_input": checkpoint.apply_b_dec_to_input,
                "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
                "device": "meta",  # the weights exist already
                "metadata": metadata,
            }
        )
        sae = sae_class(config)
    except (ValueError, TypeError) as error:
        raise UserError(f"SAELens refuses this configuration: {error}", where="sae") from error
    sae.load_state_dict(tensors, assign=True)
    return sae.to(device=torch.device(device)).eval()


def _as_dtype(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor if dtype is None else tensor.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _check_k(k: Any, n_latents: int) -> None:
    if not isinstance(k, int) or not 1 <= k <= n_latents:
        raise UserError(f"k is {k!r}", where="sae", allowed=f"integers from 1 to the {n_latents} latents")
