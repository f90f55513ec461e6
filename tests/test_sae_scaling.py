"""The scaling grid: figures of a cell against a naive loop, the power law, resumption cell by cell, bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from experiments import sae_scaling as command
from neurosae import plots
from neurosae.dictionary import sae_scaling as grid
from neurosae.dictionary.sae_scaling import plan_of, sae_scaling
from neurosae.dictionary.scaling import power_law, reconstruction
from neurosae.errors import UserError
from neurosae.sae import loading
from neurosae.sae.shards import export_npy
from neurosae.sites import Site

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
    ax = plots.scaling_curve(cells, "fvu", "FVU", laws)
    drawn = np.concatenate([np.asarray(line.get_ydata()) for line in ax.get_lines() if line.get_marker() != "None"])
    np.testing.assert_allclose(np.sort(drawn), np.sort(cells["fvu"]))
    assert sum(line.get_linestyle() == "--" for line in ax.get_lines()) == 1
    plt.close("all")


@pytest.mark.slow
def test_the_smoke_test_runs_and_goes_on_cell_by_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"width": [16, 32, 64, 128], "tokens": 1500, "held_out": 12, "batch_size": 128, "background": 20}
    monkeypatch.setattr(command, "_SMOKE", command._SMOKE | small)
    arguments = ["--smoke-test", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    first = pd.read_csv(tmp_path / "scaling.csv")
    assert first["n_latents"].tolist() == [16, 32, 64, 128]
    assert first["fvu"].between(0, 1.2).all()
    assert (tmp_path / "figures" / "scaling.png").is_file()
    found = sae_scaling(**command._SMOKE, out=tmp_path)
    pd.testing.assert_frame_equal(found.cells, first)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "power_law.parquet"), found.power_law)
    # One cell is lost: it alone is trained again, and comes out as before.
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/cell.json")}
    lost = next(path for path in done if json.loads(path.read_text())["n_latents"] == 32)
    lost.unlink()
    assert command.main(arguments) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scaling.csv"), first)
    assert [path for path in done if path.stat().st_mtime_ns != done[path]] == [lost]


def test_the_learning_rate_falls_with_the_root_of_the_width_whatever_the_default_plan() -> None:
    how = {"epochs": 1.0, "batch_size": 64, "lr": 7e-4, "seed": 0}
    plan, wide = (plan_of(width, 8, **how) for width in (64, 256))
    assert plan.lr == pytest.approx(2 * wide.lr)
    assert (plan.n_latents, plan.k, plan.k_start) == (64, 8, 64)
    assert plan_of(6144, 8, **how).lr == 7e-4


class Cells:
    """The command with a language model, captures and trainings that do nothing, on a folder of shards."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.trained = folder, 0
        self.language_model = SimpleNamespace(name="model", fingerprint="model v1", device="cpu")
        self.shards = folder / "shards"
        self.shards.mkdir()
        self.write_shard(1.0)
        (self.shards / "shards.json").write_text(json.dumps({"model": "model", "site": "1"}))
        for name in ("other", "more"):
            (folder / f"{name}.txt").write_text(f"One text of {name}.\n\nTwo.\n\nThree.\n\nFour.")
        fakes: dict[str, object] = {
            "Yardstick": SimpleNamespace(read=lambda *_: SimpleNamespace(measure=lambda _: {"fvu": 0.5})),
            "train_cell": self._train,
            "load": lambda *_: None,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(grid, name, fake)
        monkeypatch.setattr(grid.models, "load", lambda *_, **__: self.language_model)

    def write_shard(self, value: float) -> None:
        acts_TD = torch.full((20, 4), value)
        save_file({"acts": acts_TD, "last_row": torch.tensor(0)}, self.shards / "part000.safetensors")

    def _train(self, *_: object) -> None:
        self.trained += 1

    def __call__(self, **change: Any) -> bool:
        """Whether this request trains a cell."""
        before = self.trained
        asked: dict[str, Any] = {"width": [64], "k": [8], "held_out": 3, "members": ["months"], "background": 20}
        found = sae_scaling(**{"shards": self.shards, "out": self.folder / "out", **asked, **change})
        assert found.cells["fvu"].tolist() == [0.5]
        assert len(list((self.folder / "out" / "cells").glob("width64-k*/cell.json"))) == self.trained
        return self.trained > before


def test_another_request_is_another_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trains = Cells(tmp_path, monkeypatch)
    assert trains()
    assert not trains()
    changes: list[dict[str, Any]] = [
        {"background": 21},
        {"held_out": 4},
        {"held_out_corpus": tmp_path / "other.txt"},
        {"held_out_corpus": tmp_path / "more.txt"},
        {"members": ["colours"]},
        {"lr": 1e-3},
        {"seed": 1},
        {"epochs": 2.0},
        {"k": [9]},
    ]
    for change in changes:
        assert trains(**change)
    assert not trains(**change)
    trains.language_model.fingerprint = "model v2"
    assert trains()


def test_a_cell_depends_on_the_activations_not_on_what_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains = Cells(tmp_path, monkeypatch)
    assert trains()
    export_npy(trains.shards)
    assert not trains()
    trains.write_shard(2.0)
    assert trains()


def test_texts_that_are_measured_on_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where --held-out-corpus names the corpus itself; the index counts the texts left out."""
    texts = [f"Number {i}." for i in range(9)]
    paths = [tmp_path / name for name in ("corpus.txt", "copy.txt", "other.txt")]
    for path in paths:
        path.write_text("\n\n".join(texts[::-1] if path.stem == "other" else texts))
    captured: dict[str, object] = {}

    def keep(_: object, read: Iterable[str], *__: object, **asked: object) -> None:
        captured.update(asked, texts=list(read))

    monkeypatch.setattr(grid, "capture_shards", keep)
    model, corpus = SimpleNamespace(name="model"), str(paths[0])
    for held_out_corpus, reserved in ((None, 4), (paths[0], 4), (paths[1], 4), (paths[2], 0)):
        assert grid.n_reserved(corpus, held_out_corpus, 4) == reserved
        grid.capture(model, Site(1), tmp_path / "out", corpus, reserved=reserved, tokens=9, dtype="float32")  # type: ignore[arg-type]
        assert captured["texts"] == texts[reserved:]
        assert captured["first_text"] == reserved


@pytest.mark.parametrize(
    ("wrong", "where"), [({"held_out": 1}, "held_out"), ({"width": [8]}, "k"), ({"width": [0], "k": [0]}, "n_latents")]
)
def test_the_verb_names_the_argument_that_is_wrong(wrong: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        sae_scaling(out=tmp_path / "out", **wrong)
    assert told.value.where == where
    assert not (tmp_path / "out").exists()


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
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
