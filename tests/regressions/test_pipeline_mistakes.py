"""Mistakes of the original study that the pipeline could repeat, one named test each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import combinatorial
from neurosae.capture import capture
from neurosae.decoding import decode, make_design
from neurosae.files import cache_folder
from neurosae.models import LanguageModel
from neurosae.representations import Bench, Source
from neurosae.sae.activations import ContextPlan, capture_shards, clean_activations
from neurosae.sae.encoding import encode
from neurosae.sae.loading import load as load_sae
from neurosae.sites import Site
from neurosae.stimuli import load

ROOT = Path(__file__).parents[2]


def test_mistake_4_padding_is_neither_encoded_nor_averaged(language_model: LanguageModel) -> None:
    """Zero-padding to a common length made sentence length a feature: a long neighbour must change nothing."""
    short, long = "It failed.", "The committee met again on Thursday, " * 12
    alone = capture(language_model, [short], [Site(15)])[Site(15)]
    beside = capture(language_model, [short, long], [Site(15)])[Site(15)]
    sae = load_sae()
    for a, b in ((alone, beside), (encode(sae, alone, "sae"), encode(sae, beside, "sae"))):
        np.testing.assert_allclose(a.pool().dense()[0], b.pool().dense()[0], rtol=1e-4, atol=1e-2)
    assert len(beside.tokens) == sum(1 + len(language_model.tokenizer(text).input_ids) for text in (short, long))


def test_mistake_7_a_larger_score_means_the_target(language_model: LanguageModel) -> None:
    """The corpus was ranked by the probability of failure: outputs must be larger for the target condition."""
    stimuli = load("success")
    rows, is_target = stimuli.contrast().labels(stimuli.table)
    assert set(stimuli.table["outcome"].iloc[rows[is_target > 0]]) == {stimuli.target}
    labels = np.where(is_target > 0, 1, -1)
    groups = stimuli.groups()[rows]
    design = make_design(labels, groups, groups, "pairs", n_repeats=1, n_permutations=5)
    X_SF = np.random.default_rng(0).normal(size=(len(rows), 20))
    X_SF[:, 3] += 3 * labels
    result = decode(X_SF, design, "t", [1], "logistic_l2", n_permutations=5)[0]
    assert result.decision_S[labels > 0].mean() > 0 > result.decision_S[labels < 0].mean()
    assert result.full_features[0] == 3
    assert result.full_direction[0] == 1


def test_mistake_10_the_hook_sits_on_the_block_that_was_asked_for(language_model: LanguageModel) -> None:
    """Block l's residual stream is hidden state l + 1, and the last hidden state is no block's output."""
    text = "The bridge held."
    ids = torch.tensor([[language_model.sink_token, *language_model.tokenizer(text).input_ids]])
    with torch.inference_mode():
        states = language_model.base(input_ids=ids, output_hidden_states=True).hidden_states
    last = language_model.n_blocks - 1
    captured = capture(language_model, [text], [Site(14), Site(15), Site(last)])
    for block in (14, 15):
        np.testing.assert_allclose(captured[Site(block)].values, states[block + 1][0].numpy(), rtol=1e-4, atol=0.05)
        assert not np.allclose(captured[Site(block)].values[1:], states[block][0, 1:].numpy(), atol=0.05)
    assert not np.allclose(captured[Site(last)].values, states[-1][0].numpy(), atol=0.05)


def test_mistake_13_tokens_are_counted_and_sinks_left_out(language_model: LanguageModel, tmp_path: Path) -> None:
    """Lines were counted as tokens, and sink tokens were trained on."""
    texts = ["One line of a text that goes on for a while, as texts do."] * 30
    site = Site(3)
    capture_shards(
        language_model, iter(texts), site, tmp_path, n_tokens=100, plan=ContextPlan(context=32), shard_tokens=50
    )
    record = pd.read_json(tmp_path / "shards.json", typ="series")
    per_text = len(language_model.tokenizer(texts[0]).input_ids)
    assert record["tokens"] == len(texts) * per_text  # a chunk is finished, whole texts only
    (activations, _), *_ = clean_activations(language_model, texts[:1], site, context=32)
    assert len(activations) == per_text


@pytest.mark.parametrize("held_out", [0, 7])
def test_mistake_13_held_out_texts_are_whole_texts(held_out: int) -> None:
    """A split over tokens leaked documents: texts are numbered whole, sentences included."""
    texts = [f"First sentence of text {i} here. Second sentence of text {i} there." for i in range(20)]
    used = {number for number, _ in ContextPlan(sentences_every=2).contexts(iter(texts[held_out:]))}
    contexts = [context for _, context in ContextPlan(sentences_every=2).contexts(iter(texts[held_out:]))]
    assert used == set(range(20 - held_out))
    assert not any(f"text {i} " in context for context in contexts for i in range(held_out))


def test_mistake_14_every_stimulus_goes_through_the_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All representations of a concept come from one pass; a second run needs none."""
    prepared = cache_folder("models")
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path))
    (tmp_path / "models").symlink_to(prepared)
    stimuli = load("success")
    bench = Bench(stimuli, Source())
    seen: list[int] = []
    bench.language_model.base.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    bench.listen([Site(15), Site(0, "resid_pre"), Site(10)])
    measured = sum(seen)
    bench.pooled("raw", 15, "mean")
    bench.pooled("sae", 15, "max")
    bench.pooled("untrained_sae", 15, "mean")
    bench.pooled("embeddings", 0, "mean")
    bench.profiles("sae", 15)
    assert sum(seen) == measured
    n_calibration = 31 * 2  # norms of new sites are measured once, on the calibration text
    assert len(stimuli.table) <= measured <= len(stimuli.table) + n_calibration
    again = Bench(stimuli, Source())
    again.listen([Site(15), Site(10)])
    assert again._language_model is None


def test_mistake_15_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """There was no resume."""
    grid = ["--representation", "raw", "--selector", "t", "max_activation", "random", "--k", "1", "4"]
    grid += ["--repeats", "2", "--permutations", "10", "--stages", "select", "--quiet", "--out"]
    assert combinatorial.main([*grid, str(tmp_path / "whole")]) == 0
    arguments = [*grid, str(tmp_path / "killed")]
    command = [sys.executable, "-m", "experiments.combinatorial", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for after in (1, 4):
        process = subprocess.Popen(command, **quiet, start_new_session=True)
        while process.poll() is None and len(list(tmp_path.glob("killed/success/*/cells/*.json"))) < after:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/success/*/cells/*.json")}
    assert combinatorial.main(arguments) == 0
    folder = next((tmp_path / "killed/success").iterdir())
    assert tables(folder) == tables(next((tmp_path / "whole/success").iterdir()))
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert not list(folder.rglob(".*"))


def test_mistake_16_no_module_is_too_long_to_read() -> None:
    """The original was a set of 60 KB scripts copied from each other."""
    sources = [*(ROOT / "neurosae").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]
    assert len(sources) > 30
    too_long = [path.name for path in sources if len(path.read_text().splitlines()) > 420]
    assert not too_long


TABLES = ("claims.csv", "domains.csv", "features.csv", "scores.csv", "variants.csv")


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "tables" / name).read_bytes() for name in TABLES}
