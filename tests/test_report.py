"""The report: what it says, that texts stay texts, and what it does with folders that are not whole."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_folder import BACKWARDS, EMOJI, EVERYWHERE, LONG, REFERENCE, SCRIPT, make

from experiments import combinatorial
from neurosae.errors import UserError
from neurosae.files import digest
from neurosae.report import tables, write_report
from neurosae.report.__main__ import main
from neurosae.report.answers import answers
from neurosae.report.cards import feature_cards
from neurosae.report.drawings import histogram
from neurosae.report.loading import RunData, load_run
from neurosae.report.methods import commands, paragraph
from neurosae.report.page import SECTIONS, links, render
from neurosae.report.texts import folded, heat_map, visible
from neurosae.report.wording import number


class Parsed(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("hostile") / "run", hostile=True)


def test_every_section_of_a_whole_run_has_something_to_show(whole) -> None:
    page = render(load_run(whole))
    assert [a["id"] for a in Parsed(page).all("section")] == list(SECTIONS)
    assert 'class="missing"' not in page


LACKING = ("tables/stimuli", "tables/map_blocks", "evidence/rsa", "evidence/features", "tables/reliability")


def test_the_reference_run_gives_a_whole_report(tmp_path) -> None:
    page = write_report(REFERENCE, tmp_path / "report.html").read_text(encoding="utf-8")
    assert [a["id"] for a in Parsed(page).all("section")] == list(SECTIONS)
    assert not any(load_run(REFERENCE).missing(name) for name in LACKING)
    assert page.index("The answer") < page.index("Claims about method families") < page.index("Best variant")
    assert "not retrieved" in page and "not beyond random" in page


def test_a_run_without_evidence_says_what_it_lacks(tmp_path) -> None:
    folder = Path(shutil.copytree(REFERENCE, tmp_path / "run"))
    shutil.rmtree(folder / "evidence")
    for name in LACKING:
        (folder / f"{name}.csv").unlink(missing_ok=True)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["stages"].remove("evidence")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    page = write_report(folder, folder / "report.html").read_text(encoding="utf-8")
    assert [a["id"] for a in Parsed(page).all("section")] == list(SECTIONS)
    for name in LACKING:
        assert load_run(folder).missing(name) in html.unescape(page)
    assert "without the stage “evidence”" in page


def test_what_is_missing_is_traced_to_its_stage_or_to_the_copy() -> None:
    run = RunData(Path("run"), {}, manifest={"stages": ["select", "evidence"]})
    assert "--stages select evidence explain" in run.missing("tables/explanations")
    assert "holds no evidence/rsa" in run.missing("evidence/rsa")
    assert "holds no tables/claims" in run.missing("tables/claims")


def test_the_page_is_the_same_from_parquet_and_from_csv(whole, tmp_path) -> None:
    copy = make(tmp_path / "run")
    for file in (copy / "tables").glob("*.parquet"):
        file.unlink()
    assert render(load_run(copy)) == render(load_run(whole))


def test_the_policy_names_the_very_style_and_script_and_nothing_else(whole) -> None:
    page = render(load_run(whole))
    (policy,) = [m["content"] for m in Parsed(page).all("meta") if "Content-Security-Policy" in m.values()]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        expected = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{expected}'"
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"


def test_no_hostile_text_becomes_markup(hostile, whole) -> None:
    page, harmless = Parsed(render(load_run(hostile))), Parsed(render(load_run(whole)))
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in harmless.tags} == set()
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
    text = "".join(page.text)
    for kept in (SCRIPT, EVERYWHERE, EMOJI, visible(BACKWARDS), LONG):
        assert kept in text


def test_marks_that_turn_text_around_are_shown_by_name() -> None:
    assert "\u202e" not in visible(BACKWARDS) and "⟨U+202E⟩" in visible(BACKWARDS)
    assert visible(EMOJI) == EMOJI  # the joiner inside an emoji is no direction mark


def test_hidden_and_broken_characters_are_named_wherever_they_come_in(tmp_path) -> None:
    """Also where a text goes into a drawing, a badge or a claim; half a surrogate pair could not even be written."""
    run, marks = make(tmp_path / "run"), "\u202e\u061c\u200b\ud83d\U000e0041"
    about = run / "evidence" / "about.json"
    content = json.loads(about.read_text(encoding="utf-8"))
    about.write_text(json.dumps(content | {"sides": ["a" + marks, "b"], "concept": "c" + marks}), encoding="utf-8")
    features = run / "evidence" / "features.json"
    features.write_text(features.read_text(encoding="utf-8").replace('"success"', json.dumps("a" + marks)))
    claims = pd.read_csv(run / "tables" / "claims.csv").assign(verdict="odd\u202e", claim="x\u061c")
    claims.to_csv(run / "tables" / "claims.csv", index=False)
    (run / "tables" / "claims.parquet").unlink(missing_ok=True)
    page = write_report(run).read_text(encoding="utf-8")
    assert not set(marks) & set(page)
    assert "c⟨U+202E⟩⟨U+061C⟩⟨U+200B⟩⟨U+D83D⟩⟨U+E0041⟩" in page and "odd⟨U+202E⟩" in page
    assert "a⟨U+202E⟩⟨U+061C⟩⟨U+200B⟩⟨U+D83D⟩⟨U+E0041⟩ (n = 10, 2 silent)" in page


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=60), st.lists(st.tuples(st.integers(-5, 70), st.integers(-5, 70), st.floats(-9, 9)), max_size=8)
)
def test_a_heat_map_shades_a_text_and_changes_nothing_of_it(text, spans) -> None:
    shown = str(heat_map(text, spans, 9.0))
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)) == visible(text)


def test_shades_follow_the_activation_and_long_texts_are_folded_whole() -> None:
    shown = str(heat_map("abc", [[0, 1, 9.0], [1, 2, -4.5], [2, 3, 0.0]], 9.0))
    assert 'class="h9" title="9.00">a' in shown and "below" in shown and shown.endswith("</span>c</bdi>")
    assert str(folded(LONG)).startswith('<details class="fold">') and html.escape(SCRIPT, quote=False)[:8] in folded(
        LONG
    )


def test_a_histogram_has_a_bar_per_count_and_says_it() -> None:
    found = {
        "edges": [0, 1, 2],
        "counts": {"a": [2, 4], "b": [0, 1]},
        "n": {"a": 6, "b": 2},
        "silent": {"a": 0, "b": 1},
    }
    shown = str(histogram(found, ["a", "b"]))
    heights = [float(h) for h in re.findall(r'class="target"[^>]* height="([\d.]+)"', shown)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.11)
    assert "b: 1 stimuli between 1 and 2" in shown and "b (n = 2, 1 silent)" in shown
    assert "No activation" in histogram({"edges": [], "counts": {"a": []}}, ["a"])


def _card(**values) -> RunData:
    row = {
        "representation": "sae",
        "selector": "t",
        "k": 8,
        "block": 1,
        "control": False,
        "auroc": 0.9,
        "auroc_ci_low": 0.85,
        "auroc_ci_high": 0.95,
        "auroc_p": 0.01,
        "discovery_ap": 0.4,
        "discovery_low": 0.3,
        "discovery_high": 0.5,
        "discovery_chance": 0.1,
        "target_score": 2.0,
        "target_low": 1.5,
        "target_high": 2.5,
        "target_p": 0.01,
        "target_p_random": 0.05,
        "causal_shift": 0.3,
        "causal_low": 0.1,
        "causal_high": 0.5,
        "causal_p_random": 0.01,
        "causal_pairs": 20,
    }
    words = row | {"representation": "bag_of_words", "auroc": 0.5, "control": True}
    words |= {"balanced_accuracy": values.pop("words", 0.5)}
    claims = pd.DataFrame(
        {
            "claim": ["a beats b"],
            "outcome": "decoding",
            "delta": 0.1,
            "ci_low": 0.05,
            "ci_high": 0.15,
            "verdict": values.pop("verdict", "supported; a better than t"),
        }
    )
    tables = {"variants": pd.DataFrame([words]), "claims": claims, "scorecard": pd.DataFrame([row | values])}
    return RunData(Path("run"), {"concept": "x"}, tables=tables)


@pytest.mark.parametrize(
    ("place", "values", "word"),
    [
        (0, {}, "yes"),
        (0, {"auroc": 0.5, "auroc_ci_low": 0.4, "auroc_p": 0.6}, "no"),
        (0, {"auroc_p": 0.2}, "undecided"),
        (0, {"words": 0.7}, "yes, and so by words"),
        (1, {}, "1 of 1 decided"),
        (1, {"verdict": "undecided"}, "0 of 1 decided"),
        (2, {}, "retrieved"),
        (2, {"discovery_ap": 0.19, "discovery_low": 0.15}, "not retrieved"),
        (2, {"discovery_low": 0.05}, "not retrieved"),
        (2, {"discovery_ap": np.nan}, "not measured"),
        (3, {}, "yes"),
        (3, {"target_p_random": 0.3}, "no"),
        (4, {}, "steered"),
        (4, {"causal_low": -0.1}, "not steered"),
        (4, {"causal_p_random": 0.11}, "not beyond random"),
    ],
)
def test_the_answer_says_no_more_than_the_tables(place, values, word) -> None:
    assert answers(_card(**values))[place].word == word


def test_an_answer_without_its_stage_says_so() -> None:
    run = _card()
    card = run.tables["scorecard"].drop(columns=["discovery_ap", "target_score", "causal_shift"])
    words = [answer.text for answer in answers(RunData(run.path, {}, tables=run.tables | {"scorecard": card}))]
    assert [f"The stage “{stage}” did not run." for stage in ("discover", "explain", "steer")] == words[2:]


def test_the_printed_command_asks_for_the_same_run() -> None:
    run = load_run(REFERENCE)
    words = shlex.split(commands(run)[1][1].replace("\\\n", " "))
    shared = combinatorial.settings(combinatorial.read_options(words[3:]))
    (again,) = combinatorial.runs(combinatorial.read_options(words[3:]), shared)
    assert json.loads(json.dumps(again.configuration())) == run.configuration


def test_a_command_is_quoted_for_the_shell() -> None:
    run = RunData(Path("run"), {"concept": "x; rm -rf /"})
    assert shlex.split(commands(run)[1][1])[4] == "x; rm -rf /"


def test_the_methods_name_settings_and_versions() -> None:
    text = " ".join(paragraph(load_run(REFERENCE)))
    for part in ("10 repeats of 5 folds", "100 label permutations", "k = 1, 2, 4, 8, 16", "torch 2.", "block 15"):
        assert part in text


def test_colours_of_text_have_a_contrast_of_four_and_a_half() -> None:
    style = (Path(combinatorial.__file__).parents[1] / "neurosae/report/assets/style.css").read_text(encoding="utf-8")
    colours = {m[1]: (m[2], m[3]) for m in re.finditer(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)}
    for theme in (0, 1):
        for ink in ("ink", "muted", "accent", "yes", "no", "open"):
            for page in ("page", "sheet", "soft"):
                assert _contrast(colours[ink][theme], colours[page][theme]) >= 4.5, (ink, page, theme)


def _contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_minus_is_a_minus_and_what_is_missing_a_dash() -> None:
    assert [number(v) for v in (-1.005, -0.001, None, np.nan, np.inf, True)] == ["−1.00", "0.00", "–", "–", "–", "–"]


def _broken(kind: str, path: Path) -> Path:
    run = make(path / "run")
    for file in (run / "tables").glob("*.parquet"):
        file.unlink()
    if kind == "no folder":
        return path / "nothing"
    if kind == "no run":
        (run / "configuration.json").unlink()
    elif kind == "no table":
        (run / "tables" / "variants.csv").unlink()
    elif kind == "JSON":
        (run / "evidence" / "rsa.json").write_text('{"format": 1, ')
    elif kind == "not an object":
        (run / "configuration.json").write_text("[1]")
    elif kind == "other format":
        (run / "evidence" / "about.json").write_text('{"format": 99}')
    elif kind == "columns":
        (run / "tables" / "claims.csv").write_text("a,b\n1,2\n")
    elif kind == "empty table":
        (run / "tables" / "claims.csv").write_text("")
    elif kind == "Parquet":
        (run / "tables" / "variants.parquet").write_bytes(b"PAR1 no")
    elif kind == "figure":
        (run / "figures" / "claims.png").write_bytes(b"<svg/>")
    return run


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("no folder", "RUN_DIR"),
        ("no run", "configuration.json"),
        ("no table", "tables/variants"),
        ("JSON", "rsa.json"),
        ("not an object", "configuration.json"),
        ("other format", "format 99"),
        ("columns", "claims.csv"),
        ("empty table", "claims.csv"),
        ("Parquet", "variants.parquet"),
        ("figure", "claims.png"),
    ],
)
def test_what_is_no_run_or_damaged_is_named_and_nothing_is_written(kind, told, tmp_path, capsys) -> None:
    run = _broken(kind, tmp_path)
    assert main([str(run)]) == 2
    shown = capsys.readouterr().err
    assert told in shown and "Traceback" not in shown and not (run / "report.html").exists()


def test_a_page_that_cannot_be_written_is_refused(tmp_path, whole) -> None:
    with pytest.raises(UserError, match="is a folder"):
        write_report(whole, tmp_path)
    assert main([str(whole), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").is_file()


@pytest.fixture
def everything(tmp_path) -> Path:
    runs = [{"concept": "success", "contrast": "success", "seed": 0}, {"concept": "../../etc", "contrast": "<b>"}]
    path = tmp_path / "all" / "abc"
    (path / "tables").mkdir(parents=True)
    (path / "configuration.json").write_text(json.dumps({"runs": runs}))
    claims = pd.DataFrame(
        {
            "outcome": "decoding",
            "claim": ["SAE beats raw"],
            "delta": [0.1],
            "ci_low": [0.05],
            "ci_high": [0.15],
            "p": [0.01],
            "p_holm": [0.01],
            "verdict": ["supported"],
            "n_contrasts": [9],
            "scope": [""],
        }
    )
    claims.to_csv(path / "tables" / "claims_across_contrasts.csv", index=False)
    single = tmp_path / "success" / digest(runs[0]) / "report.html"
    single.parent.mkdir(parents=True)
    single.write_text("<p>single</p>")
    return path


def test_the_page_of_all_contrasts_links_single_reports_by_relative_path(everything) -> None:
    place = write_report(everything)
    (link,) = [a["href"] for a in Parsed(place.read_text(encoding="utf-8")).all("a") if a["href"] != "#main"]
    assert (place.parent / str(link)).read_text() == "<p>single</p>"
    assert links(load_run(everything))[1] == ("../../etc", "<b>", "")
    assert "supported" in place.read_text(encoding="utf-8")


def test_a_dash_in_the_scorecard_stands_beside_its_reason() -> None:
    card = load_run(REFERENCE).card.head(2).assign(causal_reason=["no pairs", None], stability_reason="one fold")
    view = tables.scorecard(card)
    assert [str(row[-1].shown).count("one fold; no pairs") for row in view.rows] == [1, 0]
    assert view.columns[-1].title == "why a dash"


def test_what_could_not_be_made_says_why(whole, tmp_path) -> None:
    copy = make(tmp_path / "run")
    for file in (copy / "tables").glob("map_*"):
        file.unlink()
    (copy / "evidence" / "missing.json").write_text(
        '{"format": 1, "reasons": {"tables/map_blocks": "text <7> is empty"}}'
    )
    assert "could not be made of these stimuli: text &lt;7&gt; is empty." in render(load_run(copy))
    (copy / "evidence" / "missing.json").write_text('{"reasons": ["text 7"]}')
    with pytest.raises(UserError, match="reasons by file"):
        load_run(copy)


def test_the_blocks_that_the_run_has_read_are_marked(tmp_path) -> None:
    run = make(tmp_path / "run")
    (run / "tables" / "variants.csv").write_text(
        (run / "tables" / "variants.csv").read_text(encoding="utf-8").replace(",15,", ",3,"), encoding="utf-8"
    )
    page = render(load_run(run))
    assert "▲3<" in page and "▲15<" not in page


def test_the_methods_tell_only_what_gave_a_number() -> None:
    """A set without grades and pairs has been through all stages, and nothing was ranked, graded or clamped."""
    empty = dict.fromkeys(["discovery_ap", "target_score", "causal_shift"], np.nan)
    told = {name: " ".join(paragraph(_card(**values))) for name, values in (("all", {}), ("nothing", empty))}
    for words in ("ranked graded sentences", "other graded", "were clamped"):
        assert words in told["all"] and words not in told["nothing"]


def test_texts_of_a_neuron_say_which_way_they_are_the_furthest(whole) -> None:
    run = load_run(whole)
    latent = run.evidence["features"]["cards"][0]
    neuron = latent | {"representation": "raw", "direction": -1}
    shown = feature_cards(replace(run, evidence=run.evidence | {"features": {"cards": [latent, neuron]}}))
    assert [heading for heading, _ in shown[0].texts] == [
        "Strongest graded sentences",
        "Strongest stimuli of “success”",
    ]
    assert [heading for heading, _ in shown[1].texts] == [
        "Graded sentences furthest towards “success”",
        "Stimuli of “success” furthest towards “success”",
    ]
