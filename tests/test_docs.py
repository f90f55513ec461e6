"""Examples in docstrings run, the README's Python runs, and links in the documentation lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import neurosae
from neurosae.sae import loading

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(neurosae.__path__, "neurosae.") if "__main__" not in m.name]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("neurosae/pretrained/*/*.md"))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_readme_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_readme_yaml_is_a_stimulus_file(tmp_path: Path) -> None:
    from neurosae.stimuli import StimulusSet

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    (tmp_path / "patience.yaml").write_text(block)
    assert len(StimulusSet.from_yaml(tmp_path / "patience.yaml").table) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


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
