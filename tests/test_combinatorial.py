"""The real command on the bundled model and SAE, with a small grid; its later stages are in test_stages.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from experiments import combinatorial
from neurosae.errors import UserError
from neurosae.files import cache_folder
from neurosae.representations import Bench, Source
from neurosae.sites import Site
from neurosae.stimuli import load

SMALL = [
    "--selector",
    "t",
    "max_activation",
    "random",
    "--k",
    "1",
    "4",
    "--repeats",
    "2",
    "--permutations",
    "100",
    "--quiet",
]
NEUTRAL = [
    "The {} parcel came on a {} morning and was left by the door.",
    "In the {} square the {} pigeons kept to their side.",
    "A {} kettle and a {} tray stood on the shelf.",
    "They walked past the {} mill towards the {} church.",
]


def run(*arguments: str) -> int:
    return combinatorial.main(["--stages", "select", *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    assert run("--concept", "success", *SMALL, "--out", str(out)) == 0
    (folder,) = (out / "success").iterdir()
    return folder


def test_the_tables_hold_every_variant(finished: Path) -> None:
    variants = pd.read_parquet(finished / "tables/variants.parquet")
    scores = pd.read_parquet(finished / "tables/scores.parquet")
    # 2 representations x 3 selectors x 2 k, and the controls: 3 untrained, 3 embeddings, PCA, all neurons, words.
    assert len(variants) == 12 + 9
    assert len(scores) == len(variants) * 2 * 5 * 2
    assert scores["value"].between(0, 1).all()
    assert set(scores["metric"]) == {"auroc", "balanced_accuracy"}
    assert variants["auroc"].is_monotonic_decreasing
    means = scores[scores["metric"] == "auroc"].groupby(["representation", "selector", "k", "block"])["value"].mean()
    keys = list(zip(variants["representation"], variants["selector"], variants["k"], variants["block"], strict=True))
    np.testing.assert_allclose(variants["auroc"], [means[key] for key in keys], rtol=1e-12)
    csv = pd.read_csv(finished / "tables/variants.csv")
    np.testing.assert_allclose(csv["auroc"], variants["auroc"])


def test_the_model_knows_the_concept_better_than_its_words(finished: Path) -> None:
    variants = pd.read_parquet(finished / "tables/variants.parquet").set_index(["representation", "selector"])
    neurons, words = (float(variants["auroc"][(name, "all")]) for name in ("raw", "bag_of_words"))
    assert neurons > words + 0.1
    assert neurons > variants.loc[("raw", "t"), "auroc"].max() - 0.05


def test_permuted_labels_stay_around_chance_in_every_variant(finished: Path) -> None:
    """Selection outside the folds, pairs split over folds or any other leak would lift or sink these means."""
    cells = [json.loads(path.read_text()) for path in (finished / "cells").glob("*.json")]
    bound = stats.norm.ppf(1 - 0.001 / (2 * len(cells)))
    for cell in cells:
        null = np.array(cell["auroc"]["null"])
        assert len(null) == 100
        assert abs(null.mean() - 0.5) < bound * null.std(ddof=1) / 10, cell["selector"]


def test_claims_figures_and_manifest_are_written(finished: Path) -> None:
    claims = pd.read_csv(finished / "tables/claims.csv")
    wanted = ["RSA beats max_activation", "SAE beats raw", "discriminative beats categorical"]
    assert claims.groupby("outcome")["claim"].apply(list).to_dict() == {"decoding": wanted, "new_domain": wanted}
    assert claims["verdict"].str.len().min() > 0
    names = {path.name for path in (finished / "figures").iterdir()}
    for figure in ("method_comparison", "score_against_k", "specification_curve", "selection_overlap", "best_ensemble"):
        assert {f"{figure}.png", f"{figure}.svg"} <= names
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["configuration"]["stimuli_sha256"] == load("success").sha256
    assert manifest["versions"]["torch"] == torch.__version__


def test_leave_one_domain_out_names_every_domain(finished: Path) -> None:
    domains = pd.read_parquet(finished / "tables/domains.parquet")
    assert set(domains["domain"]) == set(load("success").table["domain"])
    assert domains["auroc"].between(0, 1).all()


def test_jobs_do_not_change_a_byte(finished: Path, tmp_path: Path) -> None:
    assert run("--concept", "success", *SMALL, "--jobs", "1", "--out", str(tmp_path)) == 0
    assert tables(next((tmp_path / "success").iterdir())) == tables(finished)


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").glob("*.csv"))}


def test_a_damaged_cell_is_computed_again(finished: Path, tmp_path: Path) -> None:
    assert run(*SMALL, "--out", str(tmp_path)) == 0
    folder = next((tmp_path / "success").iterdir())
    cell = next((folder / "cells").glob("*raw-t-k01*"))
    cell.write_text(cell.read_text()[:100])
    (folder / "cells" / "not-in-the-grid.json").write_text("{}")
    assert run(*SMALL, "--out", str(tmp_path)) == 0
    assert tables(folder) == tables(finished)
    (earlier,) = json.loads((folder / "manifest.json").read_text())["earlier"]
    assert earlier["timings"]["cells_s"] > 0


def test_a_damaged_cache_is_captured_again(tmp_path: Path) -> None:
    stimuli = load("success").subset(np.arange(6))
    first = Bench(stimuli, Source())
    expected = first.pooled("raw", 15, "mean").dense()
    values = first.folder / str(Site(15)) / "values.safetensors"
    values.write_bytes(values.read_bytes()[:-1000])
    np.testing.assert_array_equal(Bench(stimuli, Source()).pooled("raw", 15, "mean").dense(), expected)


def test_sets_without_pairs_domains_and_targets_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["red", "green", "small", "old", "quiet", "wooden", "broken", "empty", "narrow", "yellow", "round", "heavy"]
    lines = [
        "name: bare",
        "target: a",
        "definition: none",
        "factors: {side: [a, b]}",
        'contrasts: {bare: "a - b"}',
        "items:",
    ]
    for i in range(40):
        text = NEUTRAL[i % 4].format(words[i % 12], words[(i * 5 + 1) % 12]) + f" Number {i}."
        lines.append(f'  - {{id: i{i}, side: {"ab"[i % 2]}, text: "{text}"}}')
    path = tmp_path / "bare.yaml"
    path.write_text("\n".join(lines))
    assert run("--concept", str(path), *SMALL, "--out", str(tmp_path / "out")) == 0
    folder = next((tmp_path / "out/bare").iterdir())
    variants = pd.read_parquet(folder / "tables/variants.parquet")
    assert variants["new_domain_auroc"].isna().all()
    assert variants["new_domain_reason"].str.contains("no domains").all()
    assert run("--concept", str(path), *SMALL, "--pooling", "target", "--out", str(tmp_path / "out")) == 2
    assert "target" in capsys.readouterr().err


def test_what_the_cache_holds_does_not_change_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of several sites combine; a site captured earlier, alone, must end with the same mask."""
    prepared = cache_folder("models")
    stimuli, clean = load("success").subset(np.arange(20)), {}
    for name in ("at once", "one by one"):
        monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path / name))
        cache_folder("models").rmdir()
        (tmp_path / name / "models").symlink_to(prepared)
        if name == "one by one":
            Bench(stimuli, Source()).latents(Site(15))
        bench = Bench(stimuli, Source())
        bench.listen([Site(2), Site(15)])
        clean[name] = bench.latents(Site(15)).tokens["clean"].to_numpy()
        assert (clean[name] == bench.neurons(Site(2)).tokens["clean"]).all()
    np.testing.assert_array_equal(clean["at once"], clean["one by one"])
    alone = Bench(stimuli, Source()).neurons(Site(15)).tokens["clean"].to_numpy()
    assert alone.sum() > clean["at once"].sum()


def test_the_last_token_of_a_chat_prompt_has_latents(tmp_path: Path) -> None:
    stimuli = replace(load("success").subset(np.arange(4)), chat=True)
    latents = Bench(stimuli, Source()).pooled("sae", 15, "prompt_end").dense()
    assert (latents > 0).sum(axis=1).min() > 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--representation", "embeddings"],
        ["--representation", "sae"],
        ["--representation", "raw", "sae", "embeddings"],
        ["--representation", "raw", "--selector", "all"],
        ["--representation", "raw", "--ensemble", "logistic_l2", "lda", "--block", "3", "15"],
        ["--representation", "raw", "--pooling", "max", "target", "--permutations", "0"],
    ],
)
def test_unusual_grids_end_with_tables_and_figures(arguments: list[str], tmp_path: Path) -> None:
    small = ["--selector", "t", "--k", "2", "--repeats", "1", "--permutations", "5", "--quiet", "--out", str(tmp_path)]
    assert run(*small, *arguments) == 0
    folder = next((tmp_path / "success").iterdir())
    variants = pd.read_parquet(folder / "tables/variants.parquet")
    assert not variants.duplicated(["representation", "selector", "k", "ensemble", "block", "pooling"]).any()
    assert (folder / "figures/specification_curve.png").stat().st_size > 10_000
    if "embeddings" in arguments:
        ks = variants.loc[(variants["representation"] == "embeddings") & (variants["selector"] == "t"), "k"]
        assert sorted(ks) == [2, 8]


def test_a_control_that_does_not_fit_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stimuli = load("success")
    lines = [
        "name: few",
        "target: a",
        "definition: none",
        "factors: {side: [a, b]}",
        'contrasts: {few: "a - b"}',
        "items:",
    ]
    for i in range(4):
        a, b = stimuli.table["text"].iloc[2 * i : 2 * i + 2]
        lines.append(f'  - {{id: i{i}, versions: {{a: "{a}", b: "{b}"}}}}')
    (tmp_path / "few.yaml").write_text("\n".join(lines))
    small = ["--k", "2", "--folds", "2", "--repeats", "1", "--permutations", "5", "--out", str(tmp_path)]
    assert run("--concept", str(tmp_path / "few.yaml"), *small) == 0
    assert "Left out: raw with pca" in capsys.readouterr().out
    alone = ["--representation", "raw", "--selector", "pca", "--no-controls", "--k", "30"]
    assert run("--concept", str(tmp_path / "few.yaml"), *small, *alone) == 2
    assert "No variant fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "integers from 2"),
        (["--jobs", "0"], "--jobs"),
        (["--repeats", "0"], "integers from 1"),
        (["--seed", "-1"], "integers from 0"),
        (["--batch-size", "0"], "integers from 1"),
        (["--selector", "aurocc"], "Did you mean 'auroc'"),
        (["--concept", "sucess"], "Did you mean 'success'"),
        (["--concept", "../../etc/passwd"], "neither a name nor a stimulus file"),
        (["--concept", "nowhere.yaml"], "nowhere.yaml"),
        (["--contrast", "valenc"], "Unknown contrast"),
        (["--k", "0"], "integers from 1"),
        (["--representation", "raw", "--k", "600"], "576 features"),
        (["--folds", "100"], "Fewer pairs than folds"),
        (["--sae", "nothing"], "Unknown SAE"),
        (["--ensemble", "svm"], "Unknown ensemble"),
        (["--pooling", "median"], "Unknown pooling"),
        (["--block", "99", "--representation", "raw"], "no block 99"),
        (["--model", "/no/such/folder"], "could not be loaded"),
        (["--device", "tpu"], "not available"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--out", "/dev/null/x"], "--out"),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert run("--quiet", "--repeats", "1", "--permutations", "5", *out, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("cells"))


def test_a_configuration_cannot_expand(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("selector: &a [t, t]\nk: [*a, *a]\n")
    with pytest.raises(UserError, match="aliases"):
        combinatorial.read_options(["--config", str(path)])


def test_the_command_line_wins_over_the_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("selector: [t, auroc]\nrepeats: 3\nno-controls: true\n")
    options = combinatorial.read_options(["--config", str(path), "--repeats", "4"])
    assert (options.selector, options.repeats, options.no_controls) == (["t", "auroc"], 4, True)
    path.write_text("selectr: [t]\n")
    with pytest.raises(UserError, match="Did you mean 'selector'"):
        combinatorial.read_options(["--config", str(path)])


def test_a_dry_run_prints_the_grid_and_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run", "--out", str(tmp_path / "out")) == 0
    text = capsys.readouterr().out
    assert int(text.split(" variants")[0].split()[-1]) >= 90
    assert "expected" in text
    assert not (tmp_path / "out").exists()
