"""Every checkpoint format, written here byte for byte as its authors do, means what its authors' arithmetic says."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file

from neurosae.errors import UserError
from neurosae.sae import registry
from neurosae.sae.__main__ import main
from neurosae.sae.formats import READERS, recognise
from neurosae.sae.hub import hub_errors
from neurosae.sae.loading import DEFAULT, declared_site, identity, load, site_of
from neurosae.sites import Site

D, F, K = 6, 10, 3
Arrays = dict[str, np.ndarray]


def weights(seed: int = 0, /, **shapes: tuple[int, ...]) -> Arrays:
    """Random float32 arrays; two decoder norms are never alike."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def inputs() -> np.ndarray:
    return np.random.default_rng(99).normal(size=(40, D)).astype(np.float32) * 2


def torched(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def topk(x: np.ndarray, k: int) -> np.ndarray:
    """The k largest of every row, by sorting; the rest is zero."""
    out = np.zeros_like(x)
    for row, best in enumerate(np.argsort(-x, axis=1)[:, :k]):
        out[row, best] = x[row, best]
    return out


def ours(sae: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        codes = sae.encode(torch.from_numpy(x))
        return codes.numpy(), sae.decode(codes).numpy()


def agree(sae: Any, codes: np.ndarray, out: np.ndarray) -> None:
    found_codes, found_out = ours(sae, inputs())
    assert 0 < (codes > 0).mean() < 1  # something is active and something is not
    np.testing.assert_allclose(found_codes, codes, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found_out, out, atol=1e-5, rtol=1e-5)


# Writers: each writes a folder in a format and returns what to load, with the expected codes and outputs.

Case = tuple[Path, np.ndarray, np.ndarray, str, str | None]  # spec, codes, outputs, hook, model
ENC = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}


def saelens(folder: Path, architecture: str = "standard", old: bool = False, subtract: bool = True) -> Case:
    w, x = weights(**ENC), inputs()
    centred = x - w["b_dec"] if subtract else x
    pre = centred @ w["W_enc"] + w["b_enc"]
    codes = relu(pre)
    extra: dict[str, Any] = {}
    if architecture == "topk":
        codes, extra = relu(topk(pre, K)), {"k": K}
    if architecture == "jumprelu":
        w["threshold"] = np.linspace(0.1, 2, F, dtype=np.float32)
        codes = pre * (pre > w["threshold"])
    if architecture == "gated":
        del w["b_enc"]
        w |= weights(1, b_gate=(F,), b_mag=(F,), r_mag=(F,))
        gate = centred @ w["W_enc"] + w["b_gate"] > 0
        codes = gate * relu((centred @ w["W_enc"]) * np.exp(w["r_mag"]) + w["b_mag"])
    config = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cuda", "apply_b_dec_to_input": subtract}
    if old:
        config |= {"hook_point": "blocks.4.hook_mlp_out", "model_name": "gpt2-small", "hook_point_layer": 4}
        config |= {
            "normalize_activations": False,
            "architecture": architecture if architecture != "topk" else "standard",
        }
        config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}} if extra else {}
    else:
        config |= {"architecture": architecture, "normalize_activations": "none", "reshape_activations": "none"} | extra
        about = {"model_name": "gpt2-small", "hook_name": "blocks.4.hook_mlp_out", "context_size": 128}
        config["metadata"] = about | {"prepend_bos": True, "sae_lens_version": "6.54.0"}
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(torched(w), folder / "sae_weights.safetensors")
    return folder, codes, codes @ w["W_dec"] + w["b_dec"], "blocks.4.hook_mlp_out", "gpt2-small"


def gemma_scope(folder: Path, lower: bool = False, stream: str = "res") -> Case:
    folder = folder / f"gemma-scope-9b-it-{stream}" / "layer_20" / "width_16k" / "average_l0_47"
    folder.mkdir(parents=True)
    w, x = weights(**ENC, threshold=(F,)), inputs()
    w["threshold"] = np.abs(w["threshold"])
    stored: dict[str, Any] = {name.replace("W_", "w_") if lower else name: array for name, array in w.items()}
    np.savez(folder / "params.npz", **stored)
    pre = x @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > w["threshold"])
    hook = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}[stream]
    return folder, codes, codes @ w["W_dec"] + w["b_dec"], f"blocks.20.{hook}", "gemma-2-9b-it"


def gemma_scope_2(folder: Path, place: str = "output", with_config: bool = True) -> Case:
    folder = folder / "resid_post" / "layer_17_width_16k_l0_big"
    folder.mkdir(parents=True)
    w, x = weights(**ENC, threshold=(F,)), inputs()
    w["threshold"] = np.abs(w["threshold"])
    save_file(torched({name.lower(): array for name, array in w.items()}), folder / "params.safetensors")
    config = {"hf_hook_point_in": f"model.layers.17.{place}", "model_name": "gemma-v3-1b-pt", "width": F, "l0": 100}
    if with_config:
        (folder / "config.json").write_text(json.dumps(config | {"architecture": "jump_relu", "type": "sae"}))
    pre = x @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > w["threshold"])
    hook = {"output": "hook_resid_post", "post_feedforward_layernorm.output": "hook_mlp_out"}[place]
    model = "google/gemma-3-1b-pt" if with_config else None
    return folder, codes, codes @ w["W_dec"] + w["b_dec"], f"blocks.17.{hook}", model


def llama_scope(folder: Path, act_fn: str = "jumprelu", norms: tuple[float, float] = (17.0, 11.0), **more: Any) -> Case:
    folder = folder / "Llama3_1-8B-Base-L15R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    shapes = {"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F), "decoder.bias": (D,)}
    w, x = weights(**shapes), inputs()
    config: dict[str, Any] = {
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
    }
    config |= {"d_model": D, "d_sae": F, "expansion_factor": 8, "top_k": 50, "act_fn": act_fn}
    config |= {
        "jump_relu_threshold": 0.7,
        "dataset_average_activation_norm": dict(zip(("in", "out"), norms, strict=True)),
    }
    config |= {"norm_activation": "dataset-wise", "sparsify_include_decoder_norm": True}
    config |= {"sparsity_include_decoder_norm": True} | more
    (folder / "hyperparams.json").write_text(json.dumps(config))
    save_file(torched(w), folder / "checkpoints" / "final.safetensors")
    # Trained on x * s_in, predicts x * s_out; a latent counts with the norm of its decoder row. In raw units:
    s_in, s_out = (np.sqrt(D) / norm for norm in norms)
    pre = (x * s_in) @ w["encoder.weight"].T + w["encoder.bias"]
    row_norms = np.linalg.norm(w["decoder.weight"], axis=0)
    raw = pre / s_in * (row_norms * s_in / s_out if config["sparsity_include_decoder_norm"] else 1)
    kept = raw > config["jump_relu_threshold"]
    out = ((pre * kept) @ w["decoder.weight"].T + w["decoder.bias"]) / s_out
    return folder, raw * kept, out, "blocks.15.hook_resid_post", "meta-llama/Llama-3.1-8B"


def goodfire(folder: Path) -> Case:
    folder.mkdir(parents=True)
    names = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")
    w, x = weights(**dict(zip(names, ((F, D), (F,), (D, F), (D,)), strict=True))), inputs()
    path = folder / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    torch.save(torched(w), path)
    codes = relu(x @ w["encoder_linear.weight"].T + w["encoder_linear.bias"])
    out = codes @ w["decoder_linear.weight"].T + w["decoder_linear.bias"]
    return path, codes, out, "blocks.19.hook_resid_post", "meta-llama/Llama-3.1-8B-Instruct"


def plain_pytorch(folder: Path) -> Case:
    folder.mkdir(parents=True)
    w, x = weights(**{"encoder.0.weight": (F, D), "encoder.0.bias": (F,), "decoder.weight": (D, F)}), inputs()
    torch.save(torched(w), folder / "best_model.pth")
    codes = relu(x @ w["encoder.0.weight"].T + w["encoder.0.bias"])
    return (
        Path(f"{folder}@blocks.7.hook_resid_post"),
        codes,
        codes @ w["decoder.weight"].T,
        "blocks.7.hook_resid_post",
        None,
    )


def sparsify(folder: Path, name: str = "layers.5", **more: Any) -> Case:
    folder = folder / "run" / name
    folder.mkdir(parents=True)
    w, x = weights(**{"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}), inputs()
    config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": F, "k": K}
    config |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D} | more
    (folder / "cfg.json").write_text(json.dumps(config))
    (folder.parent / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m", "ctx_len": 2048}))
    save_file(torched(w), folder / "sae.safetensors")
    centred = x if config["transcode"] else x - w["b_dec"]
    codes = topk(relu(centred @ w["encoder.weight"].T + w["encoder.bias"]), K)
    return folder, codes, codes @ w["W_dec"] + w["b_dec"], "blocks.5.hook_resid_post", "EleutherAI/pythia-160m"


def dictionary_learning(folder: Path, kind: str = "AutoEncoder", threshold: float = 0.8, **more: Any) -> Case:
    folder.mkdir(parents=True)
    x, state = inputs(), {}
    linear = {"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F), "b_dec": (D,)}
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        w = weights(**ENC)
        encoder, bias, decoder, b_dec = w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"]
    else:
        w = weights(**linear)
        encoder, bias, decoder, b_dec = w["encoder.weight"].T, w["encoder.bias"], w["decoder.weight"].T, w["b_dec"]
    norms = np.linalg.norm(decoder, axis=1)
    scale = np.ones(F)
    pre = (x - b_dec) @ encoder + bias
    codes = relu(pre)
    if kind == "AutoEncoder":
        w["bias"] = w.pop("b_dec")
    elif kind == "AutoEncoderNew":
        w["decoder.bias"] = w.pop("b_dec")
        codes = relu(x @ encoder + bias)
    elif kind == "JumpReluAutoEncoder":
        w["threshold"] = np.linspace(0.1, 2, F, dtype=np.float32)
        pre, scale = x @ encoder + bias, norms
        codes = pre * (pre > w["threshold"]) * scale
    elif kind == "GatedAutoEncoder":
        del w["encoder.bias"]
        w |= weights(1, gate_bias=(F,), mag_bias=(F,), r_mag=(F,))
        w["decoder_bias"], scale = w.pop("b_dec"), norms
        latent = (x - b_dec) @ encoder
        codes = (latent + w["gate_bias"] > 0) * relu(np.exp(w["r_mag"]) * latent + w["mag_bias"]) * scale
    else:
        state = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(threshold)}
        if kind == "MatryoshkaBatchTopKSAE":
            state["group_sizes"] = torch.tensor([4, 6])
        codes = codes * (codes > threshold)
        if kind == "AutoEncoderTopK" or threshold < 0:
            codes = topk(relu(pre), K)
    torch.save({**torched(w), **state}, folder / "ae.pt")
    trainer = {
        "dict_class": kind,
        "activation_dim": D,
        "dict_size": F,
        "k": K,
        "layer": 8,
        "lm_name": "google/gemma-2-2b",
    }
    trainer |= {"submodule_name": "resid_post_layer_8", "device": "cuda:0"} | more
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128, "d_submodule": D}}))
    return folder, codes, (codes / scale) @ decoder + b_dec, "blocks.8.hook_resid_post", "google/gemma-2-2b"


CASES: dict[str, Callable[[Path], Case]] = {
    "SAELens standard": saelens,
    "SAELens without b_dec": lambda f: saelens(f, subtract=False),
    "SAELens topk": lambda f: saelens(f, "topk"),
    "SAELens jumprelu": lambda f: saelens(f, "jumprelu"),
    "SAELens gated": lambda f: saelens(f, "gated"),
    "SAELens before 6": lambda f: saelens(f, old=True),
    "SAELens before 6 topk": lambda f: saelens(f, "topk", old=True),
    "Gemma Scope": gemma_scope,
    "Gemma Scope lower case": lambda f: gemma_scope(f, lower=True),
    "Gemma Scope mlp": lambda f: gemma_scope(f, stream="mlp"),
    "Gemma Scope att": lambda f: gemma_scope(f, stream="att"),
    "Gemma Scope 2": gemma_scope_2,
    "Gemma Scope 2 mlp": lambda f: gemma_scope_2(f, "post_feedforward_layernorm.output"),
    "Gemma Scope 2 without configuration": lambda f: gemma_scope_2(f, with_config=False),
    "Llama Scope": llama_scope,
    "Llama Scope trained with topk": lambda f: llama_scope(f, "topk"),
    "Llama Scope without decoder norms": lambda f: llama_scope(f, sparsity_include_decoder_norm=False),
    "Goodfire": goodfire,
    "plain PyTorch": plain_pytorch,
    "sparsify": sparsify,
    "sparsify multi_topk": lambda f: sparsify(f, multi_topk=True),
    **{
        f"dictionary_learning {kind}": lambda f, kind=kind: dictionary_learning(f, kind)  # type: ignore[misc]
        for kind in (
            "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE",
            "JumpReluAutoEncoder", "GatedAutoEncoder",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_format_means_what_its_authors_compute(name: str, tmp_path: Path) -> None:
    spec, codes, out, hook, model = CASES[name](tmp_path / "x")
    sae = load(str(spec))
    agree(sae, codes, out)
    assert sae.cfg.metadata.hook_name == hook
    assert sae.cfg.metadata.model_name == model
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (D, F)
    if "hook_z" not in hook:
        assert site_of(sae) == declared_site(str(spec)) == Site.parse(hook)


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_survives_saelens_own_save(name: str, tmp_path: Path) -> None:
    from sae_lens import SAE

    spec, codes, out, hook, model = CASES[name](tmp_path / "x")
    load(str(spec)).save_model(tmp_path / "saved")
    for again in (load(str(tmp_path / "saved")), SAE.load_from_disk(tmp_path / "saved")):
        agree(again, codes, out)
        assert (again.cfg.metadata.hook_name, again.cfg.metadata.model_name) == (hook, model)


@pytest.mark.parametrize("name", CASES)
def test_formats_are_recognised_by_content(name: str, tmp_path: Path) -> None:
    """Every file gets a name that says nothing."""
    spec = Path(str(CASES[name](tmp_path / "x")[0]).partition("@")[0])
    folder = spec if spec.is_dir() else spec.parent
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(path.with_name(f"file{number}" + (".json" if path.suffix == ".json" else "")))
    reader, source = recognise(folder)
    assert name.startswith(reader.NAME)
    assert [r.NAME for r in READERS if r.matches(source)] == [reader.NAME]  # no other reader claims it


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_precision_is_what_was_asked_for(dtype: str, tmp_path: Path) -> None:
    sae = load(str(llama_scope(tmp_path)[0]), dtype=dtype)
    assert {str(p.dtype) for p in sae.parameters()} == {f"torch.{dtype}"}
    assert sae.cfg.dtype == dtype


def test_a_transcoder_of_gemma_scope_2_adds_its_affine_map(tmp_path: Path) -> None:
    w = weights(**ENC, threshold=(F,), affine_skip_connection=(D, D))
    save_file(torched({name.lower(): array for name, array in w.items()}), tmp_path / "params.safetensors")
    config = {"architecture": "jump_relu", "affine_connection": True, "model_name": "gemma-v3-1b-it"}
    places = {"hf_hook_point_in": "model.layers.3.pre_feedforward_layernorm.output"}
    places["hf_hook_point_out"] = "model.layers.3.post_feedforward_layernorm.output"
    (tmp_path / "config.json").write_text(json.dumps(config | places))
    sae, x = load(str(tmp_path)), inputs()
    pre = x @ w["W_enc"] + w["b_enc"]
    expected = (pre * (pre > np.maximum(w["threshold"], 0))) @ w["W_dec"] + w["b_dec"] + x @ w["affine_skip_connection"]
    with torch.inference_mode():
        np.testing.assert_allclose(sae(torch.from_numpy(x)), expected, atol=1e-5, rtol=1e-5)


def test_jumprelu_is_strict(tmp_path: Path) -> None:
    """A latent that lies exactly on its threshold is silent."""
    folder = gemma_scope(tmp_path)[0]
    eye = np.eye(D, dtype=np.float32)
    zero, half = np.zeros(D, np.float32), np.full(D, 0.5, np.float32)
    np.savez(folder / "params.npz", W_enc=eye, W_dec=eye, b_enc=zero, b_dec=zero, threshold=half)
    codes, _ = ours(load(str(folder)), np.array([[0.5, 0.50001, 0.49999, -1, 0, 3]], np.float32))
    np.testing.assert_allclose(codes, [[0, 0.50001, 0, 0, 0, 3]])


def test_normalisation_at_run_time_is_kept(tmp_path: Path) -> None:
    folder, *_ = saelens(tmp_path / "x", subtract=False)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "constant_norm_rescale"}))
    w, x = weights(**ENC), inputs()
    scale = np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)
    codes = relu((x * scale) @ w["W_enc"] + w["b_enc"])
    agree(load(str(folder)), codes, (codes @ w["W_dec"] + w["b_dec"]) / scale)


def test_batchtopk_without_a_measured_threshold_is_topk_and_says_so(tmp_path: Path) -> None:
    folder, codes, out, *_ = dictionary_learning(tmp_path / "x", "BatchTopKSAE", threshold=-1.0)
    sae = load(str(folder))
    agree(sae, codes, out)
    assert "no threshold" in sae.cfg.metadata.notes[0]


def test_topk_competes_over_all_latents_never_over_a_slice(tmp_path: Path) -> None:
    """SAEDashboard's mistake: the k best of each batch of latents are not the k best."""
    folder, codes, *_ = sparsify(tmp_path)
    found, _ = ours(load(str(folder)), inputs())
    assert (found > 0).sum(1).max() <= K
    stored, half = {name: tensor.numpy() for name, tensor in load_file(folder / "sae.safetensors").items()}, F // 2
    pre = relu((inputs() - stored["b_dec"]) @ stored["encoder.weight"].T + stored["encoder.bias"])
    sliced = np.hstack([topk(pre[:, :half], K), topk(pre[:, half:], K)])
    assert (sliced > 0).sum(1).max() > K  # the slices would let more through
    np.testing.assert_array_equal(found > 0, codes > 0)


def test_sparsify_num_latents_zero_means_the_expansion_factor(tmp_path: Path) -> None:
    folder, *_ = sparsify(tmp_path, num_latents=0, expansion_factor=2)
    with pytest.raises(UserError, match=r"encoder\.weight.*F = 12"):
        load(str(folder))
    w = weights(**{"encoder.weight": (12, D), "encoder.bias": (12,), "W_dec": (12, D), "b_dec": (D,)})
    save_file(torched(w), folder / "sae.safetensors")
    assert load(str(folder)).cfg.d_sae == 12
    sparsify(tmp_path / "wins", num_latents=F, expansion_factor=2)
    assert load(str(tmp_path / "wins" / "run" / "layers.5")).cfg.d_sae == F


def test_sparsify_decoder_is_not_transposed(tmp_path: Path) -> None:
    folder, *_ = sparsify(tmp_path)
    stored = load_file(folder / "sae.safetensors")["W_dec"]
    np.testing.assert_array_equal(load(str(folder)).W_dec.detach(), stored)


@pytest.mark.parametrize("normalize_decoder", [True, False])
@pytest.mark.parametrize("transcode", [True, False])
def test_sparsify_subtracts_b_dec_unless_it_transcodes(
    tmp_path: Path, normalize_decoder: bool, transcode: bool
) -> None:
    """And whatever normalize_decoder says."""
    folder, codes, out, *_ = sparsify(
        tmp_path, "layers.5.mlp", normalize_decoder=normalize_decoder, transcode=transcode
    )
    agree(load(str(folder)), codes, out)


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("layers.5", "blocks.5.hook_resid_post"),
        ("layers.11.mlp", "blocks.11.hook_mlp_out"),
        ("gpt_neox.layers.3", "blocks.3.hook_resid_post"),
        ("transformer.h.0.mlp", "blocks.0.hook_mlp_out"),
        ("model.layers.2.self_attn", "blocks.2.hook_attn_out"),
    ],
)
def test_sparsify_hook_is_the_module_output_its_folder_names(tmp_path: Path, folder: str, hook: str) -> None:
    assert load(str(sparsify(tmp_path, folder)[0])).cfg.metadata.hook_name == hook


def test_llama_scope_agrees_with_saelens_where_saelens_is_right(tmp_path: Path) -> None:
    """With equal norms and unit decoder rows, its converter and its folding give the same latents."""
    folder, *_ = llama_scope(tmp_path, norms=(17.0, 17.0), sparsity_include_decoder_norm=False)
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    stored, scale = load_file(folder / "checkpoints" / "final.safetensors"), float(np.sqrt(D) / 17.0)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))
    with torch.no_grad():
        theirs.W_enc.copy_(stored["encoder.weight"].T)
        theirs.W_dec.copy_(stored["decoder.weight"].T)
        theirs.b_enc.copy_(stored["encoder.bias"])
        theirs.b_dec.copy_(stored["decoder.bias"])
        theirs.threshold.fill_(0.7 * scale)
    theirs.fold_activation_norm_scaling_factor(scale)
    sae, x = load(str(folder)), torch.from_numpy(inputs())
    np.testing.assert_allclose(sae(x).detach(), theirs(x).detach(), atol=1e-4)
    np.testing.assert_allclose(sae.encode(x).detach() * scale, theirs.encode(x).detach(), atol=1e-5)


# Bad input.


def rewrite(folder: Path, **changes: np.ndarray | None) -> None:
    """Replace or remove tensors of the safetensors file in a folder."""
    path = next(folder.rglob("*.safetensors"))
    stored = load_file(path)
    for name, array in changes.items():
        stored.pop(name)
        if array is not None:
            stored[name] = torch.from_numpy(array)
    save_file(stored, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc": None}, r"sae_weights\.safetensors.*'b_enc' is missing"),
        ({"W_dec": np.zeros((D, F), np.float32)}, r"'W_dec' has shape \(6, 10\), not \(F = 10, D = 6\)"),
        ({"b_dec": np.zeros(D + 1, np.float32)}, r"'b_dec' has shape \(7,\)"),
        ({"b_enc": np.full(F, np.nan, np.float32)}, r"'b_enc' has values that are not finite"),
        ({"W_enc": np.full((D, F), np.inf, np.float32)}, r"'W_enc' has values that are not finite"),
        ({"W_enc": np.zeros((D, F + 1), np.float32)}, r"'W_enc' .* contradicts"),
    ],
)
def test_bad_tensors_are_named_with_their_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = saelens(tmp_path / "x")[0]
    rewrite(folder, **change)
    with pytest.raises(UserError, match=message):
        load(str(folder))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: dictionary_learning(f, dict_size=F + 1), r"ae\.pt.*'encoder\.weight'.*F = 11.*contradicts"),
        (lambda f: dictionary_learning(f, "AutoEncoderTopK", k=K + 1), r"'k' is 3, the configuration says 4"),
        (lambda f: dictionary_learning(f, dict_class="CrossCoder"), r"dict_class 'CrossCoder'"),
        (lambda f: sparsify(f, d_in=D + 1, num_latents=F), r"sae\.safetensors.*D = 7"),
        (lambda f: sparsify(f, k=F + 1), r"k is 11"),
        (lambda f: sparsify(f, k=0), r"k is 0"),
        (lambda f: sparsify(f, activation="groupmax"), r"groupmax"),
        (lambda f: sparsify(f, skip_connection=True), r"W_skip"),
        (lambda f: llama_scope(f, d_sae=F + 1), r"final\.safetensors.*F = 11"),
        (lambda f: llama_scope(f, d_sae="many"), r"'many' as the size of F"),
        (lambda f: llama_scope(f, dataset_average_activation_norm={"in": 1.0}), r"dataset_average_activation_norm"),
        (lambda f: llama_scope(f, norm_activation="token-wise"), r"token-wise"),
        (lambda f: llama_scope(f, hook_point_out="blocks.16.hook_resid_post"), r"transcoder"),
        (lambda f: llama_scope(f, act_fn="gelu"), r"gelu"),
    ],
)
def test_configurations_that_contradict_or_mean_nothing(
    tmp_path: Path, write: Callable[[Path], Case], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(str(write(tmp_path / "x")[0]))


@pytest.mark.parametrize(
    "name", ["SAELens standard", "Gemma Scope", "Llama Scope", "Goodfire", "dictionary_learning AutoEncoder"]
)
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.97])
def test_truncated_files_are_named(name: str, keep: float, tmp_path: Path) -> None:
    spec = CASES[name](tmp_path / "x")[0]
    path = spec if spec.is_file() else next(p for p in spec.rglob("*") if p.is_file() and p.suffix != ".json")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(UserError, match=path.name):
        load(str(spec))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth", ""])
def test_foreign_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match="weights"):
        load(str(path))
    (tmp_path / "other").mkdir()
    save_file({"lm_head.weight": torch.ones(2, 2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no SAE.*lm_head\.weight"):
        load(str(tmp_path / "other"))


class Malicious:
    """Unpickling this would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "executed")


@pytest.mark.parametrize("container", ["torch", "pickle", "npz"])
def test_a_pickle_with_more_than_tensors_is_refused_and_not_executed(container: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "ae.pt"
    tensors = {
        "encoder.0.weight": torch.ones(F, D),
        "encoder.0.bias": torch.ones(F),
        "decoder.weight": torch.ones(D, F),
    }
    if container == "torch":
        torch.save(tensors | {"extra": Malicious(target)}, path)
    elif container == "pickle":
        path.write_bytes(pickle.dumps(tensors | {"extra": Malicious(target)}))
    else:
        path = tmp_path / "params.npz"
        np.savez(path, W_enc=np.array([Malicious(target)], dtype=object), allow_pickle=True)
    for attempt in (lambda: load(f"{path}@3"), lambda: recognise(path)):
        with pytest.raises(UserError, match="more than tensors"):
            attempt()
    assert main(["inspect", str(path)]) == 2
    assert not target.exists()


def test_a_checkpoint_that_does_not_say_where_it_belongs_asks(tmp_path: Path) -> None:
    spec = str(plain_pytorch(tmp_path / "x")[0]).partition("@")[0]
    for ask in (load, declared_site):
        with pytest.raises(UserError, match=r"which hook.*@"):
            ask(spec)
    assert site_of(load(f"{spec}@9.mlp_out")) == Site(9, "mlp_out")
    with pytest.raises(UserError, match="no site"):
        load(f"{spec}@somewhere")


def test_two_saes_in_a_folder_are_not_chosen_between(tmp_path: Path) -> None:
    first = goodfire(tmp_path / "x")[0]
    (first.parent / "other.pth").write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="holds 2 SAEs"):
        load(str(first.parent))
    assert load(str(first)).cfg.d_sae == F


def test_other_tensors_beside_an_sae_do_not_matter(tmp_path: Path) -> None:
    folder, codes, out, *_ = saelens(tmp_path / "x")
    save_file({"sparsity": torch.ones(F)}, folder / "sparsity.safetensors")
    agree(load(str(folder)), codes, out)


# The registry, offline.


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own offline mode, with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("spec", "release", "sae_id"),
    [
        (
            "gemma-scope-9b-it-res-canonical/layer_9/width_16k/canonical",
            "gemma-scope-9b-it-res-canonical",
            "layer_9/width_16k/canonical",
        ),
        ("L15R-8x", "llama_scope_lxr_8x", "l15r_8x"),
        ("l3m-32x", "llama_scope_lxm_32x", "l3m_32x"),
    ],
)
def test_registry_names_and_short_forms(spec: str, release: str, sae_id: str) -> None:
    assert (registry.resolve(spec).release, registry.resolve(spec).sae_id) == (release, sae_id)


def test_a_short_form_of_gemma_scope_2_needs_its_language_model() -> None:
    short = "layer_22_width_65k_l0_medium"
    with pytest.raises(UserError, match=f"gemma-scope-2-4b-it-res/{short}"):
        registry.resolve(short)
    entry = registry.resolve(short, "gemma-3-4b-it")
    assert entry.spec == f"gemma-scope-2-4b-it-res/{short}"
    assert entry.n_latents == 65536
    assert entry.memory == 2 * 4 * 65536 * 2560
    with pytest.raises(UserError, match="no residual-stream SAE"):
        registry.resolve("layer_99_width_65k_l0_medium")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gemma-scope-2b-pt-ress/layer_0", "gemma-scope-2b-pt-res'"),
        ("llama_scope_lxr_8x/l15r_9x", "Did you mean 'l15r_8x'"),
        ("llama_scope_lxr_8x", "Try llama_scope_lxr_8x/"),
        ("smollm2-135m-b15-9", DEFAULT),
        ("L40R-8x", "Unknown SAE of release"),
        ("./not/here", "no file or folder"),
        ("/not/here", "no file or folder"),
    ],
)
def test_unknown_names_suggest_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(spec)


def test_a_gated_repository_says_what_to_do() -> None:
    refusal = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/google/gemma-scope-2-1b-pt"))
    with pytest.raises(UserError, match=r"gated.*huggingface\.co/google/gemma-scope-2-1b-pt.*HF_TOKEN"):  # noqa: SIM117
        with hub_errors("google/gemma-scope-2-1b-pt"):
            raise GatedRepoError("Access to this resource is restricted", response=refusal)


@pytest.mark.parametrize(
    "spec",
    [
        "L15R-8x",
        "gpt2-small-res-jb/blocks.7.hook_resid_pre",
        "gemma-scope-2-1b-pt-res/layer_13_width_16k_l0_big",
    ],
)
def test_without_a_hub_there_is_one_clear_message(spec: str, no_hub: Path) -> None:
    with pytest.raises(UserError, match="the hub cannot be reached"):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "repository", "write"),
    [
        ("gemma-scope-9b-it-res/layer_20/width_16k/average_l0_47", "google--gemma-scope-9b-it-res", gemma_scope),
        ("gemma-scope-2-1b-pt-res/layer_17_width_16k_l0_big", "google--gemma-scope-2-1b-pt", gemma_scope_2),
        ("L15R-8x", "fnlp--Llama3_1-8B-Base-LXR-8x", llama_scope),
    ],
)
def test_an_sae_in_the_hub_cache_loads_without_a_network(
    spec: str, repository: str, write: Callable[[Path], Case], tmp_path: Path, no_hub: Path
) -> None:
    """As the hub lays its cache out: snapshots are links to blobs whose names say nothing."""
    made, codes, out, hook, _ = write(tmp_path / "made")
    inside = registry.releases()[(entry := registry.resolve(spec_in_registry(spec))).release].saes_map[entry.sae_id]
    root = no_hub / f"models--{repository}"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    for number, path in enumerate(sorted(p for p in made.rglob("*") if p.is_file())):
        link = root / "snapshots" / ("0" * 40) / inside / path.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(root / "blobs" / f"{number:040d}")
        link.symlink_to(root / "blobs" / f"{number:040d}")
    sae = load(spec_in_registry(spec))
    agree(sae, codes, out)
    assert sae.cfg.metadata.hook_name == hook


def spec_in_registry(spec: str) -> str:
    """The spec itself, or the nearest SAE of its release if the registry does not list exactly this one."""
    release, _, sae_id = spec.partition("/")
    known = registry.releases().get(release)
    return spec if known is None or sae_id in known.saes_map else f"{release}/{next(iter(known.saes_map))}"


# The command.


def test_the_list_shows_bundled_and_registered_saes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    assert DEFAULT in everything
    assert len(everything.splitlines()) >= 170
    assert main(["list", "--model", "LLAMA-3.1-8b"]) == 0
    some = capsys.readouterr().out.splitlines()
    row = next(line for line in some if line.startswith("llama_scope_lxr_8x"))
    assert "32,768" in row
    assert "1.07 GB" in row
    assert not any("gemma" in line for line in some)
    assert main(["list", "--model", "no such model"]) == 2


def test_inspect_shows_every_tensor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(llama_scope(tmp_path)[0])]) == 0
    out = capsys.readouterr().out
    for part in ("Llama Scope", "encoder.weight", "(10, 6)", "F32", "blocks.15.hook_resid_post", "hyperparams.json"):
        assert part in out
    assert main(["inspect", DEFAULT]) == 0
    assert "BF16" in capsys.readouterr().out
    assert main(["inspect", str(gemma_scope(tmp_path)[0])]) == 0
    assert "float32" in capsys.readouterr().out


def test_bad_input_exits_with_2_and_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neurosae.sae", "inspect", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no file or folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspecting_does_not_load_a_language_model_library(tmp_path: Path) -> None:
    path = goodfire(tmp_path / "x")[0]
    script = (
        f"import sys; from neurosae.sae.__main__ import main; main(['inspect', {str(path)!r}]);"
        "print([m for m in ('transformers', 'sae_lens', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_identity_of_a_file_depends_on_the_configuration_beside_it(tmp_path: Path) -> None:
    folder, *_ = saelens(tmp_path / "x")
    weights_file, config = folder / "sae_weights.safetensors", folder / "cfg.json"
    before = identity(str(weights_file))
    assert identity(str(weights_file)) == before
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"apply_b_dec_to_input": not about["apply_b_dec_to_input"]}))
    assert identity(str(weights_file)) != before
    path, *_ = llama_scope(tmp_path / "y")
    before = identity(str(path / "checkpoints" / "final.safetensors"))
    config = path / "hyperparams.json"
    config.write_text(config.read_text().replace("0.7", "0.8"))
    assert identity(str(path / "checkpoints" / "final.safetensors")) != before
