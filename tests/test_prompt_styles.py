"""Prompt styles: planted latents, identity with naive loops, chance, blind judging, and the command from end to end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from experiments.prompt_styles import main
from neurosae import plots, stimuli
from neurosae.autointerp.judges import Grade, GradeRequest, unanswered
from neurosae.capture import make_prompts
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.checks import main as check_stimuli
from neurosae.styles import (
    Crossing,
    Pool,
    apart_in_wordings,
    beyond_controls,
    compare_styles,
    cross,
    findings,
    firing_rates,
    firing_table,
    graded,
    judge_blind,
    likelihood,
    relations,
    separating_latents,
    separators,
    style_differences,
    style_means,
    unique_latents,
)
from neurosae.styles.pools import shared_tokens, token_measures
from neurosae.styles.spaces import p_of_wordings, style_distances, style_separation

STYLES = ("standard", "padding", "expert", "novice")


def crossing(n_topics: int = 20, n_wordings: int = 4) -> Crossing:
    cells = list(itertools.product(STYLES, range(n_wordings), range(n_topics)))
    return Crossing(STYLES, n_wordings, tuple(map(str, range(n_topics))), pd.DataFrame({"id": [str(c) for c in cells]}))


def pool(values_SF: np.ndarray, over: Crossing) -> Pool:
    values = sp.csr_array(values_SF)
    return Pool("question", over, values, values, values_SF, pd.DataFrame())


def noise(rng: np.random.Generator, over: Crossing, n: int) -> np.ndarray:
    """Latents that fire at random, whatever the style."""
    n_prompts = len(over.table)
    return rng.exponential(size=(n_prompts, n)) * (rng.random((n_prompts, n)) < 0.3)


SMALL = """\
name: small
target: expert
concept: false
definition: Who answers.
chat: true
factors: {style: [standard, padding, expert]}
contrasts: {expert: "expert - standard"}
templates:
  - id: ask
    template: "{style} {question}"
    target: question
    slots:
      style:
        standard: ["A question:", "Please answer this."]
        padding: ["It is a Tuesday here.", "The page is white."]
        expert: ["You are an expert.", "Answer as a specialist."]
      question: [Why is ice cold?, Who paints?, What is a law?, Is it late?, Do cats swim?, Is tea hot?, Why?, Who won?]
"""


def small(folder: Path, text: str = SMALL) -> StimulusSet:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return StimulusSet.from_yaml(path)


# The set and its crossing


def test_the_shipped_set_crosses_six_styles_four_wordings_and_fifty_topics() -> None:
    found = cross(stimuli.load("expertise"))
    assert found.shape == (6, 4, 50)
    style, number, topic = (found.table[name].to_numpy().reshape(found.shape) for name in ("style", "number", "topic"))
    assert (style == np.array(found.styles)[:, None, None]).all()
    assert (number == np.arange(4)[None, :, None]).all()
    assert (topic == np.array(found.topics)[None, None]).all()


def test_every_style_shares_the_tokens_of_the_question_and_filler_is_as_long_as_expert(
    language_model: LanguageModel,
) -> None:
    found = cross(stimuli.load("expertise"))
    prompts = make_prompts(language_model, found.table, True)
    tokens = pd.DataFrame(
        {
            "stimulus": np.repeat(np.arange(len(prompts)), [len(prompt.ids) for prompt in prompts]),
            "token_id": [token for prompt in prompts for token in prompt.ids],
            "target": [flag for prompt in prompts for flag in prompt.target],
        }
    ).assign(clean=True)
    shared = shared_tokens(tokens, found.topic_S)
    assert (shared == tokens["target"]).all()
    lengths = np.array([len(prompt.ids) for prompt in prompts]).reshape(found.shape).mean(axis=2)
    by_style = dict(zip(found.styles, lengths, strict=True))
    for control in ("padding", "spaces"):
        assert np.abs(by_style[control] - by_style["expert"]).max() <= 1
    text = found.table["text"].to_numpy().reshape(found.shape)
    standard, spaces = (text[found.style(name)].ravel() for name in ("standard", "spaces"))
    assert [" ".join(each.split()) for each in spaces] == list(standard)


def test_words_may_tell_the_conditions_of_an_instrument_apart_and_not_those_of_a_concept(tmp_path: Path) -> None:
    path = str(small(tmp_path).path)
    assert check_stimuli(["check", path, "--no-model"]) == 0
    small(tmp_path, SMALL.replace("concept: false\n", ""))
    assert check_stimuli(["check", path, "--no-model"]) == 3


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    target: question\n", "", "what all styles share"),
        ('["A question:", "Please answer this."]', '["A question:"]', "not crossed"),
        (", Who won?", "", "7 topics"),
    ],
)
def test_sets_that_are_not_crossed_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in SMALL
    with pytest.raises(UserError, match=reason):
        cross(small(tmp_path, SMALL.replace(old, new)))


def test_a_set_of_pairs_is_no_crossing() -> None:
    with pytest.raises(UserError, match="no template"):
        cross(stimuli.load("success"))
    with pytest.raises(UserError, match="one: the style"):
        cross(stimuli.load("valence"))


# What is pooled


def test_tokens_cut_differently_or_unclean_in_one_style_are_left_out_in_all() -> None:
    tokens = pd.DataFrame(
        {
            "stimulus": [0] * 4 + [1] * 5,
            "token_id": [5, 1, 2, 3, 6, 7, 1, 2, 3],
            "target": [False, True, True, True, False, True, True, True, True],
            "clean": [True] * 8 + [False],
        }
    )
    assert np.flatnonzero(shared_tokens(tokens, np.array([0, 0]))).tolist() == [1, 2, 6, 7]
    assert np.flatnonzero(shared_tokens(tokens.assign(clean=True), np.array([0, 1]))).tolist() == [1, 2, 3, 5, 6, 7, 8]


def test_measures_of_tokens_are_those_of_a_naive_loop(rng: np.random.Generator) -> None:
    values = rng.exponential(size=(30, 12)) * (rng.random((30, 12)) < 0.4)
    values[4] = 0
    rows = np.sort(rng.permutation(30)[:22])
    owner = np.sort(np.concatenate([np.arange(5), rng.integers(0, 5, 17)]))
    found = token_measures(sp.csr_array(values), rows, owner, 5)
    for prompt in range(5):
        here = [values[row] for row, of in zip(rows, owner, strict=True) if of == prompt]
        expected = {
            "active": np.mean([(token > 0).sum() for token in here]),
            "strongest": np.mean([token.max() for token in here]),
            "strength": np.mean([token[token > 0].mean() if (token > 0).any() else 0 for token in here]),
            "tokens": len(here),
        }
        for name, value in expected.items():
            assert found.loc[prompt, name] == pytest.approx(value)


# Firing


def test_firing_rates_are_those_of_a_naive_loop(rng: np.random.Generator) -> None:
    over = crossing(9, 3)
    values = noise(rng, over, 6)
    rates = firing_rates(sp.csr_array(values), over)
    cells = list(itertools.product(range(len(STYLES)), range(3), range(9)))
    for c, v, k in itertools.product(range(len(STYLES)), range(3), range(6)):
        rows = [row for row, (style, wording, _) in enumerate(cells) if (style, wording) == (c, v)]
        assert rates[c, v, k] == pytest.approx(np.mean([values[row, k] > 0 for row in rows]))


def test_the_firing_table_is_that_of_a_naive_loop_on_topics_that_did_not_choose(rng: np.random.Generator) -> None:
    over = crossing(20, 2)
    values = noise(rng, over, 15)
    expert = over.style_S == over.style("expert")
    values[:, 3] = expert * 1.0
    values[:, 4] = 0
    values[:, 5] = (expert & (over.topic_S == 0)) * 9.0  # chosen on topic 0, silent in those shown
    table = firing_table(sp.csr_array(values), over, top=15, n=200)
    for row in table.itertuples():
        shares = []
        for c in range(len(STYLES)):
            prompts = [s for s in range(len(values)) if over.style_S[s] == c and over.topic_S[s] % 2 == 1]
            shares.append(np.mean([values[s, row.latent] > 0 for s in prompts]))
        assert [getattr(row, style) for style in STYLES] == pytest.approx(shares)
        if not row.reason:
            assert row.purity == pytest.approx(shares[STYLES.index(row.style)] / sum(shares))
            assert row.low <= row.purity <= row.high
    best = table[table["style"] == "expert"].iloc[0]
    assert best["latent"] == 3 and best["purity"] == 1
    assert set(table.loc[table["latent"].isin([4, 5]), "reason"]) == {"silent in the topics shown"}
    assert table[["purity", "low", "high"]].notna().all(axis=None)


def test_unique_latents_are_counted_beside_chance(rng: np.random.Generator) -> None:
    over = crossing()
    values = noise(rng, over, 40)
    expert = over.style_S == over.style("expert")
    values[:, 0] = expert
    values[:, 1] = expert & (over.wording_S == over.wording_S[expert].min())  # the words of one wording
    found = unique_latents(sp.csr_array(values), over).set_index("style")
    assert found["unique"].to_dict() == {"standard": 0, "padding": 0, "expert": 2, "novice": 0}
    assert found.loc["expert", "in_every_wording"] == 1 and found.loc["expert", "latents_of"] == "0"
    assert (found["expected"] < 0.1).all()


def test_shuffled_styles_give_as_many_unique_latents_as_expected(rng: np.random.Generator) -> None:
    over = crossing(10, 2)
    counts, expected = [], []
    base = rng.random((10, 8, 3000)) < 0.06  # rare latents are unique by chance now and then
    for _ in range(40):
        shuffled = np.stack([topic[rng.permutation(8)] for topic in base], axis=1)
        found = unique_latents(sp.csr_array(shuffled.reshape(-1, 3000).astype(float)), over)
        counts.append(found["unique"].sum())
        expected.append(found["expected"].sum())
    assert np.ptp(expected) < 1e-9 and expected[0] > 0.5
    assert abs(np.mean(counts) - expected[0]) < 4 * np.std(counts) / np.sqrt(40) + 0.1


# Separators


def naive_separators(rates: np.ndarray, a: int, b: int) -> tuple[float, float]:
    """Mean numbers found and surviving over all held-out wordings."""
    found, survived = [], []
    n = rates.shape[1]
    for i, j in itertools.product(range(n), repeat=2):
        kept_a, kept_b = np.delete(rates[a], i, axis=0), np.delete(rates[b], j, axis=0)
        separates = (kept_a == 1).all(axis=0) & (kept_b == 0).all(axis=0)
        found.append(separates.sum())
        survived.append((separates & (rates[a, i] == 1) & (rates[b, j] == 0)).sum())
    return float(np.mean(found)), float(np.mean(survived))


def test_separators_are_those_of_a_naive_loop(rng: np.random.Generator) -> None:
    rates = rng.choice([0, 0.5, 1], size=(4, 3, 400), p=[0.45, 0.1, 0.45])
    table = separators(rates, STYLES, n=20)
    assert len(table) == 12
    for row in table.itertuples():
        expected = naive_separators(rates, STYLES.index(row.fires_in), STYLES.index(row.silent_in))
        assert (row.found, row.survived) == pytest.approx(expected)
    listed = separating_latents(rates, STYLES).groupby(["fires_in", "silent_in"]).size()
    counted = table.set_index(["fires_in", "silent_in"])["survived"]
    assert listed.to_dict() == counted[counted > 0].to_dict()


def test_a_separator_of_words_does_not_survive_and_one_of_the_style_does() -> None:
    rates = np.zeros((4, 4, 30))
    expert, standard = STYLES.index("expert"), STYLES.index("standard")
    rates[expert, :, 0] = 1  # fires for experts, however they are called
    rates[expert, :3, 1] = 1  # fires for three of the four wordings
    rates[expert, :, 2:12] = 1
    row = separators(rates, STYLES, n=999).set_index(["fires_in", "silent_in"]).loc[("expert", "standard")]
    assert row["survived"] == 11 and row["found"] == pytest.approx(11.25)
    assert row["p_fwe"] <= 0.05 and row["best_held_out"] == 1
    rates[:, :, 0] = 0.5
    rates[expert, :, 2:12] = 0.5
    rates[standard, :, 2:12] = 0.5
    row = separators(rates, STYLES, n=199).set_index(["fires_in", "silent_in"]).loc[("expert", "standard")]
    assert row["survived"] == 0 and row["found"] == pytest.approx(0.25) and row["p_fwe"] == 1


def test_without_a_latent_that_is_ever_perfect_there_are_no_separators() -> None:
    table = separators(np.full((4, 3, 9), 0.5), STYLES, n=19)
    assert (table[["found", "survived"]] == 0).all(axis=None) and (table["p_fwe"] == 1).all()


def test_wordings_that_know_nothing_of_styles_rarely_give_a_significant_separator() -> None:
    smallest = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        of_wording = rng.integers(0, 2, size=(16, 60)).astype(float)
        smallest.append(separators(of_wording.reshape(4, 4, -1), STYLES, n=99)["p_fwe"].min())
    assert (np.array(smallest) <= 0.05).sum() <= stats.binom.ppf(0.999, 40, 0.05)


# Differences and controls


def test_differences_are_paired_tests_over_topics(rng: np.random.Generator) -> None:
    over = crossing()
    values = noise(rng, over, 10)
    values[:, 0] += 3 * (over.style_S == over.style("expert"))
    table = style_differences(pool(values, over), [("expert", "novice"), ("novice", "expert")], n=200)
    there, back = (table[table["style"] == name].set_index("latent").sort_index() for name in ("expert", "novice"))
    by_topic = values.reshape(4, 4, 20, 10).mean(axis=1)
    expected = stats.ttest_rel(by_topic[2], by_topic[3], axis=0).statistic
    np.testing.assert_allclose(there["t"], expected)
    np.testing.assert_allclose(there["effect"], -back["effect"])
    np.testing.assert_allclose(there["rate"], back["rate_against"])
    assert np.flatnonzero(there["p_fwe"] < 0.05).tolist() == [0] and there["wordings_apart"][0]
    with pytest.raises(UserError, match="no style 'gru'"):
        style_differences(pool(values, over), [("gru", "expert")])


def test_what_filler_changes_too_is_not_beyond_filler(rng: np.random.Generator) -> None:
    over = crossing()
    values = noise(rng, over, 20)
    expert, padding = (over.style_S == over.style(name) for name in ("expert", "padding"))
    values[:, 0] += 3 * (expert | padding)  # length
    values[:, 1] += 3 * expert  # the style
    table = beyond_controls(style_differences(pool(values, over), n=500), "standard", ["padding"]).set_index("style")
    row = table.loc["expert"]
    assert (row["changed"], row["shared"], row["beyond"], row["beyond_and_apart"]) == (2, 1, 1, 1)
    assert table.loc["novice", "changed"] == 0 and "padding" not in table.index


def test_measures_are_compared_by_paired_tests_and_corrected_over_all_pairs(rng: np.random.Generator) -> None:
    value = rng.normal(size=(4, 25)) + rng.normal(size=25)
    value[2] += 3
    table = compare_styles({"active": value}, STYLES, n=500)
    for row in table.itertuples():
        a, b = STYLES.index(row.style), STYLES.index(row.against)
        assert row.t == pytest.approx(stats.ttest_rel(value[a], value[b]).statistic)
        assert row.low < row.difference < row.high and row.p_fwe >= row.p
    significant = table[table["p_fwe"] < 0.05]
    assert len(table) == 6 and {"expert"} == set.intersection(*map(set, significant[["style", "against"]].to_numpy()))
    of_wordings = np.tile([1.0, 2.0, 3.0, 4.0], (4, 1)) + np.array([[0], [0], [9], [1]])
    apart = apart_in_wordings(table, {"active": of_wordings}, STYLES)
    assert (apart == (table["style"].eq("expert") | table["against"].eq("expert"))).all()
    means = style_means({"active": value}, STYLES, n=200)
    np.testing.assert_allclose(means["mean"], value.mean(axis=1))


# Spaces


def test_neighbours_in_new_wordings_see_styles_and_not_wordings(rng: np.random.Generator) -> None:
    over = crossing(12)
    topic, wording, style = (rng.normal(size=(n, 60)) for n in (12, 16, 4))
    shared = 9 * topic[over.topic_S] + rng.normal(size=(len(over.table), 60)) / 4
    for of_prompt, least, most in ((style[over.style_S], 0.95, 1), (wording[over.wording_S], 0, 0.4)):
        values = 90 + shared + 3 * of_prompt
        found = style_separation(style_distances(pool(values, over)), over).set_index(["space", "new"])
        assert found.loc[("latents", "topic"), "knn_accuracy"] > 0.9
        row = found.loc[("latents", "wording")]
        assert least <= row["knn_accuracy"] <= most and (row["p"] <= 0.05) == (least > 0)


def test_wordings_that_know_nothing_of_styles_are_rarely_told_apart_by_neighbours() -> None:
    over, small_p = crossing(4), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(16, 8))[over.wording_S] + rng.normal(size=(len(over.table), 8)) / 2
        small_p += p_of_wordings(style_distances(pool(values, over))["latents"], over, n=99) <= 0.05
    assert small_p <= stats.binom.ppf(0.999, 40, 0.05)


# What is said


def test_sentences_say_what_holds_and_leave_out_what_was_not_measured(rng: np.random.Generator) -> None:
    over = crossing(8)  # too few topics for folds, wordings enough
    found = style_separation(style_distances(pool(noise(rng, over, 9), over)), over, n=19).assign(pool="question")
    assert found.loc[found["new"] == "topic", "p"].tolist() == [1, 1]
    assert "new topics" not in (said := findings.of_separation(found)) and "a wording never seen" in said
    value = rng.normal(size=(4, 25)) + np.array([[0], [0], [4], [4]])
    table = compare_styles({"active": value}, STYLES, n=200)
    of_wordings = {"active": np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 4.0], [0.5, 9.0]])}
    table = table.assign(pool="question", wordings_apart=apart_in_wordings(table, of_wordings, STYLES))
    text = findings.of_active_latents(table, "standard", ["padding"])
    assert text.count("(not in every wording)") == 1 and text.count("(not significant)") == 1
    assert "What says nothing" not in text
    silent = style_differences(pool(noise(rng, over, 9), over), n=19)
    nothing = beyond_controls(silent.assign(p_fwe=1.0), "standard", ["padding"]).assign(pool="question")
    assert "expert changes none of 9 latents;" in findings.of_controls(nothing)


# Figures


def test_figures_show_the_numbers_of_their_tables(rng: np.random.Generator) -> None:
    rates = np.zeros((4, 4, 30))
    rates[2, :, :7] = 1
    ax = plots.style_separators(separators(rates, STYLES, n=99), "prompt")
    assert sum(text.get_text().startswith("7") for text in ax.texts) == 3 and len(ax.texts) == 12
    value = rng.normal(size=(4, 25))
    value[2] += 3
    ax = plots.style_differences(compare_styles({"active": value}, STYLES, n=200), "active", "latents", "padding")
    dots = {label.get_text(): ax.lines[2 * i + 1] for i, label in enumerate(ax.get_yticklabels())}
    for style in ("standard", "expert", "novice"):  # whichever way round a pair stands in the table
        assert dots[style].get_xdata() == pytest.approx((value[STYLES.index(style)] - value[1]).mean())
    assert dots["expert"].get_markerfacecolor() != "white" and dots["novice"].get_markerfacecolor() == "white"


# Answers


def answers(n_topics: int = 10) -> pd.DataFrame:
    cells = [(topic, style) for topic in range(n_topics) for style in STYLES]
    return pd.DataFrame(
        {
            "topic": [topic for topic, _ in cells],
            "style": [style for _, style in cells],
            "question": [f"What is {topic}?" for topic, _ in cells],
            "answer": [f"{topic} is number {STYLES.index(style)}" for topic, style in cells],
        }
    )


def test_judging_is_blind_shuffled_and_put_back_in_order() -> None:
    seen: list[tuple[str, str]] = []

    def judge(questions: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        seen.extend(zip(questions, texts, strict=True))
        pairs = zip(questions, texts, strict=True)
        return np.array([float(text[-1]) if text.split()[0] in question else -1.0 for question, text in pairs])

    table = answers()
    judged = judge_blind(table, judge, "oracle", n=200)
    assert judged.answers["quality"].tolist() == [float(text[-1]) for text in table["answer"]]
    assert judged.auc == 1 and "the least that is needed" in judged.verdict
    assert not any(style in part for pair in seen for part in pair for style in STYLES)
    own = [pair for pair in seen if pair[1].split()[0] in pair[0]]
    assert len(seen) == 2 * len(table) and own != list(zip(table["question"], table["answer"], strict=True))


def test_a_judge_by_coin_is_not_trusted_and_what_it_leaves_out_is_counted(rng: np.random.Generator) -> None:
    judged = judge_blind(answers(), lambda _, texts: rng.random(len(texts)), "coin", n=300)
    assert "do not use" in judged.verdict and judged.low < 0.5
    judged = judge_blind(answers(), lambda _, texts: np.full(len(texts), np.nan), "mute")
    assert judged.n_unanswered == 40 and (judged.auc, judged.low, judged.high) == (0.5, 0, 1)


class _Grader:
    name = "grader"

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        return [Grade(2, None, True, "") if "yes" in request.text else unanswered("silent") for request in requests]


def test_grades_of_any_judge_are_qualities() -> None:
    np.testing.assert_array_equal(graded(_Grader())(["Is it?", "Is it?"], ["yes", "perhaps"]), [2, np.nan])


def test_an_answer_is_likelier_after_its_own_question(language_model: LanguageModel) -> None:
    questions = ["What is the capital of France?", "How do bees make honey?"]
    texts = ["The capital of France is Paris.", "Bees make honey from the nectar of flowers."]
    rate = likelihood(language_model, True)
    own, swapped = rate([*questions, questions[0]], [*texts, ""]), rate(questions, texts[::-1])
    assert (own[:2] > swapped + 1).all() and np.isnan(own[2])


def test_partial_correlations_are_those_of_residuals_within_topics(rng: np.random.Generator) -> None:
    topic = np.repeat(np.arange(12), 6)
    length = rng.normal(size=72)
    table = pd.DataFrame({"topic": topic, "active": length, "length": length, "quality": length, "constant": 1.0})
    table["active"] += rng.normal(size=72) / 2 + 5 * rng.normal(size=12)[topic]
    table["quality"] += rng.normal(size=72) / 2
    found = relations(table, n=400).set_index(["first", "second"])
    within = {name: table[name] - table.groupby("topic")[name].transform("mean") for name in table}
    residuals = [
        within[name] - within["length"] * (within[name] @ within["length"]) / (within["length"] @ within["length"])
        for name in ("active", "quality")
    ]
    row = found.loc[("active", "quality")]
    assert row["partial"] == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert row["r"] == pytest.approx(np.corrcoef(within["active"], within["quality"])[0, 1])
    assert row["r"] > 0.5 and row["low"] < 0 < row["high"] and row["p"] > 0.05  # length is all they share
    assert found.loc[("length", "quality"), "p_holm"] < 0.05
    assert "does not vary" in found.loc[("quality", "constant"), "reason"]
    assert found.loc[("quality", "constant"), ["r", "partial", "p"]].tolist() == [0, 0, 1]


def test_the_interval_of_a_correlation_is_fishers_and_agrees_with_its_p(rng: np.random.Generator) -> None:
    table = pd.DataFrame(rng.normal(size=(60, 3)), columns=["one", "two", "three"])
    alone = relations(table[["one", "two"]].assign(topic=0), n=4000).iloc[0]
    theirs = stats.pearsonr(table["one"], table["two"])
    assert alone["r"] == pytest.approx(theirs[0])
    assert alone[["low", "high"]].tolist() == pytest.approx([*theirs.confidence_interval()], abs=0.02)
    topics = np.arange(60) % 12
    held = relations(table.assign(topic=topics), n=19).iloc[0]
    twice = relations(table.assign(again=table["three"], topic=topics), n=19).iloc[0]
    assert twice["partial"] == pytest.approx(held["partial"])  # a column that says nothing new holds nothing more


def test_topics_of_unequal_spread_do_not_make_correlations_significant() -> None:
    topic, missed = np.repeat(np.arange(8), 6), 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        spread_S = np.exp(1.5 * rng.normal(size=8))[topic]
        table = pd.DataFrame(rng.normal(size=(48, 2)) * spread_S[:, None], columns=["one", "two"])
        row = relations(table.assign(topic=topic), n=99).iloc[0]
        missed += not row["low"] <= 0 <= row["high"]
    assert missed <= stats.binom.ppf(0.999, 150, 0.05)


def test_only_relations_with_a_value_count_in_holms_correction(rng: np.random.Generator) -> None:
    table = pd.DataFrame({"topic": np.repeat(np.arange(8), 6), "one": rng.normal(size=48), "two": 1.0})
    table["three"] = table["one"] + rng.normal(size=48)
    found = relations(table, n=99).set_index(["first", "second"])
    assert found.loc[("one", "three"), "p_holm"] == found.loc[("one", "three"), "p"] < 0.05
    assert found.loc[("one", "two"), "p_holm"] == 1


# The command


def test_the_command_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(tmp_path)
    out = tmp_path / "out"
    wanted = ["--set", str(tmp_path / "small.yaml"), "--controls", "padding", "--difference", "expert", "standard"]
    effort = ["--answers", "8", "--answer-tokens", "3", "--permutations", "40", "--bootstrap", "100"]
    assert main([*wanted, *effort, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "48 prompts (3 styles x 2 wordings x 8 topics)" in said and str(out) in said
    difference = json.loads((out / "difference_expert_standard.json").read_text(encoding="utf-8"))
    assert list(difference["pools"]) == ["prompt", "question"]
    latents = difference["pools"]["question"]["latents"]
    assert {"latent", "effect", "t", "p_fwe", "rate", "rate_against"} <= set(latents[0])
    for file in out.glob("*.parquet"):
        table = pd.read_parquet(file)
        assert len(table) or file.stem == "separating_latents"
        numbers = table.drop(columns="quality", errors="ignore").select_dtypes("number")
        assert numbers.notna().all(axis=None), file
    question = pd.read_parquet(out / "means.parquet").query("pool == 'question' and measure == 'tokens'")
    assert question["mean"].nunique() == 1  # every style is measured on the same tokens
    for name in ("active", "active_differences", "separators", "firing_question", "firing_prompt", "quality"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
        assert (out / "figures" / f"{name}.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "succes"], "Did you mean 'success'"),
        (["--set", "success"], "no template"),
        (["--difference", "expert", "gru"], "no style 'gru'"),
        (["--difference", "expert", "expert"], "differ from itself"),
        (["--controls", "standard"], "is the baseline"),
        (["--topics", "3"], "8 to the 50"),
        (["--answers", "3"], "0, or 8 to 50"),
        (["--judge", "likelyhood"], "Did you mean 'likelihood'"),
    ],
)
def test_bad_input_ends_with_a_message(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
