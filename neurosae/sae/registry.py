"""The SAEs that SAELens knows on the hub: names, short names, and what is known offline."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from neurosae.errors import UserError

_LLAMA_SCOPE = re.compile(r"[Ll](\d+)([RAMram])-(8|32)x")
_GEMMA_SCOPE_2 = re.compile(r"layer_\d+_width_\w+_l0_(?:small|medium|big)")
_LIST = "python -m neurosae.sae list shows what there is"
# Width of the residual stream, for memory estimates without a download.
_MODEL_WIDTHS = {
    "gpt2-small": 768, "pythia-70m-deduped": 512, "mistral-7b": 4096, "gemma-2b": 2048, "gemma-2b-it": 2048,
    "gemma-2-2b": 2304, "gemma-2-9b": 3584, "gemma-2-9b-it": 3584, "gemma-2-27b": 4608, "gemma-3-270m": 640,
    "gemma-3-1b": 1152, "gemma-3-4b": 2560, "gemma-3-12b": 3840, "gemma-3-27b": 5376, "Llama-3.1-8B": 4096,
    "Llama-3.1-8B-Instruct": 4096, "Llama-3.3-70B-Instruct": 8192, "Meta-Llama-3-8B-Instruct": 4096,
    "DeepSeek-R1-Distill-Llama-8B": 4096, "Qwen2.5-7B-Instruct": 3584, "gpt-oss-20b": 2880,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What is known about one SAE without fetching it; None where it is not."""

    release: str
    sae_id: str
    model: str
    n_latents: int | None
    l0: float | None
    neuronpedia: str | None

    @property
    def spec(self) -> str:
        """The name that `neurosae.sae.loading.load` takes."""
        return f"{self.release}/{self.sae_id}"

    @property
    def memory(self) -> int | None:
        """Bytes of the two matrices in float32, an estimate: SAEs of attention heads may read another width."""
        name = self.model.rsplit("/", 1)[-1]
        d_model = _MODEL_WIDTHS.get(name) or _MODEL_WIDTHS.get(re.sub(r"-(pt|it)$", "", name))
        return 8 * self.n_latents * d_model if self.n_latents and d_model else None


def releases() -> dict[str, Any]:
    """SAELens' directory of releases."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    found: dict[str, Any] = get_pretrained_saes_directory()
    return found


def entries(release: str) -> list[Entry]:
    """Every SAE of a release.

    Examples
    --------
    >>> found = entries("llama_scope_lxr_8x")
    >>> len(found), found[0].n_latents
    (32, 32768)
    """
    about = releases()[release]
    return [
        Entry(release, sae_id, about.model, _n_latents(release, f"{sae_id} {path}"), about.expected_l0[sae_id] or None,
              about.neuronpedia_id[sae_id])
        for sae_id, path in about.saes_map.items()
    ]  # fmt: skip


def resolve(spec: str, model: str | None = None, others: Collection[str] = ()) -> Entry:
    """The SAE that a name means: ``release/sae_id`` or a short form.

    Parameters
    ----------
    spec : str
        ``gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82``, ``L15R-8x`` (Llama Scope: layer, then R, A or M),
        or ``layer_22_width_65k_l0_medium`` (Gemma Scope 2, residual stream).
    model : str, optional
        The language model; needed for a short form that exists for several.
    others : collection of str
        Names that were looked for before; suggested if one of them is near.

    Raises
    ------
    UserError
        Unknown names, with the nearest known ones; a short form that several models share, with what it could mean.
    """
    if match := _LLAMA_SCOPE.fullmatch(spec):
        layer, place, factor = match[1], match[2].lower(), match[3]
        return _entry(f"llama_scope_lx{place}_{factor}x", f"l{layer}{place}_{factor}x")
    if _GEMMA_SCOPE_2.fullmatch(spec):
        return _gemma_scope_2(spec, model)
    release, slash, sae_id = spec.partition("/")
    if release in releases() and not sae_id:
        example = next(iter(releases()[release].saes_map))
        raise UserError(f"'{release}' is a release of many SAEs", where="sae", suggestion=f"Try {release}/{example}")
    if release not in releases():
        raise _unknown("SAE release" if slash else "SAE", release, [*releases(), *others])
    return _entry(release, sae_id)


def _gemma_scope_2(sae_id: str, model: str | None) -> Entry:
    """The residual-stream SAE of that name, of the language model if one is given."""
    found = [
        name
        for name, about in releases().items()
        if re.fullmatch(r"gemma-scope-2-.*-res(-all)?", name)
        and sae_id in about.saes_map
        and (model is None or about.model.removeprefix("google/") == model.removeprefix("google/"))
    ]
    # Some SAEs are listed twice; the list of four layers is the one people cite.
    found = [name for name in found if name.removesuffix("-all") == name or name.removesuffix("-all") not in found]
    if not found:
        suffix = f" for '{model}'" if model else ""
        raise UserError(f"Gemma Scope 2 has no residual-stream SAE '{sae_id}'{suffix}", where="sae", suggestion=_LIST)
    if len(found) > 1:
        allowed = ", ".join(f"{name}/{sae_id}" for name in sorted(found))
        raise UserError(f"'{sae_id}' exists for several language models", where="sae", allowed=allowed)
    return _entry(found[0], sae_id)


def _entry(release: str, sae_id: str) -> Entry:
    if (entry := next((entry for entry in entries(release) if entry.sae_id == sae_id), None)) is None:
        raise _unknown(f"SAE of release '{release}':", sae_id, list(releases()[release].saes_map))
    return entry


def _unknown(kind: str, name: str, known: list[str]) -> UserError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    meant = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else _LIST
    allowed = "a bundled SAE, a file, a folder, release/sae_id, L15R-8x, layer_22_width_65k_l0_medium"
    return UserError(f"Unknown {kind} '{name}'", where="sae", allowed=allowed, suggestion=meant)


def _n_latents(release: str, name: str) -> int | None:
    """Number of latents, from the names: ``width_65k``, ``width-2pow14``, ``v5-32k``, ``w80k`` or Llama's ``8x``."""
    if match := re.search(r"width_(\d+)(k|m)(?![a-z0-9])", name):
        # Gemma Scope's widths are powers of two, abbreviated: 65k is 65,536 and 1m is 1,048,576.
        return int(2 ** round(math.log2(int(match[1]) * (1e3 if match[2] == "k" else 1e6))))
    if match := re.search(r"width-2pow(\d+)", release):
        return 2 ** int(match[1])
    if match := re.search(r"-w?-?(\d+)k(?:-|$)", release):
        return int(match[1]) * 1024
    if match := re.search(r"_lx[ram]_(\d+)x$", release):
        return int(match[1]) * 4096
    return None
