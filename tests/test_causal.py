"""Effects on preferences: identity with full runs and naive loops, planted directions, chance, held-out pairs only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from neurosae import stimuli
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.norms import median_norms
from neurosae.sites import Site
from neurosae.steering.causal import EndingPairs, Preferences, RandomDirections, causal_effect, ending_pairs, estimate
from neurosae.steering.endings import Endings
from neurosae.steering.generation import generate
from neurosae.steering.interventions import Direction, Intervention, clamp, random_direction
from neurosae.steering.texts import perplexity_cost, score_texts, what_is_it

SITE, LAST = Site(15), Site(29)
TEXTS = ["The bridge held while the trucks crossed.", "It failed.", "Nobody had expected the hall to fill."]
BEGINNINGS = [
    "My favourite fruit is the", "In the morning she ate a", "He went to the shop and bought a", "The box held one",
    "For lunch they shared a", "On the table lay a", "The monkey asked for a", "In her bag was a",
]  # fmt: skip


def planted_pairs(language_model: LanguageModel) -> tuple[EndingPairs, torch.Tensor]:
    """Beginnings that end on " apple" or " gun", and the direction of the last block that tells them apart."""
    head, gain = language_model.plain.get_output_embeddings().weight, language_model.base.norm.weight
    apple, gun = (language_model.tokenizer(word, add_special_tokens=False).input_ids for word in (" apple", " gun"))
    assert len(apple) == len(gun) == 1
    starts = language_model.token_ids(BEGINNINGS)
    names = [f"pair {i}" for i in range(len(starts))]
    table = pd.DataFrame({"target": names, "foil": names, "group": names, "reason": "", "usable": True})
    pairs = EndingPairs(table, [row + apple for row in starts], [row + gun for row in starts], list(map(len, starts)))
    direction = ((head[apple[0]] - head[gun[0]]) * gain).detach()
    return pairs, direction / direction.norm()


@pytest.fixture(scope="module")
def planted(language_model: LanguageModel) -> tuple[Preferences, torch.Tensor]:
    pairs, direction = planted_pairs(language_model)
    return Preferences(language_model, pairs, LAST), direction


# --- scoring endings --------------------------------------------------------------------------------------------------


def naive_log_p(language_model: LanguageModel, ids: list[int], start: int) -> float:
    with torch.inference_mode():
        log_p = language_model.plain(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(np.mean([log_p[t - 1, ids[t]] for t in range(start, len(ids))]))


def test_endings_are_scored_as_a_loop_scores_them(language_model: LanguageModel) -> None:
    ids, starts = language_model.token_ids(TEXTS), [3, 1, 4]
    found, norm = Endings(language_model, ids, starts, SITE, batch_size=2).log_p()
    expected = [naive_log_p(language_model, row, start) for row, start in zip(ids, starts, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert norm == 0


@pytest.mark.parametrize("site", [SITE, Site(7, "mlp_out"), Site(7, "attn_out"), Site(20, "resid_pre"), LAST])
def test_resuming_from_the_steered_block_is_the_full_run(language_model: LanguageModel, site: Site) -> None:
    ids, starts = language_model.token_ids(TEXTS), [3, 1, 4]
    endings, change = Endings(language_model, ids, starts, site), random_direction(site, 576, 20.0, 0)
    resumed = endings.log_p(change)[0]
    endings.first_block = 0  # nothing is passed over any more
    np.testing.assert_array_equal(resumed, endings.log_p(change)[0])


def test_what_is_steered_is_what_was_asked_for(language_model: LanguageModel) -> None:
    """Steering the beginning or the ending alone touches so many tokens, and together all of them."""
    ids, starts = language_model.token_ids(TEXTS), [3, 1, 4]
    endings = Endings(language_model, ids, starts, SITE)
    change = random_direction(SITE, 576, 20.0, 0)
    base = endings.log_p()[0]
    prompt, generated = endings.log_p(change, "prompt")[0], endings.log_p(change, "generated")[0]
    assert prompt[1] == base[1]  # the beginning is the sink token alone
    assert generated[1] != base[1] and prompt[0] != base[0]
    assert not np.allclose(endings.log_p(change, "both")[0], prompt)


def test_probabilities_that_are_not_finite_stop_it(language_model: LanguageModel) -> None:
    endings = Endings(language_model, language_model.token_ids(TEXTS), [3, 1, 4], SITE)
    weight = language_model.base.norm.weight.data
    kept = weight.clone()
    weight.fill_(torch.nan)  # as where a number of low precision has overflowed
    try:
        with pytest.raises(UserError, match="no finite probability"):
            endings.log_p()
        with pytest.raises(UserError, match="logits that are not finite"):
            generate(language_model, language_model.token_ids(TEXTS), n_tokens=1)
    finally:
        weight.copy_(kept)


def test_bad_endings(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="0 texts"):
        Endings(language_model, [], [], SITE)
    with pytest.raises(UserError, match="batches of 0"):
        Endings(language_model, language_model.token_ids(TEXTS[:1]), [2], SITE, batch_size=0)
    ids = language_model.token_ids(TEXTS[:1])
    with pytest.raises(UserError, match="has no token"):
        Endings(language_model, ids, [len(ids[0])], SITE)
    with pytest.raises(UserError, match="the endings wait at"):
        Endings(language_model, ids, [2], SITE).log_p(clamp(Site(3), [0], 1.0))


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_share_their_beginning_and_nothing_of_their_endings_first_token(language_model: LanguageModel) -> None:
    pairs = ending_pairs(language_model, stimuli.load("success"))
    for target, foil, start in zip(pairs.target_ids, pairs.foil_ids, pairs.starts, strict=True):
        assert target[:start] == foil[:start] and target[start] != foil[start] and start >= 4
    unusable = pairs.table[~pairs.table["usable"]]
    assert len(unusable) and unusable["reason"].str.contains("tokens at the beginning are shared").all()
    assert len(pairs.usable) + len(unusable) == len(stimuli.load("success").table) / 2


def test_tokens_of_a_chat_template_are_no_shared_beginning(language_model: LanguageModel) -> None:
    success = stimuli.load("success")
    plain, chat = ending_pairs(language_model, success), ending_pairs(language_model, replace(success, chat=True))
    assert (~plain.table["usable"]).any()
    pd.testing.assert_frame_equal(plain.table, chat.table)


def test_stimuli_of_the_training_set_are_refused(language_model: LanguageModel) -> None:
    success = stimuli.load("success")
    half = success.groups() % 2 == 0
    train = success.table["id"][half].tolist()
    ending_pairs(language_model, success, rows=~half, trained_on=train)
    with pytest.raises(UserError, match="used for fitting"):
        ending_pairs(language_model, success, rows=half, trained_on=train[:2])


# --- effects ----------------------------------------------------------------------------------------------------------


def test_a_planted_direction_steers_in_its_sense_and_a_random_one_does_not(
    language_model: LanguageModel, planted: tuple[Preferences, torch.Tensor]
) -> None:
    preferences, direction = planted
    norm = float(median_norms(language_model, [LAST])[LAST]) / 4
    doses: dict[float, Intervention] = {d: Direction(LAST, d * norm * direction) for d in (-1.0, 0.5, 1.0)}
    random = RandomDirections(preferences, n=4)
    effect = causal_effect(preferences, doses, random, random_features={d: [Direction(LAST, direction)] for d in doses})
    shift = effect.table.set_index("dose")["shift"]
    assert shift[-1.0] < 0 < shift[0.5] < shift[1.0]
    assert effect.slope.low > 0 and effect.slope.p == effect.slope.smallest_p
    rivals = effect.controls[effect.controls["control"] == "random directions"].set_index("dose")
    assert (rivals["p"] == rivals["smallest_p"]).all() and rivals["smallest_p"].iloc[0] == 1 / 5
    assert rivals["difference_low"][1.0] > 0 > rivals["difference_high"][-1.0]
    assert rivals["most"].max() < shift[0.5]
    noise = causal_effect(preferences, {1.0: random_direction(LAST, 576, norm, 99)}, random, random_features={1.0: []})
    assert abs(noise.table["shift"][0]) < 0.2 * shift[1.0]
    assert noise.controls["control"].tolist() == ["random directions"]  # no draws, no row
    np.testing.assert_allclose(effect.table["norm"], norm * np.array([1, 0.5, 1]), rtol=1e-5)


def test_shared_random_directions_stand_for_those_of_any_norm(planted: tuple[Preferences, torch.Tensor]) -> None:
    preferences, _ = planted
    random = RandomDirections(preferences, n=2)
    exact = np.array([preferences.measure(random_direction(LAST, 576, 32.0, b))[0] for b in range(2)])
    np.testing.assert_array_equal(random.shifts(32.0), exact)
    between = np.array([preferences.measure(random_direction(LAST, 576, 44.0, b))[0] for b in range(2)])
    assert np.abs(random.shifts(44.0) - between).max() < 0.1 * np.abs(between).max()


def test_estimates_agree_with_scipy(rng: np.random.Generator) -> None:
    values = rng.normal(0.4, 1, 24)
    found = estimate(values, np.arange(24), n=4000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, rng=np.random.default_rng(1)).confidence_interval
    np.testing.assert_allclose([found.low, found.high], theirs, atol=0.06)
    flipped = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=4000, rng=np.random.default_rng(1)
    )
    assert found.p == pytest.approx(flipped.pvalue, abs=0.02)


def test_chance_is_chance(rng: np.random.Generator) -> None:
    """Shifts without an effect, in pairs of equal ones: the groups and not the pairs are what was sampled."""
    groups = np.repeat(np.arange(12), 2)
    p = [estimate(np.repeat(rng.normal(size=12), 2), groups, n=99).p for _ in range(120)]
    assert np.sum(np.array(p) <= 0.05) <= stats.binom.ppf(0.999, 120, 0.05)


def test_few_pairs_have_no_interval_and_say_so() -> None:
    found = estimate([1.0, 2.0, 3.0], [0, 1, 2])
    assert np.isnan(found.low) and "fewer than 8" in found.reason and found.p == found.smallest_p == 0.25


def test_what_changes_nothing_shifts_nothing_and_is_no_effect(planted: tuple[Preferences, torch.Tensor]) -> None:
    """A control may be silent in the held-out texts: that is a shift of 0 and no reason to stop."""
    preferences, direction = planted
    nothing, random = Direction(LAST, torch.zeros(576)), RandomDirections(preferences, n=2)
    effect = causal_effect(
        preferences, {-1.0: nothing, 1.0: Direction(LAST, 64 * direction)}, random, random_features={1.0: [nothing]}
    )
    silent = effect.table.iloc[0]
    assert silent[["norm", "shift", "low", "high", "p"]].tolist() == [0, 0, 0, 0, 1]
    controls = effect.controls.set_index(["dose", "control"])
    assert controls.loc[(-1.0, "random directions"), ["n", "mean", "least", "most", "p"]].tolist() == [2, 0, 0, 0, 1]
    assert controls.loc[(1.0, "random features"), "mean"] == 0
    with pytest.raises(UserError, match="change nothing in these texts at any dose"):
        causal_effect(preferences, {1.0: nothing}, random)


def test_a_dose_response_needs_doses(planted: tuple[Preferences, torch.Tensor]) -> None:
    preferences, _ = planted
    with pytest.raises(UserError, match="other than 0"):
        causal_effect(preferences, {}, RandomDirections(preferences))


# --- texts ------------------------------------------------------------------------------------------------------------


def test_perplexity_is_that_of_a_loop_and_noise_costs(language_model: LanguageModel) -> None:
    cost = perplexity_cost(language_model, {0.9: random_direction(SITE, 576, 200.0, 0)}, SITE, texts=TEXTS)
    ids = language_model.token_ids(TEXTS)
    loss = sum(naive_log_p(language_model, row, 1) * (len(row) - 1) for row in ids) / sum(len(row) - 1 for row in ids)
    assert cost["perplexity"][0] == pytest.approx(np.exp(-loss), rel=1e-4)
    assert cost["ratio"][0] == 1 and cost["ratio"][1] > 1.5


def test_the_order_of_the_names_cancels(language_model: LanguageModel) -> None:
    """Which name is called the target turns the sign and nothing else."""
    options: dict[str, Any] = {"interventions": {0.5: random_direction(SITE, 576, 30.0, 0)}, "site": SITE}
    one = what_is_it(language_model, TEXTS[1:2], ("success", "failure"), **options)
    other = what_is_it(language_model, TEXTS[1:2], ("failure", "success"), {}, SITE)
    np.testing.assert_allclose(one["log_odds"][:1], -other["log_odds"], atol=1e-4)
    assert one["dose"].tolist() == [0.0, 0.5] and one["log_odds"].nunique() == 2


def test_generated_texts_are_judged_against_their_own_baseline() -> None:
    texts = pd.DataFrame(
        {
            "dose": [0, 0, 0.9, 0.9], "condition": ["baseline", "baseline", "steered", "steered"],
            "prompt": [0, 1, 1, 0], "generated": ["a", "bb", "bbbb", "aaa"],
        }
    )  # fmt: skip
    scored = score_texts(texts, lambda found: np.array([len(text) for text in found], float))
    assert scored["change"].tolist() == [0, 0, 2, 2]
    with pytest.raises(UserError, match="Prompt 0 has no unsteered"):
        score_texts(texts.iloc[1:], lambda found: np.ones(len(found)))
    with pytest.raises(UserError, match="finite score"):
        score_texts(texts, lambda found: np.full(len(found), np.nan))
