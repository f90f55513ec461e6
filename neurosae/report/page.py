"""The page itself: what every section shows, and a policy that lets nothing in from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neurosae.errors import UserError
from neurosae.files import atomic_path, digest
from neurosae.report import cards, methods, pictures, tables
from neurosae.report.answers import answers, best_variant, question
from neurosae.report.drawings import block_profile
from neurosae.report.loading import ACROSS, RunData, load_run
from neurosae.report.texts import folded, visible
from neurosae.report.wording import duration, names, number
from neurosae.runs.scorecard import OUTCOMES

PAGE = "report.html"
SECTIONS = {
    "answer": "Answer",
    "stimuli": "Stimuli",
    "methods": "Methods compared",
    "curve": "Specification curve",
    "maps": "Across blocks",
    "rsa": "Geometry (RSA)",
    "features": "Features",
    "steering": "Steered texts",
    "reliability": "Reliability",
    "scorecard": "Scorecard",
    "written": "Methods paragraph",
    "provenance": "Provenance",
    "reproduce": "Reproduce it",
}


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run, or of the folder of ``--concept all``.

    Parameters
    ----------
    run_dir : Path
        Folder of a finished run.
    out : Path, optional
        Default: ``run_dir / "report.html"``.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    UserError
        No run, a damaged file, or a place that cannot be written to.
    """
    return write_page(load_run(run_dir), out)


def write_page(run: RunData, out: Path | None = None) -> Path:
    """Write the page of a run that has been read, as `write_report` does."""
    place, html = out or run.path / PAGE, render(run)
    if place.is_dir():
        raise UserError(f"{place} is a folder", where="out", allowed="a file")
    try:
        with atomic_path(place) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror})", where="out") from error
    return place


def render(run: RunData) -> str:
    """The page as one string; marks that turn text around, hide it or cannot be written stand there by name."""
    environment = Environment(
        loader=PackageLoader("neurosae.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"folded": folded, "number": number, "duration": duration, "names": names}
    style, script = _asset("style.css"), _asset("report.js")
    across = ACROSS in run.tables
    content = _across(run) if across else _single(run)
    template = environment.get_template("across.html" if across else "run.html")
    page = template.render(
        style=Markup(style), script=Markup(script), policy=_policy(style, script), run=run, **content
    )
    return visible(page)


def _asset(name: str) -> str:
    return resources.files("neurosae.report").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded or run but this very style and script, and pictures that stand in the page."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (style, script)
    ]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _single(run: RunData) -> dict[str, Any]:
    return {
        "sections": SECTIONS,
        "question": question(run),
        "answers": answers(run),
        "best": best_variant(run.card),
        "claims": _claims(run),
        "pictures": pictures.saved(run),
        **_stimuli(run),
        "variants": tables.variants(run.table("variants")) if "variants" in run.tables else None,
        **_maps(run),
        "rsa": pictures.geometries(run),
        "cards": cards.feature_cards(run),
        "features": run.evidence.get("features", {}),
        "explanations": cards.explanations(run),
        "steered": cards.steered(run),
        "steered_about": cards.steered_about(run),
        "reliability": _reliability(run),
        "scorecard": tables.scorecard(run.card),
        "paragraphs": methods.paragraph(run),
        "references": methods.references(run),
        "commands": methods.commands(run),
        **_provenance(run),
    }


def _claims(run: RunData) -> list[tuple[str, tables.TableView]]:
    """Title and table of every outcome, decoding first."""
    table = run.table("claims")
    if table.empty:
        return []
    outcomes = table["outcome"] if "outcome" in table else pd.Series("decoding", index=table.index)
    order = [name for name in OUTCOMES if name in set(outcomes)]
    order += [str(name) for name in outcomes.unique() if name not in OUTCOMES]
    titles = {name: OUTCOMES[name].label if name in OUTCOMES else name for name in order}
    return [(titles[name], tables.claims(table[outcomes == name], name, f"claims-{name}")) for name in order]


def _reliability(run: RunData) -> tables.TableView | None:
    table = run.table("reliability")
    return None if table.empty else tables.reliability(table)


def _stimuli(run: RunData) -> dict[str, Any]:
    stimuli, confounds = run.table("stimuli"), run.table("confounds")
    columns = [
        tables.text("text", "text", wide=True),
        tables.text("side", "side", filter=True),
        tables.text("domain", "domain", filter=True),
        tables.figure("tokens", "n_tokens", 0),
        tables.figure("held-out decision", "decision", sign=True),
        tables.text("id", "id"),
    ]
    if "domain" in stimuli and (stimuli["domain"].fillna("") == "").all():
        stimuli = stimuli.drop(columns="domain")
    caption = f"All {len(stimuli)} stimuli of the contrast"
    return {
        "stimuli": None if stimuli.empty else tables.view("stimuli-table", caption, stimuli, columns),
        "confounds": None if confounds.empty else tables.confounds(confounds),
    }


_OF_BLOCKS = {
    "n_significant": "significant, all blocks",
    "n_significant_within": "significant, within block",
    "share_significant": "share",
    "largest_t": "largest t",
    "p_fwe": "p (FWE)",
}


def _maps(run: RunData) -> dict[str, Any]:
    blocks, top = run.table("map_blocks"), run.table("map_top")
    here = {row["block"] for row in run.table("variants").to_dict("records") if row["representation"] in ("raw", "sae")}
    return {
        "profile": None if blocks.empty else block_profile(blocks.to_dict("records"), here),
        "map_blocks": None if blocks.empty else tables.plain("map-blocks", "Every block", blocks, _OF_BLOCKS),
        "map_top": None if top.empty else tables.plain("map-top", f"The {len(top)} strongest tests", top),
    }


def _provenance(run: RunData) -> dict[str, Any]:
    manifest = run.manifest
    timings = {**manifest.get("timings", {}), **manifest.get("stage_timings", {})}
    files = [file for file in sorted(run.path.rglob("*")) if file.is_file() and file.suffix in (".csv", ".json")]
    kept = [file for file in files if file.parent.name in ("tables", "evidence") or file.parent == run.path]
    return {
        "facts": _facts(run),
        "timings": [(name.removesuffix("_s").replace("_", " "), duration(value)) for name, value in timings.items()],
        "versions": sorted((manifest.get("versions", {}) | run.evidence.get("about", {}).get("versions", {})).items()),
        "hashes": [
            (file.relative_to(run.path).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file in kept
        ],
        "configuration": json.dumps(run.configuration, indent=1, sort_keys=True, ensure_ascii=False),
        "manifest": json.dumps(
            {k: v for k, v in manifest.items() if k != "configuration"}, indent=1, ensure_ascii=False
        ),
    }


def _facts(run: RunData) -> list[tuple[str, Any]]:
    """What a reader looks up first."""
    settings, hardware = run.configuration, run.manifest.get("hardware", {})
    sae, contrast, judge = run.about("sae") or {}, run.about("contrast"), run.about("judge") or {}
    about_sae = sae if isinstance(sae, dict) else {"name": sae}
    facts = [
        ("concept", settings.get("concept")),
        ("definition", run.about("definition")),
        ("contrast", contrast.get("expression") if isinstance(contrast, dict) else contrast),
        ("design", contrast.get("design") if isinstance(contrast, dict) else None),
        ("licence of the stimuli", run.about("licence")),
        ("SHA-256 of the stimuli", settings.get("stimuli_sha256")),
        ("language model", run.model),
        ("SAE", about_sae.get("name")),
        ("SAE weights (hash)", about_sae.get("weights")),
        ("SAE site", about_sae.get("site")),
        ("SAE L0, FVU", _pair(about_sae)),
        ("judge", judge.get("name") if isinstance(judge, dict) else judge),
        (
            "how far to trust the judge",
            (judge.get("verdict") or judge.get("reason")) if isinstance(judge, dict) else None,
        ),
        ("stages", ", ".join(run.manifest.get("stages", []))),
        ("seed", settings.get("seed")),
        ("finished", run.manifest.get("finished")),
        ("machine", ", ".join(f"{name} {value}" for name, value in hardware.items())),
        ("folder", run.path.name),
    ]
    return [(name, value) for name, value in facts if value not in (None, "", {})]


def _pair(sae: dict[str, Any]) -> str | None:
    if sae.get("l0") is None:
        return sae.get("reason") or None
    return f"{number(sae['l0'], 1)}, {number(sae.get('fvu'))}"


def _across(run: RunData) -> dict[str, Any]:
    """The page of ``--concept all``: claims over contrasts, and links to the single reports."""
    table = run.table(ACROSS)
    outcomes = table["outcome"] if "outcome" in table else pd.Series("decoding", index=table.index)
    views = [
        (
            OUTCOMES[name].label if name in OUTCOMES else str(name),
            tables.claims(table[outcomes == name], name, f"across-{i}"),
        )
        for i, name in enumerate(outcomes.unique())
    ]
    return {"views": views, "links": links(run), "commands": methods.commands(run)}


def links(run: RunData) -> list[tuple[str, str, str]]:
    """Concept, contrast and relative path of every single report, empty where it is not there."""
    found = []
    for settings in run.configuration.get("runs", []):
        concept, contrast = str(settings.get("concept", "")), str(settings.get("contrast", ""))
        page = _page_of(run.path.parent.parent, settings, concept)
        found.append((concept, contrast, page))
    return found


def _page_of(root: Path, settings: dict[str, Any], concept: str) -> str:
    page = root / concept / digest(settings) / PAGE
    inside = page.resolve().is_relative_to(root.resolve())
    return f"../../{page.relative_to(root).as_posix()}" if inside and page.is_file() else ""
