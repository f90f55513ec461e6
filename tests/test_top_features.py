"""The strongest latents of a prompt are those of a naive loop; what is shown can be read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import top_features as command
from neurosae.capture import capture
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae.loading import DEFAULT, load, site_of
from neurosae.sae.prompt_features import POSITIONS, Position, neuronpedia_id, read_labels, strongest_latents
from neurosae.sae.top_features import TopFeatures, described, top_features

PROMPT = "The café | bar closed.\n\nNobody knew why 🙂"


@pytest.fixture(scope="module")
def sae() -> Any:
    return load()


def silenced(sae: Any) -> Any:
    """Thresholds that nothing reaches."""
    other = load()
    other.threshold.data = torch.full_like(sae.threshold, 1e9)
    return other


@pytest.mark.parametrize("position", POSITIONS)
def test_it_is_what_a_loop_finds(sae: Any, language_model: LanguageModel, position: Position) -> None:
    found = strongest_latents(language_model, sae, PROMPT, 7, position)
    neurons = capture(language_model, [PROMPT], [site_of(sae)])[site_of(sae)]
    clean = np.flatnonzero(neurons.tokens["clean"].to_numpy(dtype=bool))
    with torch.inference_mode():
        codes_TF = sae.encode(torch.from_numpy(neurons.values)).numpy()
    value_F = {"last": codes_TF[clean[-1]], "max": codes_TF[clean].max(0), "mean": codes_TF[clean].mean(0)}[position]
    expected = sorted(range(len(value_F)), key=lambda latent: (-value_F[latent], latent))[:7]
    assert found.features["latent"].tolist() == expected
    np.testing.assert_allclose(found.features["value"], value_F[expected], rtol=1e-4)
    assert found.n_active == (value_F > 0).sum()
    np.testing.assert_allclose(found.activations.loc[clean].to_numpy(), codes_TF[np.ix_(clean, expected)], rtol=1e-4)
    assert found.activations.columns.tolist() == expected
    for row in found.features.itertuples():
        assert row.peak == clean[codes_TF[clean, row.latent].argmax()]
        assert row.peak_token == neurons.tokens["token"][row.peak]


def test_the_sink_is_left_out_and_every_other_token_is_there(sae: Any, language_model: LanguageModel) -> None:
    found = strongest_latents(language_model, sae, PROMPT, 3)
    ids = language_model.tokenizer(PROMPT, add_special_tokens=False).input_ids
    assert found.tokens["position"].tolist() == list(range(1, len(ids) + 1))
    assert found.tokens["token"].tolist() == [language_model.tokenizer.decode([i]) for i in ids]
    assert found.activations.index.tolist() == found.tokens["position"].tolist()


def test_of_equals_the_lower_index_comes_first(sae: Any, language_model: LanguageModel) -> None:
    """Three latents that are copies of the strongest one."""
    strongest = int(strongest_latents(language_model, sae, PROMPT, 1).features["latent"][0])
    twins = load()
    copies = sorted({3, 11, 4001, strongest})
    for latent in copies:
        twins.W_enc.data[:, latent] = sae.W_enc.data[:, strongest]
        twins.b_enc.data[latent] = sae.b_enc.data[strongest]
        twins.threshold.data[latent] = sae.threshold.data[strongest]
    assert strongest_latents(language_model, twins, PROMPT, 4).features["latent"].tolist() == copies


def test_fewer_active_latents_than_asked_for(sae: Any, language_model: LanguageModel) -> None:
    found = strongest_latents(language_model, sae, PROMPT, sae.cfg.d_sae)
    assert len(found.features) == found.n_active < sae.cfg.d_sae
    assert (found.features["value"] > 0).all()
    silent = strongest_latents(language_model, silenced(sae), PROMPT, 3, "max")
    assert (len(silent.features), silent.n_active) == (0, 0)
    assert silent.activations.shape == (len(silent.tokens), 0)
    found = TopFeatures(**vars(silent), language_model="y", sae="x", site="z", prompt=PROMPT, position="max")
    assert found.sentences == ()
    assert "No latent is active" in command.as_text(found)


def test_bad_input_is_told(sae: Any, language_model: LanguageModel) -> None:
    too_long = "word " * (language_model.context + 1)
    for prompt, k, position, message in (
        ("", 3, "last", "empty"),
        (too_long, 3, "last", "more than the context"),
        ("a\udcff", 3, "last", "no valid text"),
        ("Hello.", 0, "last", "k is 0"),
        ("Hello.", sae.cfg.d_sae + 1, "last", f"1 to the {sae.cfg.d_sae}"),
        ("Hello.", 3, "first", "Unknown position"),
    ):
        with pytest.raises(UserError, match=message):
            strongest_latents(language_model, sae, prompt, k, position)  # type: ignore[arg-type]


def test_labels_are_read_alike_from_both_formats(tmp_path: Path) -> None:
    labels = {0: "a city, large", 17: 'says "no"\nand goes'}
    (tmp_path / "l.json").write_text(json.dumps(labels), encoding="utf-8")
    pd.DataFrame({"latent": labels.keys(), "label": labels.values()}).to_csv(tmp_path / "l.csv", index=False)
    pd.DataFrame({"index": labels.keys(), "label": labels.values()}).to_csv(tmp_path / "i.csv", index=False)
    assert read_labels(tmp_path / "l.json") == read_labels(tmp_path / "l.csv") == read_labels(tmp_path / "i.csv")
    assert read_labels(tmp_path / "l.json") == labels
    (tmp_path / "none.json").write_text("{}")
    assert read_labels(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[1, 2]"),
        ("a.json", '{"x": "no index"}'),
        ("a.json", '{"3": {"nested": 1}}'),
        ("a.json", '{"-3": "negative"}'),
        ("a.json", '{"3": "cut'),
        ("a.csv", ""),
        ("a.csv", "latent,text\n3,x\n"),
        ("a.csv", "latent,label\n3.5,x\n"),
        ("a.txt", "3 x"),
    ],
)
def test_broken_labels_are_told(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="labels: "):
        read_labels(tmp_path / name)


def test_links_lead_to_the_latents_of_the_registry(tmp_path: Path) -> None:
    assert neuronpedia_id(DEFAULT) is None
    assert neuronpedia_id(f"{DEFAULT}@3") is None
    assert neuronpedia_id(f"{tmp_path}@3") is None
    name = neuronpedia_id("llama_scope_lxr_8x/l31r_8x")
    assert name == neuronpedia_id("L31R-8x") == neuronpedia_id("L31R-8x@31")
    shown = described(pd.DataFrame({"latent": [5, 9]}), {9: "nine"}, name)
    assert shown["link"].tolist() == [f"https://neuronpedia.org/{name}/5", f"https://neuronpedia.org/{name}/9"]
    assert shown["label"].tolist() == ["", "nine"]


def test_the_verb_says_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = top_features(PROMPT, k=3, position="mean", labels={5: "five"})
    assert command.main([PROMPT, "--k", "3", "--position", "mean", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["summary"] == list(found.sentences)
    assert said["found"]["activations"] == found.as_dict()["activations"]
    pd.testing.assert_frame_equal(pd.DataFrame(said["found"]["features"]), found.features.drop(columns="label"))
    assert (found.features["label"] == "").all()
    for wrong in ({"k": 0}, {"position": "first"}, {"labels": "none.json"}, {"sae": "nothing-like-it"}):
        with pytest.raises(UserError) as told:
            top_features("Hello.", **wrong)  # type: ignore[arg-type]
        assert told.value.where == next(iter(wrong))


def test_the_command_prints_tables_and_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([PROMPT, "--k", "3"]) == 0
    shown = capsys.readouterr().out
    assert command.main([PROMPT, "--k", "3", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["found"]
    assert about["prompt"] == PROMPT
    assert about["sae"] == DEFAULT
    assert {str(row["latent"]) for row in about["features"]} == set(about["activations"])
    assert all(len(values) == len(about["tokens"]) for values in about["activations"].values())
    lines = shown.splitlines()
    assert sum(r"\n'" in line for line in lines) >= 1  # a line break stays inside its cell
    (header,) = (number for number, line in enumerate(lines) if line.split()[:1] == ["token"])
    assert lines[header:].index("") - 1 == len(about["tokens"])


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["Hello.", "--labels", str(tmp_path / "none.json")]) == 2
    assert "--labels" in capsys.readouterr().err
    assert command.main(["Hello.", "--sae", "nothing-like-it"]) == 2
    assert "Unknown SAE" in capsys.readouterr().err
