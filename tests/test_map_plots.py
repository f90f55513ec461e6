"""Figures of contrast maps show what the maps say; the command writes both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.axes import Axes

from experiments import contrast_map as command
from neurosae import plots
from neurosae.inference import pairs_needed
from neurosae.rsa import Reason
from neurosae.univariate import ContrastMap


@pytest.fixture
def found() -> ContrastMap:
    """Three blocks, four positions, five features; one cell masked, one feature silent, two tests significant."""
    rng = np.random.default_rng(0)
    shape = (3, 4, 5)
    t = rng.normal(size=shape).astype(np.float32)
    t[1, 2, 3], t[2, 2, 3] = 9.0, -8.0
    reason = np.zeros(shape, dtype=np.int8)
    reason[0, 0], reason[:, :, 4] = Reason.TOO_FEW_STIMULI, Reason.SILENT
    t[reason != 0] = 0
    p = np.where(reason == 0, np.exp(-np.abs(t.astype(float))), 1.0)
    n_LW = np.full((3, 4), 40)
    n_LW[0, 0] = 12
    return ContrastMap(
        contrast="success", design="pairs", covariates=(), blocks_L=np.array([0, 10, 29]), stream="resid_post",
        positions_W=np.arange(-1, 3), features_F=np.arange(5), shared_axis=True, effect=t, se=np.ones_like(t), t=t,
        d=t / 4, p=p, p_corrected=np.where(np.abs(t) > 7, 0.01, 1.0), reason=reason, n_LW=n_LW,
        df_LW=np.where(n_LW > 20, 19.0, 0.0), height_control="fwe", alpha=0.05, two_sided=True, null_LWB=None,
        smallest_p=0.001,
    )  # fmt: skip


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_map_shows_r2_with_counts_and_n_and_masks_what_has_too_few(found: ContrastMap) -> None:
    ax = plots.contrast_map(found)
    shown = ax.collections[0].get_array().reshape(found.n_LW.shape)
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), ~found.tested_LW)
    np.testing.assert_allclose(shown.compressed(), found.r2_LW[found.tested_LW])
    assert texts(ax) == ["1", "1", "12", "40", "40", "40", "n"], "significant features per cell, then n per position"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "10", "29"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-1", "0", "1", "2"]
    plt.close("all")


def test_the_map_of_one_feature_is_its_t_on_a_symmetric_scale(found: ContrastMap) -> None:
    ax = plt.subplots()[1]
    assert plots.contrast_map(found, 3, ax) is ax
    mesh, dots = ax.collections
    np.testing.assert_allclose(mesh.get_array().compressed(), found.t[:, :, 3][found.tested_LW])
    assert mesh.get_clim() == (-9.0, 9.0)
    assert np.asarray(dots.get_offsets()).tolist() == [[2.5, 1.5], [2.5, 2.5]]
    plt.close("all")


def test_the_volcano_has_one_point_per_valid_test_and_names_the_strongest(found: ContrastMap) -> None:
    ax = plots.volcano(found, n_labels=2)
    grey, coloured = (np.asarray(collection.get_offsets()) for collection in ax.collections)
    assert len(grey) + len(coloured) == found.valid.sum()
    expected = np.sort(-np.log10(found.p[found.significant]))
    np.testing.assert_allclose(np.sort(coloured[:, 1]), expected)
    np.testing.assert_allclose(np.sort(coloured[:, 0]), [-2.0, 2.25])
    assert texts(ax) == ["block 10, +1: 3", "block 29, +1: 3"]
    plt.close("all")


def test_names_of_equally_strong_tests_do_not_cover_each_other(found: ContrastMap) -> None:
    p = np.where(found.valid, 0.5, 1.0)
    ax = plots.volcano(ContrastMap(**vars(found) | {"p": p}), n_labels=8)
    places = np.array([name.xyann for name in ax.texts])
    assert len(places) == 8
    for side in (-1, 1):
        y = np.sort(places[np.sign(places[:, 0]) == side, 1])
        assert len(y) > 1 and (np.diff(y) > 0.05 * ax.get_ylim()[1]).all()
    plt.close("all")


def test_the_profile_passes_through_the_effects_inside_their_band() -> None:
    table = pd.DataFrame({"block": [0, 5], "effect": [0.1, 0.4], "low": [0.0, 0.3], "high": [0.2, 0.6], "n": [72, 72]})
    ax = plots.block_profile(table)
    assert ax.get_lines()[0].get_ydata().tolist() == [0.1, 0.4]
    corners = ax.collections[0].get_paths()[0].vertices
    assert {(0.0, 0.0), (0.0, 0.2), (5.0, 0.3), (5.0, 0.6)} <= {tuple(corner) for corner in corners}
    assert "72 held-out" in ax.get_title(loc="left")
    plt.close("all")


def test_power_names_the_pairs_that_the_effects_would_need(found: ContrastMap) -> None:
    about_labels, about_slope = argparse.Namespace(modulator=None), argparse.Namespace(modulator="arousal")
    sentence = command.power(found, about_labels)
    assert f"d = 2.25) {pairs_needed(2.25, 0.8, 0.05, 44)}." in sentence
    assert f"d = 2.12) would need {pairs_needed(2.125, 0.8, 0.05, 44)} pairs" in sentence
    assert "44 tests" in sentence
    nothing = ContrastMap(**vars(found) | {"p_corrected": np.ones(found.t.shape)})
    assert "No test" in command.power(nothing, about_labels)
    slope = ContrastMap(**vars(found) | {"design": "families"})
    needed = 2 * pairs_needed(2.25, 0.8, 0.05, 44, "unpaired")
    assert f"the largest (d = 2.25) {needed}." in command.power(slope, about_slope)
    assert "stimuli in each" not in command.power(slope, about_slope)


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("concept") / "weather.yaml"
    nouns = ["harbour", "valley", "market", "bridge", "island", "garden", "tower", "village", "forest", "river", "lake"]
    words = [("bright", "soaked"), ("sunlit", "windy"), ("warm", "freezing"), ("golden", "muddy")]
    items = []
    for number in range(2 * len(nouns)):
        frame = f"In {('May', 'June')[number % 2]} the {nouns[number // 2]} was {{}} again."
        versions = {
            side: {"text": frame.format(word), "target": word}
            for side, word in zip(("sunny", "rainy"), words[number % len(words)], strict=True)
        }
        items.append({"id": f"item-{number}", "versions": versions})
    path.write_text(
        yaml.safe_dump(
            {
                "name": "weather", "target": "sunny", "definition": "The weather is fine.",
                "factors": {"outcome": ["sunny", "rainy"]}, "contrasts": {"weather": "sunny - rainy"}, "items": items,
            }
        )
    )  # fmt: skip
    return path


def test_the_command_writes_tables_and_figures_that_agree(
    concept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--concept", str(concept), "--blocks", "0", "2", "--width", "6", "--height-control", "fwe"]
    out = tmp_path / "map"
    assert command.main([*arguments, "--permutations", "99", "--covariates", "zipf", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    peaks, tests = pd.read_csv(out / "peaks.csv"), pd.read_parquet(out / "map.parquet")
    assert peaks["position"].iloc[0] >= 0, "before the target, the two texts of a pair are the same"
    assert tests["p"].min() == pytest.approx(peaks["p"].iloc[0])
    assert set(tests["position"]) <= set(range(-1, 5)) and (tests.loc[tests["position"] < 0, "p_corrected"] == 1).all()
    assert {"cells", "clusters", "region", "held_out", "profile"} <= {path.stem for path in out.glob("*.csv")}
    for figure in ("map", "volcano", "strongest_feature", "block_profile"):
        assert (out / f"{figure}.png").stat().st_size > 5000
    assert (out / "summary.txt").read_text().strip() in printed
    assert json.loads((out / "settings.json").read_text())["blocks"] == ["0", "2"]


def test_the_command_says_what_is_wrong(concept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--blocks", "77"], "There is no block 77"),
        (["--contrast", "wether", "--blocks", "0"], "Did you mean 'weather'"),
        (["--sae", "--blocks", "3"], "The SAE reads block 15"),
        (["--modulator", "joy", "--blocks", "0"], "The stimuli of 'weather' have no ratings"),
        (["--blocks", "0.mlp_out"], "--blocks: blocks.0.hook_mlp_out is not the residual stream"),
        (["--seed", "-1"], "--seed: -1 is too small"),
        (["--k", "0"], "--k: 0 is too small"),
        (["--peaks", "-1"], "--peaks: -1 is too small"),
    ):
        assert command.main(["--concept", str(concept), "--out", str(tmp_path / "no"), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    (tmp_path / "file").touch()
    arguments = [
        "--concept",
        str(concept),
        "--blocks",
        "0",
        "--pooling",
        "mean",
        "--out",
        str(tmp_path / "file" / "map"),
    ]
    assert command.main(arguments) == 2
    assert "could not be written" in capsys.readouterr().err
