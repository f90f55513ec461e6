"""The sparse training step is SAELens' own mathematics; encoding, evaluation and controls do what they say."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sae_lens import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file, save_file

from experiments import train_sae
from neurosae.corpora import read_texts, sentences
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.responses import Responses
from neurosae.sae import overlap
from neurosae.sae.activations import ContextPlan, ShardReader, capture_shards, clean_activations
from neurosae.sae.encoding import encode, encode_rows
from neurosae.sae.evaluation import evaluate
from neurosae.sae.loading import load, site_of, untrained_like
from neurosae.sae.training import TrainingPlan, initial_sae, train
from neurosae.sites import Site
from tests.conftest import TEXTS

PLAN = TrainingPlan(n_latents=96, k=4, k_start=4, batch_size=64, epochs=2)


@pytest.fixture
def x_TD() -> torch.Tensor:
    return torch.randn(200, 24, generator=torch.Generator().manual_seed(0)) + 0.3


def step_input(x: torch.Tensor, dead: torch.Tensor | None = None) -> TrainStepInput:
    return TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False)


@pytest.mark.parametrize("with_dead", [False, True])
def test_the_sparse_step_equals_the_dense_step(x_TD: torch.Tensor, with_dead: bool) -> None:
    """Loss and every gradient agree with SAELens' class on the same weights."""
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


def test_dead_latents_get_a_gradient(x_TD: torch.Tensor) -> None:
    sae = initial_sae(PLAN, x_TD, 1.0, {})
    dead = torch.zeros(96, dtype=torch.bool)
    dead[:10] = True
    with torch.no_grad():
        sae.b_enc[:10] = -100.0
    sae.training_forward_pass(step_input(x_TD, dead)).loss.backward()
    assert sae.W_enc.grad is not None
    assert (sae.W_enc.grad[:, :10].abs().sum(0) > 0).all()


def test_encoder_and_decoder_share_no_storage(x_TD: torch.Tensor) -> None:
    sae = initial_sae(PLAN, x_TD, 1.0, {})
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()
    np.testing.assert_allclose(sae.W_dec.norm(dim=-1).detach(), 1, atol=1e-6)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """Shards of sparse combinations of known directions, far from unit scale and off centre."""
    folder = tmp_path_factory.mktemp("shards")
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(48, 32, generator=generator), dim=-1)
    for part in range(2):
        codes = torch.rand(6000, 48, generator=generator) * (torch.rand(6000, 48, generator=generator) < 0.06)
        acts = 40 * codes @ directions + 7
        save_file({"acts": acts.bfloat16(), "last_row": torch.tensor(part)}, folder / f"part{part:03d}.safetensors")
    return folder, directions


def test_training_recovers_a_planted_dictionary_in_raw_units(
    planted: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    shards, directions = planted
    plan = TrainingPlan(n_latents=96, k=3, k_start=6, batch_size=256, epochs=40, lr=3e-3, dead_after_tokens=5000)
    sae, trainer = train(shards, plan, Site(3), "planted", tmp_path, n_checkpoints=0)
    found = torch.nn.functional.normalize(sae.W_dec.detach(), dim=-1) @ directions.T
    assert float((found.max(0).values > 0.9).float().mean()) >= 0.9
    train_sae.save_shipped(sae, tmp_path / "sae")
    stored = load(str(tmp_path / "sae"))
    assert str(site_of(stored)) == "blocks.3.hook_resid_post"
    x = ShardReader(shards, 512, 1).rows(np.arange(2000))
    with torch.inference_mode():
        codes = stored.encode(x)
        out = stored.decode(codes)
    fvu = float((out - x).square().sum() / (x - x.mean(0)).square().sum())
    assert fvu < 0.15
    assert float((codes > 0).float().sum(1).mean()) == pytest.approx(plan.k, rel=0.15)
    assert trainer.history[0]["fvu"] > 2 * fvu


def test_a_resumed_training_ends_with_the_same_weights(planted: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    shards, _ = planted
    plan = TrainingPlan(n_latents=64, k=3, k_start=6, batch_size=512, epochs=2)
    whole, _ = train(shards, plan, Site(3), "planted", tmp_path / "whole", n_checkpoints=2)
    checkpoints = sorted((tmp_path / "whole" / "checkpoints").iterdir(), key=lambda p: int(p.name))
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)
    checkpoints[0].rename(tmp_path / "cut" / "checkpoints" / checkpoints[0].name)
    resumed, _ = train(shards, plan, Site(3), "planted", tmp_path / "cut", n_checkpoints=2)
    np.testing.assert_allclose(resumed.W_dec.detach(), whole.W_dec.detach(), atol=1e-5)


def test_batches_are_every_row_once_per_epoch_in_a_seeded_order(planted: tuple[Path, torch.Tensor]) -> None:
    shards, _ = planted
    reader = ShardReader(shards, 500, seed=3)
    first = torch.cat(list(itertools.islice(reader, reader.steps_per_epoch)))
    everything = reader.rows(np.arange(reader.n))
    np.testing.assert_allclose(first.double().sum(0), everything.double().sum(0), rtol=1e-6)
    again = ShardReader(shards, 500, seed=3)
    again.step = 5
    third = list(itertools.islice(ShardReader(shards, 500, seed=3), 6))[5]
    assert torch.equal(next(again), third)


def test_shards_hold_clean_tokens_and_resume(language_model: LanguageModel, tmp_path: Path) -> None:
    texts = [f"{text} And number {i} follows here, in a second sentence." for i in range(12) for text in TEXTS]
    site, plan = Site(2), ContextPlan(context=32, sentences_every=4)
    capture_shards(language_model, iter(texts), site, tmp_path / "a", n_tokens=400, plan=plan, shard_tokens=150)
    whole = ShardReader(tmp_path / "a", 1, 0)
    assert json.loads((tmp_path / "a" / "shards.json").read_text())["tokens"] == whole.n >= 400
    assert whole.shards[0].float().norm(dim=-1).max() < 1000


def test_clean_activations_leave_out_sink_and_padding(language_model: LanguageModel) -> None:
    parts = list(clean_activations(language_model, TEXTS, Site(15), context=64, tokens_per_batch=60))
    n_text = sum(len(language_model.tokenizer(text).input_ids) for text in TEXTS)
    assert sum(len(acts) + dropped for acts, dropped in parts) == n_text
    assert torch.cat([acts for acts, _ in parts]).norm(dim=-1).max() < 2000


@pytest.fixture(scope="module")
def sae() -> object:
    return load()


def test_the_bundled_sae_knows_its_site(sae: object, language_model: LanguageModel) -> None:
    assert site_of(sae) == Site(15)
    assert sae.cfg.d_in == language_model.d_model  # type: ignore[attr-defined]
    assert sae.cfg.d_sae >= 4608  # type: ignore[attr-defined]
    assert (
        load_file(Path(train_sae.__file__).parents[1] / "neurosae/pretrained" / sae_name() / "sae_weights.safetensors")[
            "W_enc"
        ].dtype
        == torch.bfloat16
    )


def test_sae_lens_alone_reads_the_bundled_sae_alike(sae: object) -> None:
    from sae_lens import SAE

    folder = Path(train_sae.__file__).parents[1] / "neurosae/pretrained" / sae_name()
    x = torch.randn(20, 576, generator=torch.Generator().manual_seed(5)) * 20
    with torch.inference_mode():
        theirs, ours = SAE.load_from_disk(folder).encode(x), sae.encode(x)  # type: ignore[attr-defined]
    np.testing.assert_allclose(theirs.float(), ours, rtol=1e-5, atol=1e-4)


def sae_name() -> str:
    from neurosae.sae.loading import DEFAULT

    return DEFAULT


def test_the_bundled_sae_is_as_good_as_its_card_says(sae: object, language_model: LanguageModel) -> None:
    """On sentences written for the stimulus sets, which no corpus contains."""
    from neurosae.stimuli import load as load_stimuli

    texts = load_stimuli("success").table["text"].tolist()[:60]
    figures = evaluate(sae, language_model, texts, spliced_texts=10)
    assert figures.fvu_clean < 0.25
    assert 20 < figures.l0 < 40
    assert not 0.5 < figures.fvu_naive / figures.fvu_clean < 2  # a few tokens rule it
    assert 0 < figures.ce_spliced - figures.ce < 1


def test_encoding_does_not_depend_on_the_block_size(sae: object) -> None:
    x = np.random.default_rng(0).normal(size=(50, 576)).astype(np.float32) * 20
    whole, parts = encode_rows(sae, x), encode_rows(sae, x, block_tokens=7)
    assert sp.issparse(whole)
    np.testing.assert_allclose(whole.toarray(), parts.toarray(), rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        dense = sae.encode(torch.from_numpy(x)).numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(whole.toarray(), dense, rtol=1e-5, atol=1e-4)


def test_sinks_and_outliers_stay_silent_and_rows_stay_in_place(sae: object) -> None:
    rng = np.random.default_rng(1)
    role = ["sink", "text", "text", "text", "template"]
    tokens = pd.DataFrame({"stimulus": [0, 0, 1, 1, 1], "role": role, "normal": [True, True, True, False, True]})
    neurons = Responses(
        rng.normal(size=(5, 576)).astype(np.float32) * 30, tokens, pd.DataFrame({"text": "ab"}, [0, 1]), "x"
    )
    latents = encode(sae, neurons, "bundled")
    alone = encode_rows(sae, neurons.values)
    for row, known in enumerate([False, True, True, False, True]):
        expected = alone[[row]].toarray() if known else np.zeros((1, latents.n_features))
        np.testing.assert_allclose(latents.values[[row]].toarray(), expected, rtol=1e-5, atol=1e-4)


def test_the_untrained_control_has_the_same_width_and_l0(sae: object) -> None:
    x = torch.randn(400, 576, generator=torch.Generator().manual_seed(2)) * 8
    control = untrained_like(sae, x, seed=1)
    with torch.inference_mode():
        ours, trained = control.encode(x) > 0, sae.encode(x) > 0  # type: ignore[attr-defined]
    assert ours.shape == trained.shape
    assert ours.float().mean().item() == pytest.approx(trained.float().mean().item(), rel=0.02)
    again = untrained_like(sae, x, seed=1)
    assert torch.equal(control.W_dec, again.W_dec)
    assert not torch.equal(control.W_dec, untrained_like(sae, x, seed=2).W_dec)


def test_an_sae_of_another_width_is_refused(sae: object) -> None:
    with pytest.raises(UserError, match="width 576"):
        encode_rows(sae, np.zeros((2, 64), np.float32))


def test_broken_saes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown SAE"):
        load("smolm2")
    source = Path(train_sae.__file__).parents[1] / "neurosae/pretrained" / sae_name()
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(UserError, match=r"cfg\.json"):
        load(str(broken))
    (broken / "cfg.json").write_bytes((source / "cfg.json").read_bytes())
    (broken / "sae_weights.safetensors").write_bytes((source / "sae_weights.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="no complete SAE"):
        load(str(broken))


def test_sentences_of_the_training_text_are_recognised(tmp_path: Path) -> None:
    known = ["The lamp went out again. Nobody in the room moved. No.", "A single unusual sentence about herons."]
    np.save(tmp_path / overlap.FILE, overlap.hash_texts(known))
    shares = overlap.overlap(
        [known[0].upper(), "Nobody in the room moved. Something quite new happened.", "New one entirely.", "No."],
        tmp_path,
    )
    np.testing.assert_allclose(shares, [1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".txt"])
def test_corpora_are_read_alike(tmp_path: Path, suffix: str) -> None:
    texts = ["One text here.", "Another, with ünïcode.", "And a third."]
    path = tmp_path / f"c{suffix}"
    if suffix == ".parquet":
        pd.DataFrame({"text": texts, "other": 1}).to_parquet(path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": t}) for t in texts), encoding="utf-8")
    else:
        path.write_text("\n\n".join(texts), encoding="utf-8")
    assert list(read_texts(path)) == texts
    assert list(read_texts(tmp_path)) == texts


def test_bad_corpora_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"no": 1}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2"):
        list(read_texts(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_text("text")
    with pytest.raises(UserError, match="format"):
        list(read_texts(tmp_path / "a.csv"))
    with pytest.raises(UserError, match="no corpus"):
        list(read_texts(tmp_path / "nothing.txt"))


def test_short_pieces_are_no_sentences() -> None:
    assert sentences("Yes. He went home at noon! Why?") == ["He went home at noon!"]


TINY = ["--tokens", "300", "--latents", "64", "--k", "4", "--epochs", "1", "--batch-size", "64", "--held-out", "3"]


def test_train_command_ends_with_an_sae_that_others_can_read(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "\n\n".join(f"{text} It was day {i}, and much was left to do." for i in range(6) for text in TEXTS)
    )
    out = tmp_path / "out"
    assert train_sae.main([str(corpus), "--out", str(out), "--site", "2", "--context", "32", *TINY]) == 0
    stored = load(str(out / "sae"))
    assert site_of(stored) == Site(2)
    assert "FVU" in (out / "sae/README.md").read_text()
    about = json.loads((out / "sae/training.json").read_text())
    assert about["tokens"] >= 300
    assert overlap.overlap(["It was day 3, and much was left to do."], out / "sae")[0] == 1


@pytest.mark.parametrize("change", [["--site", "3"], ["--held-out", "9"], ["--latents", "128"], ["--context", "16"]])
def test_train_command_never_mixes_two_requests(
    tmp_path: Path, change: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards of another site, or an evaluation set that moved into training, would go unnoticed."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS))
    too_many = [*TINY, "--tokens", "100000"]  # stops after the capture: the corpus is too small
    assert train_sae.main([str(corpus), "--out", str(tmp_path / "o"), "--site", "2", *too_many]) == 2
    assert "clean tokens" in capsys.readouterr().err
    assert train_sae.main([str(corpus), "--out", str(tmp_path / "o"), "--site", "2", *too_many, *change]) == 2
    assert "begun with another" in capsys.readouterr().err


def test_a_corpus_that_ends_early_keeps_what_it_gave(language_model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gave [1-9]"):
        capture_shards(language_model, iter(TEXTS), Site(2), tmp_path, n_tokens=10_000)
    assert ShardReader(tmp_path, 1, 0).n > 10


def test_train_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert train_sae.main([str(tmp_path / "none.parquet"), "--out", str(tmp_path / "o")]) == 2
    assert "no corpus" in capsys.readouterr().err
