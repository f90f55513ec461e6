"""Figures show what the tables say."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from neurosae import plots
from neurosae.plots.style import MARKERS


@pytest.fixture
def variants() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [(r, s, k) for r in ("raw", "sae") for s in ("t", "auroc", "random") for k in (1, 8)]
    rows += [("raw", "all", 576), ("bag_of_words", "all", 900)]
    table = pd.DataFrame(rows, columns=["representation", "selector", "k"])
    table["auroc"] = rng.uniform(0.5, 0.9, len(table))
    for name, shift in (("ci_low", -0.05), ("ci_high", 0.05)):
        table[f"auroc_{name}"] = table["auroc"] + shift
    return table.assign(auroc_chance_low=0.4, auroc_chance_high=0.6, ensemble="logistic_l2", block=15, pooling="mean")


def test_the_comparison_draws_one_dot_per_variant_where_its_score_is(variants: pd.DataFrame) -> None:
    ax = plots.method_comparison(variants, 8)
    x = np.concatenate(
        [np.asarray(line.get_xdata(), dtype=float) for line in ax.get_lines() if line.get_marker() in MARKERS.values()]
    )
    shown = variants[(variants["k"] == 8) | (variants["selector"] == "all")]
    np.testing.assert_allclose(np.sort(x), np.sort(shown["auroc"]))
    plt.close("all")


def test_lines_against_k_pass_through_the_scores(variants: pd.DataFrame) -> None:
    ax = plots.score_against_k(variants, "sae")
    drawn = np.concatenate(
        [line.get_ydata() for line in ax.get_lines() if len(line.get_ydata()) == 2 and line.get_label()[0] != "_"]
    )
    np.testing.assert_allclose(np.sort(drawn), np.sort(variants.loc[variants["representation"] == "sae", "auroc"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "8"]
    plt.close("all")


def test_the_specification_curve_is_sorted_and_complete(variants: pd.DataFrame) -> None:
    ax = plots.specification_curve(variants)
    offsets = ax.collections[-1].get_offsets()
    assert len(offsets) == len(variants)
    assert (np.diff(np.asarray(offsets)[:, 1]) >= 0).all()
    labels = [t.get_text() for t in ax.figure.axes[1].get_yticklabels()]
    assert "k = all" in labels
    plt.close("all")


def test_overlap_is_the_jaccard_index() -> None:
    rows = [("t", f) for f in (1, 2, 3, 4)] + [("auroc", f) for f in (3, 4, 5, 6)]
    features = pd.DataFrame(rows, columns=["selector", "feature"]).assign(representation="raw", k=4)
    ax = plots.selection_overlap(features, "raw", 4)
    assert sorted(t.get_text() for t in ax.texts) == ["0.33", "0.33", "1.00", "1.00"]
    plt.close("all")


def test_every_stimulus_is_a_dot_and_claims_without_cells_say_so() -> None:
    decisions = pd.DataFrame({"decision": np.arange(10.0), "side": [1, -1] * 5, "domain": [None] * 10})
    ax = plots.stimulus_activation(decisions, "success", "failure")
    assert sum(len(c.get_offsets()) for c in ax.collections) == 10
    table = pd.DataFrame(
        {"claim": ["A beats B", "C beats D"], "delta": [0.1, np.nan], "ci_low": [0.0, np.nan], "ci_high": [0.2, np.nan]}
    )
    assert [t.get_text() for t in plots.claims(table).texts] == ["not tested: no matched cells"]
    plt.close("all")


def test_figures_are_written_as_png_and_svg_into_the_axes_given(tmp_path: Path, variants: pd.DataFrame) -> None:
    figure, ax = plt.subplots()
    assert isinstance(plots.method_comparison(variants, 8, ax), Axes)
    assert ax.figure is figure
    plots.save(figure, tmp_path / "figures" / "a")
    assert {p.suffix for p in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    assert not plt.fignum_exists(figure.number)
