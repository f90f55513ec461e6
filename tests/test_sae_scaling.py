"""The scaling grid: figures of a cell against a naive loop, the power law, resumption cell by cell, bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import sae_scaling
from neurosae import dictionary_plots
from neurosae.dictionary.scaling import power_law, reconstruction
from neurosae.sae import loading

WIDTHS = np.array([256, 512, 1024, 2048, 4096])


@given(st.floats(0.01, 1.0), st.floats(0.1, 5.0))
@settings(max_examples=25, deadline=None)
def test_an_exact_power_law_is_recovered_whatever_its_scale(exponent: float, coefficient: float) -> None:
    law = power_law(WIDTHS, coefficient * WIDTHS**-exponent)
    assert law.valid
    assert law.exponent == pytest.approx(exponent)
    assert law.coefficient == pytest.approx(coefficient)
    assert law.ci_high - law.ci_low < 1e-5


def test_the_interval_of_the_exponent_covers_the_truth_in_95_of_100_fits(rng: np.random.Generator) -> None:
    covered = []
    for _ in range(400):
        law = power_law(WIDTHS, 2 * WIDTHS**-0.2 * np.exp(rng.normal(0, 0.02, len(WIDTHS))))
        covered.append(law.ci_low <= 0.2 <= law.ci_high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_no_law_from_few_widths_or_a_perfect_fit() -> None:
    for widths, fvu in ((WIDTHS[:3], np.ones(3)), (np.repeat(WIDTHS, 2), np.ones(10)), (WIDTHS, np.zeros(5))):
        law = power_law(widths, fvu)
        assert not law.valid
        assert law.reason
        assert law.exponent == 0
    assert "does not fall" in power_law(WIDTHS[::-1], np.array([0.4, 0.3, 0.29, 0.31, 0.35])).reason
    shuffled = np.array([2, 0, 4, 1, 3])
    fvu = np.array([0.4, 0.33, 0.3, 0.26, 0.2])
    assert power_law(WIDTHS[shuffled], fvu[shuffled]) == power_law(WIDTHS, fvu)


def test_reconstruction_is_what_a_loop_over_tokens_gives(rng: np.random.Generator) -> None:
    sae = loading.load()
    values_TD = rng.normal(size=(12, sae.cfg.d_in)).astype(np.float32) * 5
    found = reconstruction(sae, values_TD)
    error = spread = active = 0.0
    fired: set[int] = set()
    for x in values_TD:
        codes = sae.encode(torch.from_numpy(x)[None]).detach()
        error += float(((x - sae.decode(codes).detach().numpy()[0]) ** 2).sum())
        spread += float(((x - values_TD.mean(0)) ** 2).sum())
        fired |= set(codes[0].nonzero()[:, 0].tolist())
        active += float((codes > 0).sum())
    assert found["fvu"] == pytest.approx(error / spread, rel=1e-4)
    assert found["l0"] == pytest.approx(active / 12, abs=0.5)
    assert found["dead_share"] == pytest.approx(1 - len(fired) / sae.cfg.d_sae, abs=1e-3)
    assert found["n_tokens"] == 12


def test_the_curve_passes_through_the_cells() -> None:
    cells = pd.DataFrame(
        {"n_latents": np.tile(WIDTHS, 2), "k": np.repeat([16, 32], 5), "fvu": np.linspace(0.5, 0.2, 10)}
    )
    laws = {16: power_law(WIDTHS, cells["fvu"].to_numpy()[:5])}
    ax = dictionary_plots.scaling_curve(cells, "fvu", "FVU", laws)
    drawn = np.concatenate([np.asarray(line.get_ydata()) for line in ax.get_lines() if line.get_marker() != "None"])
    np.testing.assert_allclose(np.sort(drawn), np.sort(cells["fvu"]))
    assert sum(line.get_linestyle() == "--" for line in ax.get_lines()) == 1
    plt.close("all")


@pytest.mark.slow
def test_the_smoke_test_runs_and_goes_on_cell_by_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"width": [16, 32, 64, 128], "tokens": 1500, "held_out": 12, "batch_size": 128, "background": 20}
    monkeypatch.setattr(sae_scaling, "_SMOKE", sae_scaling._SMOKE | small)
    arguments = ["--smoke-test", "--out", str(tmp_path)]
    assert sae_scaling.main(arguments) == 0
    first = pd.read_csv(tmp_path / "scaling.csv")
    assert first["n_latents"].tolist() == [16, 32, 64, 128]
    assert first["fvu"].between(0, 1.2).all()
    assert (tmp_path / "figures" / "scaling.png").is_file()
    # One cell is lost: it alone is trained again, and comes out as before.
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/cell.json")}
    lost = next(path for path in done if json.loads(path.read_text())["n_latents"] == 32)
    lost.unlink()
    assert sae_scaling.main(arguments) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scaling.csv"), first)
    assert [path for path in done if path.stat().st_mtime_ns != done[path]] == [lost]


def test_another_request_is_another_cell() -> None:
    options = SimpleNamespace(epochs=1.0, batch_size=64, lr=7e-4, seed=0)
    plan, wide = (sae_scaling._plan(options, width, 8) for width in (64, 256))
    assert plan.lr == pytest.approx(2 * wide.lr)  # 1 / sqrt(width)
    assert (plan.n_latents, plan.k, plan.k_start) == (64, 8, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "missing.parquet"], "no corpus"),
        (["--shards", "missing"], "shards.json"),
        (["--corpus", "missing.parquet", "--width", "8"], "k is 32"),
        (["--corpus", "missing.parquet", "--members", "colors"], "colours"),
        (["--corpus", "missing.parquet", "--held-out", "1"], "--held-out"),
        (["--corpus", "missing.parquet", "--width", "0"], "latents"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sae_scaling.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
