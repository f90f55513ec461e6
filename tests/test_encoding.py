"""Block-wise sparse encoding is ``sae.encode`` for every architecture, to the last bit where arithmetic is exact."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.registry import get_sae_class
from safetensors.torch import save_file

from neurosae.errors import UserError
from neurosae.responses import Responses
from neurosae.sae.encoding import decode_rows, encode, encode_rows
from neurosae.sae.loading import load

T, D, F, K = 37, 6, 43, 5
TRANSCODERS = ["transcoder", "jumprelu_transcoder", "skip_transcoder", "jumprelu_skip_transcoder"]
# Architecture and what is special in its configuration.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"apply_b_dec_to_input": flag}) for name in ("standard", "jumprelu", "gated") for flag in (True, False)),
    *(("topk", {"k": K, "apply_b_dec_to_input": flag}) for flag in (True, False)),
    ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ("topk", {"k": F}),
    *((name, {"d_out": D, "apply_b_dec_to_input": False}) for name in TRANSCODERS),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
]
UNSCALED = [case for case in CASES if "normalize_activations" not in case[1]]
MEMORIES = st.integers(1, 40_000)  # bytes; blocks of one token and one latent up to everything at once


def make(architecture: str, *, whole: bool = False, n_latents: int = F, seed: int = 0, **options: Any) -> Any:
    """A SAELens object with random weights; `whole` numbers make every sum exact in float32 and ties common."""
    sae_class, config_class = get_sae_class(architecture)
    sae = sae_class(config_class(d_in=D, d_sae=n_latents, **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            values = (values * 2).round() if whole else values
            parameter.copy_(values.abs() if name == "threshold" else values)
    return sae.eval()


def rows(n: int = T, *, whole: bool = False, seed: int = 0) -> np.ndarray:
    x_TD = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32) * 3
    return np.round(x_TD) if whole else x_TD


def dense(sae: Any, x_TD: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return sae.encode(torch.from_numpy(x_TD)).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_codes_are_those_of_sae_lens(architecture: str, options: dict[str, Any]) -> None:
    sae = make(architecture, **options)
    expected = dense(sae, rows())
    for memory in (300, 3000, 2**26):
        codes = encode_rows(sae, rows(), memory=memory)
        assert isinstance(codes, sp.csr_array) and codes.dtype == np.float32 and codes.has_sorted_indices
        np.testing.assert_allclose(codes.toarray(), expected, rtol=1e-5, atol=1e-5)
        assert np.count_nonzero(codes.data) == codes.nnz == np.count_nonzero(expected)


@pytest.mark.parametrize(
    ("architecture", "options"), [case for case in CASES if "normalize_activations" not in case[1]]
)
@given(memory=MEMORIES, seed=st.integers(0, 1000), n=st.integers(0, 30))
@settings(max_examples=12, deadline=None)
def test_blocks_change_nothing(architecture: str, options: dict[str, Any], memory: int, seed: int, n: int) -> None:
    """Whole numbers: a pre-activation is the same number in any block, so that codes must agree to the last bit."""
    rescaled = "rescale_acts_by_decoder_norm" in options
    sae = make(architecture, whole=not rescaled, seed=seed, **options)
    x_TD = rows(n, whole=True, seed=seed)
    once, parts = encode_rows(sae, x_TD), encode_rows(sae, x_TD, memory=memory)
    assert once.shape == parts.shape == (n, F)
    if rescaled or architecture == "gated":  # the norms and exp(r_mag) are no whole numbers
        np.testing.assert_allclose(once.toarray(), parts.toarray(), rtol=1e-5, atol=1e-5)
        return
    for attribute in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(once, attribute), getattr(parts, attribute))


@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_cores_change_nothing(architecture: str, options: dict[str, Any]) -> None:
    sae, x_TD, before = make(architecture, **options), rows(1000), torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        found = encode_rows(sae, x_TD, memory=2**17)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found.toarray(), dense(sae, x_TD), rtol=1e-5, atol=1e-5)


@given(memory=MEMORIES, seed=st.integers(0, 1000), k=st.integers(1, F))
@settings(max_examples=60, deadline=None)
def test_top_k_is_exact_with_ties_and_prefers_the_lower_latent(memory: int, seed: int, k: int) -> None:
    sae, x_TD = make("topk", whole=True, seed=seed, k=k), rows(9, whole=True, seed=seed)
    codes = encode_rows(sae, x_TD, memory=memory)
    pre_TF = (x_TD - sae.b_dec.detach().numpy()) @ sae.W_enc.detach().numpy() + sae.b_enc.detach().numpy()
    expected = np.zeros_like(pre_TF)
    for row, pre_F in enumerate(pre_TF):
        best = np.argsort(-pre_F, kind="stable")[:k]
        expected[row, best] = np.maximum(pre_F[best], 0)
    np.testing.assert_array_equal(codes.toarray(), expected)
    np.testing.assert_array_equal(np.sort(codes.toarray()), np.sort(dense(sae, x_TD)))


@pytest.mark.parametrize(("architecture", "options"), CASES)
@given(latents=st.lists(st.integers(0, F - 1), max_size=12), memory=MEMORIES)
@settings(max_examples=12, deadline=None)
def test_some_latents_are_columns_of_all(
    architecture: str, options: dict[str, Any], latents: list[int], memory: int
) -> None:
    """In the order asked for. TopK competes over all latents: a slice of its own would let weaker ones through."""
    sae = make(architecture, **options)
    some = encode_rows(sae, rows(), latents=latents, memory=memory)
    assert some.shape == (T, len(latents))
    np.testing.assert_allclose(some.toarray(), dense(sae, rows())[:, latents], rtol=1e-5, atol=1e-5)


def test_few_latents_read_only_their_weights() -> None:
    """What is not asked for is not touched: its weights may be anything."""
    sae = make("jumprelu")
    expected = dense(sae, rows())[:, [7, 3]]
    with torch.no_grad():
        others = [latent for latent in range(F) if latent not in (3, 7)]
        sae.W_enc[:, others] = torch.nan
    np.testing.assert_allclose(encode_rows(sae, rows(), latents=[7, 3]).toarray(), expected, rtol=1e-5, atol=1e-5)


def test_a_latent_is_active_above_its_threshold_and_not_at_it() -> None:
    sae = make("jumprelu", whole=True, apply_b_dec_to_input=False)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc[:6] = torch.tensor([2.0, 2.0, 2.0, -1.0, 0.0, 1e-30])
        just_below = torch.nextafter(torch.tensor(2.0), torch.tensor(0.0))
        sae.threshold[:6] = torch.tensor([2.0, float(just_below), 3.0, -2.0, -1.0, 0.0])
    found = encode_rows(sae, rows(1)).toarray()[0, :6]
    np.testing.assert_array_equal(found, np.array([0, 2, 0, 0, 0, 1e-30], np.float32))
    np.testing.assert_array_equal(found, dense(sae, rows(1))[0, :6])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "gated", "transcoder"])
def test_low_precision_weights_compute_in_float32(architecture: str, dtype: torch.dtype) -> None:
    options = {"k": K} if architecture == "topk" else {}
    options |= {"d_out": D, "apply_b_dec_to_input": False} if architecture == "transcoder" else {}
    stored = make(architecture, **options).to(dtype=dtype)
    exact = make(architecture, **options)
    exact.load_state_dict({name: tensor.float() for name, tensor in stored.state_dict().items()})
    codes = encode_rows(stored, rows(), memory=2000)
    np.testing.assert_allclose(codes.toarray(), dense(exact, rows()), rtol=1e-5, atol=1e-5)
    assert {parameter.dtype for parameter in stored.parameters()} == {dtype} and stored.dtype == dtype
    with torch.inference_mode():
        expected = exact.decode(torch.from_numpy(codes.toarray())).numpy()
    np.testing.assert_allclose(decode_rows(stored, codes, memory=100), expected, rtol=1e-5, atol=1e-5)


def test_rows_of_hook_z_are_flat() -> None:
    """SAELens wants heads as an axis of their own and remembers their width; ours come side by side."""
    sae = make("standard", reshape_activations="hook_z")
    with torch.inference_mode():
        expected = make("standard").encode(torch.from_numpy(rows()))
    np.testing.assert_allclose(encode_rows(sae, rows()).toarray(), expected, rtol=1e-5, atol=1e-5)
    heads = torch.from_numpy(rows()).view(T, 2, D // 2)
    assert sae.decode(sae.encode(heads)).shape == heads.shape  # encoding has left no trace


@pytest.mark.parametrize(("architecture", "options"), UNSCALED)
@given(memory=MEMORIES)
@settings(max_examples=6, deadline=None)
def test_sparse_decoding_is_dense_decoding(architecture: str, options: dict[str, Any], memory: int) -> None:
    sae = make(architecture, **options)
    codes = encode_rows(sae, rows())
    with torch.inference_mode():
        expected = sae.decode(torch.from_numpy(codes.toarray())).numpy()
    np.testing.assert_allclose(decode_rows(sae, codes, memory=memory), expected, rtol=1e-4, atol=1e-4)


def test_silent_tokens_decode_to_the_bias() -> None:
    sae = make("jumprelu")
    silent = sp.csr_array((4, F), dtype=np.float32)
    np.testing.assert_array_equal(decode_rows(sae, silent), np.tile(sae.b_dec.detach().numpy(), (4, 1)))
    assert decode_rows(sae, silent[:0]).shape == (0, D)


@pytest.mark.parametrize(("architecture", "options"), CASES[:8])
def test_nothing_in_nothing_out(architecture: str, options: dict[str, Any]) -> None:
    sae = make(architecture, **options)
    assert encode_rows(sae, np.empty((0, D))).shape == (0, F)
    assert encode_rows(sae, rows(), latents=[]).shape == (T, 0)
    assert encode_rows(sae, np.empty((0, D)), latents=[1]).dtype == np.float32


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "gated"])
def test_bad_input_is_told(architecture: str) -> None:
    sae, x_TD = make(architecture), rows()
    with pytest.raises(UserError, match="width 6"):
        encode_rows(sae, np.zeros((2, 5), np.float32))
    with pytest.raises(UserError, match="width 6"):
        encode_rows(sae, np.zeros(6, np.float32))
    with pytest.raises(UserError, match="no latent 43"):
        encode_rows(sae, x_TD, latents=[0, 43])
    with pytest.raises(UserError, match="no latent -1"):
        encode_rows(sae, x_TD, latents=[-1])
    with pytest.raises(UserError, match="whole numbers"):
        encode_rows(sae, x_TD, latents=[0.5])  # type: ignore[list-item]
    x_TD[20, 3] = np.inf
    with pytest.raises(UserError, match="not finite, in row 20"):
        encode_rows(sae, x_TD, memory=2000)
    with pytest.raises(UserError, match="43 latents"):
        decode_rows(sae, sp.csr_array((2, 5)))
    with pytest.raises(UserError, match="layer_norm"):
        decode_rows(make("standard", normalize_activations="layer_norm"), sp.csr_array((2, F)))


@pytest.fixture(scope="module")
def bundled() -> Any:
    return load()


def test_the_bundled_sae_encodes_as_sae_lens_does(bundled: Any) -> None:
    x_TD = np.random.default_rng(0).normal(size=(50, 576)).astype(np.float32) * 20
    expected = dense(bundled, x_TD)
    for memory in (2**14, 2**26):
        codes = encode_rows(bundled, x_TD, memory=memory)
        np.testing.assert_allclose(codes.toarray(), expected, rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        out = bundled.decode(torch.from_numpy(expected)).numpy()
    np.testing.assert_allclose(decode_rows(bundled, codes), out, rtol=1e-4, atol=1e-3)


def test_stored_precision_gives_the_same_codes(bundled: Any) -> None:
    """The bundled SAE is stored in bfloat16 with a float32 threshold: nothing is lost, nothing converted as a whole."""
    stored = load(dtype="stored")
    assert stored.W_enc.dtype == stored.W_dec.dtype == torch.bfloat16
    assert stored.threshold.dtype == torch.float32
    x_TD = np.random.default_rng(0).normal(size=(50, 576)).astype(np.float32) * 20
    ours, theirs = encode_rows(stored, x_TD, memory=2**20), encode_rows(bundled, x_TD)
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), rtol=1e-5, atol=1e-4)


def test_sinks_and_outliers_stay_silent_and_rows_stay_in_place(bundled: Any) -> None:
    rng = np.random.default_rng(1)
    role = ["sink", "text", "text", "text", "template"]
    tokens = pd.DataFrame({"stimulus": [0, 0, 1, 1, 1], "role": role, "normal": [True, True, True, False, True]})
    neurons = Responses(
        rng.normal(size=(5, 576)).astype(np.float32) * 30, tokens, pd.DataFrame({"text": "ab"}, [0, 1]), "x"
    )
    latents = encode(bundled, neurons, "bundled")
    alone = encode_rows(bundled, neurons.values)
    for row, known in enumerate([False, True, True, False, True]):
        expected = alone[[row]].toarray() if known else np.zeros((1, latents.n_features))
        np.testing.assert_allclose(latents.values[[row]].toarray(), expected, rtol=1e-5, atol=1e-4)


LARGE, WIDTH, TOKENS = 2**20, 128, 2000


@pytest.fixture
def large_sae(tmp_path: Path) -> Iterator[Path]:
    """A million latents in bfloat16, in the layout of Gemma Scope 2: 0.54 GB, deleted afterwards."""
    folder = tmp_path / "resid_post" / "layer_3_width_1m_l0_medium"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    w_dec = torch.randn(LARGE, WIDTH, generator=generator).bfloat16()
    tensors = {"w_enc": w_dec.T.contiguous(), "b_enc": torch.zeros(LARGE), "w_dec": w_dec, "b_dec": torch.zeros(WIDTH)}
    save_file(tensors | {"threshold": torch.full((LARGE,), 3.9 * WIDTH**0.5)}, folder / "params.safetensors")
    yield folder
    (folder / "params.safetensors").unlink()


MEASURE = f"""
import resource, sys
import numpy as np
import sae_lens
from neurosae.sae.encoding import decode_rows, encode_rows
from neurosae.sae.loading import load

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

x = np.random.default_rng(0).normal(size=({TOKENS}, {WIDTH})).astype(np.float32)
before = peak()
sae = load(sys.argv[1], dtype="stored")
codes = encode_rows(sae, x)
decode_rows(sae, codes)
print(peak() - before, codes.nnz / len(x))
"""


@pytest.mark.slow
def test_a_million_latents_need_little_beyond_their_weights(large_sae: Path) -> None:
    """2,000 tokens in a process of its own: no float32 copy of a matrix (0.54 GB), no dense codes (8.4 GB)."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(large_sae)], capture_output=True, text=True, check=True)
    grown, l0 = map(float, done.stdout.split())
    weights = (large_sae / "params.safetensors").stat().st_size
    assert 20 < l0 < 100
    assert grown < weights + 0.1e9, f"{(grown - weights) / 1e9:.2f} GB beyond the weights of {weights / 1e9:.2f} GB"
