"""The command: one small run from a stimulus file to texts, tables and a figure; bad options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import influence
from neurosae.plots import dose_response

SUBJECTS = ["team", "boy", "bank", "ship", "army", "chef", "girl", "club", "king", "crew", "firm", "band"]


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    lines = ["name: tiny", "target: success", "definition: d", "factors: {outcome: [success, failure]}"]
    lines += ['contrasts: {success: "success - failure"}', "items:"]
    for number, subject in enumerate(SUBJECTS):
        lines += [
            f"  - id: i{number}",
            "    versions:",
            f'      success: {{text: "At last the {subject} won the prize."}}',
            f'      failure: {{text: "At last the {subject} lost it all."}}',
        ]
    path = tmp_path / "tiny.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_leaves_texts_tables_and_a_figure(
    stimuli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--concept", str(stimuli), "--k", "2", "--doses", "0.9", "--random-directions", "2"]
    arguments += ["--random-features", "1", "--prompt", "The team", "--tokens", "3", "--ask", "1", "--out", str(out)]
    assert influence.main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("steered +0.9", "steered -0.9", "random direction +0.9", "baseline", "Slope", "Is this 'success'"):
        assert words in printed
    doses, shifts = pd.read_csv(out / "doses.csv"), pd.read_csv(out / "shifts.csv")
    assert doses["dose"].tolist() == [-0.9, 0.9]
    np.testing.assert_allclose(doses["shift"], shifts.groupby("dose")["shift"].mean())
    ensemble = json.loads((out / "ensemble.json").read_text(encoding="utf-8"))
    assert not set(ensemble["train_ids"]) & set(shifts["target"]) and len(shifts) == 2 * len(SUBJECTS) / 2
    controls = pd.read_csv(out / "controls.csv")
    assert sorted(controls["control"].unique()) == ["random directions", "random features"]
    texts = pd.read_csv(out / "texts.csv")
    assert texts.groupby("condition").size().to_dict() == {"baseline": 1, "random direction": 1, "steered": 2}
    assert (out / "figures" / "dose_response.png").exists()


@pytest.mark.slow
def test_what_changes_nothing_is_named_and_stops_nothing(
    stimuli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One new token is predicted from the prompt alone: steering what is generated cannot touch it."""
    arguments = ["--concept", str(stimuli), "--k", "1", "--doses", "0.9", "--random-directions", "1"]
    arguments += ["--random-features", "1", "--prompt", "The team", "--tokens", "1", "--positions", "generated"]
    assert influence.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("changes nothing here") == 3
    texts = pd.read_csv(tmp_path / "out" / "texts.csv")
    assert texts["generated"].nunique() == 1 and texts["note"].notna().tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--doses", "1.5"], "--doses"),
        (["--random-directions", "0"], "--random-directions is 0"),
        (["--ask", "-1"], "--ask is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--k", "0"], "--k is 0"),
        (["--temperature", "-1"], "--temperature is -1"),
        (["--concept", "valence", "--contrast", "interaction", "--ask", "1"], "not one level against another"),
        (["--concept", "valence", "--contrast", "factuality", "--score"], "no grades"),
        (["--concept", "succes"], "Did you mean 'success'"),
        (["--concept", "success", "--contrast", "sucess"], "Did you mean 'success'"),
    ],
)
def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert influence.main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_the_figure_says_what_it_shows() -> None:
    from neurosae.steering.causal import CausalEffect, Estimate

    table = pd.DataFrame(
        {"dose": [-0.9, 0.9], "n_pairs": 9, "shift": [-0.2, 0.3], "low": [-0.3, 0.1], "high": [-0.1, 0.5], "reason": ""}
    )
    controls = pd.DataFrame(
        {"dose": [-0.9, 0.9], "control": "random directions", "n": 8, "mean": 0.0, "least": -0.1, "most": 0.1}
    )
    effect = CausalEffect(table, controls, Estimate(0.3, 0.1, 0.5, 0.01, 0.001), pd.DataFrame())
    ax = dose_response(effect, title="success")
    assert "n = 9 held-out pairs" in ax.get_title(loc="left") and "nats per token" in ax.get_ylabel()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["random directions (n = 8): mean and range", "ensemble"]
    drawn = next(line for line in ax.lines if line.get_label() == "ensemble")
    assert drawn.get_ydata().tolist() == [-0.2, 0.3]
