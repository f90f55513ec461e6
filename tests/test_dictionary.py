"""What kind of dictionary: closed forms against loops and other libraries, planted members, chance under the null."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from scipy.spatial.distance import cdist
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score, silhouette_score

from experiments import describe_sae as describing
from experiments.options import command, read
from neurosae import plots
from neurosae.dictionary import members
from neurosae.dictionary.census import census, telling_words, without
from neurosae.dictionary.completeness import (
    background_rates,
    completeness,
    dedicated_latents,
    encode_mentions,
    frequency_relation,
    read_background,
    read_mentions,
    summary,
)
from neurosae.dictionary.describe_sae import describe_sae
from neurosae.dictionary.maps import cosine_distances, separation, umap_positions
from neurosae.dictionary.specificity import exclusive_latents, specificity
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae import loading

SMALL = hnp.arrays(np.float64, (9, 4), elements=st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]))
LABELS = np.array(["a", "b", "a", "c", "b", "c", "c", "a", "b"])


def random_codes(rng: np.random.Generator, n_stimuli: int, n_latents: int, density: float) -> sp.csr_array:
    return sp.csr_array(sp.random_array((n_stimuli, n_latents), density=density, rng=rng, data_sampler=rng.random))


# specificity


@given(SMALL)
@settings(max_examples=60, deadline=None)
def test_specificity_is_what_loops_over_latents_and_conditions_give(X_SF: np.ndarray) -> None:
    table = specificity(sp.csr_array(X_SF), LABELS, min_fires=2).set_index(["latent", "condition"])
    for latent, condition in itertools.product(range(4), "abc"):
        row, x, here = table.loc[(latent, condition)], X_SF[:, latent], condition == LABELS
        assert row["fires"] == (x[here] > 0).sum()
        assert row["rate"] == pytest.approx((x[here] > 0).mean())
        assert row["mean"] == pytest.approx(x[here].mean())
        assert row["auroc"] == pytest.approx(roc_auc_score(here, x))
        assert row["exclusive"] == ((x > 0).sum() >= 2 and not (x[~here] > 0).any())
        assert row["reason"] == ("silent" if not x.any() else "" if (x > 0).sum() >= 2 else "fires too rarely")
        means = np.array([x[name == LABELS].mean() for name in "abc"])
        differences = np.abs(means[:, None] - means[None, :]).sum()
        assert row["gini"] == pytest.approx(differences / (2 * 3 * means.sum()) if means.any() else 0.0)


@given(SMALL)
@settings(max_examples=20, deadline=None)
def test_specificity_does_not_depend_on_the_container_and_auroc_not_on_monotone_scales(X_SF: np.ndarray) -> None:
    table = specificity(X_SF, LABELS)
    pd.testing.assert_frame_equal(table, specificity(sp.csc_array(X_SF), LABELS))
    np.testing.assert_allclose(specificity(np.sqrt(X_SF), LABELS)["auroc"], table["auroc"])


def test_the_probability_of_being_exclusive_is_hypergeometric_in_one_block() -> None:
    X_SF = (np.arange(9)[:, None] < [2, 3, 5]).astype(float)
    table = specificity(X_SF, LABELS, min_fires=1)
    expected = [hypergeom(9, 3, m).pmf(m) if m <= 3 else 0.0 for m in (2, 3, 5) for _ in "abc"]
    np.testing.assert_allclose(table["p_exclusive"], expected)


def test_the_probability_of_being_exclusive_is_exact_within_blocks(rng: np.random.Generator) -> None:
    blocks, labels = np.array([0, 0, 1, 1, 2, 2, 2]), np.array(list("abababb"))
    X_SF = (rng.random((7, 30)) < 0.35).astype(float)
    table = specificity(X_SF, labels, blocks_S=blocks, min_fires=1).pivot(index="latent", columns="condition")
    fired = X_SF > 0
    parts = [itertools.permutations(labels[blocks == block]) for block in range(3)]
    shuffles = [np.concatenate(shuffled) for shuffled in itertools.product(*parts)]
    for condition in "ab":
        alone = np.array([(fired <= (shuffled == condition)[:, None]).all(0) for shuffled in shuffles])
        np.testing.assert_allclose(table["p_exclusive"][condition], alone.mean(0), atol=1e-12)


def test_the_expected_number_of_exclusive_latents_holds_under_the_null(rng: np.random.Generator) -> None:
    X_SF = random_codes(rng, 40, 600, 0.08)
    labels = np.repeat(["a", "b"], 20)
    tables = [exclusive_latents(specificity(X_SF, rng.permutation(labels), min_fires=2)) for _ in range(40)]
    found, expected = (pd.concat(tables).groupby("condition")[name].mean() for name in ("exclusive", "expected"))
    np.testing.assert_allclose(found, expected, rtol=0.1)


def test_a_planted_latent_is_exclusive_and_the_most_specific(rng: np.random.Generator) -> None:
    X_SF = (rng.random((40, 50)) < 0.5).astype(float)
    X_SF[:, 7] = np.repeat([1.0, 0.0], 20)
    table = specificity(X_SF, np.repeat(["a", "b"], 20))
    best = table.loc[table["auroc"].idxmax()]
    assert (best["latent"], best["condition"], best["exclusive"], best["gini"]) == (7, "a", True, 0.5)


@pytest.mark.parametrize(
    ("X_SF", "labels", "message"),
    [
        (np.array([[-1.0], [1.0]]), ["a", "b"], "negative"),
        (np.array([[np.nan], [1.0]]), ["a", "b"], "nan"),
        (np.ones((2, 1)), ["a"], "1 labels for 2 stimuli"),
        (np.ones((2, 1)), ["a", None], "1 stimuli have no label"),
        (np.ones((2, 1)), ["a", "a"], "one condition"),
    ],
)
def test_specificity_refuses(X_SF: np.ndarray, labels: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        specificity(X_SF, labels)


@pytest.mark.slow
def test_a_million_latents_fit_in_memory_and_need_no_dense_table(rng: np.random.Generator) -> None:
    X_SF = random_codes(rng, 200, 1_000_000, 0.002)
    tracemalloc.start()
    table = specificity(X_SF, np.repeat(["a", "b"], 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == 2_000_000
    assert peak < 200 * 1_000_000 * 8 / 2  # half of the dense table


# members and completeness


@pytest.mark.parametrize("name", members.available())
def test_shipped_lists_have_different_members_in_sentences_that_end(name: str) -> None:
    found = members.load(name)
    assert found.name == name
    assert 12 <= len(found.members) <= 60
    assert 3 <= len(found.carriers) <= 6
    mentions = found.mentions()
    assert not mentions["text"].duplicated().any()
    for row in mentions.itertuples():
        assert row.text[row.target_start : row.target_end] == row.member
        assert row.text.endswith(".")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "valid dictionary"),
        ("name: [", "No member list"),
        ("name: " + "[" * 2000, "No member list"),
        ("name: a\ncarriers: ['A {member}.', 'No slot.']\nmembers: [x, y]", "once in each"),
        ("name: a\ncarriers: ['A {member}.']\nmembers: [x, y]", "once in each"),
        ("name: a\ncarriers: ['A {member}.', 'B {member}.']\nmembers: [x, x]", "none twice"),
        ("name: a\ncarriers: ['A {member}.', 'B {member}.']\nmembers: [x, on]", "string"),
        ("name: a\ncarriers: ['A {member}.', 'B {member}.']\nmembers: [x, y]\nextra: 1", "extra"),
        ("name: a\ncarriers: ['A {member}.', 'B {member}.']\nmembers: !!python/name:os.system", "No member list"),
    ],
)
def test_bad_member_lists_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        members.load(str(tmp_path / "bad.yaml"))


def test_unknown_member_lists_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'elements'"):
        members.load("element")
    with pytest.raises(UserError, match="No member list"):
        members.load("missing.yaml")


def test_lists_of_one_name_are_refused(tmp_path: Path) -> None:
    """Results are kept by name: the first would be lost."""
    path = tmp_path / "own.yaml"
    path.write_text("name: months\ncarriers: ['A {member}.', 'B {member}.']\nmembers: [x, y]")
    with pytest.raises(UserError, match=r"members: 'months' and '.*own\.yaml' are both lists named 'months'"):
        members.load_all(["colours", "months", str(path)])
    with pytest.raises(UserError, match="'months' and 'months'"):
        members.load_all(["months", "months"])
    assert [each.name for each in members.load_all(["colours", str(path)])] == ["colours", "months"]
    assert [each.name for each in members.load_all(["all"])] == list(members.available())


def mention_table(n_members: int, n_carriers: int) -> pd.DataFrame:
    cells = itertools.product(range(n_members), range(n_carriers))
    return pd.DataFrame([(f"m{member}", carrier) for member, carrier in cells], columns=["member", "carrier"])


@given(hnp.arrays(np.float64, (12, 5), elements=st.sampled_from([0.0, 0.0, 1.0, 2.0])), st.integers(0, 2**5 - 1))
@settings(max_examples=60, deadline=None)
def test_the_dedicated_latent_is_the_one_a_loop_finds(codes_SF: np.ndarray, bits: int) -> None:
    mentions = mention_table(3, 4)
    common_F = np.array([bits >> f & 1 for f in range(5)], dtype=bool)
    table = dedicated_latents(sp.csr_array(codes_SF), mentions, np.stack([common_F, 0 * common_F]) * 0.01)
    carrier = mentions["carrier"].to_numpy()

    def f1(latent: int, member: str, side: int) -> float:
        rows = carrier % 2 == side
        fired, here = codes_SF[rows, latent] > 0, (mentions["member"] == member).to_numpy()[rows]
        return 2 * (fired & here).sum() / (fired.sum() + here.sum())

    for row in table.itertuples():
        mass = codes_SF[((mentions["member"] == row.member) & (carrier % 2 == 0)).to_numpy()].sum(0)
        ranked = sorted((-f1(f, row.member, 0), -mass[f], f) for f in range(5) if mass[f] > 0 and not common_F[f])
        assert row.latent == (ranked[0][2] if ranked else -1)
        assert row.valid == bool(ranked)
        assert row.f1 == pytest.approx(f1(row.latent, row.member, 1) if ranked else 0.0)
        assert row.dedicated == (row.f1 >= 0.8)


def planted(rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
    """Latent m fires on member m everywhere, m + 10 on every second carrier only, 20 everywhere."""
    mentions = mention_table(10, 6)
    codes = np.zeros((60, 300))
    codes[:, 30:] = rng.random((60, 270)) < 0.1
    for row, (member, carrier) in enumerate(itertools.product(range(10), range(6))):
        codes[row, member] = 1
        codes[row, member + 10] = 5.0 * (carrier % 2 == 0)
    codes[:, 20] = 9
    return codes, mentions


def test_planted_members_are_found_and_common_latents_are_not_taken(rng: np.random.Generator) -> None:
    codes, mentions = planted(rng)
    codes[:, 10:20] = 0
    rates = np.zeros((2, 300))
    table = dedicated_latents(sp.csr_array(codes), mentions, rates)
    assert table["latent"].tolist() == list(range(10))
    assert table["dedicated"].all()
    rates[0, :5] = 0.01  # known to be common: another latent is tried
    rates[1, 5] = 0.01  # turns out to be common
    table = dedicated_latents(sp.csr_array(codes), mentions, rates)
    assert not (table["latent"][:5] == range(5)).any()
    assert table["dedicated"].tolist() == [False] * 6 + [True] * 4
    assert table["background"][5] == 0.01


def test_a_latent_that_fires_on_the_selection_carriers_only_is_unmasked_by_the_others(rng: np.random.Generator) -> None:
    codes, mentions = planted(rng)  # the latents of every second carrier are stronger, hence chosen
    table = dedicated_latents(sp.csr_array(codes), mentions, np.zeros((2, 300)))
    assert (table["f1_selection"] == 1).all()
    assert (table["f1"] == 0).all()
    assert not table["dedicated"].any()


def test_members_are_not_found_in_noise_and_chance_is_what_blind_latents_reach(rng: np.random.Generator) -> None:
    mentions = mention_table(40, 6)
    tables = [
        dedicated_latents(random_codes(rng, 240, 2000, rate), mentions, np.zeros((2, 2000))) for rate in (0.005, 0.1, 1)
    ]
    for table in tables:
        assert table["dedicated"].sum() == 0
        assert table["f1_selection"].mean() > table["f1"].mean() - 1e-9
        assert table["f1"].mean() < table["chance"].mean() + 0.02
        assert table["chance"].iloc[0] == pytest.approx(2 / 41)
    np.testing.assert_allclose(tables[2]["f1"], tables[2]["chance"])  # fires on everything


def test_the_split_needs_both_sides_and_tables_that_fit() -> None:
    mentions = mention_table(2, 2)
    with pytest.raises(UserError, match="'m0' are on one side"):
        dedicated_latents(sp.csr_array(np.ones((4, 1))), mentions.assign(carrier=0), np.zeros((2, 1)))
    with pytest.raises(UserError, match="do not fit"):
        dedicated_latents(sp.csr_array(np.ones((3, 1))), mentions, np.zeros((2, 1)))


def test_mentions_and_background_on_the_bundled_pair(language_model: LanguageModel) -> None:
    sae = loading.load()
    site = loading.site_of(sae)
    whole = members.load("colours")
    few = whole.model_copy(update={"members": whole.members[:4]})
    mentions = read_mentions(language_model, few, site)
    codes_SF = encode_mentions(sae, mentions)
    for row in (0, 13, 23):
        x = torch.from_numpy(mentions.values_TD[mentions.owner_T == row])
        np.testing.assert_allclose(codes_SF[[row]].toarray()[0], sae.encode(x).detach().mean(0), atol=1e-3)
    texts = ["The bridge held.", "Nobody came.", "A lamp went out in the hall."]
    background = read_background(language_model, texts, site)
    assert len(background[1]) == len(language_model.token_ids(texts[1:2])[0]) - 1
    rates_2F = background_rates(sae, background)
    codes = sae.encode(torch.from_numpy(background[0])).detach().numpy()
    np.testing.assert_allclose(rates_2F[0], (codes > 0).mean(0), atol=0.5 / len(codes))
    table = completeness(sae, mentions, rates_2F)
    assert (table["f1"] > table["chance"]).mean() > 0.5
    with pytest.raises(UserError, match="fewer than two texts"):
        read_background(language_model, texts[:1], site)


def test_the_summary_counts_and_its_interval_holds_the_share() -> None:
    table = pd.DataFrame({"dedicated": [True, False, False, True], "f1": [1.0, 0.0, 0.5, 0.9], "chance": 0.4})
    found = summary(table)
    assert (found["members"], found["dedicated"], found["share"]) == (4, 2, 0.5)
    assert found["ci_low"] < 0.5 < found["ci_high"]


def test_frequency_and_f1_go_together_or_not() -> None:
    rising = np.arange(10.0)
    assert frequency_relation(rising, np.exp(rising))["rho"] == pytest.approx(1)
    for f1, frequency in ((rising[:3], rising[:3]), (np.ones(10), rising), (rising, np.ones(10))):
        relation = frequency_relation(f1, frequency)
        assert (relation["rho"], relation["p"], relation["valid"]) == (0.0, 1.0, False)
        assert relation["reason"]


# census


TEXTS = [
    "Gold and golden things; GOLD again. In New York, York is far.",
    "We march in March. New\nYork! New-York. The Golden Gate Bridge.",
    "",
]


@pytest.mark.parametrize(
    ("keyword", "count", "n_texts"),
    [
        ("gold", 2, 1),
        ("Gold", 1, 1),
        ("march", 2, 1),
        ("March", 1, 1),
        ("York", 1, 1),
        ("Golden Gate", 1, 1),
        ("x", 0, 0),
    ],
)
def test_whole_words_case_and_several_words(keyword: str, count: int, n_texts: int) -> None:
    names = [keyword, "New York"] if keyword == "York" else [keyword]
    row = census(TEXTS, names).iloc[0]
    assert (row["count"], row["texts"], row["n_texts"], row["n_words"]) == (count, n_texts, 3, 24)
    assert row["per_million"] == pytest.approx(1e6 * count / 24)


def test_the_longest_keyword_and_the_one_with_capitals_come_first() -> None:
    table = census(TEXTS, ["New", "New York", "gold", "Gold", "Golden", "Golden Gate Bridge"]).set_index("keyword")
    assert table["count"].to_dict() == {
        "New": 0, "New York": 3, "gold": 1, "Gold": 1, "Golden": 0, "Golden Gate Bridge": 1,
    }  # fmt: skip


@given(st.lists(st.sampled_from(["sun", "moon", "Sun", "MOON", "sunny", "a sun"]), max_size=30))
def test_the_census_of_single_words_is_what_counting_gives(parts: list[str]) -> None:
    words = " ".join(parts).split()
    found = census([" ".join(parts), "end"], ["sun", "moon"])
    assert found["count"].tolist() == [sum(w.lower() == name for w in words) for name in ("sun", "moon")]


def test_a_census_is_one_pass_over_a_stream_and_refuses_what_it_cannot_count() -> None:
    stream = (text for text in TEXTS)
    assert census(stream, ["gold"])["count"].item() == 2
    for keywords, texts in (([], TEXTS), (["?!"], TEXTS), (["gold"], ["", "..."])):
        with pytest.raises(UserError):
            census(texts, keywords)
    assert without(TEXTS, ["York"]) == [""]


def test_telling_words_are_those_with_the_largest_chi_squared() -> None:
    from scipy.stats import chi2_contingency

    texts = ["the cup won", "the cup won again", "the race lost", "the cup lost"]
    labels = ["s", "s", "f", "f"]
    table = telling_words(texts, labels, n=2)
    assert table.groupby("condition")["word"].first().to_dict() == {"s": "won", "f": "lost"}
    row = table[table["word"] == "won"].iloc[0]
    assert row["z"] ** 2 == pytest.approx(chi2_contingency([[2, 0], [0, 2]], correction=False).statistic)
    assert "the" not in set(table["word"])


# maps


@given(hnp.arrays(np.float64, (6, 3), elements=st.floats(-3, 3, width=16)))
@settings(max_examples=30, deadline=None)
def test_cosine_distances_are_scipys_on_centred_rows_dense_and_sparse(X_NF: np.ndarray) -> None:
    distance_NN = cosine_distances(X_NF)
    np.testing.assert_allclose(distance_NN, cosine_distances(sp.csr_array(X_NF)), atol=1e-9)
    centred = X_NF - X_NF.mean(0)
    long = np.linalg.norm(centred, axis=1) > 1e-2 * (1 + np.abs(X_NF).max())
    expected = cdist(centred[long], centred[long], "cosine")
    np.testing.assert_allclose(distance_NN[np.ix_(long, long)], expected, atol=1e-6)


def clouds(rng: np.random.Generator, distance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs: two conditions of 60 points, a common part per pair, and a shift of one condition."""
    shared = rng.normal(size=(60, 20))
    X_NF = np.concatenate([shared, shared]) + rng.normal(size=(120, 20)) * 0.3
    X_NF[:60, 0] += distance
    order = rng.permutation(120)
    return X_NF[order], np.repeat(["a", "b"], 60)[order], np.tile(np.arange(60), 2)[order]


def test_separation_finds_shifted_clouds_and_agrees_with_sklearn(rng: np.random.Generator) -> None:
    X_NF, labels, groups = clouds(rng, 12.0)
    distance_NN = cosine_distances(X_NF)
    found = separation(distance_NN, labels, groups)
    assert found.valid
    assert found.knn_accuracy > 0.95
    assert found.between_within > 1.5
    assert found.silhouette == pytest.approx(silhouette_score(distance_NN, labels, metric="precomputed"))


def test_separation_is_at_chance_without_a_difference_and_pairs_do_not_vote_for_each_other() -> None:
    scores = []
    for seed in range(10):
        X_NF, labels, groups = clouds(np.random.default_rng(seed), 0.0)
        distance_NN = cosine_distances(X_NF)
        scores.append(separation(distance_NN, labels, groups, neighbours=1).knn_accuracy)
        # A point's nearest neighbour is its pair, which is of the other condition: far below chance.
        assert separation(distance_NN, labels, neighbours=1).knn_accuracy < 0.35
    assert np.mean(scores) == pytest.approx(0.5, abs=0.04)


def test_separation_says_why_it_is_not_measured() -> None:
    distance_NN = 1 - np.eye(12)
    for labels, groups, reason in (
        (np.repeat("a", 12), None, "two conditions"),
        (np.array(["a"] * 11 + ["b"]), None, "two points"),
        (np.tile(["a", "b"], 6), np.repeat([0, 1, 2], 4), "groups"),
    ):
        found = separation(distance_NN, labels, groups)
        assert not found.valid
        assert reason in found.reason


def test_maps_say_that_umap_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match=r"\[maps\]"):
        umap_positions(1 - np.eye(20))


@pytest.mark.slow
def test_maps_are_reproducible_and_keep_neighbours(rng: np.random.Generator) -> None:
    pytest.importorskip("umap")
    X_NF, labels, groups = clouds(rng, 12.0)
    distance_NN = cosine_distances(X_NF)
    position_N2 = umap_positions(distance_NN)
    np.testing.assert_array_equal(position_N2, umap_positions(distance_NN))
    assert separation(cdist(position_N2, position_N2), labels, groups).knn_accuracy > 0.95
    with pytest.raises(UserError, match="10 points"):
        umap_positions(distance_NN[:5, :5])


# figures and the command


def test_figures_show_what_the_tables_say(rng: np.random.Generator) -> None:
    labels = np.repeat(["a", "b"], 20)
    table = specificity((rng.random((40, 30)) < 0.4).astype(float), labels)
    ax = plots.firing_rates(table, "a")
    drawn = np.asarray(ax.collections[0].get_offsets())
    rates = table.pivot(index="latent", columns="condition", values="rate")
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(rates[["b", "a"]].to_numpy(), axis=0))
    found = pd.DataFrame({"list": ["x", "x", "y"], "f1": [0.2, 1.0, 0.9], "per_million": [0.0, 3.0, 40.0]})
    ax = plots.completeness_by_frequency(found.assign(dedicated=[False, True, True]))
    dots = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    np.testing.assert_allclose(dots[:, 0], found["per_million"])
    np.testing.assert_allclose(dots[:, 1], found["f1"], atol=0.015)
    X_NF, names, groups = clouds(rng, 3.0)
    measured = separation(cosine_distances(X_NF), names, groups)
    figure, given_ax = plt.subplots()
    ax = plots.point_map(X_NF[:, :2], np.append(names[:-1], ""), "Clouds", measured, given_ax)
    assert isinstance(ax, Axes)
    assert ax.figure is figure
    assert f"{measured.silhouette:.3f}" in ax.get_title(loc="left")
    assert sum(len(c.get_offsets()) for c in ax.collections) == 120
    plt.close("all")


def test_a_configuration_nested_without_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("k: " + "[" * 2000)
    p = command("describe_sae", None)
    with pytest.raises(UserError, match=r"deep\.yaml: The configuration cannot be read"):
        read(p, ["--config", str(tmp_path / "deep.yaml")])


def test_the_command_describes_the_bundled_sae(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text(
        "name: two\ncarriers: ['They saw {member} there.', 'It was {member} again.']\nmembers: [gold, Peru, tin]"
    )
    (tmp_path / "corpus.txt").write_text("Gold was found in Peru.\n\nNothing was found in vain.")
    arguments = [
        "--concept",
        "continuation",
        "--members",
        str(tmp_path / "two.yaml"),
        "--untrained",
        "--background",
        "60",
    ]
    arguments += ["--corpus", str(tmp_path / "corpus.txt"), "--keywords", "found", "--out", str(tmp_path / "out")]
    assert describing.main(arguments) == 0
    out = tmp_path / "out"
    counts = pd.read_csv(out / "census.csv").set_index("keyword")["count"]
    assert counts.to_dict() == {"gold": 1, "Peru": 1, "tin": 0, "found": 2}
    assert len(pd.read_csv(out / "members.csv")) == 6
    assert set(pd.read_csv(out / "separation.csv")["space"]) == {"neurons", "latents", "decoder"}
    assert {path.name for path in (out / "figures").iterdir()} >= {"firing_rates.png", "completeness.svg"}
    shown = capsys.readouterr().out
    assert "continuation" in shown
    found = describe_sae(
        stimuli="continuation",
        members=[str(tmp_path / "two.yaml")],
        untrained=True,
        background=60,
        corpus=tmp_path / "corpus.txt",
        keywords=["found"],
    )
    found.save(tmp_path / "verb")
    tables = {path.name for path in (tmp_path / "verb").iterdir()}
    assert {"members.csv", "members.parquet", "specificity.csv"} <= tables
    for name in tables:
        assert (tmp_path / "verb" / name).read_bytes() == (out / name).read_bytes(), name
    assert all(sentence in shown for sentence in found.sentences)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "separation.parquet"), found.separation)


@pytest.mark.parametrize("wrong", [{"background": 1}, {"texts": 5}, {"keywords": ["a"]}, {"members": ["elemnts"]}])
def test_the_verb_names_the_argument_that_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as told:
        describe_sae(**wrong)
    assert told.value.where == next(iter(wrong))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--members", "elemnts"], "elements"),
        (["--corpus", "missing.parquet"], "no corpus"),
        (["--concept", "sucess"], "success"),
        (["no-such-sae"], "no-such-sae"),
        (["--texts", "-1"], "--texts"),
        (["--background", "0"], "--background"),
        (["--keywords", "found"], "--keywords: keywords without a corpus"),
        (["--texts", "100"], "--texts: texts without a corpus"),
        (["--members", "months", "months"], "'months' and 'months'"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describing.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
