"""Examples in docstrings and on the pages of the documentation run; the commands there exist."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pages import blocks, commands, flags, inline_code, modules_with_a_command, named_files, parser_of

import experiments
import neurosae
from neurosae.autointerp.judges import JUDGES
from neurosae.console import EXIT_CODES
from neurosae.decoding.ensembles import ENSEMBLES
from neurosae.decoding.selection import SELECTORS
from neurosae.files import write_text
from neurosae.report.page import SECTIONS
from neurosae.sae import formats, loading
from neurosae.stimuli import StimulusSet

ROOT = Path(__file__).parents[1]
MODULES = [
    module.name
    for package in (neurosae, experiments)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if "__main__" not in module.name
]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
TRUTH = "benchmarks.truth"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a page adds to a registry is gone afterwards."""
    tables = [SELECTORS, ENSEMBLES, JUDGES]
    before = [dict(table) for table in tables]
    monkeypatch.setattr(formats, "READERS", formats.READERS)
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its YAML files are stimulus sets; its Python, from top to bottom, runs beside them."""
    monkeypatch.chdir(tmp_path)
    for name, content in named_files(page).items():
        write_text(tmp_path / name, content)
        assert len(StimulusSet.from_yaml(name).table) >= 2
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page_are_understood(page: Path) -> None:
    for module, arguments in commands(page):
        parser_of(module).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_options_named_on_a_page_exist(page: Path) -> None:
    known = set().union(*(flags(parser_of(name)) for name in modules_with_a_command()), flags(parser_of(TRUTH)))
    for code in inline_code(page):
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", code)) <= known, code
        for name in re.findall(r"^(?:python -m )?((?:neurosae|experiments|benchmarks)(?:\.\w+)+)", code):
            pkgutil.resolve_name(name)


def test_every_command_has_its_line() -> None:
    shown = {module for module, _ in commands(ROOT / "docs" / "command_line.md")}
    assert shown >= set(modules_with_a_command())


def test_every_exit_code_is_explained() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8"), flags=re.M)
    assert rows == re.findall(r"^ +(\d+)  ", EXIT_CODES, flags=re.M)


def test_readme_fits_one_screen_and_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    run, test = (block.splitlines() for block in blocks(ROOT / "README.md", "sh")[:2])
    assert len(run) == len(test) == 1
    assert "experiments.combinatorial" in run[0]
    assert "pytest" in test[0]


def test_every_section_of_a_report_is_explained() -> None:
    text = (ROOT / "docs" / "reading_the_report.md").read_text(encoding="utf-8").lower()
    assert [title for title in SECTIONS.values() if title.lower() not in text] == []


def test_readme_quotes_the_reference_run() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    card = pd.read_csv(ROOT / "results" / "reference" / "tables" / "scorecard.csv")
    eight = card[card["k"] == 8].set_index(["representation", "selector"])["auroc"]
    best = eight["sae"][["mean_difference", "auroc", "rsa_category", "t"]]
    assert {f"{value:.2f}" for value in best} == {"0.92"}
    ceiling = card[card["representation"].eq("raw") & card["selector"].eq("all")]["auroc"].item()
    words = card[card["representation"] == "bag_of_words"]["auroc"].item()
    claims = pd.read_csv(ROOT / "results" / "reference" / "tables" / "claims.csv")
    rsa = claims[claims["outcome"].eq("decoding") & claims["claim"].str.startswith("RSA")].iloc[0]
    ap, chance = card["discovery_ap"].max(), card["discovery_chance"].iloc[0]
    for quoted in (
        "an AUROC of .92",
        f"eight neurons reach {eight['raw'].max():.2f} at most".replace("0.", "."),
        f"all 576 neurons {ceiling:.2f}".replace("0.", "."),
        f"untrained SAE {eight['untrained_sae'].max():.2f}".replace("0.", "."),
        f"bag of words {words:.2f}".replace("0.", "."),
        f"(+{rsa['delta']:.3f}, 95 % interval {rsa['ci_low']:.3f} to {rsa['ci_high']:.3f})".replace("0.", "."),
        f"(average precision {ap:.2f} at best, chance {chance:.2f})".replace("0.", "."),
    ):
        assert quoted in text


@pytest.mark.parametrize(("name", "folder"), loading.bundled().items())
def test_the_card_of_a_bundled_sae_is_about_its_weights(name: str, folder: Path) -> None:
    config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert about["plan"]["n_latents"] == config["d_sae"]
    assert f"{config['d_sae']:,} latents" in card
    assert f'load("{name}")' in card
    for figures in about["held_out"].values():
        assert f"| {figures['fvu_clean']:.3f} |" in card
        assert f"| {figures['l0']:.1f} |" in card
