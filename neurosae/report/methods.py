"""The paragraph of methods, the citations and the commands of a run, written from what it has saved."""

from __future__ import annotations

import shlex
from typing import Any

from neurosae.report.loading import RunData
from neurosae.report.wording import LABELS, number, selector_label

REFERENCES = [
    "Haufe et al. (2014) On the interpretation of weight vectors of linear models in multivariate neuroimaging. "
    "NeuroImage 87:96",
    "Holm (1979) A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6:65",
    "Kriegeskorte, Mur & Bandettini (2008) Representational similarity analysis. Front. Syst. Neurosci. 2:4",
    "Kriegeskorte et al. (2009) Circular analysis in systems neuroscience. Nat. Neurosci. 12:535",
    "Nadeau & Bengio (2003) Inference for the generalization error. Mach. Learn. 52:239",
    "Nogueira, Sechidis & Brown (2018) On the stability of feature selection algorithms. JMLR 18:174",
]
"""Of every run; a run that has kept evidence names all of its own."""
_OPTIONS = {
    "representations": "--representation",
    "selectors": "--selector",
    "ks": "--k",
    "ensembles": "--ensemble",
    "blocks": "--block",
    "poolings": "--pooling",
}


def references(run: RunData) -> list[str]:
    """Short citations, in alphabetical order."""
    return list(run.about("references") or REFERENCES)


def paragraph(run: RunData) -> list[str]:
    """Methods as sentences of a paper, in paragraphs."""
    about, settings, grid = run.evidence.get("about", {}), run.configuration, run.configuration.get("grid", {})
    versions = run.manifest.get("versions", {}) | about.get("versions", {})
    return [
        text
        for text in (
            _stimuli(run),
            _features(run, grid),
            _validation(settings),
            _later(run),
            _evidence(run),
            _software(versions),
        )
        if text
    ]


def _stimuli(run: RunData) -> str:
    contrast, n = run.about("contrast"), run.evidence.get("about", {}).get("n", {})
    name = contrast.get("expression") or contrast.get("name") if isinstance(contrast, dict) else contrast
    counts = ", ".join(f"{n[side]} “{side}”" for side in run.about("sides", []) if side in n)
    items = run.evidence.get("about", {}).get("n_items")
    made = f" from {items} items" if items else ""
    return (
        f"Stimuli of the set “{run.about('concept')}” were compared by the contrast “{name}”"
        + (f" ({counts}{made})" if counts else "")
        + ". Each text was read once, behind a sink token; the sink, template tokens, padding and tokens above ten "
        "times the site's median norm were left out of every statistic."
    )


def _features(run: RunData, grid: dict[str, Any]) -> str:
    source, sae = run.configuration.get("source", {}), run.about("sae") or {}
    name = sae.get("name") if isinstance(sae, dict) else sae
    blocks = ("blocks " if len(grid.get("blocks", [])) > 1 else "block ") + ", ".join(map(str, grid.get("blocks", [])))
    facts = []
    if isinstance(sae, dict):
        facts = [f"{label} {number(sae[key], digits)}" for key, label, digits in
                 (("l0", "L0", 0), ("fvu", "FVU", 2)) if sae.get(key) is not None]  # fmt: skip
    described = f" ({', '.join(facts)})" if facts else ""
    selectors = ", ".join(selector_label(s) for s in grid.get("selectors", []))
    ks = ", ".join(map(str, grid.get("ks", [])))
    chosen = f"{_plural(grid.get('representations', []))} were chosen by {selectors}"
    return (
        f"Activations of {run.model} ({source.get('dtype', 'float32')}) were taken from "
        f"the residual stream after {blocks} and pooled over tokens ({', '.join(grid.get('poolings', []))})"
        + (f"; sparse codes are those of the autoencoder {name}{described}" if name else "")
        + f". {chosen}, with k = {ks} features, and combined by small linear ensembles "
        f"({', '.join(grid.get('ensembles', []))})."
    )


def _plural(representations: list[str]) -> str:
    words = " and ".join(LABELS.get(name, name) for name in representations)
    return words[:1].upper() + words[1:]


def _validation(settings: dict[str, Any]) -> str:
    return (
        f"Selection, standardisation and ensemble saw training folds only (Kriegeskorte et al. 2009): "
        f"{settings.get('repeats')} repeats of {settings.get('folds')} folds, with pairs and families kept together. "
        "Intervals of held-out scores carry the correction of Nadeau & Bengio (2003); chance comes from "
        f"{settings.get('permutations')} label permutations within exchangeability blocks, each through a whole "
        "cross-validation with selection, p = (b + 1)/(B + 1). Stability is that of Nogueira et al. (2018). Claims "
        "compare families of methods on matched cells; p is corrected over the claims of an outcome (Holm 1979)."
    )


def _later(run: RunData) -> str:
    """Only what has given a number: a stage may have run and found nothing that it could measure."""
    card, judge = run.card, run.evidence.get("about", {}).get("judge") or {}
    measured = {name for name in card if card[name].notna().any()}
    parts = []
    if "discovery_ap" in measured:
        parts.append("Variants ranked graded sentences; average precision is given with BCa intervals over sentences.")
    if "target_score" in measured:
        who = judge.get("name") if isinstance(judge, dict) else None
        parts.append(
            "The strongest sentences were halved, one half explained, the other graded"
            + (f" by {who}" if who else "")
            + ", against shuffled set labels and random features."
        )
    if "causal_shift" in measured:
        parts.append(
            "Selected features were clamped while the model read held-out pairs; the shift of the preference for the "
            "target ending was compared with random directions of the same norm."
        )
    return " ".join(parts)


def _evidence(run: RunData) -> str:
    parts = []
    if "map_blocks" in run.tables:
        parts.append(
            "Contrast maps test every neuron of every block, with family-wise error controlled by the largest "
            "statistic (max-T) within each block and over all of them."
        )
    if "reliability" in run.tables:
        parts.append(
            "Reliability over items is 1 - 1/t² for held-out decisions and single features (Hoyt 1941), with intervals "
            "from the noncentral t (Steiger 2004), and for maps the mean correlation between halves of the items, "
            "stepped up to all (Spearman 1910)."
        )
    if "rsa" in run.evidence:
        parts.append(
            "Model RDMs were compared with those of the representations; intervals resample items, p permutes stimuli "
            "within exchangeability blocks."
        )
    return " ".join(parts)


def _software(versions: dict[str, str]) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "neurosae")
    return f"Computed with neurosae {versions.get('neurosae', '')} ({listed})." if versions else ""


def commands(run: RunData) -> list[tuple[str, str]]:
    """What each command does, and the command: the run as it was asked for, then this page."""
    settings, grid = run.configuration, run.configuration.get("grid", {})
    if "runs" in settings:
        return [
            ("Every contrast, continued where it was interrupted", "python -m experiments.combinatorial --concept all")
        ]
    words = ["python", "-m", "experiments.combinatorial", "--concept", settings.get("concept", "")]
    words += ["--contrast", settings.get("contrast", "")]
    source, sae = settings.get("source", {}), settings.get("sae") or {}
    for option, value in (
        ("--model", source.get("model")),
        ("--dtype", source.get("dtype")),
        ("--sae", sae.get("name")),
    ):
        words += [option, value] if value else []
    for key, option in _OPTIONS.items():
        words += [option, *grid[key]] if grid.get(key) else []
    words += [] if grid.get("controls", True) else ["--no-controls"]
    for key in ("folds", "repeats", "permutations", "seed"):
        words += [f"--{key}", settings[key]] if key in settings else []
    words += ["--batch-size", source["batch_size"]] if "batch_size" in source else []
    if stages := run.manifest.get("stages"):
        words += ["--stages", *stages]
    return [
        ("Install", "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ."),
        ("This run; it continues where it was interrupted and ends with the same tables", _joined(words)),
        ("This page, from the saved results alone", f"python -m neurosae.report {shlex.quote(run.path.name)}"),
    ]


def _joined(words: list[Any]) -> str:
    """One command over several lines, quoted for a shell."""
    quoted = [shlex.quote(str(word)) for word in words]
    lines: list[str] = []
    line = ""
    for word in quoted:
        if word.startswith("--") and len(line) > 60:
            lines, line = [*lines, line], ""
        line = f"{line} {word}".strip()
    return " \\\n    ".join([*lines, line])
