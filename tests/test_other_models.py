"""Checkpoints of other architectures, tiny and random: what is captured is what Hugging Face and the bridge compute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from transformers import (
    AutoModelForCausalLM,
    CTRLConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from experiments import combinatorial
from neurosae import models
from neurosae.capture import capture
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.responses import Responses
from neurosae.sites import STREAMS, Site
from tests.conftest import TEXTS

N_BLOCKS, WIDTH = 4, 32
SITES = [Site(block, stream) for block in (0, 2, N_BLOCKS - 1) for stream in STREAMS]
SPECIAL = {"vocab_size": 49152, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2}
SIZE = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**SIZE, **SPECIAL, "num_key_value_heads": 2}
WINDOWED = {**GROUPED, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
CONFIGURATIONS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(n_embd=WIDTH, n_layer=N_BLOCKS, n_head=4, n_positions=128, **SPECIAL),
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "gemma2": Gemma2Config(**WINDOWED),
    "gemma3": Gemma3TextConfig(**WINDOWED),
    "gpt_neox": GPTNeoXConfig(**SIZE, **SPECIAL),
    "gpt_neox_sequential": GPTNeoXConfig(**SIZE, **SPECIAL, use_parallel_residual=False),
}
RAW = ["--representation", "raw", "--block", "2"]
SMALL = ["--concept", "success", "--selector", "t", "--k", "2", "--repeats", "1", "--permutations", "5", "--quiet"]


def checkpoint(folder: Path, configuration: PreTrainedConfig) -> Path:
    """A random model with the bundled model's tokenizer, as transformers saves it."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configuration).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(models.prepare() / name, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Norms and responses of random models do not belong into the user's cache."""
    models.prepare()
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        (cache / "models").symlink_to(models.prepare().parent)
        patch.setenv("NEUROSAE_CACHE", str(cache))
        yield


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = checkpoint(tmp_path_factory.mktemp(request.param), CONFIGURATIONS[request.param])
    return models.load(str(folder))


@pytest.fixture(scope="module")
def captured(model: LanguageModel) -> dict[Site, Responses]:
    return capture(model, TEXTS, SITES, batch_size=2)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "llama", CONFIGURATIONS["llama"])


def tokens(model: LanguageModel, text: str) -> torch.Tensor:
    return torch.tensor([[model.sink_token, *model.tokenizer(text, add_special_tokens=False).input_ids]])


def rows(responses: Responses, text: str) -> np.ndarray:
    return np.asarray(responses.values[responses.tokens["stimulus"] == TEXTS.index(text)])


def relative_error(values: np.ndarray, expected: np.ndarray) -> float:
    assert values.shape == expected.shape
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def test_the_shape_of_the_model_is_known(model: LanguageModel) -> None:
    assert (model.n_blocks, model.d_model, model.context) == (N_BLOCKS, WIDTH, 128)


def test_streams_are_hugging_faces_hidden_states(model: LanguageModel, captured: dict[Site, Responses]) -> None:
    for text in TEXTS:
        with torch.inference_mode():
            output = model.base(input_ids=tokens(model, text), output_hidden_states=True, use_cache=False)
        hidden = [state[0].numpy() for state in output.hidden_states]
        assert len(hidden) == N_BLOCKS + 1
        for block in (0, 2):
            before, after = (rows(captured[Site(block, stream)], text) for stream in ("resid_pre", "resid_post"))
            assert relative_error(before, hidden[block]) < 1e-5
            assert relative_error(after, hidden[block + 1]) < 1e-5
            assert relative_error(before, hidden[block + 1]) > 0.01
        # The last hidden state comes after the final norm; the last block's own output is in no entry.
        last = rows(captured[Site(N_BLOCKS - 1)], text)
        assert relative_error(rows(captured[Site(N_BLOCKS - 1, "resid_pre")], text), hidden[-2]) < 1e-5
        assert min(relative_error(last, hidden[-1]), relative_error(last, hidden[-2])) > 0.01


def test_every_stream_is_heard_where_the_bridge_has_its_hook(
    model: LanguageModel, captured: dict[Site, Responses]
) -> None:
    with torch.inference_mode():
        _, cache = model.bridge.run_with_cache(tokens(model, TEXTS[1]))
    for site in SITES:
        assert relative_error(rows(captured[site], TEXTS[1]), cache[str(site)][0].numpy()) < 1e-5, site


def test_the_streams_of_a_block_add_up(captured: dict[Site, Responses]) -> None:
    """In sequence or in parallel, with norms after the components or without: what is added is what was heard."""
    for block in (0, 2, N_BLOCKS - 1):
        parts = [captured[Site(block, stream)].values for stream in ("resid_pre", "attn_out", "mlp_out")]
        total = captured[Site(block)].values
        assert relative_error(np.sum(parts, axis=0), total) < 1e-5
        for part in parts:
            assert relative_error(total - part, total) > 0.01  # no part is too small to be missed


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_does_not_matter(model: LanguageModel, captured: dict[Site, Responses], batch_size: int) -> None:
    """Right padding and no attention mask: sliding windows and soft caps included."""
    again = capture(model, TEXTS, SITES, batch_size=batch_size)
    for site in SITES:
        assert relative_error(again[site].values, captured[site].values) < 1e-5, site
        pd.testing.assert_frame_equal(again[site].tokens, captured[site].tokens)


def test_half_the_precision_hears_nearly_the_same(llama: Path) -> None:
    full, half = (
        capture(models.load(str(llama), dtype=name), TEXTS, [Site(2)])[Site(2)] for name in ("float32", "bfloat16")
    )
    assert half.values.dtype == np.float32
    assert 1e-5 < relative_error(half.values, full.values) < 0.05
    assert half.source["fingerprint"] != full.source["fingerprint"]


def run(*arguments: str) -> int:
    return combinatorial.main([*SMALL, "--stages", "select", "--no-controls", "--jobs", "1", *arguments])


def sae_folder(folder: Path, width: int, block: int) -> Path:
    """A small random SAE in SAELens' format."""
    metadata = SAEMetadata(model_name="tiny", hook_name=str(Site(block)))
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=width, d_sae=64, metadata=metadata))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(sae.W_enc.shape, generator=generator))
        sae.W_dec.copy_(sae.W_enc.T)
    sae.save_model(folder)
    return folder


def test_the_runner_compares_on_another_model(llama: Path, tmp_path: Path) -> None:
    assert run("--model", str(llama), *RAW, "--out", str(tmp_path / "out")) == 0
    (folder,) = (tmp_path / "out/success").iterdir()
    variants = pd.read_parquet(folder / "tables/variants.parquet")
    assert variants[["representation", "selector", "k", "block"]].to_numpy().tolist() == [["raw", "t", 2, 2]]
    assert variants["auroc"].between(0, 1).all()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["configuration"]["source"]["model"] == str(llama)


def test_the_runner_takes_an_sae_of_another_model(llama: Path, tmp_path: Path) -> None:
    sae = sae_folder(tmp_path / "sae", WIDTH, 1)
    assert run("--model", str(llama), "--sae", str(sae), "--out", str(tmp_path / "out")) == 0
    (folder,) = (tmp_path / "out/success").iterdir()
    variants = pd.read_parquet(folder / "tables/variants.parquet")
    assert set(zip(variants["representation"], variants["block"], strict=True)) == {("raw", 1), ("sae", 1)}


def test_an_sae_of_another_width_is_refused(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = sae_folder(tmp_path / "sae", 48, 2)
    arguments = ["--model", str(llama), "--representation", "sae", "--sae", str(sae)]
    assert run(*arguments, "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "width 48" in error
    assert f"gives {WIDTH}" in error
    assert "Traceback" not in error


def test_an_sae_of_a_deeper_model_is_refused(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled SAE reads block 15; this model has four."""
    assert run("--model", str(llama), "--representation", "sae", "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "There is no block 15" in error
    assert f"0 to {N_BLOCKS - 1}" in error


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_that_are_not_there_are_not_made_up(llama: Path) -> None:
    edit(llama / "config.json", num_hidden_layers=N_BLOCKS + 2)
    with pytest.raises(UserError, match=r"lacks 18 weights, e\.g\. model\.layers\.4"):
        models.load(str(llama))


def test_weights_of_another_shape_are_refused(llama: Path) -> None:
    edit(llama / "config.json", intermediate_size=48)
    with pytest.raises(UserError, match="could not be loaded"):
        models.load(str(llama))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("kept", [0, 5, 200])
def test_a_checkpoint_cut_short_is_refused(llama: Path, name: str, kept: int) -> None:
    path = llama / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="could not be loaded"):
        models.load(str(llama))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_without_a_file_is_refused(llama: Path, name: str) -> None:
    (llama / name).unlink()
    with pytest.raises(UserError, match="could not be loaded"):
        models.load(str(llama))


def test_an_architecture_without_a_bridge_is_refused(tmp_path: Path) -> None:
    configuration = CTRLConfig(n_embd=WIDTH, n_layer=2, n_head=2, dff=64, **SPECIAL)
    with pytest.raises(UserError, match=r"no bridge for .* \(CTRLLMHeadModel\)"):
        models.load(str(checkpoint(tmp_path / "ctrl", configuration)))
