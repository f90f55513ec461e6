"""Figures of whole-representation RSA show what the RDMs and tables say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy.spatial.distance import pdist, squareform

from neurosae import plots
from neurosae.errors import UserError
from neurosae.rdms import compare_models, make_rdms, second_order
from neurosae.rsa.models import label_model, rating_model


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_heat_map_sorts_stimuli_by_condition_and_names_the_unit():
    rng = np.random.default_rng(0)
    rdms = make_rdms(rng.normal(size=(9, 5)))
    conditions = ["won", "lost", "drawn"] * 3
    ax = plots.rdm_heatmap(rdms, conditions)
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    order = [2, 5, 8, 1, 4, 7, 0, 3, 6]
    expected = rdms.get_matrices()[0][np.ix_(order, order)]
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(shown[off], expected[off])
    assert [text.get_text() for text in ax.texts] == ["drawn\n(n = 3)", "lost\n(n = 3)", "won\n(n = 3)"]
    assert ax.figure.axes[1].get_ylabel() == "correlation distance (1 - r)"
    assert ax.get_title(loc="left") == "n = 9 patterns, 36 pairs"


def test_masked_pairs_are_not_coloured_or_counted():
    X_SF = np.random.default_rng(1).normal(size=(6, 4))
    X_SF[2] = 0
    ax = plots.rdm_heatmap(make_rdms(X_SF, undefined="mask"), list("aabbbb"), title="latents")
    assert np.isnan(np.ma.filled(ax.images[0].get_array(), np.nan)).sum() == 6 + 10
    assert ax.get_title(loc="left") == "latents, n = 6 patterns, 10 pairs"


def test_scaling_of_points_in_a_plane_is_exact():
    place_S2 = np.random.default_rng(2).normal(size=(12, 2))
    ax = plots.stimulus_mds(make_rdms(place_S2, distance="squared_euclidean"), ["won", "lost"] * 6)
    drawn = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}
    assert set(drawn) == {"won (n = 6)", "lost (n = 6)"}
    found = np.empty((12, 2))
    found[::2], found[1::2] = drawn["won (n = 6)"], drawn["lost (n = 6)"]
    np.testing.assert_allclose(pdist(found), pdist(place_S2) / np.sqrt(2), rtol=0.05, atol=0.05)
    assert ax.get_title(loc="left") == "n = 12 patterns, stress 0.00"


def comparison(n_rdms):
    rng = np.random.default_rng(3)
    valence, order = rng.normal(size=(2, 20))
    x_SF = np.column_stack([2 * valence, rng.normal(size=(20, 3))])
    tables = np.stack([squareform(pdist(x_SF) + rng.random(190)) for _ in range(n_rdms)])
    models = [rating_model(valence, "valence"), rating_model(order, "order"), label_model(valence > 0, "category")]
    return compare_models(tables if n_rdms > 1 else tables[0], models, n_bootstrap=200, n_permutations=199)


def test_bars_are_as_high_as_scores_and_marks_follow_the_p_values():
    found = comparison(3)
    ax = plots.model_comparison(found)
    bars = [patch for patch in ax.patches if patch.get_width() == pytest.approx(0.6)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], found.table["score"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["valence", "order", "category"]
    starred = [text.xy[0] for text in ax.texts if text.get_text() == "*"]
    assert starred == np.flatnonzero(found.table["p_holm"] < 0.05).tolist()
    brackets = [line for line in ax.get_lines() if len(line.get_xdata()) == 4]
    assert len(brackets) == (found.differences["p_holm"] < 0.05).sum() > 0
    band = next(patch for patch in ax.patches if patch.get_label().startswith("noise ceiling"))
    assert band.get_y() == pytest.approx(found.ceiling.lower)
    assert band.get_y() + band.get_height() == pytest.approx(found.ceiling.upper)
    assert "95 % interval" in ax.get_ylabel()


def test_one_rdm_has_no_ceiling_band():
    ax = plots.model_comparison(comparison(1))
    assert ax.get_legend() is None
    assert ax.get_title(loc="left") == "n = 20 stimuli, 20 items"


def test_the_second_order_matrix_shows_its_numbers():
    rng = np.random.default_rng(4)
    matrix = second_order(make_rdms({f"block {b}": rng.normal(size=(10, 4)) for b in range(3)}))
    ax = plots.second_order_matrix(matrix)
    assert [text.get_text() for text in ax.texts] == [f"{value:.2f}" for value in matrix.to_numpy().ravel()]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(matrix.index)


def test_figures_draw_into_the_axes_given():
    figure, axes = plt.subplots(2, 2)
    rdms = make_rdms({"a": np.random.default_rng(5).normal(size=(8, 4))})
    assert plots.rdm_heatmap(rdms, list("aabbaabb"), ax=axes[0, 0]) is axes[0, 0]
    assert plots.stimulus_mds(rdms, list("aabbaabb"), ax=axes[0, 1]) is axes[0, 1]
    assert plots.model_comparison(comparison(1), ax=axes[1, 0]) is axes[1, 0]
    assert isinstance(plots.second_order_matrix(second_order(rdms), ax=axes[1, 1]), Axes)
    assert figure.axes[:4] == [*axes.ravel()]


def test_what_cannot_be_drawn_is_refused():
    rng = np.random.default_rng(6)
    two = make_rdms({"a": rng.normal(size=(6, 4)), "b": rng.normal(size=(6, 4))})
    with pytest.raises(UserError, match="2 RDMs in one figure"):
        plots.rdm_heatmap(two, list("aabbab"))
    for draw in (plots.rdm_heatmap, plots.stimulus_mds):
        with pytest.raises(UserError, match="5 conditions for 6 stimuli"):
            draw(two.subset("name", "a"), list("aabba"))
        with pytest.raises(UserError, match="stimulus 2: a stimulus has no condition"):
            draw(two.subset("name", "a"), ["a", "a", None, "b", "b", "a"])
    with pytest.raises(UserError, match="every pair of stimuli is masked"):
        plots.rdm_heatmap(np.where(np.eye(3) > 0, 0, np.nan), list("aab"))
    for table in (-two.get_matrices()[0], np.zeros((6, 6))):
        with pytest.raises(UserError, match="negative, or all 0"):
            plots.stimulus_mds(table, list("aabbab"))
    masked = two.subset("name", "a").get_matrices()[0]
    masked[1, 2] = masked[2, 1] = np.nan
    with pytest.raises(UserError, match="masked pair"):
        plots.stimulus_mds(masked, list("aabbab"))
