"""A run folder with everything a report can show, small and without a language model; hostile where it is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
SCRIPT = "<script>window.hacked = true; alert(1)</script>"
HANDLER = '"><img src=x onerror="window.hacked = true">'
CLOSING = "</script></style></title><!-- ]]> --><b>bold</b>"
BACKWARDS = "safe \u202egnp.exe\u202c \u2067שלום\u2069"
EMOJI = "👩‍🔬 🏆 naïve – 𝄞"
LONG = ("long " * 2_000).strip() + SCRIPT
HOSTILE = (SCRIPT, HANDLER, CLOSING, BACKWARDS, EMOJI, LONG)
EVERYWHERE = SCRIPT + HANDLER + CLOSING


def make(path: Path, hostile: bool = False) -> Path:
    """The reference run, with the evidence that a run keeps beside it; `hostile` puts an attack into every text."""
    shutil.copytree(REFERENCE, path)
    bad = EVERYWHERE if hostile else ""
    texts = [f"The plan {word} in the end." for word in ("worked", "failed", "paid off", "sank", "flew", "broke")]
    if hostile:
        texts = list(HOSTILE)
    sides = [f"success{bad}", f"failure{bad}"]
    _table(path, "stimuli", _stimuli(texts, sides, bad))
    _table(path, "confounds", pd.DataFrame([_confound("tokens", 0.8, bad), _confound("surprisal", 0.01, bad)]))
    blocks = [
        {
            "block": b,
            "n_features": 576,
            "n_significant": 2 * b,
            "n_significant_within": 3 * b,
            "largest_t": 4.0 + b,
            "feature": 7,
            "d": 0.5,
            "p_fwe": 0.01,
            "n": 6,
        }
        for b in range(16)
    ]
    _table(path, "map_blocks", pd.DataFrame(blocks))
    _table(path, "map_top", pd.DataFrame([{"block": 15, "feature": 7, "t": 19.0, "d": 0.5, "p_fwe": 0.001}]))
    _table(path, "reliability", pd.DataFrame([_reliable("selector", "t"), _reliable("map", None)]))
    _evidence(path, "about", _about(sides, bad))
    _evidence(
        path,
        "features",
        {
            "cards": [_card(7, texts, sides, bad), _card(8, texts[:2], sides, bad)],
            "n_chosen": 30,
            "k": 8,
            "logits_note": "Direct effect." + bad,
            "corpus_reason": "",
            "reason": "",
        },
    )
    _evidence(path, "rsa", {"representations": {"sae": _geometry(sides, bad)}})
    _evidence(path, "steering", _steering(texts, bad))
    if hostile:
        _spoil(path, bad)
    return path


def _table(path: Path, name: str, table: pd.DataFrame) -> None:
    table.to_csv(path / "tables" / f"{name}.csv", index=False)
    table.to_parquet(path / "tables" / f"{name}.parquet", index=False)


def _evidence(path: Path, name: str, content: dict[str, Any]) -> None:
    (path / "evidence").mkdir(exist_ok=True)
    (path / "evidence" / f"{name}.json").write_text(json.dumps({"format": 1, **content}), encoding="utf-8")


def _stimuli(texts: list[str], sides: list[str], bad: str) -> pd.DataFrame:
    n = len(texts)
    return pd.DataFrame(
        {
            "id": [f"item-{i}{bad}" for i in range(n)],
            "text": texts,
            "side": [sides[i % 2] for i in range(n)],
            "sign": [1 - 2 * (i % 2) for i in range(n)],
            "domain": [("sport", "art", "work")[i % 3] + bad for i in range(n)],
            "item": [i // 2 for i in range(n)],
            "n_tokens": [10 + i for i in range(n)],
            "decision": [2.5 - i for i in range(n)],
        }
    ).loc[lambda table: table.index.repeat(3)]


def _confound(measure: str, p: float, bad: str) -> dict[str, Any]:
    verdict = "no difference found" if p > 0.05 else "differs between the sides: a confound to keep in mind"
    return {
        "measure": measure + bad,
        "target": 20.1,
        "foil": 20.2,
        "difference": -0.1,
        "test": "Wilcoxon, pairs",
        "n": 72,
        "p": p,
        "value": None,
        "verdict": verdict + bad,
    }


def _reliable(kind: str, selector: str | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "representation": "sae",
        "block": 15,
        "selector": selector,
        "k": 8,
        "reliability": 0.9,
        "low": 0.8,
        "high": 0.95,
        "features_mean": 0.7,
        "n_items": 72,
        "reason": "",
    }


def _about(sides: list[str], bad: str) -> dict[str, Any]:
    return {
        "concept": "success" + bad,
        "target": "success" + bad + (BACKWARDS if bad else ""),
        "definition": "The text states that an attempt turned out well." + bad,
        "licence": "CC0-1.0",
        "contrast": {"name": "success", "expression": "success - failure" + bad, "design": "pairs"},
        "sides": sides,
        "n": {side: 3 for side in sides},
        "n_items": 3,
        "sae": {"name": "smollm2-135m-b15-9k", "site": "15", "weights": "ab", "l0": 32.1, "fvu": 0.14, "reason": ""},
        "judge": {"name": "the grades" + bad, "verdict": "two graders agree" + bad, "kappa": 0.9, "reason": ""},
        "references": ["Holm (1979) A simple sequentially rejective multiple test procedure." + bad],
        "versions": {"neurosae": "0.1.0", "numpy": "2.4.6" + bad},
    }


def _card(feature: int, texts: list[str], sides: list[str], bad: str) -> dict[str, Any]:
    shown = [
        {
            "text": text,
            "where": "stimuli" if i % 2 else "corpus",
            "side": sides[0] if i % 2 else None,
            "grade": None if i % 2 else 2,
            "value": 3.0 - i / 10,
            "tokens": [[0, 4, 1.5], [4, 9, -0.5], [9, 12, 3.0]],
        }
        for i, text in enumerate(texts)
    ]
    return {
        "representation": "sae",
        "block": 15,
        "feature": feature,
        "direction": 1,
        "chosen_by": ["t", "auroc" + bad],
        "auroc": 0.9,
        "d": 1.2,
        "t": 9.0,
        "reliability": 0.95,
        "reliability_reason": "",
        "reason": "",
        "share_of_folds": 1.0,
        "histogram": {
            "edges": [0.0, 1.0, 2.0, 3.0],
            "counts": {sides[0]: [1, 2, 5], sides[1]: [3, 1, 0]},
            "n": {sides[0]: 10, sides[1]: 10},
            "silent": {sides[0]: 2, sides[1]: 6},
        },
        "texts": shown,
        "neighbours": [{"feature": 12, "cosine": 0.4}],
        "neighbours_reason": "" + bad,
        "logits": {"promoted": [{"token": " won" + bad, "value": 1.5}], "suppressed": [{"token": "\n", "value": -1.0}]},
    }


def _geometry(sides: list[str], bad: str) -> dict[str, Any]:
    row = {
        "model": "category" + bad,
        "score": 0.2,
        "low": 0.1,
        "high": 0.3,
        "p": 0.01,
        "p_holm": 0.04,
        "reason": "",
        "note": "" + bad,
    }
    return {
        "sides": [sides[0]] * 3 + [sides[1]] * 3,
        "rdm": [0.1 * i for i in range(15)],
        "distance": "correlation",
        "comparator": "spearman",
        "n_items": 3,
        "models": [row],
        "ceiling": None,
        "ceiling_reason": "one RDM" + bad,
    }


def _steering(texts: list[str], bad: str) -> dict[str, Any]:
    return {
        "variant": {"representation": "sae", "selector": "t", "k": 8},
        "dose": 0.99,
        "n_tokens": 24,
        "shift": {"shift": 0.2, "low": 0.1, "high": 0.3},
        "probe": {"concept": "success" + bad, "auroc": 0.78, "n": 194},
        "probe_reason": "",
        "reason": "",
        "prompts": [{"text": "The jury" + bad}],
        "texts": [
            {"condition": name, "prompt": 0, "text": text, "score": 1.0, "reason": ""}
            for name in ("unsteered", "towards target", "towards foil")
            for text in texts
        ],
    }


def _spoil(path: Path, bad: str) -> None:
    """The attack in what the run itself has written: names, explanations, verdicts, the configuration."""
    for name, columns in {
        "scorecard": ["explanation"],
        "explanations": ["explanation"],
        "claims": ["claim", "verdict", "reason"],
    }.items():
        file = path / "tables" / f"{name}.csv"
        table = pd.read_csv(file, keep_default_na=False, na_values=[""])
        for column in columns:
            table[column] = table[column].fillna("").astype(str) + bad
        table.to_csv(file, index=False)
    for name in ("configuration", "manifest"):
        file = path / f"{name}.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["concept"] = "success" + bad
        content.setdefault("source", {"model": "m"})["model"] = "model" + bad
        file.write_text(json.dumps(content), encoding="utf-8")
