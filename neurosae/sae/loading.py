"""Which SAE: a bundled name or a folder in SAELens' format. Always a SAELens object, always with its site."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from neurosae.errors import UserError, unknown_name
from neurosae.sites import Site

DEFAULT = "smollm2-135m-b15-6k"


def bundled() -> dict[str, Path]:
    """Names and folders of the SAEs that ship."""
    root = Path(str(files("neurosae").joinpath("pretrained")))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/cfg.json"))}


def load(spec: str = DEFAULT, device: str = "cpu") -> Any:
    """Load an SAE in float32, whatever precision it is stored in.

    Parameters
    ----------
    spec : str
        A bundled name, or a folder with ``cfg.json`` and ``sae_weights.safetensors``.
    device : str, default "cpu"

    Returns
    -------
    sae_lens.SAE
        With ``site_of(sae)`` known.

    Raises
    ------
    UserError
        Unknown name, missing or truncated files, weights that contradict the configuration.

    Examples
    --------
    >>> sae = load()
    >>> str(site_of(sae))
    'blocks.15.hook_resid_post'
    """
    folder, config = _configuration(spec)
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(folder, device=device, dtype="float32")
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no complete SAE ({str(error).splitlines()[0]})",
            where="--sae",
            allowed="a folder in SAELens' format: cfg.json and sae_weights.safetensors that fit each other",
        ) from error
    if sae.W_dec.shape != (config["d_sae"], config["d_in"]) or not torch.isfinite(sae.W_dec).all():
        raise UserError(f"W_dec in {folder} has the wrong shape or values that are not finite", where="--sae")
    return sae.eval()


def _configuration(spec: str) -> tuple[Path, dict[str, Any]]:
    """Folder of an SAE and its configuration."""
    known = bundled()
    folder = known.get(spec, Path(spec))
    if not folder.is_dir():
        raise unknown_name("SAE", spec, known, where="--sae")
    try:
        return folder, dict(json.loads((folder / "cfg.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'cfg.json'} cannot be read ({error})", where="--sae") from error


def declared_site(spec: str) -> Site:
    """The site an SAE was trained on, from its configuration alone."""
    return _site(_configuration(spec)[1].get("metadata", {}).get("hook_name"))


def site_of(sae: Any) -> Site:
    """The site a loaded SAE was trained on, from its metadata."""
    return _site(sae.cfg.metadata.hook_name)


def _site(name: str | None) -> Site:
    if not name:
        raise UserError(
            "This SAE does not say which hook it belongs to", where="--sae", suggestion="Add metadata.hook_name"
        )
    return Site.parse(name)


def untrained_like(sae: Any, sample_TD: torch.Tensor, seed: int = 0) -> Any:
    """Control: random unit directions with the width, the centring and the mean L0 of a trained SAE.

    Parameters
    ----------
    sae : sae_lens.SAE
        The trained one.
    sample_TD : torch.Tensor of shape (T, D)
        Clean activations on which the L0 of both is made equal.
    seed : int, default 0

    Returns
    -------
    sae_lens.SAE
        A JumpReLU SAE with one threshold.

    References
    ----------
    Heap et al. (2025), Sparse autoencoders can interpret randomly initialized transformers.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    control = JumpReLUSAE(
        JumpReLUSAEConfig(d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, apply_b_dec_to_input=True, metadata=sae.cfg.metadata)
    )
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(sae.cfg.d_sae, sae.cfg.d_in, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        active = (sae.encode(sample_TD) > 0).float().mean()
        control.W_dec.copy_(directions)
        control.W_enc.copy_(directions.T)
        control.b_enc.zero_()
        control.b_dec.copy_(sample_TD.mean(0))
        pre = (sample_TD - control.b_dec) @ control.W_enc
        keep = max(1, int(active * pre.numel()))
        threshold = pre.flatten().kthvalue(pre.numel() - keep).values.clamp(min=0)
        control.threshold.copy_(threshold.expand_as(control.threshold))
    return control.eval()
