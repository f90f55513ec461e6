"""Stimulus files: what they become, and what is refused where."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neurosae.errors import UserError
from neurosae.inference.permutation import count_arrangements
from neurosae.stimuli import StimulusSet, available, concepts, load
from neurosae.stimuli import files as stimulus_files
from neurosae.stimuli.contrasts import parse_contrast

SHIPPED = sorted((Path(__file__).parents[1] / "stimuli").glob("*.yaml"))

HEAD = """\
name: demo
target: good
definition: what it is
factors:
  mood: [good, bad]
contrasts:
  mood: good - bad
"""  # 7 lines

TWO_HEAD = """\
name: demo
target: good
definition: what it is
factors: {mood: [good, bad], tense: [past, future]}
contrasts:
  mood: good - bad
  tense: past - future
  cross: (good - bad) * (past - future)
  simple: good * past - bad * past
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "demo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> StimulusSet:
    return StimulusSet.from_yaml(write(folder, text))


def crossed(n: int, extra: str = "") -> str:
    lines = [TWO_HEAD + extra + "items:"]
    for i in range(n):
        lines += [f"  - id: i{i}", "    versions:"]
        lines += [
            f"      {mood}/{tense}: {mood} {tense} {i}" for mood in ("good", "bad") for tense in ("past", "future")
        ]
    return "\n".join(lines)


# What a file becomes


def test_instruments_are_no_concepts() -> None:
    names = {each.name for each in concepts()}
    assert names == {path.stem for path in SHIPPED} - {"expertise"}
    assert not load("expertise").is_concept and load("success").is_concept


def test_a_target_of_a_template_is_one_of_its_slots(tmp_path: Path) -> None:
    body = """\
templates:
  - id: ask
    template: "{mood} {thing}"
    target: thnig
    slots: {mood: {good: fine, bad: sad}, thing: [rain, sun]}
"""
    with pytest.raises(UserError, match="'thnig' is not a slot"):
        read(tmp_path, HEAD + body)
    stimuli = read(tmp_path, HEAD + body.replace("thnig", "thing"))
    spans = zip(stimuli.table["text"], stimuli.table["target_start"], stimuli.table["target_end"], strict=True)
    assert [text[start:end] for text, start, end in spans] == ["rain", "sun"] * 2


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sets_load_and_agree_with_a_plain_reading(path: Path) -> None:
    stimuli = StimulusSet.from_yaml(path)
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = {}
    for item in plain.get("items", []):
        for key, version in item["versions"].items():
            expected[f"{item['id']}:{key}"] = version if isinstance(version, dict) else {"text": version}
    for entry in plain.get("templates", []):  # of one factor and one list
        (factor, levels), (shared, words) = entry["slots"].items()
        for (level, wordings), word in itertools.product(levels.items(), words):
            for n, wording in enumerate(wordings, 1):
                text = entry["template"].replace(f"{{{factor}}}", wording).replace(f"{{{shared}}}", word)
                expected[f"{entry['id']}:{word}:{level}.{n}"] = {"text": text, "target": word}
    table = stimuli.table.set_index("id")
    assert table["text"].to_dict() == {name: version["text"] for name, version in expected.items()}
    for name, row in table.iterrows():
        version = expected[str(name)]
        assert row["text"][max(row["target_start"], 0) : max(row["target_end"], 0)] == version.get("target", "")
        assert {rating: row[rating] for rating in stimuli.ratings} == version.get("ratings", {})
    assert stimuli.name == path.stem and stimuli.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sets_have_permutable_contrasts(path: Path) -> None:
    stimuli = StimulusSet.from_yaml(path)
    groups = stimuli.groups()
    for column in ("pair", "family", "group"):
        assert (pd.Series(groups).groupby(stimuli.table[column]).nunique() == 1).all()
    for name, contrast in stimuli.contrasts.items():
        _, y = contrast.labels(stimuli.table)
        assert count_arrangements(2 * y - 1, stimuli.blocks(name), stimuli.design(name)) >= 2**20


def test_single_texts_with_every_key(tmp_path: Path) -> None:
    stimuli = read(
        tmp_path,
        HEAD
        + """\
licence: CC0-1.0
items:
  - {id: a, mood: good, text: the sun came out, pair: p, family: f, group: g, domain: sky, target: sun,
     ratings: {calm: 3}}
  - {id: b, condition: bad, text: the sun went in, pair: p, family: f, domain: sky}
  - {id: c, mood: bad, text: it rained, domain: ~}
""",
    )
    table = stimuli.table
    columns = "id text mood pair family group template wording domain target_start target_end calm"
    assert table.columns.tolist() == columns.split()
    assert table["mood"].tolist() == ["good", "bad", "bad"]
    assert table[["target_start", "target_end"]].to_numpy().tolist() == [[4, 7], [-1, -1], [-1, -1]]
    assert table["target_start"].dtype == np.int64
    assert table["domain"].isna().tolist() == [False, False, True]
    assert table["calm"].isna().tolist() == [False, True, True] and stimuli.ratings == ("calm",)
    assert stimuli.licence == "CC0-1.0" and stimuli.chat is False
    assert stimuli.groups().tolist() == [0, 0, 1]


def test_versions_of_one_factor_with_two_levels_are_pairs(tmp_path: Path) -> None:
    body = (
        "items:\n  - id: a\n    versions: {good: x y, bad: {text: x z, target: z}}\n  - {id: b, versions: {good: q}}\n"
    )
    stimuli = read(tmp_path, HEAD + body)
    assert stimuli.table["id"].tolist() == ["a:good", "a:bad", "b:good"]
    assert stimuli.table["pair"].fillna("-").tolist() == ["a", "a", "-"]
    assert stimuli.table["family"].tolist() == ["a", "a", "b"]


def test_levels_may_be_words_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    text = HEAD.replace("good", "yes").replace("bad", "no") + "items:\n  - {id: 007, versions: {yes: 1.50, no: null}}\n"
    with pytest.raises(UserError, match="'no' is not"):
        read(tmp_path, text)
    stimuli = read(tmp_path, text.replace("null", "'null'"))
    assert stimuli.table["text"].tolist() == ["1.50", "null"] and stimuli.factors == {"mood": ("yes", "no")}
    assert stimuli.table["id"].tolist() == ["007:yes", "007:no"]


def test_templates_make_all_combinations(tmp_path: Path) -> None:
    stimuli = read(
        tmp_path,
        HEAD
        + """\
templates:
  - id: t
    template: "{mood}: {{what}} {topic} in {place}?"
    slots:
      mood: {good: [Great, Lovely], bad: Oh no}
      topic: [rain, snow, hail]
      place: [Rome, Oslo]
""",
    )
    table = stimuli.table
    assert len(table) == 3 * 3 * 2 and table["id"].is_unique
    assert "Lovely: {what} snow in Oslo?" in set(table["text"])
    row = table[table["text"] == "Lovely: {what} snow in Oslo?"].iloc[0]
    assert row[["id", "mood", "family", "template", "wording"]].tolist() == [
        "t:snow:Oslo:good.2",
        "good",
        "t:snow:Oslo",
        "t",
        "Lovely",
    ]
    assert table.groupby("family").size().tolist() == [3] * 6
    assert len(set(stimuli.groups())) == 6 and stimuli.design("mood") == "families"


def test_templates_look_slots_up_and_format_nothing(tmp_path: Path) -> None:
    body = 'templates:\n  - id: t\n    template: "{mood} {topic}"\n'
    body += '    slots: {mood: {good: A, bad: B}, topic: ["{mood.__class__}"]}\n'
    assert read(tmp_path, HEAD + body).table["text"].tolist() == ["A {mood.__class__}", "B {mood.__class__}"]


@pytest.mark.parametrize(
    ("chat", "expected"), [("true", True), ("false", False), ("{system: Be brief.}", {"system": "Be brief."})]
)
def test_chat(tmp_path: Path, chat: str, expected: object) -> None:
    assert read(tmp_path, f"{HEAD}chat: {chat}\nitems: [{{id: a, versions: {{good: x, bad: y}}}}]").chat == expected


def test_a_byte_order_mark_and_windows_line_ends_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    text = HEAD + "items:\n  - {id: a, versions: {good: é, bad: ü}}\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert StimulusSet.from_yaml(path).table["text"].tolist() == ["é", "ü"]


# Contrasts, designs, blocks, groups


def test_contrasts_by_name(tmp_path: Path) -> None:
    stimuli = read(tmp_path, crossed(2))
    assert stimuli.contrast() == stimuli.contrast("mood") and next(iter(stimuli.contrasts)) == "mood"
    with pytest.raises(UserError, match=r"Unknown contrast 'tens'.*Did you mean 'tense'"):
        stimuli.contrast("tens")


def test_blocks_of_crossed_families(tmp_path: Path) -> None:
    stimuli = read(tmp_path, crossed(2))  # per family: good/past, good/future, bad/past, bad/future
    assert stimuli.designs == {"mood": "families", "tense": "families", "cross": "interaction", "simple": "families"}
    assert stimuli.blocks("mood").tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert stimuli.blocks("tense").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert stimuli.blocks("cross").tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert stimuli.blocks("simple").tolist() == [0, 0, 1, 1]
    assert stimuli.blocks("mood", np.array([4, 6, 0])).tolist() == [0, 0, 1]
    assert stimuli.blocks("mood", np.arange(8) >= 4).tolist() == [0, 1, 0, 1]


def test_blocks_of_pairs_and_of_nothing(tmp_path: Path) -> None:
    items = [f"  - {{id: g{i}, mood: good, text: x, pair: p{i}}}\n" for i in range(3)]
    items += [f"  - {{id: b{i}, mood: bad, text: y, pair: p{i}}}\n" for i in (2, 0, 1)]
    paired = read(tmp_path, HEAD + "items:\n" + "".join(items))
    assert paired.design() == "pairs" and paired.blocks().tolist() == [0, 1, 2, 2, 0, 1]
    assert paired.groups().tolist() == [0, 1, 2, 2, 0, 1]
    free = read(tmp_path, HEAD + "items:\n" + "".join(items).replace("pair: p", "domain: p"))
    assert free.design() == "unpaired" and free.blocks().tolist() == [0] * 6
    assert free.groups().tolist() == [0, 1, 2, 3, 4, 5] and free.why_not("pairs") == "no stimulus has a pair"
    partly = read(tmp_path, HEAD + "items:\n" + "".join(items) + "  - {id: last, mood: bad, text: z}\n")
    assert partly.design() == "unpaired" and partly.why_not("pairs") == "1 of 7 stimuli have no pair"


def test_a_contrast_that_is_not_of_the_file_gets_its_own_design(tmp_path: Path) -> None:
    stimuli = read(tmp_path, crossed(3))
    other = parse_contrast("(future - past) * (good - bad)", stimuli.factors)
    assert stimuli.design(other) == "interaction" and len(set(stimuli.blocks(other))) == 3


def test_groups_connect_through_chains(tmp_path: Path) -> None:
    keys = ["pair: p", "pair: p, family: f", "family: f, group: g", "group: g", "family: h", "", "family: h"]
    items = [f"  - {{id: i{i}, mood: {'good' if i % 2 else 'bad'}, text: x, {key}}}\n" for i, key in enumerate(keys)]
    stimuli = read(tmp_path, HEAD + "items:\n" + "".join(items))
    assert stimuli.groups().tolist() == [0, 0, 0, 0, 1, 2, 1]


@pytest.mark.parametrize(
    ("contrast", "design", "reason"),
    [
        ("cross", "families", "would exchange its main effects"),
        ("mood", "pairs", "no stimulus has a pair"),
        ("simple", "pairs", "no stimulus has a pair"),
    ],
)
def test_a_declared_design_must_fit_the_labels(tmp_path: Path, contrast: str, design: str, reason: str) -> None:
    text = crossed(2)
    lines = text.splitlines()
    line = next(i for i, content in enumerate(lines) if content.startswith(f"  {contrast}:"))
    expression = lines[line].split(": ", 1)[1]
    lines[line] = f'  {contrast}: {{expression: "{expression}", design: {design}}}'
    with pytest.raises(UserError, match=f"demo.yaml:{line + 1}: The design '{design}'.*{reason}"):
        read(tmp_path, "\n".join(lines))


def test_families_without_both_sides_cannot_be_permuted_within(tmp_path: Path) -> None:
    items = "".join(
        f"  - {{id: i{i}, mood: {'good' if i < 4 else 'bad'}, text: x, family: f{i // 2}}}\n" for i in range(8)
    )
    stimuli = read(tmp_path, HEAD + "items:\n" + items)
    assert stimuli.design() == "unpaired" and "no family has both sides" in str(stimuli.why_not("families"))
    assert "4 of 4 blocks do not balance" in str(stimuli.why_not("interaction"))


def test_a_declared_design_is_kept(tmp_path: Path) -> None:
    head = HEAD.replace("mood: good - bad", "mood: {expression: good - bad, design: unpaired}")
    stimuli = read(tmp_path, head + "items: [{id: a, versions: {good: x, bad: y}}]")
    assert stimuli.design() == "unpaired" and stimuli.blocks().tolist() == [0, 0]


def test_subsets_keep_what_belongs_to_them(tmp_path: Path) -> None:
    stimuli = read(tmp_path, crossed(3))
    part = stimuli.subset(stimuli.groups() != 1)
    assert part.table["family"].unique().tolist() == ["i0", "i2"] and part.table.index.tolist() == list(range(8))
    assert part.designs == stimuli.designs and part.blocks("cross").tolist() == [0] * 4 + [1] * 4


# Finding sets by name


def test_sets_are_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("continuation").path.parent == Path(__file__).parents[1] / "stimuli"
    (tmp_path / "stimuli").mkdir()
    path = write(tmp_path / "stimuli", crossed(1)).rename(tmp_path / "stimuli" / "continuation.yaml")
    assert load("continuation").name == "demo" and "valence" in available()
    assert list(available(tmp_path / "stimuli")) == ["continuation"]
    assert load(path).sha256 == load("continuation", folder=tmp_path / "stimuli").sha256
    with pytest.raises(UserError, match=r"Unknown stimulus set 'continuaton'.*Did you mean 'continuation'"):
        load("continuaton")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "a\\b", "x\0y", "stimuli/continuation"])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="neither a name nor a stimulus file"):
        load(name)


# What is refused, and where

ITEM = "items:\n  - {id: a, versions: {good: x, bad: y}}\n"  # lines 8 and 9
BAD = {
    "unknown key": (HEAD + ITEM + "itmes: []\n", 10, "Unknown key 'itmes'", "Did you mean 'items'?"),
    "unknown item key": (HEAD + "items:\n  - id: a\n    mod: good\n    text: x\n", 10, "'mod'", "Did you mean 'mood'?"),
    "unknown version key": (HEAD + "items:\n  - id: a\n    versions:\n      good: {txt: x}\n", 11, "'txt'", "'text'?"),
    "unknown contrast key": (HEAD.replace("good - bad", "{expresion: x}") + ITEM, 7, "'expresion'", "'expression'?"),
    "missing key": (HEAD.replace("target: good\n", "") + ITEM, 1, "The key 'target' is missing", ""),
    "empty text": (HEAD + "items:\n  - id: a\n    mood: good\n    text: ' '\n", 11, "'text' is empty", ""),
    "empty version": (HEAD + "items:\n  - id: a\n    versions:\n      good: ''\n", 11, "'text' is empty", ""),
    "no text": (HEAD + "items:\n  - {id: a, mood: good}\n", 9, "needs a text or versions", ""),
    "text and versions": (HEAD + "items:\n  - {id: a, text: x, versions: {good: x}}\n", 9, "and not both", ""),
    "pair of versions": (HEAD + "items:\n  - {id: a, pair: p, versions: {good: x}}\n", 9, "also 'pair'", ""),
    "no versions": (HEAD + "items:\n  - {id: a, versions: {}}\n", 9, "has no versions", ""),
    "no items": (HEAD + "items: []\n", 8, "fewer than two conditions", ""),
    "one condition": (HEAD + "items:\n  - {id: a, versions: {good: x}}\n", 8, "fewer than two conditions", ""),
    "duplicate id": (
        HEAD + ITEM + "  - id: a\n    text: z\n    mood: bad\n",
        10,
        "'a' occurs twice; first on line 9",
        "",
    ),
    "duplicate stimulus id": (HEAD + ITEM + "  - {id: 'a:bad', text: z, mood: bad}\n", 10, "'a:bad' occurs twice", ""),
    "no level": (HEAD + ITEM + "  - {id: b, text: z}\n", 10, "no level for the factor 'mood'", "good, bad"),
    "unknown level": (HEAD + ITEM + "  - id: b\n    text: z\n    mood: goood\n", 12, "'goood'", "Did you mean 'good'?"),
    "unknown version level": (
        HEAD + ITEM + "  - id: b\n    versions:\n      bda: x\n",
        12,
        "'bda'",
        "Did you mean 'bad'?",
    ),
    "two levels": (HEAD + ITEM + "  - {id: b, text: z, mood: bad, condition: good}\n", 10, "given twice", ""),
    "unknown target": (HEAD.replace("target: good", "target: god") + ITEM, 2, "'god'", "Did you mean 'good'?"),
    "unbalanced pair": (
        HEAD + ITEM + "  - {id: b, text: z, mood: bad, pair: p}\n  - {id: c, text: z, mood: bad, pair: p}\n",
        11,
        "Both members of the pair 'p' have the condition 'bad'",
        "",
    ),
    "single pair": (HEAD + ITEM + "  - {id: b, text: z, mood: bad, pair: p}\n", 10, "'p' has 1 member.", ""),
    "target elsewhere": (
        HEAD + ITEM + "  - id: b\n    text: z\n    mood: bad\n    target: q\n",
        13,
        "not in the text",
        "",
    ),
    "target twice": (HEAD + ITEM + "  - {id: b, text: z z, mood: bad, target: z}\n", 10, "more than once", ""),
    "contrast of nothing": (HEAD.replace("good - bad", "good - bed") + ITEM, 7, "Unknown level 'bed'", "'bad'?"),
    "one-sided contrast": (HEAD.replace("good - bad", "good") + ITEM, 7, "The foil side", ""),
    "no contrasts": (HEAD.replace("\n  mood: good - bad", " {}") + ITEM, 6, "'contrasts' is empty", ""),
    "unknown design": (
        HEAD.replace("good - bad", "{expression: good - bad, design: pair}") + ITEM,
        7,
        "'design' is 'pair'",
        "'pairs'",
    ),
    "rating nan": (
        HEAD + ITEM + "  - {id: b, text: z, mood: bad, ratings: {calm: nan}}\n",
        10,
        "'calm' is 'nan'",
        "finite",
    ),
    "rating .inf": (HEAD + ITEM + "  - {id: b, text: z, mood: bad, ratings: {calm: .inf}}\n", 10, "'.inf'", "finite"),
    "rating word": (HEAD + ITEM + "  - {id: b, text: z, mood: bad, ratings: {calm: very}}\n", 10, "'very'", "finite"),
    "rating is column": (
        HEAD + ITEM + "  - {id: b, text: z, mood: bad, ratings: {text: 1}}\n",
        10,
        "column already",
        "",
    ),
    "one level": (HEAD.replace("[good, bad]", "[good]") + ITEM, 5, "fewer than two levels", ""),
    "level twice": (HEAD.replace("[good, bad]", "[good, good]") + ITEM, 5, "listed twice", ""),
    "level no word": (HEAD.replace("[good, bad]", "[good, not bad]") + ITEM, 5, "'not bad' cannot be", "identifiers"),
    "factor is column": (HEAD.replace("  mood: [", "  text: [") + ITEM, 5, "'text' cannot be", "identifiers"),
    "factor no list": (HEAD.replace("[good, bad]", "good") + ITEM, 5, "'mood' is not a list", ""),
    "unsafe name": (HEAD.replace("name: demo", "name: ../demo") + ITEM, 1, "'../demo' is not a name", ""),
    "item no mapping": (HEAD + ITEM + "  - b\n", 10, "Entry 2 of 'items' is not a mapping", ""),
    "items no list": (HEAD + "items: 5\n", 8, "'items' is not a list", ""),
    "chat": (HEAD + ITEM + "chat: perhaps\n", 10, "'chat' is 'perhaps'", "true, false, or {system: text}"),
    "malformed": (HEAD + "items:\n  - {id: a, text: x\n  - {id: b}\n", 10, "The YAML is malformed", "missing quote"),
    "tab": (HEAD + "items:\n\t- id: a\n", 9, "The YAML is malformed", ""),
    "duplicate key": (HEAD + ITEM + "name: again\n", 10, "'name' occurs twice; first on line 1", ""),
    "duplicate version": (HEAD + "items:\n  - id: a\n    versions:\n      bad: x\n      bad: y\n", 12, "line 11", ""),
    "anchor": (HEAD + "items:\n  - &a {id: a, text: x, mood: good}\n", 9, "Anchors and aliases", ""),
    "alias": (HEAD + "items: *a\n", 8, "Anchors and aliases", ""),
    "tag": (HEAD + "items: !!python/object/apply:os.system ['true']\n", 8, "Tags such as", ""),
    "not a mapping": ("- a\n- b\n", 1, "not a mapping of keys", "name, target"),
    "key no text": (HEAD + "? [a, b]\n: c\n", 8, "not plain text", ""),
    "second document": (HEAD + ITEM + "---\nname: x\n", 10, "a second document", ""),
    "deep": (HEAD + "items: " + "[" * 5000, 8, "nested more than", ""),
    "slot unknown": (
        HEAD + "templates:\n  - {id: t, template: '{mod}', slots: {mood: {good: x}}}\n",
        9,
        "'mod'",
        "'mood'?",
    ),
    "slot unused": (
        HEAD + "templates:\n  - {id: t, template: x, slots: {mood: {good: x}}}\n",
        9,
        "not in the template",
        "",
    ),
    "slot level": (
        HEAD + "templates:\n  - {id: t, template: '{mood}', slots: {mood: {god: x}}}\n",
        9,
        "'god'",
        "'good'?",
    ),
    "slot no mapping": (
        HEAD + "templates:\n  - {id: t, template: '{mood}', slots: {mood: [x]}}\n",
        9,
        "mapping of levels",
        "",
    ),
    "slot mapping": (
        HEAD + "templates:\n  - {id: t, template: '{x}', slots: {x: {good: x}}}\n",
        9,
        "is not a list",
        "",
    ),
    "slot format": (
        HEAD + "templates:\n  - {id: t, template: '{mood!r}', slots: {mood: {good: x}}}\n",
        9,
        "a format",
        "",
    ),
    "slot brace": (
        HEAD + "templates:\n  - {id: t, template: '{mood', slots: {mood: {good: x}}}\n",
        9,
        "is malformed",
        "",
    ),
    "slot twice": (
        HEAD + "templates:\n  - {id: t, template: '{mood}', slots: {mood: {bad: [x, x]}}}\n",
        9,
        "twice",
        "",
    ),
    "slot no factor": (
        HEAD + "templates:\n  - {id: t, template: '{x}', slots: {x: [a]}}\n",
        9,
        "no level for",
        "good, bad",
    ),
}


@pytest.mark.parametrize(("text", "line", "message", "rest"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_at_their_line(tmp_path: Path, text: str, line: int, message: str, rest: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        StimulusSet.from_yaml(path)
    shown = str(error.value)
    assert shown.startswith(f"{path}:{line}: "), shown
    assert message in shown and rest in shown.partition(message)[2] and "\n" not in shown


def test_the_first_of_several_mistakes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"demo.yaml:1: .*'nmae'"):
        read(tmp_path, HEAD.replace("name:", "nmae:") + "items: 5\nchta: true\n")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="There is no such file"):
            StimulusSet.from_yaml(path)
    path = tmp_path / "latin.yaml"
    path.write_bytes((HEAD + "items:\n  - {id: a, text: caf").encode() + b"\xe9}")
    with pytest.raises(UserError, match=r"latin.yaml:9: The file is not UTF-8"):
        StimulusSet.from_yaml(path)
    for empty in ("", "# only a comment\n"):
        with pytest.raises(UserError, match="The file is empty"):
            read(tmp_path, empty)
    with pytest.raises(UserError, match="The YAML is malformed"):
        read(tmp_path, HEAD + "items: \x07\n")
    monkeypatch.setattr(stimulus_files, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="at most 100 bytes"):
        read(tmp_path, HEAD + ITEM)


def test_an_alias_bomb_is_refused_at_its_first_anchor(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    with pytest.raises(UserError, match=r"demo.yaml:1: Anchors and aliases"):
        read(tmp_path, bomb)


def test_templates_that_explode_are_refused_before_they_are_made(tmp_path: Path) -> None:
    slots = "".join(f", s{i}: [{', '.join(f'w{j}' for j in range(20))}]" for i in range(12))
    template = "{mood}" + "".join(f"{{s{i}}}" for i in range(12))
    with pytest.raises(UserError, match=r"demo.yaml:9: The template 't' makes"):
        read(
            tmp_path,
            f"{HEAD}templates:\n  - {{id: t, template: '{template}', slots: {{mood: {{good: x, bad: y}}{slots}}}}}",
        )


def test_too_many_cells_are_refused(tmp_path: Path) -> None:
    factors = "".join(f"  f{i}: [p{i}, q{i}]\n" for i in range(11))
    with pytest.raises(UserError, match=r"demo.yaml:4: The factors have too many cells"):
        read(tmp_path, HEAD.replace("  mood: [good, bad]\n", "  mood: [good, bad]\n" + factors) + ITEM)
