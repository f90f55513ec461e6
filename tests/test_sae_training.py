"""The sparse step is SAELens' own mathematics; trainings recover what was planted, resume exactly, refuse nonsense."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE, BatchTopKTrainingSAE, JumpReLUSAE, StandardSAE, TopKSAE, TrainingSAE
from sae_lens.saes.sae import TrainStepInput
from sae_lens.synthetic import ConstantFiringProbabilityConfig, SyntheticModel, SyntheticModelConfig
from safetensors.torch import load_file, save_file

from experiments import options as shared
from experiments import train_sae as command
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae import activations, overlap, training_data
from neurosae.sae.activations import ContextPlan, capture_shards, clean_activations, only_run
from neurosae.sae.loading import load, site_of
from neurosae.sae.saving import refuse_if_changed, save
from neurosae.sae.train_sae import train_sae
from neurosae.sae.training import train
from neurosae.sae.training_data import ShardData, StreamData
from neurosae.sae.training_log import TrainingLog
from neurosae.sae.training_plan import SPARSITY_COEFFICIENTS, TrainingPlan, initial_sae, threshold_for
from neurosae.sae.training_source import refuse_another
from neurosae.sites import Site
from tests.conftest import TEXTS

PLAN = TrainingPlan(n_latents=96, k=4, k_start=4, batch_size=64, epochs=2)
SHORT = TrainingPlan(n_latents=64, k=3, k_start=6, batch_size=512, epochs=2)
METADATA = {"hook_name": "blocks.3.hook_resid_post", "model_name": "planted"}


@pytest.fixture
def x_TD() -> torch.Tensor:
    return torch.randn(200, 24, generator=torch.Generator().manual_seed(0)) + 0.3


def step_input(x: torch.Tensor, dead: torch.Tensor | None = None) -> TrainStepInput:
    return TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False)


@pytest.mark.parametrize("with_dead", [False, True])
def test_the_sparse_step_equals_the_dense_step(x_TD: torch.Tensor, with_dead: bool) -> None:
    """Loss and every gradient agree with SAELens' class on the same weights, the auxiliary loss included."""
    sparse = initial_sae(PLAN, x_TD, 1.0, {})
    with torch.no_grad():
        sparse.W_dec.mul_(torch.linspace(0.5, 2, 96)[:, None])  # norms differ, so that rescaling matters
    dense = BatchTopKTrainingSAE(sparse.cfg)
    dense.load_state_dict(sparse.state_dict())
    dead = torch.arange(96) % 7 == 0 if with_dead else None
    a, b = sparse.training_forward_pass(step_input(x_TD, dead)), dense.training_forward_pass(step_input(x_TD, dead))
    assert a.losses["mse_loss"].item() == pytest.approx(b.losses["mse_loss"].item(), rel=1e-5)
    np.testing.assert_allclose(a.sae_out.detach(), b.sae_out.detach(), atol=1e-5)
    a.losses["mse_loss"].backward()
    b.losses["mse_loss"].backward()
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        np.testing.assert_allclose(getattr(sparse, name).grad, getattr(dense, name).grad, atol=1e-4, err_msg=name)
    assert float(sparse.topk_threshold) == pytest.approx(float(dense.topk_threshold), rel=1e-4)


@given(seed=st.integers(0, 10_000), n=st.integers(0, 60), threshold=st.floats(0, 3))
def test_the_selection_is_the_largest_positive_scores_whatever_the_guess(seed: int, n: int, threshold: float) -> None:
    sae = initial_sae(PLAN, torch.ones(2, 24), 1.0, {})
    sae.topk_threshold = torch.tensor(threshold, dtype=torch.float64)
    scores = torch.randn(6, 20, generator=torch.Generator().manual_seed(seed))
    rows, columns = sae._select(scores, n)
    expected = torch.nonzero(scores.flatten() > 0)[:, 0]
    expected = expected[scores.flatten()[expected].argsort(descending=True)[:n]].sort().values
    assert torch.equal(rows * 20 + columns, expected)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticModel]:
    """Shards of SAELens' synthetic activations, far from unit scale and off centre."""
    folder = tmp_path_factory.mktemp("shards")
    torch.manual_seed(0)
    model = SyntheticModel(
        SyntheticModelConfig(
            num_features=48,
            hidden_dim=32,
            firing_probability=ConstantFiringProbabilityConfig(0.06),
            std_firing_magnitudes=0.3,
            bias=2.0,
            seed=1,
        )
    )
    for part in range(2):
        acts = (40 * model.sample(6000)).bfloat16()
        save_file({"acts": acts, "last_row": torch.tensor(part)}, folder / f"part{part:03d}.safetensors")
    return folder, model


# What each reaches with this little data; l0 is not k for standard, whose sparsity follows from its loss.
REACHED = [
    pytest.param("batchtopk", 0.9, 0.15, id="batchtopk"),
    pytest.param("topk", 0.9, 0.25, id="topk", marks=pytest.mark.slow),
    pytest.param("matryoshka", 0.7, 0.2, id="matryoshka", marks=pytest.mark.slow),
    pytest.param("jumprelu", 0.7, 0.2, id="jumprelu", marks=pytest.mark.slow),
    pytest.param("standard", 0.9, 0.4, id="standard", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("architecture", "recovered", "worst_fvu"), REACHED)
def test_training_recovers_a_planted_dictionary_in_raw_units(
    planted: tuple[Path, SyntheticModel], tmp_path: Path, architecture: str, recovered: float, worst_fvu: float
) -> None:
    shards, model = planted
    epochs = 25 if architecture == "batchtopk" else 40
    plan = TrainingPlan(
        architecture, n_latents=96, k=3, k_start=6, batch_size=256, epochs=epochs, lr=3e-3, dead_after_tokens=5000
    )
    sae = train(ShardData(shards, 256, 0), plan, tmp_path, metadata=METADATA, checkpoint_every=10_000)
    truth = torch.nn.functional.normalize(model.feature_dict.feature_vectors.detach(), dim=-1)
    assert float(((sae.W_dec.detach() @ truth.T).max(0).values > 0.9).float().mean()) >= recovered
    save(sae, tmp_path / "sae")
    stored = load(str(tmp_path / "sae"))
    assert str(site_of(stored)) == "blocks.3.hook_resid_post"
    x_TD = 40 * model.sample(2000)
    with torch.inference_mode():
        codes = stored.encode(x_TD)
        out = stored.decode(codes)
    assert float((out - x_TD).square().sum() / (x_TD - x_TD.mean(0)).square().sum()) < worst_fvu
    l0 = float((codes > 0).float().sum(1).mean())
    assert l0 == pytest.approx(sae.cfg.metadata.l0, rel=0.15)
    assert l0 == pytest.approx(3, rel=0.25)
    log = pd.read_csv(tmp_path / "training.csv")
    assert log["fvu"].iloc[0] > 2 * log["fvu"].iloc[-1]


STORED_AS = {
    "batchtopk": JumpReLUSAE,
    "matryoshka": JumpReLUSAE,
    "jumprelu": JumpReLUSAE,
    "topk": TopKSAE,
    "standard": StandardSAE,
}


@pytest.mark.parametrize("architecture", SPARSITY_COEFFICIENTS)
def test_every_architecture_is_stored_as_others_read_it(
    planted: tuple[Path, SyntheticModel], tmp_path: Path, architecture: str
) -> None:
    """SAELens and neurosae read the same, rounding apart the trained SAE; decoder rows have norm 1."""
    shards, _ = planted
    plan = TrainingPlan(architecture, n_latents=64, k=3, k_start=6, batch_size=512, epochs=1)
    sae = train(ShardData(shards, 512, 0), plan, tmp_path, metadata=METADATA)
    save(sae, tmp_path / "sae")
    ours, theirs = load(str(tmp_path / "sae")), SAE.load_from_disk(tmp_path / "sae")
    assert type(ours) is type(theirs) is STORED_AS[architecture]
    if architecture == "topk":
        assert ours.cfg.k == 3
    x_TD = ShardData(shards, 512, 1).sample(500)
    with torch.inference_mode():
        np.testing.assert_allclose(ours.encode(x_TD), theirs.encode(x_TD), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(ours.W_dec.norm(dim=-1), 1, atol=0.01)
        trained, stored = sae.decode(sae.encode(x_TD)), ours.decode(ours.encode(x_TD))
    variance = (x_TD - x_TD.mean(0)).square().sum()
    fvu = [float((out - x_TD).square().sum() / variance) for out in (trained, stored)]
    assert fvu[0] == pytest.approx(fvu[1], abs=0.05)  # batchtopk: k of the batch against one threshold
    tensors = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert {name: t.dtype for name, t in tensors.items() if name != "threshold"}.keys() == {
        name for name, t in tensors.items() if t.dtype == torch.bfloat16
    }


def test_a_corrupted_save_is_refused(language_model: LanguageModel, tmp_path: Path) -> None:
    """Each of these is loaded without complaint; only measuring tells."""
    sample_TD = torch.cat([acts for acts, _ in clean_activations(language_model, TEXTS, Site(2), 32)])
    plan = TrainingPlan("standard", n_latents=1200)
    sae = initial_sae(plan, sample_TD, 1.0, {"hook_name": str(Site(2))})
    sae.cfg.normalize_activations = "none"
    save(sae, tmp_path)
    refuse_if_changed(sae, tmp_path, language_model, TEXTS[:2])
    path = tmp_path / "sae_weights.safetensors"
    sound = load_file(path)
    for name, factor in (("W_dec", 0.7), ("b_enc", 0.0)):
        save_file(sound | {name: sound[name] * factor}, path)
        with pytest.raises(UserError, match="differs from the trained one"):
            refuse_if_changed(sae, tmp_path, language_model, TEXTS[:2])


def test_a_wrong_export_is_refused(
    language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained SAE in memory is the measure, not a second export by the same code."""
    sample_TD = torch.cat([acts for acts, _ in clean_activations(language_model, TEXTS, Site(2), 32)])
    sae = initial_sae(TrainingPlan(n_latents=1200, k=8), sample_TD, 1.0, {"hook_name": str(Site(2))})
    sae.cfg.normalize_activations = "none"
    sae.topk_threshold = threshold_for(sae, sample_TD, 8).double()
    save(sae, tmp_path / "sound")
    refuse_if_changed(sae, tmp_path / "sound", language_model, TEXTS[:2])
    export = type(sae).process_state_dict_for_saving_inference

    def broken(trained: TrainingSAE, tensors: dict[str, torch.Tensor]) -> None:
        export(trained, tensors)
        tensors["W_dec"] = 0.3 * tensors["W_dec"]

    monkeypatch.setattr(type(sae), "process_state_dict_for_saving_inference", broken)
    save(sae, tmp_path / "broken")
    with pytest.raises(UserError, match="differs from the trained one"):
        refuse_if_changed(sae, tmp_path / "broken", language_model, TEXTS[:2])


class Killed(Exception):
    """Stands for a kill in the middle of a training."""


class Dying(ShardData):
    """Data that ends the process after some batches."""

    last = 30

    def __next__(self) -> torch.Tensor:
        if self.step == self.last:
            raise Killed
        return super().__next__()


@pytest.mark.parametrize("architecture", SPARSITY_COEFFICIENTS)
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    planted: tuple[Path, SyntheticModel], tmp_path: Path, architecture: str
) -> None:
    shards, _ = planted
    plan = TrainingPlan(architecture, n_latents=64, k=3, k_start=6, batch_size=512, epochs=2, dead_after_tokens=2000)
    whole = train(ShardData(shards, 512, 0), plan, tmp_path / "whole", metadata=METADATA, checkpoint_every=20)
    with pytest.raises(Killed):
        train(Dying(shards, 512, 0), plan, tmp_path / "cut", metadata=METADATA, checkpoint_every=20)
    kept = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert kept == [str(20 * 512)]  # the newest, at most one interval before the kill
    resumed = train(ShardData(shards, 512, 0), plan, tmp_path / "cut", metadata=METADATA, checkpoint_every=20)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert (tmp_path / "cut" / "training.csv").read_text() == (tmp_path / "whole" / "training.csv").read_text()


def test_a_damaged_checkpoint_is_named(planted: tuple[Path, SyntheticModel], tmp_path: Path) -> None:
    shards, _ = planted
    train(ShardData(shards, 512, 0), SHORT, tmp_path, metadata=METADATA, checkpoint_every=20)
    [checkpoint] = (tmp_path / "checkpoints").iterdir()
    state = checkpoint / "trainer_state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"{checkpoint.name} cannot be read.*Delete it"):
        train(ShardData(shards, 512, 0), SHORT, tmp_path, metadata=METADATA)


def test_a_checkpoint_of_a_training_of_another_length_is_refused(
    planted: tuple[Path, SyntheticModel], tmp_path: Path
) -> None:
    """Its schedule has reached 0 where this one is to learn."""
    shards, _ = planted
    train(ShardData(shards, 512, 0), SHORT, tmp_path, metadata=METADATA, checkpoint_every=20)
    with pytest.raises(UserError, match="training of 46 steps, this one has 93"):
        train(ShardData(shards, 512, 0), dataclasses.replace(SHORT, epochs=4), tmp_path, metadata=METADATA)


def test_a_checkpoint_of_another_plan_is_refused(planted: tuple[Path, SyntheticModel], tmp_path: Path) -> None:
    """Also that of a finished training, whose SAE would pass for the one asked for."""
    shards, _ = planted
    train(ShardData(shards, 512, 0), SHORT, tmp_path, metadata=METADATA)
    with pytest.raises(UserError, match="training with another lr"):
        train(ShardData(shards, 512, 0), dataclasses.replace(SHORT, lr=0.1), tmp_path, metadata=METADATA)


def test_two_runs_never_train_into_one_folder(planted: tuple[Path, SyntheticModel], tmp_path: Path) -> None:
    shards, _ = planted
    out = tmp_path / "out"

    class StartedTwice(ShardData):
        def __next__(self) -> torch.Tensor:
            if self.step == 1:
                with pytest.raises(UserError, match="out: Another run is writing to"):
                    train(ShardData(shards, 512, 0), SHORT, out, metadata=METADATA)
            return super().__next__()

    train(StartedTwice(shards, 512, 0), SHORT, out, metadata=METADATA)
    assert {path.name for path in out.iterdir()} == {"checkpoints", "training.csv"}
    train(ShardData(shards, 512, 0), SHORT, out, metadata=METADATA)


def test_two_runs_never_capture_into_one_folder(language_model: LanguageModel, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"n_tokens": 30, "plan": ContextPlan(24)}

    def started_twice() -> Iterator[str]:
        with pytest.raises(UserError, match="out: Another run is writing to"):
            capture_shards(language_model, TEXTS, Site(1), tmp_path / "acts", **asked)
        yield from TEXTS

    capture_shards(language_model, started_twice(), Site(1), tmp_path / "acts", **asked)
    assert {path.suffix for path in (tmp_path / "acts").iterdir()} == {".safetensors", ".parquet", ".json"}


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused"), only_run(tmp_path / "new"):
        raise UserError("refused")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), only_run(tmp_path / "file"):
        pass


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_checkpoint(
    planted: tuple[Path, SyntheticModel], tmp_path: Path
) -> None:
    class Overflowing(ShardData):
        def __next__(self) -> torch.Tensor:
            return super().__next__() * (float("inf") if self.step == 25 else 1)

    shards, _ = planted
    with pytest.raises(UserError, match=r"at step 25; the last checkpoint .* untouched"):
        train(Overflowing(shards, 512, 0), SHORT, tmp_path, metadata=METADATA, checkpoint_every=10)
    weights = load_file(tmp_path / "checkpoints" / str(20 * 512) / "sae_weights.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_weights_that_are_not_finite_never_become_a_checkpoint(
    planted: tuple[Path, SyntheticModel], tmp_path: Path
) -> None:
    """The step before the loss shows it may have broken the weights already."""
    shards, _ = planted
    plan = dataclasses.replace(SHORT, lr=1e30)
    with pytest.raises(UserError, match=r"not finite at step|loss is (nan|inf) at step"):
        train(ShardData(shards, 512, 0), plan, tmp_path, metadata=METADATA, checkpoint_every=1)
    for path in (tmp_path / "checkpoints").glob("*/sae_weights.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def test_the_threshold_makes_k_latents_active(x_TD: torch.Tensor) -> None:
    sae = initial_sae(PLAN, x_TD, 1.0, {})
    threshold = threshold_for(sae, x_TD, 4, block_tokens=33)
    with torch.no_grad():
        active = (x_TD @ sae.W_enc + sae.b_enc >= threshold).sum()
    assert int(active) == pytest.approx(4 * len(x_TD), abs=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "batchtopkk"}, "Did you mean 'batchtopk'"),
        ({"n_latents": 16, "k": 17}, "1 to the 16 latents"),
        ({"k": 0}, "k is 0"),
        ({"lr": 0.0}, "above 0"),
        ({"lr": float("nan")}, "above 0"),
        ({"epochs": float("inf")}, "above 0"),
        ({"k": 200}, "k_start is 128"),
        ({"architecture": "topk", "sparsity_coefficient": 1.0}, "no sparsity loss"),
        ({"architecture": "standard", "sparsity_coefficient": -1.0}, "above 0"),
        ({"matryoshka_widths": (10, 9216)}, "no nested"),
        ({"architecture": "matryoshka", "matryoshka_widths": (100, 50, 9216)}, "rising"),
        ({"architecture": "matryoshka", "matryoshka_widths": (100, 500)}, "up to the 9216"),
    ],
)
def test_plans_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingPlan(**change)


LONGER = [f"{text} And number {i} follows here, in a second sentence." for i in range(12) for text in TEXTS]
CONTEXTS = ContextPlan(context=24, sentences_every=4)


def stream(language_model: LanguageModel, n_tokens: int, **more: Any) -> StreamData:
    options = {"batch_size": 50, "buffer_tokens": 150, "seed": 1} | more
    return StreamData(language_model, lambda: iter(LONGER), Site(1), CONTEXTS, n_tokens=n_tokens, **options)


def everything(language_model: LanguageModel) -> torch.Tensor:
    texts = [text for _, text in CONTEXTS.contexts(LONGER)]
    parts = clean_activations(language_model, texts, Site(1), CONTEXTS.context)
    return torch.cat([acts.bfloat16().float() for acts, _ in parts])


def test_a_stream_gives_every_clean_token_once_in_a_seeded_order(language_model: LanguageModel) -> None:
    x_TD = everything(language_model)
    data, again = stream(language_model, len(x_TD)), stream(language_model, len(x_TD))
    batches = [next(data) for _ in range(len(x_TD) // 50)]
    given_TD = torch.cat([*batches, data._buffer[: data._held].float()])
    assert len(given_TD) == len(x_TD)
    np.testing.assert_array_equal(np.sort(given_TD[:, 0]), np.sort(x_TD[:, 0]))
    assert not torch.equal(given_TD[:150], x_TD[:150])
    assert len(data._buffer) == 150  # all that is ever held, whatever the corpus
    assert torch.equal(next(again), batches[0])
    assert not torch.equal(next(stream(language_model, len(x_TD), seed=2)), batches[0])


def test_a_stream_taken_up_again_gives_no_text_twice(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its position on, it gives what the texts behind it give, and nothing else."""
    monkeypatch.setattr(activations, "_CHUNK", (8, 8))
    data = stream(language_model, 600)
    next(data)
    assert 0 < data.position < len(LONGER)
    behind = CONTEXTS.contexts(LONGER, skip=data.position)
    chunks = [[text for _, text in chunk] for chunk in activations._chunks(behind, 8)]
    parts = [acts for chunk in chunks for acts, _ in clean_activations(language_model, chunk, Site(1), 24)]
    expected_TD = torch.cat(parts).bfloat16().float()
    later = stream(language_model, len(expected_TD), batch_size=1)
    later.position = data.position
    given_TD = torch.cat([next(later) for _ in range(len(expected_TD))])
    np.testing.assert_array_equal(np.sort(given_TD[:, 0]), np.sort(expected_TD[:, 0]))


def test_a_stream_taken_up_again_loses_no_sentence(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read together are whole texts: behind the position are all contexts that were not read."""
    read: list[str] = []

    def listening(language_model: LanguageModel, texts: list[str], *more: Any) -> Iterator[tuple[torch.Tensor, int]]:
        read.extend(texts)
        return clean_activations(language_model, texts, *more)

    monkeypatch.setattr(training_data, "clean_activations", listening)
    monkeypatch.setattr(activations, "_CHUNK", (3, 3))
    data = stream(language_model, 600, batch_size=15, buffer_tokens=30)
    for _ in range(10):
        next(data)
        behind = [text for _, text in CONTEXTS.contexts(LONGER, skip=data.position)]
        assert read + behind == [text for _, text in CONTEXTS.contexts(LONGER)]


STREAMED = TrainingPlan(n_latents=64, k=3, k_start=3, batch_size=50, epochs=1)


def test_a_finished_stream_is_taken_up_without_reading(language_model: LanguageModel, tmp_path: Path) -> None:
    def nothing_left() -> Iterator[str]:
        raise AssertionError("the corpus is read")

    data = stream(language_model, 400)
    first = train(data, STREAMED, tmp_path, metadata=METADATA, checkpoint_every=3)
    again = StreamData(language_model, nothing_left, Site(1), CONTEXTS, n_tokens=400, batch_size=50, buffer_tokens=150)
    second = train(again, STREAMED, tmp_path, metadata=METADATA, checkpoint_every=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert (again.position, second.cfg.metadata.l0) == (data.position, first.cfg.metadata.l0)
    assert len(pd.read_csv(tmp_path / "training.csv")) == 1


def test_a_killed_stream_goes_on_counting(
    language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it gave before the checkpoint, its scale and its sample are kept; the buffer is not, which is told."""
    monkeypatch.setattr(activations, "_CHUNK", (8, 8))
    n = len(everything(language_model))

    class DyingStream(StreamData):
        def __next__(self) -> torch.Tensor:
            if self._given == 250:
                raise Killed
            return super().__next__()

    dying = DyingStream(
        language_model, lambda: iter(LONGER), Site(1), CONTEXTS, n_tokens=n, batch_size=50, buffer_tokens=150
    )
    with pytest.raises(Killed):
        train(dying, STREAMED, tmp_path, metadata=METADATA, checkpoint_every=4)
    position = json.loads((tmp_path / "checkpoints" / "200" / "position.json").read_text())["position"]
    behind = [text for _, text in CONTEXTS.contexts(LONGER, skip=position)]
    left = sum(len(acts) for acts, _ in clean_activations(language_model, behind, Site(1), 24))
    later = stream(language_model, n)
    with pytest.raises(UserError, match=rf"gave {200 + left:,} clean tokens, {n:,} were asked.*buffer .* lost"):
        train(later, STREAMED, tmp_path, metadata=METADATA, checkpoint_every=10_000)
    assert torch.equal(later.sample(100), dying.sample(100))


def test_a_stream_that_ends_early_says_how_much_there_was(language_model: LanguageModel, tmp_path: Path) -> None:
    n = len(everything(language_model))
    data = stream(language_model, 2 * n)
    plan = TrainingPlan(n_latents=64, k=3, k_start=3, batch_size=50, epochs=1)
    with pytest.raises(UserError, match=rf"gave {n:,} clean tokens, {2 * n:,} were asked"):
        train(data, plan, tmp_path, metadata=METADATA)
    with pytest.raises(UserError, match="at least one batch"):
        stream(language_model, 400, buffer_tokens=10)
    with pytest.raises(UserError, match="context of 1"):
        StreamData(language_model, lambda: iter(TEXTS), Site(1), ContextPlan(1), n_tokens=10, batch_size=5)


@pytest.mark.parametrize("half", ["4", "40", "40,", "40,0."])
@pytest.mark.parametrize("step", [20, 30])
def test_the_log_survives_half_a_row_and_goes_back_to_a_step(tmp_path: Path, half: str, step: int) -> None:
    path = tmp_path / "training.csv"
    log = TrainingLog(path)
    for step in (10, 20, 30):
        log.write({"step": step, "fvu": step / 100})
    path.write_text(path.read_text() + half)
    TrainingLog(path, step=step).write({"step": step + 10, "fvu": 0.5})
    rows = ["step,fvu", "10,0.1", "20,0.2", "30,0.3"]
    assert path.read_text().split() == [*rows[: 1 + step // 10], f"{step + 10},0.5"]
    path.write_text("ste")
    TrainingLog(path).write({"step": 10, "fvu": 0.5})
    assert path.read_text().split() == ["step,fvu", "10,0.5"]


def test_a_log_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        TrainingLog(tmp_path / "training.csv", also="tensorbord")
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"\[logging\]"):
        TrainingLog(tmp_path / "training.csv", also="wandb")


def test_every_training_is_a_wandb_run_of_its_own_and_ends(
    planted: tuple[Path, SyntheticModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in wandb, `init` gives the run under way as long as there is one."""
    runs: list[SimpleNamespace] = []

    def init(**_: Any) -> SimpleNamespace:
        if not runs or runs[-1].ended:
            run = SimpleNamespace(rows=[], ended=False)
            run.log = lambda row, step: run.rows.append((step, row["tokens"]))
            run.finish = lambda: setattr(run, "ended", True)
            runs.append(run)
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=RuntimeError))
    shards, _ = planted
    for name in ("a", "b"):
        train(ShardData(shards, 512, 0), SHORT, tmp_path / name, metadata=METADATA, log="wandb")
    with pytest.raises(Killed):
        train(Dying(shards, 512, 0), SHORT, tmp_path / "c", metadata=METADATA, log="wandb")
    assert [[step for step, _ in run.rows] for run in runs] == [[10, 20, 30, 40, 46]] * 2 + [[10, 20, 30]]
    assert all(run.ended for run in runs)


def test_tensorboard_gets_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    TrainingLog(tmp_path / "training.csv", also="tensorboard").write({"step": 10, "fvu": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("fvu")] == [(10, 0.25)]


TINY = ["--tokens", "300", "--latents", "64", "--k", "4", "--batch-size", "64", "--held-out", "3", "--context", "32"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    texts = [f"{text} It was day {i}, and much was left to do." for i in range(6) for text in TEXTS]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


HOW = [
    pytest.param(["--epochs", "1"], id="shards", marks=pytest.mark.slow),
    pytest.param(["--streaming", "--buffer", "100"], id="stream"),
]


@pytest.mark.parametrize("how", HOW)
def test_the_command_ends_with_an_sae_that_others_can_read(corpus: Path, tmp_path: Path, how: list[str]) -> None:
    out = tmp_path / "out"
    assert command.main([str(corpus), "--out", str(out), "--site", "2", *TINY, *how]) == 0
    stored = load(str(out / "sae"))
    assert site_of(stored) == Site(2)
    assert "FVU" in (out / "sae" / "README.md").read_text(encoding="utf-8")
    about = json.loads((out / "sae" / "training.json").read_text(encoding="utf-8"))
    assert about["tokens"] >= 300
    assert about["texts"] >= 20
    assert len(pd.read_csv(out / "sae" / "training.csv")) >= 1
    assert overlap.overlap(["It was day 3, and much was left to do."], out / "sae")[0] == 1
    assert (out / "shards").exists() == ("--streaming" not in how)
    records = {"capture.json", "plan.json", "training.csv"}
    assert {path.name for path in out.iterdir()} <= {*records, "shards", "sae", "checkpoints"}


@pytest.mark.slow
def test_a_finished_streaming_command_gives_the_same_again(corpus: Path, tmp_path: Path) -> None:
    asked = [str(corpus), "--out", str(tmp_path / "out"), "--site", "2", *TINY, "--streaming", "--buffer", "100"]
    weights = tmp_path / "out" / "sae" / "sae_weights.safetensors"
    assert command.main(asked) == 0
    before = weights.read_bytes()
    assert command.main(asked) == 0
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_the_command_trains_on_shards_of_another_capture(corpus: Path, tmp_path: Path) -> None:
    from experiments import capture

    acts = tmp_path / "acts"
    assert capture.main(["--corpus", str(corpus), "--site", "2", "--out", str(acts), "--tokens", "300"]) == 0
    arguments = ["--architecture", "topk", "--latents", "64", "--k", "4", "--batch-size", "64", "--held-out", "3"]
    assert command.main(["--shards", str(acts), "--out", str(tmp_path / "o"), *arguments]) == 0
    stored = load(str(tmp_path / "o" / "sae"))
    assert (site_of(stored), stored.cfg.k) == (Site(2), 4)


def test_the_verb_leaves_what_the_command_leaves(corpus: Path, tmp_path: Path) -> None:
    how = ["--streaming", "--buffer", "100", "--site", "2"]
    assert command.main([str(corpus), "--out", str(tmp_path / "command"), *TINY, *how, "--quiet"]) == 0
    found = train_sae(
        corpus,
        out=tmp_path / "verb",
        plan=TrainingPlan(n_latents=64, k=4, batch_size=64, epochs=1.0),
        **{"tokens": 300, "held_out": 3, "context": 32, "streaming": True, "buffer": 100, "site": "2"},
    )
    theirs = tmp_path / "command" / "sae"
    for path in found.folder.iterdir():
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name
    assert {path.name for path in theirs.iterdir()} == {path.name for path in found.folder.iterdir()}
    assert (found.site, len(found.log)) == ("blocks.2.hook_resid_post", len(pd.read_csv(theirs / "training.csv")))
    assert found.card == (theirs / "README.md").read_text(encoding="utf-8")
    assert len(found.sentences) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"held_out": 0},
        {"tokens": 0},
        {"buffer": 5},
        {"held_out": 1000},
        {"epochs": 2.0, "streaming": True},
    ],
)
def test_the_verb_names_the_argument_that_is_wrong(wrong: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    asked = dict(wrong)
    plan = TrainingPlan(epochs=asked.pop("epochs")) if "epochs" in asked else None
    with pytest.raises(UserError) as told:
        train_sae(corpus, out=tmp_path / "out", plan=plan, **asked)
    assert told.value.where == next(iter(wrong))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [["--site", "3"], ["--held-out", "9"], ["--latents", "128"], ["--context", "16"]])
def test_the_command_never_mixes_two_requests(
    tmp_path: Path, change: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards of another site, or an evaluation set that moved into training, would go unnoticed."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS))
    too_many = [*TINY, "--tokens", "100000"]  # stops after the capture: the corpus is too small
    assert command.main([str(corpus), "--out", str(tmp_path / "o"), "--site", "2", *too_many]) == 2
    assert "clean tokens" in capsys.readouterr().err
    assert command.main([str(corpus), "--out", str(tmp_path / "o"), "--site", "2", *too_many, *change]) == 2
    assert "begun with another" in capsys.readouterr().err


@pytest.mark.parametrize("how", [[], ["--streaming"]])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--site", "99"], "no block 99"),
        (["--model", "./typo"], "could not be loaded"),
        (["--context", "1"], "context of 1"),
        (["--held-out", "1000"], "no text behind the first 1,000"),
        (["--tokens", "0"], "--tokens: 0 is too small"),
    ],
)
def test_a_refused_command_does_not_refuse_the_corrected_one(
    corpus: Path, tmp_path: Path, wrong: list[str], message: str, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.main([str(corpus), "--out", str(out), *TINY, *how, *wrong]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_command_refuses_too_few_epochs_before_it_keeps_a_record(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(corpus), "--out", str(tmp_path / "out"), *TINY, "--epochs", "0.01"]) == 2
    assert "less than one batch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_record_of_a_plan_is_read_with_care(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "out" / "plan.json"
    record.parent.mkdir()
    asked = [str(corpus), "--out", str(record.parent), *TINY]
    record.write_text('{"k": 4, ')
    assert command.main(asked) == 2
    assert "plan.json is damaged" in capsys.readouterr().err
    older = {"architecture": "batchtopk", "n_latents": 64, "k": 4, "batch_size": 64}
    record.write_text(json.dumps(older))
    assert command.main([*asked, "--k", "5", "--seed", "1"]) == 2
    assert "begun with another k, seed" in capsys.readouterr().err
    assert json.loads(record.read_text()) == older
    refuse_another(record.parent, {}, command.plan_of(read_options(asked)))


def read_options(arguments: list[str]) -> argparse.Namespace:
    return shared.read(command.parser(), arguments)


def test_a_configuration_file_says_what_the_command_line_says(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "corpus: a.jsonl\narchitecture: matryoshka\nlr: 1e-3\nmatryoshka_widths: [8, 64]\nlatents: 64\nk: 4\n"
    )
    options = read_options(["--config", str(path), "--k", "5"])
    assert options.corpus == "a.jsonl"
    assert command.plan_of(options) == TrainingPlan("matryoshka", 64, 5, lr=1e-3, matryoshka_widths=(8, 64))
    assert read_options(["b.jsonl", "--config", str(path)]).corpus == "b.jsonl"
    small = command.plan_of(read_options(["--smoke-test", "--k", "5"]))
    assert (small.k, small.n_latents) == (5, 512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nowhere"),
        (["none.parquet"], "no corpus"),
        (["c.txt", "--streaming", "--epochs", "2"], "--epochs: 2 epochs of a stream"),
        (["c.txt", "--buffer", "100"], "--buffer: buffer has no meaning"),
        (["c.txt", "--shards", "x"], "corpus and shards"),
        (["--shards", "x", "--tokens", "5"], "--tokens: tokens has no meaning"),
        (["--shards", "empty"], "no activation shards"),
        (["c.txt", "--architecture", "top-k"], "Did you mean 'topk'"),
        (["c.txt", "--latents", "0"], "--latents: n_latents is 0"),
        (["c.txt", "--smoke-test"], "texts of its own"),
        (["c.txt", "--k", "10000"], "1 to the 9216 latents"),
        (["c.txt", "--held-out", "0"], "--held-out: 0 is too small"),
        (["c.txt", "--config", "none.yaml"], "none.yaml"),
        (["--config", "key.yaml"], "Did you mean 'latents'"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.txt").write_text("One text.\n\nAnother text.")
    (tmp_path / "key.yaml").write_text("latent: 64\n")
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_smoke_test_comes_to_its_card(tmp_path: Path) -> None:
    assert command.main(["--smoke-test", "--out", str(tmp_path)]) == 0
    assert "Smoke test" in (tmp_path / "sae" / "README.md").read_text(encoding="utf-8")


def batches_of(data: ShardData, n: int) -> Iterator[torch.Tensor]:
    return (next(data) for _ in range(n))


def test_shards_taken_up_again_give_the_batches_that_would_have_come(planted: tuple[Path, SyntheticModel]) -> None:
    shards, _ = planted
    straight = list(batches_of(ShardData(shards, 500, 3), 30))
    later = ShardData(shards, 500, 3)
    later.position = 25  # in the second epoch
    for a, b in zip(straight[25:], batches_of(later, 5), strict=True):
        assert torch.equal(a, b)
