"""Which SAE: a bundled name, a file or folder in any known format, or one on the hub. Always a SAELens object."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from neurosae.errors import UserError, unknown_name
from neurosae.files import digest, sha256_file
from neurosae.models import DTYPES, LanguageModel, resolve_device
from neurosae.models import load as load_model
from neurosae.sae import hub, registry
from neurosae.sae.building import to_saelens
from neurosae.sae.checkpoints import SCALER, checkpoint_folder, load_checkpoint
from neurosae.sae.formats import recognise
from neurosae.sites import Site

DEFAULT = "smollm2-135m-b15-9k"
_SAMPLE = 2000  # tokens on which the L0 of an untrained SAE is set: tokens x latents values are held


def bundled() -> dict[str, Path]:
    """Names and folders of the SAEs that ship."""
    root = Path(str(files("neurosae").joinpath("pretrained")))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/cfg.json"))}


def load(spec: str = DEFAULT, device: str = "cpu", dtype: str = "float32", model: str | None = None) -> Any:
    """Load an SAE, whatever format and precision it is stored in.

    Parameters
    ----------
    spec : str
        A bundled name; a file or folder, whose format is recognised by content (`neurosae.sae.formats`), also one that
        SAELens' trainer left midway (`neurosae.sae.checkpoints`); or a name of
        SAELens' registry (`neurosae.sae.registry.resolve`), of which only this SAE is fetched. ``spec@site`` says
        where it belongs if the checkpoint does not, and overrules it if it does.
    device : str, default "cpu"
        "auto", "cpu", "cuda", "mps".
    dtype : {"float32", "bfloat16", "float16", "stored"}
        Scalings are folded in float32 before. "stored" converts nothing and, on the CPU, leaves the matrices of
        safetensors and torch files memory-mapped, for SAEs as large as memory: `neurosae.sae.encoding` reads them
        block by block. SAELens' own ``encode`` wants one precision throughout.
    model : str, optional
        The language model, for short names that several share.

    Returns
    -------
    sae_lens.SAE
        With ``site_of(sae)`` known.

    Raises
    ------
    UserError
        Unknown names, missing, truncated or foreign files, tensors that are missing, misshapen or not finite,
        configurations that contradict the tensors, pickles that would run code, no hub.

    Examples
    --------
    >>> sae = load()
    >>> str(site_of(sae))
    'blocks.15.hook_resid_post'
    """
    precisions: dict[str, torch.dtype | None] = {**DTYPES, "stored": None}
    if dtype not in precisions:
        raise unknown_name("dtype", dtype, precisions, where="dtype")
    where, precision = resolve_device(device), precisions[dtype]
    name, site = split(spec)
    path = _local(name)
    entry = None if path else registry.resolve(name, model, bundled())
    path = path or (hub.fetch(entry) if entry else None)
    if path is None and entry:
        return _converted_by_saelens(entry, site, where, precision)
    assert path is not None
    if folder := checkpoint_folder(path):
        sae = load_checkpoint(folder, device)
        if site:
            sae.cfg.metadata.hook_name = str(site)
        return sae.to(dtype=precision or sae.dtype)
    reader, source = recognise(path)
    checkpoint = reader.read(source)
    if checkpoint.model is None and entry:
        checkpoint = replace(checkpoint, model=entry.model)
    if site:
        checkpoint = replace(checkpoint, hook_name=str(site))
    return to_saelens(checkpoint, where, precision)


def load_pair(
    sae: str = DEFAULT,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
) -> tuple[Any, LanguageModel]:
    """An SAE and the language model that it belongs to.

    Parameters
    ----------
    sae : str
        See `load`.
    model : str, optional
        See `neurosae.models.load`. Default: the one that the SAE names.
    device, dtype, device_map
        Of the language model, see `neurosae.models.load`; the SAE is on that device, in float32.

    Returns
    -------
    sae : sae_lens.SAE
    language_model : LanguageModel

    Raises
    ------
    UserError
        What either cannot be loaded for; an SAE that names no language model where none is given, or that reads
        activations of another width.

    Examples
    --------
    >>> sae, language_model = load_pair()
    >>> sae.cfg.d_in == language_model.d_model
    True
    """
    loaded = load(sae, device, model=model)
    name = model or loaded.cfg.metadata.model_name
    if not name:
        raise UserError("This SAE does not say which language model it belongs to", where="model")
    language_model = load_model(name, device, dtype, device_map=device_map)
    check_width(loaded, language_model)
    return loaded, language_model


def declared_site(spec: str, model: str | None = None) -> Site:
    """The site an SAE was trained on, without reading its weights; `model` as in `load`."""
    name, site = split(spec)
    if site:
        return site
    path = _local(name)
    if path is None:
        entry = registry.resolve(name, model)
        path = hub.fetch(entry)
        if path is None:
            return site_of(load(spec, model=model))
    reader, source = recognise(path)
    return _site(reader.hook_name(source))


def check_width(sae: Any, language_model: LanguageModel) -> None:
    """Refuse an SAE that reads activations of another width than the language model gives."""
    if sae.cfg.d_in != language_model.d_model:
        raise UserError(
            f"The SAE reads activations of width {sae.cfg.d_in}, {language_model.name} gives {language_model.d_model}",
            where="sae",
            suggestion="Choose the language model that the SAE was trained on",
        )


def site_of(sae: Any) -> Site:
    """The site a loaded SAE was trained on, from its metadata."""
    return _site(sae.cfg.metadata.hook_name)


_CONFIGURATIONS = ("cfg.json", "config.json", "hyperparams.json", SCALER)
_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")


def identity(spec: str) -> str:
    """Hash of an SAE's weights and configuration files; a name of the hub stands for itself."""
    name, site = split(spec)
    path = _local(name)
    if path is None:
        return digest({"spec": spec})
    folder = path.parent if path.is_file() else path
    # A file is read with the configurations around it.
    around = [p for p in (*folder.iterdir(), *folder.parent.iterdir()) if p.name in _CONFIGURATIONS]
    below = [path, *around] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    read = sorted(p for p in below if p.suffix in _WEIGHTS or p.name in _CONFIGURATIONS)
    files = {os.path.relpath(p, folder): sha256_file(p) for p in read}
    return digest({"site": str(site), "files": files}, 16)


def split(spec: str) -> tuple[str, Site | None]:
    """The name and the site behind an @, unless a file is called that.

    Examples
    --------
    >>> split("path/to/sae@15")
    ('path/to/sae', Site(block=15, stream='resid_post'))
    """
    name, at, site = spec.rpartition("@")
    if not at or Path(spec).exists():
        return spec, None
    return name, Site.parse(site)


def _local(name: str) -> Path | None:
    """The folder of a bundled SAE, or the path if there is one."""
    path = bundled().get(name, Path(name))
    if path.exists():
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise UserError(f"There is no file or folder '{name}'", where="sae")
    return None


def _converted_by_saelens(
    entry: registry.Entry, site: Site | None, device: torch.device, dtype: torch.dtype | None
) -> Any:
    """The few formats that exist on the hub only: SAELens' own converter, and the same checks of the values."""
    from sae_lens import SAE

    with hub.hub_errors(registry.releases()[entry.release].repo_id):
        try:
            sae = SAE.from_pretrained(entry.release, entry.sae_id, device=str(device))
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"SAELens cannot read '{entry.spec}': {error}", where="sae") from error
    for name, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"'{name}' of '{entry.spec}' has values that are not finite", where="sae")
    if site:
        sae.cfg.metadata.hook_name = str(site)
    return sae.to(dtype=dtype or sae.dtype).eval()


def _site(name: str | None) -> Site:
    if not name:
        raise UserError(
            "This SAE does not say which hook it belongs to", where="sae", suggestion="Add it behind an @: path@15"
        )
    return Site.parse(name)


def untrained_like(sae: Any, sample_TD: torch.Tensor, seed: int = 0) -> Any:
    """Control: random unit directions with the width, the centring and the mean L0 of a trained SAE.

    Parameters
    ----------
    sae : sae_lens.SAE
        The trained one.
    sample_TD : torch.Tensor of shape (T, D)
        Clean activations on which the L0 of both is made equal, on any device and of any dtype; of more than 2,000
        tokens, so many that are evenly spaced.
    seed : int, default 0

    Returns
    -------
    sae_lens.SAE
        A JumpReLU SAE with one threshold, in float32 on the device of the trained one.

    References
    ----------
    Heap et al. (2025), Sparse autoencoders can interpret randomly initialized transformers.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    device = sae.W_enc.device
    rows = torch.linspace(0, len(sample_TD) - 1, min(len(sample_TD), _SAMPLE), dtype=torch.float64).round().long()
    sample_TD = sample_TD[rows.to(sample_TD.device)].to(device, torch.float32)
    control = JumpReLUSAE(
        JumpReLUSAEConfig(d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, apply_b_dec_to_input=True, metadata=sae.cfg.metadata)
    ).to(device)
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
