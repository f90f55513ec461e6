"""Confound checks: planted confounds are found, balanced sets are not accused."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from neurosae.errors import UserError
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.checks import bag_of_words_accuracy, check, main, near_duplicates

NOUNS = ["river", "garden", "engine", "letter", "harbour", "teacher"]
NOUNS += ["window", "market", "forest", "bridge", "kitchen", "station"]


HEAD = "name: s\ntarget: yes\ndefinition: d\nfactors: {f: [yes, no]}\ncontrasts: {c: 'yes - no'}\nitems:"


def paired_set(folder: Path, target: str, foil: str) -> StimulusSet:
    """Twelve pairs; {} stands for the noun of the family."""
    lines = [HEAD]
    for noun in NOUNS:
        lines += [f"  - id: {noun}", "    versions:"]
        lines += [f"      yes: '{target.format(noun)}'", f"      no: '{foil.format(noun)}'"]
    path = folder / "s.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return StimulusSet.from_yaml(path)


def unpaired_set(folder: Path, lengths_yes: list[int], lengths_no: list[int]) -> StimulusSet:
    lines = [HEAD]
    for level, lengths in (("yes", lengths_yes), ("no", lengths_no)):
        for i, n in enumerate(lengths):
            lines.append(f"  - {{id: {level}{i}, f: {level}, text: '{' '.join(NOUNS[:n])}'}}")
    path = folder / "s.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return StimulusSet.from_yaml(path)


def confound(stimuli: StimulusSet, measure: str, **given: Any) -> dict[Hashable, Any]:
    table = check(stimuli, **given).confounds
    return next(row for row in table.to_dict("records") if row["measure"] == measure)


def test_a_telling_word_makes_a_contrast_lexical(tmp_path: Path) -> None:
    row = check(paired_set(tmp_path, "The {} was won.", "The {} was lost.")).contrasts.iloc[0]
    assert row["bag_of_words"] == 1.0 and row["lexical"]


def test_word_order_alone_is_not_lexical(tmp_path: Path) -> None:
    row = check(paired_set(tmp_path, "The {} beat the dog.", "The dog beat the {}.")).contrasts.iloc[0]
    assert row["bag_of_words"] == pytest.approx(0.5) and not row["lexical"]


def test_bag_of_words_is_at_chance_on_random_labels_and_groups_are_held_out() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(NOUNS, 4)) for _ in range(200)]
    groups = np.arange(200) // 2
    y = np.tile([0, 1], 100)
    assert abs(bag_of_words_accuracy(texts, y, groups) - 0.5) < 0.12
    # Every group has its own word, which predicts the label of its members and nothing else.
    own, labels = [f"word{group}" for group in groups], rng.integers(0, 2, 100)[groups]
    assert bag_of_words_accuracy(own, labels, np.arange(200)) > 0.9
    assert bag_of_words_accuracy(own, labels, groups) < 0.6


def test_bag_of_words_depends_on_the_seed_only() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(NOUNS, 4)) for _ in range(60)]
    y, groups = np.tile([0, 1], 30), np.arange(60) // 2
    assert bag_of_words_accuracy(texts, y, groups, seed=3) == bag_of_words_accuracy(texts, y, groups, seed=3)


@pytest.mark.parametrize(
    ("texts", "groups", "message"),
    [(["a", "b"] * 4, np.arange(8) // 2, "only 4 independent groups"), (["...", "b"] * 10, np.arange(20), "no words")],
)
def test_no_bag_of_words_without_groups_or_words(texts: list[str], groups: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bag_of_words_accuracy(texts, np.arange(len(texts)) % 2, groups)


def test_length_differences_of_pairs_are_tested_on_pairs(tmp_path: Path) -> None:
    found = confound(paired_set(tmp_path, "A {} came here", "A {} came"), "words")
    assert (found["target"], found["foil"], found["difference"]) == (4, 3, 1)
    assert found["test"] == "Wilcoxon, pairs" and found["n"] == 12
    assert found["p"] == pytest.approx(stats.wilcoxon(np.ones(12)).pvalue) and found["p"] < 0.01


def test_equal_lengths_have_p_one(tmp_path: Path) -> None:
    assert confound(paired_set(tmp_path, "A {} came", "A {} went"), "words")["p"] == 1.0


def test_length_differences_without_pairs_are_tested_on_stimuli(tmp_path: Path) -> None:
    yes, no = [3, 4, 5, 6, 7, 8], [2, 3, 3, 4, 5, 5, 6]
    found = confound(unpaired_set(tmp_path, yes, no), "words")
    assert found["test"] == "Mann-Whitney" and found["n"] == 13
    assert found["p"] == pytest.approx(stats.mannwhitneyu(yes, no).pvalue)
    assert confound(unpaired_set(tmp_path, [3, 3], [3, 3]), "words")["p"] == 1.0


def test_interactions_are_tested_on_families(tmp_path: Path) -> None:
    lines = ["name: s", "target: a", "definition: d", "factors: {f: [a, b], g: [x, y]}"]
    lines += ["contrasts: {main: a - b, cross: '(a - b) * (x - y)'}", "items:"]
    for i in range(8):
        texts = {"a/x": "one two three", "a/y": "one", "b/x": "one two", "b/y": "one two"}
        lines += [f"  - id: i{i}", "    versions:", *(f"      {key}: {text}" for key, text in texts.items())]
    path = tmp_path / "s.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    records = check(StimulusSet.from_yaml(path)).confounds.to_dict("records")
    words = [row for row in records if row["measure"] == "words"]
    assert [(row["contrast"], row["test"], row["n"], row["difference"]) for row in words] == [
        ("main", "Wilcoxon, families", 16, 0.0),
        ("cross", "Wilcoxon, interaction", 8, 1.0),
    ]


def test_a_tokenizer_and_a_surprisal_are_used_if_given(tmp_path: Path) -> None:
    stimuli = paired_set(tmp_path, "A {} came", "A {} goes")

    def letters(text: str, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(text) + [0] * add_special_tokens)

    def surprisal(texts: list[str]) -> np.ndarray:
        return np.array([2.0 if "came" in text else 1.5 for text in texts])

    mean_length = np.mean([len(f"A {noun} came") for noun in NOUNS])
    assert confound(stimuli, "tokens", tokenizer=letters)["target"] == pytest.approx(mean_length)
    found = confound(stimuli, "surprisal", surprisal=surprisal)
    assert found["difference"] == pytest.approx(0.5) and found["p"] < 0.01 and found["note"] == ""


def test_what_is_missing_says_why(tmp_path: Path) -> None:
    report = check(unpaired_set(tmp_path, [3, 4], [3, 4]))
    surprisal = next(row for row in report.confounds.to_dict("records") if row["measure"] == "surprisal")
    assert math.isnan(surprisal["p"]) and "no language model" in surprisal["note"]
    contrast = report.contrasts.iloc[0]
    assert contrast["design"] == "unpaired" and "no stimulus has a pair" in contrast["note"]
    assert math.isnan(contrast["bag_of_words"]) and "only 2 independent groups" in contrast["note"]
    annotations = report.annotations.to_dict("records")
    columns = [row["column"] for row in annotations]
    assert columns == ["pair", "family", "group", "template", "domain", "target span", "ratings"]
    assert all(row["n"] == 0 and "no stimulus of the file has a" in row["note"] for row in annotations)


def test_stimuli_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ntarget: a\ndefinition: d\nfactors: {f: [a, b]}\ncontrasts: {c: a - b}\nitems:\n"
        "  - {id: p, f: a, text: t, ratings: {arousal: 3}}\n  - {id: q, f: b, text: t, ratings: {arousal: 1}}\n"
        "  - {id: r, f: b, text: t}\n",
        encoding="utf-8",
    )
    found = confound(StimulusSet.from_yaml(path), "arousal")
    assert (found["target"], found["foil"], found["n"]) == (3, 1, 2)
    assert found["note"] == "1 of 3 stimuli have no value"


def test_word_frequencies_are_compared(tmp_path: Path) -> None:
    found = confound(paired_set(tmp_path, "The {} and the house", "The {} and the escutcheon"), "zipf")
    assert found["difference"] > 0.5 and found["p"] < 0.01


def test_near_duplicates_are_found_across_groups_only_and_for_any_block_size() -> None:
    texts = [
        "the red fox jumped over it",
        "the red fox jumped over him",
        "nothing alike here",
        "the red fox jumped over it",
    ]
    for block_size in (1, 3, 1000):
        table, n = near_duplicates(texts, list("abcd"), np.array([0, 0, 1, 2]), block_size=block_size)
        assert n == len(table) == 2
        assert set(zip(table["id_a"], table["id_b"], strict=True)) == {("a", "d"), ("b", "d")}
        assert table["cosine"].iloc[0] == pytest.approx(1.0) and table["id_a"].iloc[0] == "a"
    table, n = near_duplicates(texts, list("abcd"), np.zeros(4, dtype=int))
    assert n == 0 and table.columns.tolist() == ["id_a", "id_b", "cosine"]


def test_a_common_opening_is_warned_of(tmp_path: Path) -> None:
    openings = check(paired_set(tmp_path, "All in all the {} came", "All in all, the {} went")).openings
    assert openings.iloc[0].tolist() == ["all in all", 24, 1.0, True]
    varied = check(paired_set(tmp_path, "The {} came back today", "Our {} went back today")).openings
    assert not varied.loc[varied["share"] <= 0.05, "warn"].any() and varied["share"].max() == pytest.approx(1 / 24)


def test_the_command_prints_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stimuli = paired_set(tmp_path, "The {} was won.", "The {} was lost.")
    assert main(["check", "--no-model", str(stimuli.path)]) == 3  # won and lost tell the sides apart
    printed = capsys.readouterr().out
    for part in ("=== s ===", "confounds", "bag_of_words", "near-duplicates: 0", "annotations"):
        assert part in printed


def test_bad_input_ends_the_command_with_its_message_alone(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: s\nnmae: s\n", encoding="utf-8")
    command = [sys.executable, "-m", "neurosae.stimuli", "check", "--no-model", str(tmp_path / "bad.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "bad.yaml:" in done.stderr
