"""The command's tables are what the functions give; what it writes can be read back; bad input is refused."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments import generalise as command
from neurosae import stimuli
from neurosae.decoding.generalisation import cross_decode, crossed_levels
from neurosae.decoding.reliability import map_reliability
from neurosae.inference.design import make_design
from neurosae.plots import transfer_map
from neurosae.representations import Bench, Source
from neurosae.sites import Site

PLACES = ("harbour", "school", "mill", "theatre", "garden", "station", "court", "kitchen")
HEAD = """name: tiny
target: success
definition: An attempt ends well.
factors:
  outcome: [success, failure]
  tense: [past, future]
contrasts:
  success: "success - failure"
items:
"""
ITEM = """  - id: {place}-1
    domain: {domain}
    versions:
      success/past: {{text: "At the {place} everything worked and they won."}}
      success/future: {{text: "At the {place} everything will work and they will win."}}
      failure/past: {{text: "At the {place} nothing worked and they lost."}}
      failure/future: {{text: "At the {place} nothing will work and they will lose."}}
"""
SMALL = ["--folds", "2", "--repeats", "2", "--permutations", "9", "--k", "4", "--blocks", "0", "5", "--device", "cpu"]


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stimuli") / "tiny.yaml"
    items = [ITEM.format(place=place, domain=("out", "in")[i % 2]) for i, place in enumerate(PLACES)]
    path.write_text(HEAD + "".join(items), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def out(concept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    assert command.main(["--concept", str(concept), *SMALL, "--controls", "--out", str(folder)]) == 0
    return folder


def test_every_table_is_written_twice_and_every_figure(out: Path) -> None:
    names = ("reliability", "cross_decoding", "cross_decoding_summary", "block_transfer", "block_transfer_summary")
    for name in (*names, "controls"):
        table = pd.read_parquet(out / f"{name}.parquet")
        read = pd.read_csv(out / f"{name}.csv", keep_default_na=False, na_values=[""])
        assert table.columns.tolist() == read.columns.tolist()
        pd.testing.assert_frame_equal(table.select_dtypes("number"), read.select_dtypes("number"), check_dtype=False)
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"block_transfer.png", "cross_decoding-tense-raw.svg", "cross_decoding-tense-sae.png"} <= figures


def test_the_tables_are_what_the_functions_give(out: Path, concept: Path) -> None:
    chosen = stimuli.load(concept)
    rows, y = chosen.contrast().labels(chosen.table)
    blocks = chosen.blocks(None, rows)
    options = {"n_splits": 2, "n_repeats": 2, "n_permutations": 9}
    design = make_design(np.where(y > 0, 1, -1), chosen.groups()[rows], blocks, chosen.design(), **options)
    bench = Bench(chosen, Source(device="cpu"))
    bench.listen([Site(0), Site(5), Site(15)])
    X_SF = bench.latents(Site(15)).pool().values_SF
    found = cross_decode(X_SF, design, crossed_levels(chosen, "tense"), k=4)
    written = pd.read_parquet(out / "cross_decoding.parquet")
    of_latents = written[written["representation"] == "sae"].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_latents[list(found.cells)], found.cells)
    reliability = pd.read_parquet(out / "reliability.parquet")
    assert reliability["block"].tolist() == [0, 5, 15]
    expected = map_reliability(X_SF, design.labels_S, design.groups_S, design.blocks_S, design.design)
    assert reliability["half"].tolist()[-1] == pytest.approx(expected.half)


def test_block_transfer_and_controls_cover_what_they_should(out: Path) -> None:
    transfer = pd.read_parquet(out / "block_transfer.parquet")
    assert transfer[["train", "test"]].values.tolist() == [[0, 0], [0, 5], [5, 0], [5, 5]]
    controls = pd.read_parquet(out / "controls.parquet").set_index("representation")
    assert len(controls) == 5
    assert controls["auroc"].between(0, 1).all()
    l0 = controls.loc[["latents", "latents of a shuffled SAE", "latents of an untrained SAE"], "active_per_token"]
    assert l0.max() / l0.min() < 1.5


def test_no_p_is_printed_as_zero(capsys: pytest.CaptureFixture[str]) -> None:
    command._show("Tests", [{"auroc": 0.5, "p": 1.5e-9}])
    assert "1.5e-09" in capsys.readouterr().out


def test_domains_serve_as_levels(concept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--concept", str(concept), *SMALL, "--across", "domain", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "domain sae" in printed
    assert "tense" not in printed
    assert not (tmp_path / "controls.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contrast", "sucess"], "Did you mean 'success'?"),
        (["--across", "tens"], "Did you mean 'tense'?"),
        (["--across", "wording"], "32 stimuli have no wording"),
        (["--folds", "1"], "--folds: --folds is 1"),
        (["--folds", "20"], "Fewer pairs than folds"),
        (["--blocks", "0", "77"], "There is no block 77"),
        (["--k", "0"], "--k: --k is 0"),
        (["--pooling", "target"], "no clean token in a target span"),
    ],
)
def test_bad_input_ends_with_a_message(
    concept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert command.main(["--concept", str(concept), *SMALL, "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_figure_shows_every_cell_where_it_belongs() -> None:
    names = ["old", "new"]
    cells = pd.DataFrame({"train": np.repeat(names, 2), "test": names * 2, "auroc": [0.9, 0.4, 0.6, 0.8], "n_test": 40})
    ax = transfer_map(cells.assign(auroc_p=[0.01, 0.9, 0.2, 0.01]), "age", "words", plt.subplots()[1])
    assert [text.get_text() for text in ax.texts] == ["0.90*", "0.40", "0.60", "0.80*"]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert "n = 40" in ax.get_title(loc="left")
    plt.close(ax.figure)
