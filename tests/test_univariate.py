"""Contrast maps: every cell against naive and independent computations, corrections over the map, localizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.glm import threshold_stats_img
from scipy import stats
from statsmodels.stats.multitest import multipletests

from neurosae import stimuli as stimulus_sets
from neurosae.errors import UserError
from neurosae.inference import arrangements, max_t, resampling_weights, test_contrast
from neurosae.inference.design import make_design
from neurosae.responses import Responses
from neurosae.rsa import Reason
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.univariate import (
    ContrastMap,
    compute_contrast,
    covariate_table,
    find_region,
    localize,
    localizer,
    region_profile,
)

WIDTH = 8
SUCCESS = stimulus_sets.load("success").subset(np.arange(48))
VALENCE = stimulus_sets.load("valence").subset(np.arange(64))
UNPAIRED = replace(SUCCESS, designs={"success": "unpaired"})


def listen(
    stimuli: StimulusSet, n_features: int = 6, blocks: tuple[int, ...] = (2, 5), seed: int = 0, lengths: int = 9
) -> dict[Site, Responses]:
    """Noise for texts of several lengths with a sink token and a target span."""
    rng = np.random.default_rng(seed)
    n_S = rng.integers(4, 4 + lengths, len(stimuli.table)) + 1
    tokens = pd.DataFrame({"stimulus": np.repeat(np.arange(len(n_S)), n_S)})
    tokens["position"] = np.concatenate([np.arange(n) for n in n_S])
    tokens["role"] = np.where(tokens["position"] == 0, "sink", "text")
    tokens["target"] = tokens["position"].isin([3, 4])
    tokens["clean"] = tokens["role"] == "text"
    return {
        Site(block): Responses(
            rng.normal(size=(len(tokens), n_features)), tokens, stimuli.table, str(Site(block)), {"features": "neurons"}
        )
        for block in blocks
    }


def changed(heard: dict[Site, Responses], change: Callable[[np.ndarray, pd.DataFrame], np.ndarray]) -> dict:
    return {site: r.with_values(change(np.array(r.values), r.tokens)) for site, r in heard.items()}


def labels_of(stimuli: StimulusSet, contrast: str | None = None) -> np.ndarray:
    return np.sign(stimuli.contrast(contrast).weights(stimuli.table))


def same(a: ContrastMap, b: ContrastMap, rtol: float = 1e-6) -> None:
    for name in ("effect", "se", "t", "d", "p", "p_corrected"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(a.reason, b.reason)
    np.testing.assert_array_equal(a.n_LW, b.n_LW)


def test_every_cell_is_the_paired_t_test_of_the_pairs_that_are_whole_there() -> None:
    heard = listen(SUCCESS)
    found = compute_contrast(heard, SUCCESS, pooling=None, width=WIDTH, min_stimuli=20)
    labels_S, pair_S = labels_of(SUCCESS), SUCCESS.table["pair"].to_numpy()
    masked = 0
    for row, responses in enumerate(heard.values()):
        window = responses.profiles("target", WIDTH)
        for w in range(WIDTH):
            table = pd.DataFrame(window.values_SWF[:, w].astype(float), index=[pair_S, labels_S])
            table = table[window.defined_SW[:, w]].unstack().dropna()
            assert found.n_LW[row, w] == 2 * len(table)
            if 2 * len(table) < 20:
                masked += 1
                assert (found.reason[row, w] == Reason.TOO_FEW_STIMULI).all()
                assert (found.p[row, w] == 1).all() and (found.t[row, w] == 0).all()
                continue
            test = stats.ttest_rel(table.xs(1.0, axis=1, level=1), table.xs(-1.0, axis=1, level=1))
            np.testing.assert_allclose(found.t[row, w], test.statistic, rtol=1e-5)
            np.testing.assert_allclose(found.p[row, w], test.pvalue, rtol=1e-5)
            assert found.df_LW[row, w] == len(table) - 1
    assert 0 < masked < found.n_LW.size
    assert found.positions_W.tolist() == list(range(-2, 6))


@pytest.mark.parametrize("contrast", ["valence", "factuality"])
def test_families_and_covariates_are_columns_of_ordinary_least_squares(contrast: str) -> None:
    heard = listen(VALENCE, blocks=(3,))
    found = compute_contrast(heard, VALENCE, contrast, covariates=["tokens", "zipf"])
    covariates = covariate_table(VALENCE, ["tokens", "zipf"], responses=heard[Site(3)]).to_numpy()
    blocks = VALENCE.blocks(contrast)
    X = np.column_stack([labels_of(VALENCE, contrast), covariates, blocks[:, None] == np.arange(blocks.max() + 1)])
    values = heard[Site(3)].pool().dense()
    fits = [sm.OLS(values[:, f], X.astype(float)).fit() for f in range(values.shape[1])]
    np.testing.assert_allclose(found.t[0, 0], [fit.tvalues[0] for fit in fits], rtol=1e-5)
    np.testing.assert_allclose(found.p[0, 0], [fit.pvalues[0] for fit in fits], rtol=1e-6)
    np.testing.assert_allclose(found.effect[0, 0], [2 * fit.params[0] for fit in fits], rtol=1e-5)
    assert found.covariates == ("tokens", "zipf")


def test_an_interaction_takes_whole_families_and_ignores_main_effects() -> None:
    heard = listen(VALENCE, blocks=(3,))
    main = labels_of(VALENCE, "valence") + labels_of(VALENCE, "factuality")
    shifted = changed(heard, lambda values, tokens: values + 50 * main[tokens["stimulus"]][:, None])
    for align in ("target", "end"):
        plain, moved = (
            compute_contrast(h, VALENCE, "interaction", pooling=None, align=align, width=WIDTH)
            for h in (heard, shifted)
        )
        assert plain.design == "interaction"
        assert (plain.n_LW % 4 == 0).all() and len(np.unique(plain.n_LW)) > 1
        np.testing.assert_allclose(plain.t, moved.t, rtol=1e-3, atol=1e-4)
    window = heard[Site(3)].profiles("end", WIDTH)
    table = pd.DataFrame(window.values_SWF[:, -5].astype(float)).assign(
        family=VALENCE.table["family"], label=labels_of(VALENCE, "interaction"), defined=window.defined_SW[:, -5]
    )
    table = table[table.groupby("family")["defined"].transform("all")]
    mean = table.groupby(["family", "label"])[list(range(6))].mean().unstack()
    expected = stats.ttest_rel(mean.xs(1.0, axis=1, level=1), mean.xs(-1.0, axis=1, level=1))
    np.testing.assert_allclose(plain.t[0, -5], expected.statistic, rtol=1e-4)


@pytest.mark.parametrize(
    ("stimuli", "contrast"),
    [(SUCCESS, None), (UNPAIRED, None), (VALENCE, "valence"), (VALENCE, "interaction")],
    ids=["pairs", "unpaired", "families", "interaction"],
)
def test_a_single_cell_is_max_t(stimuli: StimulusSet, contrast: str | None) -> None:
    heard = listen(stimuli, n_features=12, blocks=(3,))
    for two_sided in (True, False):
        found = compute_contrast(
            heard, stimuli, contrast, height_control="fwe", n_permutations=150, seed=3, two_sided=two_sided
        )
        expected = max_t(
            heard[Site(3)].pool().dense(), labels_of(stimuli, contrast), stimuli.blocks(contrast), found.design,
            n=150, seed=3, tail="two-sided" if two_sided else "greater",
        )  # fmt: skip
        np.testing.assert_array_equal(found.p_corrected[0, 0], expected.p_fwe)
        np.testing.assert_allclose(found.t[0, 0], expected.observed.t, rtol=1e-6)
        assert found.smallest_p == 1 / 151


@pytest.mark.parametrize("sparse", [False, True])
def test_fwe_over_the_map_is_the_smallest_p_of_every_relabelling(sparse: bool) -> None:
    heard = listen(SUCCESS, n_features=3)
    if sparse:
        heard = {s: r.with_values(sp.csr_array(np.maximum(np.asarray(r.values), 0))) for s, r in heard.items()}
    found = compute_contrast(heard, SUCCESS, pooling=None, width=WIDTH, height_control="fwe", n_permutations=40, seed=1)
    labels_S, pair_S = labels_of(SUCCESS), SUCCESS.blocks()
    smallest, r2 = [], []
    for arrangement_S in arrangements(labels_S, pair_S, 40, 1, "pairs"):
        p_of_map, r2_of_map = [], np.zeros(found.n_LW.shape)
        for row, responses in enumerate(heard.values()):
            window = responses.profiles("target", WIDTH)
            for w in range(WIDTH):
                whole = pd.Series(window.defined_SW[:, w]).groupby(pair_S).transform("all").to_numpy()
                if whole.sum() >= 20:
                    Y = window.values_SWF[whole, w]
                    test = test_contrast(Y, arrangement_S[whole], blocks_S=pair_S[whole], design="pairs")
                    p_of_map.append(test.p.min())
                    r2_of_map[row, w] = (1 - (1 - test.t**2 / (test.t**2 + test.df)) * (test.df + 1) / test.df).mean()
        smallest.append(min(p_of_map))
        r2.append(r2_of_map)
    expected = (np.sum(np.array(smallest) <= found.p[..., None] * (1 + 1e-9), axis=-1) + 1) / 41
    np.testing.assert_allclose(found.p_corrected, np.where(found.valid, expected, 1))
    assert found.null_LWB is not None
    np.testing.assert_allclose(np.moveaxis(found.null_LWB, 2, 0), r2, atol=1e-7)


def test_cells_of_unpaired_stimuli_share_their_arrangements() -> None:
    """Two blocks that say the same are one test: their smallest p is no smaller than that of either."""
    heard = listen(UNPAIRED, blocks=(2,))
    twice = {Site(2): heard[Site(2)], Site(5): heard[Site(2)].with_values(heard[Site(2)].values)}
    question = {"pooling": None, "width": WIDTH, "height_control": "fwe", "n_permutations": 99}
    once, both = (compute_contrast(h, UNPAIRED, **question) for h in (heard, twice))
    np.testing.assert_array_equal(both.p_corrected[0], once.p_corrected[0])
    np.testing.assert_array_equal(both.p_corrected[1], once.p_corrected[0])
    assert (once.n_LW % 2 == 1).any(), "stimuli without their partner take part"


def test_corrections_are_those_of_statsmodels_and_of_nilearn() -> None:
    labels_S = labels_of(SUCCESS)
    heard = changed(
        listen(SUCCESS, n_features=20),
        lambda values, tokens: values + (np.arange(20) < 6) * labels_S[tokens["stimulus"]][:, None],
    )
    for control, theirs in (("fdr", "fdr_bh"), ("bonferroni", "bonferroni")):
        two, one = (
            compute_contrast(heard, SUCCESS, height_control=control, two_sided=two_sided) for two_sided in (True, False)
        )
        np.testing.assert_allclose(two.p_corrected.ravel(), multipletests(two.p.ravel(), method=theirs)[1])
        z = stats.norm.isf(one.p).reshape(-1, 1, 1)
        image = nibabel.Nifti1Image(z, np.eye(4))
        mask = nibabel.Nifti1Image(np.ones(z.shape, dtype=np.int8), np.eye(4))
        shown, _ = threshold_stats_img(image, mask, alpha=0.05, height_control=control, two_sided=False)
        np.testing.assert_array_equal(shown.get_fdata().ravel() != 0, one.significant.ravel())
        np.testing.assert_array_equal(one.thresholded() != 0, one.significant)
        assert 0 < one.significant.sum() < one.t.size
    free = compute_contrast(heard, SUCCESS, height_control=None)
    np.testing.assert_array_equal(free.p, free.p_corrected)


def test_silent_constant_separating_and_repeated_features_are_declared() -> None:
    labels_S = labels_of(SUCCESS)

    def special(values: np.ndarray, tokens: pd.DataFrame) -> np.ndarray:
        separating = labels_S[tokens["stimulus"]]
        return np.column_stack([values, values[:, 0], np.zeros(len(values)), np.full(len(values), 3.0), separating])

    heard = listen(SUCCESS)
    more = changed(heard, special)
    reasons = [Reason.OK] * 7 + [Reason.SILENT, Reason.CONSTANT, Reason.PERFECT_SEPARATION]
    for control in ("fwe", "bonferroni", "fdr"):
        question = {"height_control": control, "n_permutations": 99}
        plain, found = compute_contrast(heard, SUCCESS, **question), compute_contrast(more, SUCCESS, **question)
        assert found.reason[0, 0].tolist() == reasons
        assert np.isfinite(found.t).all() and (found.p_corrected[:, :, 7:9] == 1).all()
        np.testing.assert_array_equal(found.p_corrected[:, :, 0], found.p_corrected[:, :, 6])
        if control == "bonferroni":  # pays for the copy and for the separating feature, at both blocks
            np.testing.assert_allclose(found.p_corrected[:, :, :6], np.minimum(1, plain.p * 16))
    without = changed(more, lambda values, tokens: values[:, :-1])
    question = {"height_control": "fwe", "n_permutations": 99}
    np.testing.assert_array_equal(
        compute_contrast(without, SUCCESS, **question).p_corrected[:, :, :6],
        compute_contrast(heard, SUCCESS, **question).p_corrected,
    )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.sampled_from(["mean", None]))
def test_neither_the_order_of_items_nor_the_unit_nor_block_sizes_matter(
    seed: int, scale: float, pooling: str | None
) -> None:
    rng = np.random.default_rng(seed)
    heard = listen(VALENCE, seed=seed)
    question = {"covariates": ["words"], "pooling": pooling, "width": WIDTH}
    plain = compute_contrast(heard, VALENCE, **question)
    order = rng.permutation(len(VALENCE.table))
    mixed = VALENCE.subset(order)
    moved = {}
    for site, r in heard.items():
        rows = np.concatenate([np.flatnonzero(r.tokens["stimulus"] == s) for s in order])
        tokens = r.tokens.iloc[rows].reset_index(drop=True)
        tokens["stimulus"] = np.argsort(order)[tokens["stimulus"]]
        moved[site] = replace(r, values=np.asarray(r.values)[rows], tokens=tokens, stimuli=mixed.table)
    same(plain, compute_contrast(moved, mixed, **question), rtol=1e-5)
    scaled = changed(heard, lambda values, _: values * scale)
    np.testing.assert_allclose(compute_contrast(scaled, VALENCE, **question).t, plain.t, rtol=1e-4, atol=1e-5)
    small = [
        compute_contrast(heard, VALENCE, **question, height_control="fwe", n_permutations=20, block_size=size)
        for size in (1, 4, 4096)
    ]
    for other in small[1:]:
        same(small[0], other)
        np.testing.assert_allclose(small[0].null_LWB, other.null_LWB, rtol=1e-9)


def test_an_arrangement_depends_on_seed_and_number_only() -> None:
    for stimuli in (SUCCESS, UNPAIRED):
        few, many, other = (
            compute_contrast(listen(stimuli), stimuli, height_control="fwe", n_permutations=n, seed=seed).null_LWB
            for n, seed in ((10, 0), (30, 0), (10, 1))
        )
        np.testing.assert_array_equal(few, many[:, :, :10])
        assert (few != other).any()


@pytest.mark.parametrize("contrast", [None, "valence"])
def test_a_modulator_is_a_slope_within_families(contrast: str | None) -> None:
    heard = listen(VALENCE, blocks=(3,))
    found = compute_contrast(heard, VALENCE, contrast, modulator="arousal", height_control="fwe", n_permutations=50)
    group_S, rating_S = VALENCE.groups(), VALENCE.table["arousal"].to_numpy()
    columns = [rating_S, group_S[:, None] == np.arange(group_S.max() + 1)]
    X = np.column_stack(columns + ([labels_of(VALENCE, contrast)] if contrast else [])).astype(float)
    values = heard[Site(3)].pool().dense()
    fits = [sm.OLS(values[:, f], X).fit() for f in range(6)]
    np.testing.assert_allclose(found.t[0, 0], [fit.tvalues[0] for fit in fits], rtol=1e-5)
    np.testing.assert_allclose(found.effect[0, 0], [fit.params[0] for fit in fits], rtol=1e-5)
    assert found.contrast == "arousal" and found.design == "families"
    planted = changed(heard, lambda v, tokens: v + rating_S[tokens["stimulus"]][:, None] * (np.arange(6) == 4))
    found = compute_contrast(planted, VALENCE, contrast, modulator="arousal", height_control="fwe", n_permutations=99)
    assert np.flatnonzero(found.significant[0, 0]).tolist() == [4]


def test_a_modulator_of_single_stimuli_is_a_correlation_with_their_rating(rng: np.random.Generator) -> None:
    table = VALENCE.table.assign(pair=pd.NA, family=pd.NA, group=pd.NA)
    alone = replace(VALENCE, table=table)
    table.loc[5, "arousal"] = np.nan
    heard = listen(alone, blocks=(3,))
    found = compute_contrast(heard, alone, modulator="arousal")
    rated = table["arousal"].notna().to_numpy()
    values = heard[Site(3)].pool().dense()[rated]
    expected = [stats.pearsonr(values[:, f], table["arousal"][rated]).pvalue for f in range(6)]
    np.testing.assert_allclose(found.p[0, 0], expected, rtol=1e-6)
    assert found.design == "unpaired" and found.n_LW.tolist() == [[len(table) - 1]]


def test_length_as_a_covariate_removes_what_is_only_length() -> None:
    heard = listen(SUCCESS, blocks=(3,))
    n_S = heard[Site(3)].tokens["stimulus"].value_counts().sort_index().to_numpy() - 1.0
    length_S = n_S + 10 * (labels_of(SUCCESS) > 0)
    planted = changed(heard, lambda v, tokens: v * 0.1 + length_S[tokens["stimulus"]][:, None])
    table = pd.DataFrame({"length": length_S})
    assert compute_contrast(planted, SUCCESS, height_control="bonferroni").significant.all()
    assert not compute_contrast(planted, SUCCESS, covariates=table, height_control="bonferroni").significant.any()
    np.testing.assert_array_equal(covariate_table(SUCCESS, ["tokens"], responses=heard[Site(3)])["tokens"], n_S)


def test_surprisal_is_what_the_callable_says() -> None:
    table = covariate_table(SUCCESS, ["surprisal"], surprisal=lambda texts: np.array([len(t) for t in texts]))
    assert table["surprisal"].tolist() == [float(len(text)) for text in SUCCESS.table["text"]]


@pytest.mark.parametrize("stimuli", [SUCCESS, UNPAIRED, VALENCE], ids=["pairs", "unpaired", "families"])
def test_fwe_and_clusters_hold_their_level_under_the_null(stimuli: StimulusSet) -> None:
    n_maps, alpha = 60, 0.1
    any_test, any_cluster = 0, 0
    for seed in range(n_maps):
        found = compute_contrast(
            listen(stimuli, n_features=3, seed=seed), stimuli, pooling=None, width=4, height_control="fwe",
            n_permutations=39, alpha=alpha, seed=seed,
        )  # fmt: skip
        any_test += bool(found.significant.any())
        any_cluster += bool((found.clusters(1.5).table["p_fwe"] <= alpha).any())
    bound = stats.binom.isf(0.001 / 6, n_maps, alpha)
    assert any_test <= bound
    assert any_cluster <= bound


def test_the_mirror_of_an_exhaustive_permutation_is_a_tie_for_clusters_too() -> None:
    """|t| and r2 do not change if every label is swapped: counts of arrangements, with the observed one, are even."""
    ten = SUCCESS.subset(np.arange(20))
    for n_features in (1, 3):
        counts = []
        for seed in range(8):
            heard = listen(ten, n_features, blocks=(1, 2, 3), seed=seed, lengths=1)
            found = compute_contrast(
                heard, ten, pooling=None, width=4, align="left", height_control="fwe", n_permutations=1023
            )
            counts.extend(1024 * found.clusters(0.5).table["p_fwe"])
        assert len(counts) > 8
        assert set(np.round(counts) % 2) == {0}


def test_a_silent_feature_changes_no_one_sided_p() -> None:
    heard = listen(SUCCESS, n_features=1, blocks=(2,), seed=2)
    negative = changed(heard, lambda v, tokens: v - 0.1 * labels_of(SUCCESS)[tokens["stimulus"]][:, None])
    more = changed(negative, lambda v, _: np.column_stack([v, np.zeros((len(v), 2))]))
    p, p_more = (
        compute_contrast(h, SUCCESS, height_control="fwe", n_permutations=99, two_sided=False).p_corrected[0, 0]
        for h in (negative, more)
    )
    assert 0.5 < p[0] < 1
    assert p_more.tolist() == [p[0], 1, 1]


def planted_map(height_control: str = "fwe", features: list[int] | None = None) -> ContrastMap:
    labels_S = labels_of(SUCCESS)

    def plant(values: np.ndarray, tokens: pd.DataFrame) -> np.ndarray:
        here = tokens["position"].isin([4, 5]).to_numpy() * labels_S[tokens["stimulus"]]
        return values + 2 * np.outer(here, np.arange(6) == 2)

    heard = listen(SUCCESS, blocks=(1, 2, 3), lengths=5)
    planted = heard | changed({site: heard[site] for site in (Site(2), Site(3))}, plant)
    return compute_contrast(
        planted,
        SUCCESS,
        pooling=None,
        width=WIDTH,
        height_control=height_control,
        n_permutations=199,
        features=features,
    )


def test_a_planted_patch_is_found_as_peaks_and_as_a_cluster() -> None:
    found = planted_map()
    peaks = found.peaks(4)
    assert (peaks["feature"] == 2).all()
    assert sorted(zip(peaks["block"], peaks["position"], strict=True)) == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert (np.diff(peaks["p"]) >= 0).all() and (peaks["t"] > 0).all()
    cells = found.cells().set_index(["block", "position"])
    assert (cells.loc[[(2, 1), (2, 2), (3, 1), (3, 2)], "significant"] >= 1).all()
    for clusters in (found.clusters(2.5), planted_map(features=[2]).clusters(2.5)):
        first = clusters.table.iloc[0]
        assert first["p_fwe"] <= 0.05 and first["cells"] >= 4
        assert (first["block"], first["position"]) in [(2, 1), (2, 2), (3, 1), (3, 2)]
        assert (clusters.labels_LW[1:, 3:5] == first["label"]).all()
    frame = found.to_frame()
    assert len(frame) == found.t.size and not frame.isna().any().any()
    np.testing.assert_array_equal(frame["t"], found.t.ravel())


def test_one_feature_alone_is_tested_as_in_the_whole_map() -> None:
    whole, alone = planted_map(), planted_map(features=[2])
    np.testing.assert_allclose(alone.t[:, :, 0], whole.t[:, :, 2], rtol=1e-12)
    assert alone.features_F.tolist() == [2] and alone.peaks(1)["feature"].tolist() == [2]
    assert (alone.p_corrected[:, :, 0] <= whole.p_corrected[:, :, 2]).all()


def test_clusters_need_permutations_and_an_axis_that_is_shared() -> None:
    with pytest.raises(UserError, match="height_control='fwe'"):
        planted_map("fdr").clusters()
    heard = {s: replace(r, source={"features": "latents"}) for s, r in listen(SUCCESS).items()}
    found = compute_contrast(heard, SUCCESS, height_control="fwe", n_permutations=20, features=[1])
    with pytest.raises(UserError, match="share no axis"):
        found.clusters()


def test_bad_input_is_told_by_name() -> None:
    heard = listen(SUCCESS)
    broken = changed(heard, lambda v, tokens: np.where((tokens["stimulus"] == 7).to_numpy()[:, None], np.nan, v))
    for matrix in (np.asarray, sp.csr_array):
        bad = {s: r.with_values(matrix(r.values)) for s, r in broken.items()}
        with pytest.raises(UserError, match=r"blocks\.2\.hook_resid_post, stimulus 7, feature 0: The response is nan"):
            compute_contrast(bad, SUCCESS)
    with pytest.raises(UserError, match="stimulus 7, feature 4: The response is nan"):
        compute_contrast(broken, SUCCESS, features=[4])
    fine = np.arange(48) // 2 != 3
    assert np.isfinite(compute_contrast(broken, SUCCESS, rows=fine).t).all()
    for match, call in {
        "not those of the stimuli": lambda: compute_contrast(heard, VALENCE),
        "one stream": lambda: compute_contrast([*heard.values(), listen(SUCCESS, 7, (9,))[Site(9)]], SUCCESS),
        "one per site": lambda: compute_contrast([heard[Site(2)]] * 2, SUCCESS),
        "Unknown height control 'fwr'": lambda: compute_contrast(heard, SUCCESS, height_control="fwr"),
        "Unknown rating 'joy'": lambda: compute_contrast(listen(VALENCE), VALENCE, modulator="joy"),
        "Unknown covariate 'token'": lambda: compute_contrast(heard, SUCCESS, covariates=["token"]),
        "needs a language model": lambda: compute_contrast(heard, SUCCESS, covariates=["surprisal"]),
        "no finite value of a covariate": lambda: compute_contrast(
            heard, SUCCESS, covariates=pd.DataFrame({"a": [np.nan] * 48})
        ),
        "does not vary beside the nuisance": lambda: compute_contrast(
            heard, SUCCESS, covariates=pd.DataFrame({"a": labels_of(SUCCESS)})
        ),
        "No cell has 60 stimuli": lambda: compute_contrast(heard, SUCCESS, min_stimuli=60),
        "3 rows for 48 stimuli": lambda: compute_contrast(heard, SUCCESS, covariates=pd.DataFrame({"a": [1.0, 2, 3]})),
        "Unknown alignment 'start'": lambda: compute_contrast(heard, SUCCESS, pooling=None, align="start"),
        "No feature varies": lambda: find_region(
            changed(heard, lambda v, _: np.zeros_like(v)), SUCCESS, rows_S=np.arange(24)
        ),
        "features .*integers from 0 to 5": lambda: compute_contrast(heard, SUCCESS, features=np.arange(6) % 2 == 0),
        "features .*'a'.*integers": lambda: compute_contrast(heard, SUCCESS, features=["a"]),
        "integers from 0 to 5": lambda: compute_contrast(heard, SUCCESS, features=[6]),
        "No stimulus of the contrast": lambda: compute_contrast(heard, SUCCESS, rows=np.zeros(48, dtype=bool)),
        "rows: bool of shape .*a mask of 48": lambda: compute_contrast(heard, SUCCESS, rows=np.ones(10, dtype=bool)),
        "rows: int64 of shape .*from 0 to 47": lambda: compute_contrast(heard, SUCCESS, rows=[0, 99]),
        "rows: float64 of shape": lambda: compute_contrast(heard, SUCCESS, rows=[0.0, 1.0]),
        "A covariate is not a number": lambda: compute_contrast(
            heard, SUCCESS, covariates=pd.DataFrame({"a": ["x"] * 48})
        ),
        "seed = -1": lambda: compute_contrast(heard, SUCCESS, seed=-1),
        "have no ratings": lambda: compute_contrast(heard, replace(SUCCESS, ratings=()), modulator="arousal"),
        "No stimulus with a value of 'arousal'": lambda: compute_contrast(
            listen(VALENCE), VALENCE, modulator="arousal", rows=np.zeros(64, dtype=bool)
        ),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
    flat = replace(VALENCE, table=VALENCE.table.assign(arousal=VALENCE.groups().astype(float)))
    with pytest.raises(UserError, match="differs between families only"):
        compute_contrast(listen(flat), flat, modulator="arousal")


def held_out_halves(stimuli: StimulusSet) -> tuple[np.ndarray, np.ndarray]:
    part = np.random.default_rng(0).permutation(stimuli.groups().max() + 1)[stimuli.groups()] % 2 == 0
    return part, ~part


@pytest.mark.parametrize("k", [4, None])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_nothing_of_the_held_out_items_enters_the_region(k: int | None, pooling: str) -> None:
    part, rest = held_out_halves(SUCCESS)
    heard = listen(SUCCESS)
    expected = find_region(heard, SUCCESS, rows_S=part, k=k, pooling=pooling).table
    ruined = changed(heard, lambda v, t: np.where(rest[t["stimulus"]][:, None], np.nan, v))
    pd.testing.assert_frame_equal(find_region(ruined, SUCCESS, rows_S=part, k=k, pooling=pooling).table, expected)
    other = changed(heard, lambda v, t: v + (part[t["stimulus"]] & (t["position"] == 2).to_numpy())[:, None])
    assert not find_region(other, SUCCESS, rows_S=part, k=k, pooling=pooling).table.equals(expected)
    outcome = SUCCESS.table["outcome"]
    swapped = outcome.where(part, outcome.map({"success": "failure", "failure": "success"}))
    relabelled = replace(SUCCESS, table=SUCCESS.table.assign(outcome=swapped))
    pd.testing.assert_frame_equal(find_region(heard, relabelled, rows_S=part, k=k, pooling=pooling).table, expected)


def test_what_localize_measures_comes_from_the_other_half() -> None:
    heard = listen(SUCCESS)
    result = localize(heard, SUCCESS, k=4, width=WIDTH, align="left", n_repeats=1, n_permutations=19)
    local, held_out = result.region.rows_S, result.held_out_S
    groups = SUCCESS.groups()
    assert not set(groups[local]) & set(groups[held_out])
    assert sorted([*local, *held_out]) == list(range(48))
    mirrored = changed(heard, lambda v, t: np.where(np.isin(t["stimulus"], held_out)[:, None], -v, v))
    again = localize(mirrored, SUCCESS, k=4, width=WIDTH, align="left", n_repeats=1, n_permutations=19)
    pd.testing.assert_frame_equal(again.region.table, result.region.table)
    np.testing.assert_allclose(again.response.t, -result.response.t, rtol=1e-5)
    assert result.decoding.decision_S.shape == held_out.shape


def test_a_region_on_noise_does_nothing_on_held_out_items_and_much_on_its_own() -> None:
    held_out, own = [], []
    for seed in range(40):
        heard = listen(SUCCESS, n_features=20, blocks=(3,), seed=seed)
        part, rest = held_out_halves(SUCCESS)
        region = find_region(heard, SUCCESS, rows_S=part, k=5)
        answer = {Site(3): region.respond(heard)}
        held_out.append(float(compute_contrast(answer, SUCCESS, rows=rest).p[0, 0, 0]))
        own.append(float(compute_contrast(answer, SUCCESS, rows=part).p[0, 0, 0]))
    assert np.sum(np.array(held_out) <= 0.05) <= stats.binom.isf(0.001, 40, 0.05)
    assert np.mean(np.array(own) <= 0.05) > 0.5


def test_a_planted_region_is_found_decoded_and_seen_at_its_position() -> None:
    labels_S = labels_of(SUCCESS)

    def plant(values: np.ndarray, tokens: pd.DataFrame) -> np.ndarray:
        here = (tokens["position"] == 4).to_numpy() * labels_S[tokens["stimulus"]]
        return values + 4 * np.outer(here, [0, 1, 0, 0, -1, 0])

    heard = listen(SUCCESS, lengths=4)
    planted = heard | changed({Site(5): heard[Site(5)]}, plant)
    result = localize(planted, SUCCESS, k=2, width=WIDTH, n_repeats=2, n_permutations=99)
    assert sorted(zip(result.region.table["block"], result.region.table["feature"], strict=True)) == [(5, 1), (5, 4)]
    assert set(result.summary()["p"] <= 0.01) == {True}
    assert result.interval.low > 0 and result.decoding.auroc.mean > 0.8 and result.rsa_score > 0
    shown = result.time_course.peaks(1)
    assert shown["position"].tolist() == [1] and shown["t"].iloc[0] > 0
    profile = region_profile(planted, SUCCESS, k=2)
    assert profile["block"].tolist() == [2, 5]
    assert profile["low"].iloc[1] > max(profile["effect"].iloc[0], 0)
    assert (profile["low"] < profile["effect"]).all() and (profile["effect"] < profile["high"]).all()


def test_the_region_responds_as_its_patterns_do_on_average() -> None:
    heard = listen(SUCCESS)
    sparse = {s: r.with_values(sp.csr_array(r.values)) for s, r in heard.items()}
    part, _ = held_out_halves(SUCCESS)
    for h in (heard, sparse):
        region = find_region(h, SUCCESS, rows_S=part, k=5)
        patterns_SK = region.patterns(h, "mean", np.arange(48))
        np.testing.assert_allclose(patterns_SK[part].mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(patterns_SK[part].std(axis=0, ddof=1), 1)
        expected = patterns_SK @ np.sign(region.table["t"]) / 5
        np.testing.assert_allclose(region.respond(h).pool("mean").dense()[:, 0], expected, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")  # blocks that a resample left out
@pytest.mark.parametrize("names", [(), ("length",)])
@pytest.mark.parametrize(
    ("stimuli", "contrast"),
    [(SUCCESS, None), (UNPAIRED, None), (VALENCE, "valence"), (VALENCE, "interaction")],
    ids=["pairs", "unpaired", "families", "interaction"],
)
def test_the_interval_is_that_of_the_tested_effect(
    stimuli: StimulusSet, contrast: str | None, names: tuple[str, ...]
) -> None:
    """Every draw is statsmodels' weighted least squares, with the covariates of the test and a dummy per block."""
    heard = listen(stimuli, n_features=1, blocks=(3,))
    table = pd.DataFrame({"length": np.random.default_rng(1).normal(size=len(stimuli.table))})[list(names)]
    every = np.arange(len(stimuli.table))
    named = stimuli.contrast(contrast)
    found = localizer._effect(heard, stimuli, named, table, every, "mean", seed=4)
    tested = compute_contrast(heard, stimuli, contrast, covariates=table)
    np.testing.assert_allclose(found.estimate, tested.effect.item(), rtol=1e-6)
    blocks, labels_S = stimuli.blocks(contrast), labels_of(stimuli, contrast)
    dummies = blocks[:, None] == np.arange(blocks.max() + 1)
    value_S = heard[Site(3)].pool().dense()[:, 0]
    X = np.column_stack([table, dummies]).astype(float)
    if tested.design == "interaction":  # differences within families
        mean = pd.DataFrame(np.column_stack([value_S, table])).groupby([blocks, labels_S]).mean().unstack()
        difference = (mean.xs(1.0, axis=1, level=1) - mean.xs(-1.0, axis=1, level=1)).to_numpy()
        value_S, X, labels_S = difference[:, 0], difference[:, 1:], np.full(len(difference), 2.0)
        group = stimuli.groups()[np.unique(blocks, return_index=True)[1]]
    else:
        group = stimuli.groups()
    weights_BS = resampling_weights(stimuli.groups(), 3, seed=4)
    for weight_S, draw in zip(weights_BS, found.draws_B, strict=False):
        weight = np.array([weight_S[stimuli.groups() == g][0] for g in group])
        fit = sm.WLS(value_S, np.column_stack([labels_S, X]), weights=weight).fit()
        np.testing.assert_allclose(draw, 2 * fit.params[0], rtol=1e-8)


def test_a_region_that_only_knows_length_does_nothing_beside_length() -> None:
    labels_S, rng = labels_of(SUCCESS), np.random.default_rng(0)
    table = pd.DataFrame({"length": rng.normal(size=48) + 3 * (labels_S > 0)})
    planted = changed(
        listen(SUCCESS), lambda v, tokens: 0.1 * v + table["length"].to_numpy()[tokens["stimulus"]][:, None]
    )
    plain, beside = (region_profile(planted, SUCCESS, k=1, covariates=c) for c in ((), table))
    assert (plain["low"] > 0.5).all()
    assert (beside["effect"].abs() < 0.3).all() and (beside["low"] < 0.02).all()
    summary = localize(planted, SUCCESS, k=1, covariates=table, n_repeats=1, n_permutations=19).summary()
    assert abs(summary["value"][0]) < 0.3


def test_a_region_needs_values_of_its_own_stimuli_only() -> None:
    heard, few = listen(SUCCESS), np.arange(44)
    cut = {s: replace(r, tokens=r.tokens.assign(target=r.tokens["target"] & r.tokens["stimulus"].isin(few)))
           for s, r in heard.items()}  # fmt: skip
    expected = find_region(heard, SUCCESS, rows_S=few, pooling="target").table
    pd.testing.assert_frame_equal(find_region(cut, SUCCESS, rows_S=few, pooling="target").table, expected)
    with pytest.raises(UserError, match="the first is row 44: no clean token in a target span"):
        find_region(cut, SUCCESS, rows_S=np.arange(48), pooling="target")


def test_rsa_of_a_region_is_a_correlation_over_pairs_of_groups() -> None:
    rng = np.random.default_rng(0)
    group_S, labels_S = np.repeat(np.arange(10), 4), np.tile([1, 1, -1, -1], 10)
    plan = make_design(labels_S, group_S, group_S, "families", n_splits=2, n_repeats=1, n_permutations=60)
    patterns_SK = rng.normal(size=(40, 3)) + 0.4 * labels_S[:, None]
    first, second = np.triu_indices(40, 1)
    apart = group_S[first] != group_S[second]
    distance = np.linalg.norm(patterns_SK[first] - patterns_SK[second], axis=1)[apart]
    r_B = [
        stats.pearsonr(distance, (y_S[first] != y_S[second])[apart]).statistic
        for y_S in (plan.labels_S, *plan.arrangements_BS)
    ]
    score, p = localizer._category_rsa(patterns_SK, plan)
    np.testing.assert_allclose(score, r_B[0])
    assert p == np.mean(np.array(r_B) >= r_B[0] * (1 - 1e-12))
    assert localizer._category_rsa(np.ones((40, 3)), plan) == (0.0, 1.0)
