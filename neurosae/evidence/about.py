"""How a run was made, in words and numbers: the question, the model, the SAE, the versions, the papers."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from neurosae.sae import loading
from neurosae.stimuli import LabelledContrast

LIBRARIES = (
    "neurosae",
    "torch",
    "transformers",
    "transformer-lens",
    "sae-lens",
    "rsatoolbox",
    "scikit-learn",
    "scipy",
    "numpy",
    "pandas",
    "statsmodels",
    "matplotlib",
)

REFERENCES = {
    "rsa": "Kriegeskorte, Mur & Bandettini (2008) Representational similarity analysis. Front. Syst. Neurosci. 2:4",
    "rsa_inference": "Schütt et al. (2023) Statistical inference on representational geometries. eLife 12:e82566",
    "circularity": "Kriegeskorte et al. (2009) Circular analysis in systems neuroscience. Nat. Neurosci. 12:535",
    "corrected_interval": "Nadeau & Bengio (2003) Inference for the generalization error. Mach. Learn. 52:239",
    "stability": "Nogueira, Sechidis & Brown (2018) On the stability of feature selection algorithms. JMLR 18:174",
    "patterns": "Haufe et al. (2014) On the interpretation of weight vectors of linear models. NeuroImage 87:96",
    "permutation_p": "Phipson & Smyth (2010) Permutation p-values should never be zero. Stat. Appl. Genet. 9:39",
    "exchangeability": "Winkler et al. (2015) Multi-level block permutation. NeuroImage 123:253",
    "max_t": "Westfall & Young (1993) Resampling-based multiple testing. Wiley",
    "holm": "Holm (1979) A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6:65",
    "bca": "Efron (1987) Better bootstrap confidence intervals. J. Am. Stat. Assoc. 82:171",
    "reliability": "Hoyt (1941) Test reliability estimated by analysis of variance. Psychometrika 6:153",
    "split_half": "Spearman (1910) Correlation calculated from faulty data. Br. J. Psychol. 3:271",
    "noncentral": "Steiger (2004) Beyond the F test: effect size confidence intervals. Psychol. Methods 9:164",
    "sae": "Bricken et al. (2023) Towards monosemanticity. Transformer Circuits Thread",
    "batch_topk": "Bussmann, Leask & Nanda (2024) BatchTopK sparse autoencoders. arXiv:2412.06410",
    "logit_lens": "nostalgebraist (2020) Interpreting GPT: the logit lens. LessWrong",
    "circuits": "Elhage et al. (2021) A mathematical framework for transformer circuits. Transformer Circuits Thread",
    "log_odds": "Monroe, Colaresi & Quinn (2008) Fightin' words. Polit. Anal. 16:372",
    "kappa": "Cohen (1968) Weighted kappa. Psychol. Bull. 70:213",
    "clamping": "Templeton et al. (2024) Scaling monosemanticity. Transformer Circuits Thread",
    "smollm2": "Ben Allal et al. (2025) SmolLM2: When Smol Goes Big. arXiv:2502.02737",
}
"""Short citations by what they stand for."""
_CARD = {"l0": "l0", "fvu": "fvu_clean", "loss_recovered": "loss_recovered"}
_ALWAYS = ("rsa", "circularity", "corrected_interval", "stability", "patterns", "permutation_p", "exchangeability",
           "holm", "max_t", "reliability", "split_half", "noncentral", "rsa_inference", "logit_lens",
           "circuits")  # fmt: skip
_OF_STAGES = {"discover": ("bca",), "explain": ("log_odds", "kappa", "bca"), "steer": ("clamping", "bca")}


def question(sides: LabelledContrast) -> dict[str, Any]:
    """What was asked of whom.

    Returns
    -------
    dict
        `concept`, `question` (in words), `target`, `definition`, `licence`, `contrast` (`name`, `expression`,
        `design`), `sides` (names, target first), `n` (stimuli by side), `n_items`, `n_domains`, `chat`.

    Examples
    --------
    >>> from neurosae.stimuli import load
    >>> question(LabelledContrast.of(load("continuation")))["question"]
    "Which features tell 'continuation' from 'cessation', and which way of finding them deserves trust?"
    """
    stimuli, (target, foil) = sides.stimuli, sides.names
    domains = sides.table["domain"].dropna()
    return {
        "concept": stimuli.name,
        "question": f"Which features tell '{target}' from '{foil}', and which way of finding them deserves trust?",
        "target": stimuli.target,
        "definition": stimuli.definition,
        "licence": stimuli.licence,
        "contrast": {
            "name": sides.contrast.name,
            "expression": sides.contrast.expression,
            "design": sides.design,
        },
        "sides": [target, foil],
        "n": {name: int((sides.labels_S == sign).sum()) for name, sign in ((target, 1), (foil, -1))},
        "n_items": len(set(sides.groups_S.tolist())),
        "n_domains": int(domains.nunique()),
        "chat": sides.stimuli.chat,
    }


def sae_facts(name: str, model: str, width: int) -> dict[str, Any]:
    """What the card of an SAE says: its site, width, L0 and fraction of variance unexplained.

    Parameters
    ----------
    name, model : str
        As of `neurosae.representations.Source`.
    width : int
        Number of latents.

    Returns
    -------
    dict
        `name`, `site`, `weights` (hash), `width`, `l0`, `fvu` (on clean tokens of held-out texts), `loss_recovered`,
        `reason` (why the last ones are None, if they are).
    """
    facts: dict[str, Any] = {"name": name, "site": str(loading.declared_site(name, model))}
    facts |= {"weights": loading.identity(name), "width": width}
    card = _card(name)
    held_out: dict[str, Any] = next(iter(card.get("held_out", {}).values()), {})
    facts |= {ours: held_out.get(theirs) for ours, theirs in _CARD.items()}
    return facts | {"reason": "" if held_out else "this SAE comes without a card of held-out figures"}


def _card(name: str) -> dict[str, Any]:
    """`training.json` of an SAE that was trained here; empty for others."""
    for folder in (Path(__file__).parents[1] / "pretrained" / name, Path(name)):
        try:
            found: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            continue
    return {}


def versions() -> dict[str, str]:
    """Installed versions of the libraries a run depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def references(stages: tuple[str, ...], model: str, uses_sae: bool) -> list[str]:
    """Short citations of the methods that a run used, in alphabetical order.

    Examples
    --------
    >>> any("Westfall" in text for text in references(("select",), "gpt2", uses_sae=False))
    True
    """
    keys = [*_ALWAYS, *(key for stage in stages for key in _OF_STAGES.get(stage, ()))]
    keys += ["sae", "batch_topk"] * uses_sae + ["smollm2"] * ("smollm2" in model.lower())
    return sorted({REFERENCES[key] for key in keys}, key=str.casefold)
