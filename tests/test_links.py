"""Every link and anchor of the documentation leads somewhere, and the check notices those that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from links import external, links, problems

from neurosae.report import write_report

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/*.ipynb")),
    *sorted(ROOT.glob("neurosae/pretrained/*/README.md")),
    *sorted(ROOT.glob("stimuli/**/*.md")),
    *sorted(ROOT.glob("results/**/*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert problems(page, ROOT) == []


def test_few_links_leave_the_project() -> None:
    assert len({target for page in PAGES for target in external(page)}) <= 12


def test_every_page_can_be_reached_from_the_index() -> None:
    index = {target.partition("#")[0] for target in links(ROOT / "docs" / "README.md").targets}
    pages = {page.name for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb")]} - {"README.md"}
    assert pages <= index


def test_the_links_of_a_report_lead_somewhere_and_it_loads_nothing(tmp_path: Path) -> None:
    page = write_report(ROOT / "results" / "reference", tmp_path / "report.html")
    assert len(links(page).targets) > 10
    assert problems(page) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[a](missing.md)", "does not exist"),
        ("[a](other.md#nowhere)", "names no heading"),
        ("[a](#nowhere)", "names no heading"),
        ("# A\n\n# A\n\n[a](#a-2)", "names no heading"),
        ("[a]()", "is empty"),
        ("![a](missing.png)", "does not exist"),
        ("[a][1]\n\n[1]: missing.md", "does not exist"),
        ('<img src="missing.png">', "does not exist"),
        ("[a](../other.md)", "leads out"),
        ("[a](/etc/hosts)", "leads out"),
        ("[a](http://example.org)", "no https"),
        ("[a](https://localhost/x)", "no https"),
        ("<img src='https://example.org/a.png'>", "fetched from a network"),
        ("Look into `/home/someone/run`.", "the text names"),
        ("Look into C:\\Users\\someone.", "the text names"),
    ],
)
def test_a_broken_link_is_noticed(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "other.md").write_text("# Here\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    (found,) = problems(page)
    assert what in found


@pytest.mark.parametrize(
    "text",
    [
        "[a](other.md)",
        "[a](other.md#where-is-it-not-here)",
        "# A b\n\n# A b\n\n[a](#a-b) [b](#a-b-1)",
        "[a](https://doi.org/10.1000/182)",
        "`[a](missing.md)`\n\n    [b](missing.md)\n\n```\n[c](missing.md)\n```\n",
        '<a id="x"></a>[a](#x)',
        "a/home/b, ~/home and `/v1/messages`",
    ],
)
def test_a_good_link_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.md").write_text("# Where is it? (`not` here)\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert problems(page) == []


def test_notebooks_and_html_are_read_too(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Top\n", "[a](#top) [b](#gone)"]},
        {"cell_type": "code", "source": ["'[a](missing.md)'"]},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert problems(tmp_path / "n.ipynb") == ["'#gone' names no heading there"]
    html = '<h1 id="top">T</h1><a href="#top">t</a><a href="#gone">g</a><img src="data:image/png;base64,AA" alt="a">'
    (tmp_path / "r.html").write_text(html, encoding="utf-8")
    assert problems(tmp_path / "r.html") == ["'#gone' names no heading there"]
    (tmp_path / "s.html").write_text('<script src="https://example.org/a.js"></script>', encoding="utf-8")
    assert problems(tmp_path / "s.html") == ["'https://example.org/a.js' is fetched from a network"]
