"""Every figure of an evaluation equals its definition, and SAEs whose quality is known come out with it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE, StandardSAE, StandardSAEConfig, Transcoder, TranscoderConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening
from scipy.special import log_softmax, rel_entr

from experiments import evaluate_sae as command
from neurosae import plots
from neurosae.errors import UserError
from neurosae.forward import at_site, run_batch
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.sae.checkpoints import checkpoint_folder, load_checkpoint
from neurosae.sae.evaluate_sae import evaluate_sae
from neurosae.sae.evaluation import Measurement, evaluate, measure
from neurosae.sae.examples import StrongestTexts, excerpts, markdown
from neurosae.sae.latents import DENSE, Usage, decoder_geometry, density_histogram, l0_quantiles
from neurosae.sae.loading import load, site_of
from neurosae.sae.splicing import clean_mask, losses
from neurosae.sites import Site
from tests.conftest import TEXTS

CONTEXT = 10


@pytest.fixture(scope="module")
def sae() -> Any:
    return load()


@pytest.fixture(scope="module")
def measured(sae: Any, language_model: LanguageModel) -> Measurement:
    return measure(sae, language_model, TEXTS, context=CONTEXT, batch_size=2, spliced_texts=2)


@pytest.fixture(scope="module")
def activations(sae: Any, language_model: LanguageModel) -> list[torch.Tensor]:
    """Activations of each text by itself, the sink token included."""
    return [run_batch(language_model, [ids], [site_of(sae)])[0][0] for ids in language_model.token_ids(TEXTS, CONTEXT)]


@pytest.fixture(scope="module")
def limit(sae: Any, language_model: LanguageModel) -> float:
    return LIMIT * median_norms(language_model, [site_of(sae)])[site_of(sae)]


def linear_sae(W_enc_DF: torch.Tensor, W_dec_FD: torch.Tensor, b_dec_D: torch.Tensor, hook_name: str) -> Any:
    """A ReLU SAE with these weights."""
    metadata = SAEMetadata(hook_name=hook_name)
    config = StandardSAEConfig(d_in=len(W_enc_DF), d_sae=len(W_dec_FD), apply_b_dec_to_input=False, metadata=metadata)
    planted = StandardSAE(config)
    zeros_F = torch.zeros(len(W_dec_FD))
    planted.load_state_dict({"W_enc": W_enc_DF, "b_enc": zeros_F, "W_dec": W_dec_FD, "b_dec": b_dec_D})
    return planted.eval()


def constant_sae(b_dec_D: torch.Tensor, hook_name: str) -> Any:
    """Says the same about every token, with silent latents."""
    n = len(b_dec_D)
    return linear_sae(torch.zeros(n, 4), torch.zeros(4, n), b_dec_D, hook_name)


def test_reconstruction_figures_equal_a_loop_over_tokens(
    sae: Any, measured: Measurement, activations: list[torch.Tensor], limit: float
) -> None:
    clean, everything, l0, fired = [], [], [], np.zeros(sae.cfg.d_sae, dtype=int)
    total, largest = np.zeros(sae.cfg.d_sae), np.zeros(sae.cfg.d_sae)
    for x_TD in activations:
        for position, x in enumerate(x_TD):
            with torch.inference_mode():
                codes = sae.encode(x[None])
                out = sae.decode(codes)[0]
            pair = (x.double().numpy(), out.double().numpy())
            everything.append(pair)
            if position > 0 and x.norm() <= limit:
                clean.append(pair)
                l0.append(int((codes > 0).sum()))
                fired += (codes[0] > 0).numpy()
                total += codes[0].double().numpy()
                largest = np.maximum(largest, codes[0].numpy())

    def fvu(pairs: list[tuple[np.ndarray, np.ndarray]], centred: bool = True) -> float:
        x, out = map(np.stack, zip(*pairs, strict=True))
        return float(((x - out) ** 2).sum() / ((x - centred * x.mean(0)) ** 2).sum())

    figures = measured.evaluation
    assert figures.n_tokens == len(clean)
    assert figures.n_texts == len(TEXTS)
    assert figures.fvu_clean == pytest.approx(fvu(clean), rel=1e-3)
    assert figures.fvu_uncentred == pytest.approx(fvu(clean, centred=False), rel=1e-3)
    assert figures.fvu_naive == pytest.approx(fvu(everything), rel=1e-3)
    assert figures.mse == pytest.approx(np.mean([(x - out) ** 2 for x, out in clean]), rel=1e-3)
    assert figures.l0 == pytest.approx(np.mean(l0), rel=1e-3)
    np.testing.assert_array_equal(measured.tokens_by_l0, np.bincount(l0, minlength=sae.cfg.d_sae + 1))
    latents = measured.latents
    np.testing.assert_array_equal(latents["fired"], fired)
    np.testing.assert_allclose(latents["mean"], total / len(clean), atol=1e-4)
    np.testing.assert_allclose(latents["max"], largest, atol=1e-2)
    assert figures.dead == pytest.approx(np.mean(fired == 0))
    assert figures.dense == pytest.approx(np.mean(fired / len(clean) > DENSE))


def test_no_figure_depends_on_the_batch_size(sae: Any, language_model: LanguageModel, measured: Measurement) -> None:
    whole = measure(sae, language_model, TEXTS, context=CONTEXT, batch_size=5, spliced_texts=2)
    for name, value in vars(measured.evaluation).items():
        assert getattr(whole.evaluation, name) == pytest.approx(value, rel=2e-3), name
    np.testing.assert_array_equal(whole.latents["fired"], measured.latents["fired"])
    np.testing.assert_allclose(whole.strongest.activation_NF, measured.strongest.activation_NF, atol=1e-2)


def test_the_strongest_text_is_the_one_with_the_largest_clean_activation(
    sae: Any, language_model: LanguageModel, measured: Measurement, activations: list[torch.Tensor], limit: float
) -> None:
    latent = int(measured.latents["mean"].argmax())
    best = []
    for number, x_TD in enumerate(activations):
        with torch.inference_mode():
            codes = sae.encode(x_TD)[:, latent] * (x_TD.norm(dim=-1) <= limit)
            codes[0] = 0
        best.append((float(codes.max()), number, int(codes.argmax())))
    best.sort(reverse=True)
    table = excerpts(measured.strongest, [latent], TEXTS, language_model.tokenizer)
    np.testing.assert_allclose(table["activation"], [b[0] for b in best if b[0] > 0], atol=1e-2)
    assert table["text"].tolist() == [b[1] for b in best if b[0] > 0]
    for (_, number, position), row in zip(best, table.itertuples(), strict=False):
        ids = language_model.token_ids(TEXTS)[number]
        assert row.token.strip() in language_model.tokenizer.decode([ids[position]]) or "�" in row.token
        shown = f"{row.before.removeprefix('…')}{row.token}{row.after.removesuffix('…')}"
        assert shown in TEXTS[number]


def test_cross_entropy_and_kl_equal_a_direct_computation(
    sae: Any, language_model: LanguageModel, activations: list[torch.Tensor], limit: float, measured: Measurement
) -> None:
    """With a hook of its own on the transformers model, in float64, text by text."""
    mean_D = torch.cat([x[1:][x[1:].norm(dim=-1) <= limit] for x in activations]).mean(0)
    replacements = {
        "ce": lambda x: x,
        "ce_spliced": lambda x: sae.decode(sae.encode(x)),
        "ce_zero": lambda x: x * 0,
        "ce_mean": lambda x: x * 0 + mean_D,
    }
    sums, kl, n_tokens = dict.fromkeys(replacements, 0.0), 0.0, 0
    layer = language_model.plain.model.layers[site_of(sae).block]
    for ids in language_model.token_ids(TEXTS[:2], CONTEXT):
        predicted = {}
        for name, change in replacements.items():

            def hook(_module: Any, _inputs: Any, output: Any, change: Any = change, n: int = len(ids)) -> Any:
                hidden = (output[0] if isinstance(output, tuple) else output).clone()
                for position in range(1, n):
                    if hidden[0, position].norm() <= limit:
                        hidden[0, position] = change(hidden[0, position : position + 1])[0]
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            handle = layer.register_forward_hook(hook)
            with torch.inference_mode():
                logits = language_model.plain(input_ids=torch.tensor([ids])).logits[0, :-1]
            handle.remove()
            predicted[name] = log_softmax(logits.double().numpy(), axis=-1)
            sums[name] -= predicted[name][np.arange(len(ids) - 1), ids[1:]].sum()
        kl += rel_entr(np.exp(predicted["ce"]), np.exp(predicted["ce_spliced"])).sum()
        n_tokens += len(ids) - 1
    figures = measured.evaluation
    assert figures.n_spliced_tokens == n_tokens
    assert figures.kl == pytest.approx(kl / n_tokens, rel=1e-3)
    for name, total in sums.items():
        assert getattr(figures, name) == pytest.approx(total / n_tokens, rel=1e-3), name
    expected = 1 - (sums["ce_spliced"] - sums["ce"]) / (sums["ce_zero"] - sums["ce"])
    assert figures.loss_recovered == pytest.approx(expected, abs=1e-3)


def test_an_identity_sae_changes_nothing(sae: Any, language_model: LanguageModel) -> None:
    eye = torch.eye(language_model.d_model)
    identity = linear_sae(
        torch.cat([eye, -eye], 1), torch.cat([eye, -eye]), torch.zeros(len(eye)), sae.cfg.metadata.hook_name
    )
    figures = evaluate(identity, language_model, TEXTS[:2], context=CONTEXT)
    assert figures.fvu_clean == pytest.approx(0, abs=1e-10)
    assert figures.fvu_naive == pytest.approx(0, abs=1e-10)
    assert figures.ce_spliced == pytest.approx(figures.ce, abs=1e-5)
    assert 0 <= figures.kl < 1e-6
    assert figures.loss_recovered == pytest.approx(1, abs=1e-5)
    assert figures.l0 == len(eye)  # one of each pair of signs


def clean_rows(activations: list[torch.Tensor], limit: float) -> torch.Tensor:
    return torch.cat([x[1:][x[1:].norm(dim=-1) <= limit] for x in activations])


def test_silent_saes_are_the_ablations(
    sae: Any, language_model: LanguageModel, activations: list[torch.Tensor], limit: float
) -> None:
    """All zeros explain nothing of the norm, the mean explains nothing of the variance."""
    hook_name = sae.cfg.metadata.hook_name
    zero = constant_sae(torch.zeros(language_model.d_model), hook_name)
    figures = evaluate(zero, language_model, TEXTS[:2], context=CONTEXT)
    assert figures.fvu_uncentred == pytest.approx(1)
    assert figures.fvu_clean > 1
    assert figures.ce_spliced == pytest.approx(figures.ce_zero, rel=1e-6)
    assert figures.loss_recovered == pytest.approx(0, abs=1e-6)
    assert (figures.l0, figures.dead, figures.dense) == (0, 1, 0)
    mean = constant_sae(clean_rows(activations[:2], limit).mean(0), hook_name)
    figures = evaluate(mean, language_model, TEXTS[:2], context=CONTEXT)
    assert figures.fvu_clean == pytest.approx(1, rel=1e-5)
    assert figures.ce_spliced == pytest.approx(figures.ce_mean, rel=1e-4)


def test_only_clean_activations_are_replaced(
    sae: Any, language_model: LanguageModel, activations: list[torch.Tensor], limit: float
) -> None:
    given: list[torch.Tensor] = []

    def spy(x_TD: torch.Tensor) -> torch.Tensor:
        given.append(x_TD)
        return x_TD

    ids = language_model.token_ids(TEXTS, CONTEXT)
    model_loss = losses(language_model, ids, site_of(sae), {"spy": spy}, limit=limit, batch_size=2)
    expected = clean_rows(activations, limit)
    assert len(torch.cat(given)) == len(expected)
    np.testing.assert_allclose(torch.cat(given).double().sum(0), expected.double().sum(0), atol=0.05)
    assert model_loss.ce_replaced["spy"] == pytest.approx(model_loss.ce, rel=1e-6)
    x_BTD = torch.ones(2, 4, 3)
    x_BTD[0, 2] = 1000
    real_BT = torch.tensor([[True] * 4, [True, True, False, False]])
    mask_BT = clean_mask(x_BTD, real_BT, limit=10)
    assert mask_BT.tolist() == [[False, True, False, True], [False, True, False, False]]


def test_activations_that_are_not_finite_are_refused(sae: Any, language_model: LanguageModel) -> None:
    """One token would rule the naive FVU; what is behind the end of a text does not count."""
    x_BTD, real_BT = torch.ones(2, 4, 3), torch.tensor([[True] * 4, [True, True, False, False]])
    x_BTD[1, 2] = torch.nan
    assert clean_mask(x_BTD, real_BT, limit=10).sum() == 4
    for value in (torch.inf, -torch.inf, torch.nan):
        for position in (0, 1):  # also where the sink is
            harmed_BTD = x_BTD.clone()
            harmed_BTD[1, position, 0] = value
            with pytest.raises(UserError, match="not finite"):
                clean_mask(harmed_BTD, real_BT, limit=10)

    def overflow(x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD.clone()
        x_BTD[0, 1, 0] = torch.inf
        return x_BTD

    with at_site(language_model, site_of(sae), overflow), pytest.raises(UserError, match="not finite") as told:
        evaluate(sae, language_model, TEXTS, context=CONTEXT, spliced_texts=1)
    assert told.value.where == "dtype"


def test_no_strongest_texts_are_no_work(
    sae: Any, measured: Measurement, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sort(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "unique_consecutive", sort)
    monkeypatch.setattr(torch.Tensor, "sort", sort)
    strongest = StrongestTexts(5, 0)
    strongest.add(torch.ones(3, 5), torch.zeros(3).long(), torch.arange(3))
    assert strongest.activation_NF.shape == strongest.text_NF.shape == strongest.token_NF.shape == (0, 5)
    figures = evaluate(sae, language_model, TEXTS, context=CONTEXT, batch_size=2, spliced_texts=2)
    assert figures == measured.evaluation


def test_recovered_loss_is_undefined_where_zeros_do_no_harm(measured: Measurement) -> None:
    figures = replace(measured.evaluation, ce_zero=measured.evaluation.ce)
    assert figures.loss_recovered is None
    assert "do not raise" in figures.loss_recovered_reason
    assert figures.as_dict()["loss_recovered"] is None
    assert measured.evaluation.loss_recovered_reason == ""
    json.dumps(figures.as_dict(), allow_nan=False)


def test_the_bundled_sae_is_as_good_as_its_card_says(sae: Any, language_model: LanguageModel) -> None:
    """On sentences written for the stimulus sets, which no corpus contains."""
    from neurosae.stimuli import load as load_stimuli

    texts = load_stimuli("success").table["text"].tolist()[:30]
    figures = evaluate(sae, language_model, texts, spliced_texts=5)
    assert figures.fvu_clean < 0.25
    assert 20 < figures.l0 < 40
    assert not 0.5 < figures.fvu_naive / figures.fvu_clean < 2  # a few tokens rule it
    assert 0 < figures.ce_spliced - figures.ce < 1
    assert 0.9 < (figures.loss_recovered or 0) < 1


codes = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=6, max_size=6), min_size=n, max_size=n)
)


@settings(max_examples=40, deadline=None)
@given(codes=codes, block=st.integers(1, 7))
def test_usage_is_counting_whatever_the_blocks(codes: list[list[float]], block: int) -> None:
    codes_TF = torch.tensor(codes)
    usage = Usage(6)
    for part in codes_TF.split(block):
        usage.add(part)
    table, active_TF = usage.table(), codes_TF.numpy() > 0
    assert usage.n_tokens == len(codes)
    np.testing.assert_array_equal(table["fired"], active_TF.sum(0))
    np.testing.assert_allclose(table["density"], active_TF.mean(0))
    np.testing.assert_allclose(table["mean"], codes_TF.numpy().mean(0))
    np.testing.assert_allclose(table["max"], codes_TF.numpy().max(0))
    l0 = active_TF.sum(1)
    np.testing.assert_array_equal(usage.tokens_by_l0, np.bincount(l0, minlength=7))
    shares = [0.05, 0.5, 0.75, 1.0]
    expected = np.quantile(l0, shares, method="inverted_cdf")
    assert l0_quantiles(usage.tokens_by_l0.numpy(), shares) == expected.tolist()
    counts, edges = density_histogram(table["density"].to_numpy(), usage.n_tokens)
    assert counts.sum() == (table["fired"] > 0).sum()
    assert edges[-1] == 0


@pytest.mark.parametrize("n_tokens", [1, 10, 1000, 10**6])
def test_the_rarest_latent_is_in_the_first_bin(n_tokens: int) -> None:
    counts, _ = density_histogram(np.array([1 / n_tokens, 0.0]), n_tokens)
    assert counts[0] == 1


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=9), block=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_running_list_equals_a_full_sort_whatever_the_blocks(lengths: list[int], block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(0, 4, (n, 5), generator=generator).float() for n in lengths]
    strongest = StrongestTexts(5, 3)
    for start in range(0, len(texts), block):
        part = texts[start : start + block]
        text_T = torch.cat([torch.full((len(x),), start + i) for i, x in enumerate(part)])
        strongest.add(torch.cat(part), text_T, torch.cat([torch.arange(1, len(x) + 1) for x in part]))
    for latent in range(5):
        rows = [(-float(x[:, latent].max()), i, int(x[:, latent].argmax()) + 1) for i, x in enumerate(texts)]
        expected = [row for row in sorted(rows, key=lambda row: row[:2]) if row[0] < 0][:3]
        found = zip(
            (-strongest.activation_NF[:, latent]).tolist(),
            strongest.text_NF[:, latent].tolist(),
            strongest.token_NF[:, latent].tolist(),
            strict=True,
        )
        assert [row for row in found if row[0] < 0] == expected
    assert (strongest.text_NF[strongest.activation_NF == 0] == -1).all()


def test_figures_draw_what_was_counted() -> None:
    counts, edges = density_histogram(np.array([0.5, 0.5, 0.01, 0.0]), 100)
    ax = plots.firing_density(counts, edges, 1, 100)
    np.testing.assert_array_equal(ax.patches[0].get_data().values, counts)
    np.testing.assert_allclose(ax.patches[0].get_data().edges, edges)
    assert "3 latents; 1 never fired" in ax.get_title(loc="left")
    ax = plots.l0_histogram(np.array([1, 0, 3, 0, 0]))
    np.testing.assert_array_equal(ax.patches[0].get_data().values, [1, 0, 3])
    assert ax.get_lines()[0].get_xdata()[0] == pytest.approx(1.5)
    plt.close("all")


def test_texts_equal_up_to_the_token_are_shown_once(language_model: LanguageModel) -> None:
    texts = ["The ferry left early | or late.", "The ferry left early, as ever.", "A ferry\nleft."]
    strongest = StrongestTexts(2)
    text_T, token_T = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1, 2, 1, 2, 2])
    strongest.add(torch.tensor([[0.0, 0], [5, 0], [0, 0], [5, 0], [3, 0]]), text_T, token_T)
    table = excerpts(strongest, [0, 1], texts, language_model.tokenizer, width=8)
    assert table["text"].tolist() == [0, 2]
    assert table["rank"].tolist() == [1, 2]
    assert table[["before", "token", "after"]].to_numpy().tolist() == [
        ["The ", "ferry", " left ea…"],
        ["A ", "ferry", "\nleft."],
    ]


def test_decoder_geometry_is_the_full_matrix_in_any_blocks() -> None:
    W_dec_FD = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    W_dec_FD[7] = 3 * W_dec_FD[19]
    W_dec_FD[4] = 0
    norm_F = np.linalg.norm(W_dec_FD, axis=1)
    unit = W_dec_FD.double().numpy() / np.maximum(norm_F, 1e-30)[:, None]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    for block in (1, 7, 1024):
        table = decoder_geometry(W_dec_FD, block)
        np.testing.assert_allclose(table["decoder_norm"], norm_F, rtol=1e-6)
        np.testing.assert_allclose(table["largest_cosine"], cosines.max(1), atol=1e-6)
        live = norm_F > 0
        np.testing.assert_array_equal(table["nearest"][live], cosines.argmax(1)[live])
    assert table["largest_cosine"][7] == pytest.approx(1)
    assert decoder_geometry(W_dec_FD[:1])["largest_cosine"].tolist() == [-1]


@given(text=st.text(max_size=30))
def test_escaped_text_is_one_table_cell(text: str) -> None:
    shown = markdown(text)
    assert not re.search(r"[\r\n]", shown)
    unescaped = re.sub(r"\\[\\|]", "", shown)
    assert "|" not in unescaped
    assert not re.search(r"(?<!\\)<", re.sub(r"\\\\", "", shown))


def trained_sae(architecture: str, **more: Any) -> Any:
    """A training class with random weights whose decoder norms differ."""
    sae_class, config_class = get_sae_training_class(architecture)
    torch.manual_seed(0)
    about = SAEMetadata(hook_name="blocks.15.hook_resid_post", model_name="smollm2-135m-instruct")
    trained = sae_class(config_class(d_in=16, d_sae=40, metadata=about, **more))
    with torch.no_grad():
        trained.W_dec.mul_(torch.linspace(0.5, 2, 40)[:, None])
        trained.b_dec.add_(0.1)
    return trained.eval()


def write_checkpoint(trained: Any, folder: Path, scaler: ActivationScaler) -> Path:
    trained.save_model(folder)
    scaler.save(str(folder / "activation_scaler.json"))
    return folder


def whitening() -> ActivationWhitening:
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 4 * torch.eye(16)
    return ActivationWhitening(torch.full((16,), 2.0, dtype=torch.float64), matrix, torch.linalg.inv(matrix))


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("kind", ["expected_average_only_in", "covariance_whitening", "none"])
def test_a_checkpoint_reads_raw_activations(architecture: str, kind: str, tmp_path: Path) -> None:
    """Raw activations through the loaded SAE are scaled ones through the SAE in training, scaled back."""
    if (architecture, kind) == ("gated", "covariance_whitening"):
        pytest.skip("SAELens refuses to fold it")
    more = {"k": 5} if architecture == "topk" else {}
    trained = trained_sae(architecture, normalize_activations=kind, **more)
    scaler = {
        "expected_average_only_in": ActivationScaler(scaling_factor=0.05),
        "covariance_whitening": ActivationScaler(whitening=whitening()),
        "none": ActivationScaler(),
    }[kind]
    x_TD = 20 * torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) + 3
    with torch.no_grad():
        expected = scaler.unscale(trained.decode(trained.encode(scaler.scale(x_TD))))
        stored = load_checkpoint(write_checkpoint(trained, tmp_path, scaler))
        found = stored.decode(stored.encode(x_TD))
    assert isinstance(stored, SAE)
    assert site_of(stored) == Site(15)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.05, None])
def test_a_batch_topk_checkpoint_comes_with_its_threshold(scale: float | None, tmp_path: Path) -> None:
    kind = "expected_average_only_in" if scale else "none"
    trained = trained_sae("batchtopk", k=5, normalize_activations=kind)
    trained.topk_threshold.fill_(0.7)
    x_TD = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) / (scale or 1)
    with torch.no_grad():
        scaled_TD = x_TD * (scale or 1)
        centred_TD = scaled_TD - trained.b_dec * trained.cfg.apply_b_dec_to_input
        pre_TF = centred_TD @ trained.W_enc + trained.b_enc
        norm_F = trained.W_dec.norm(dim=-1)
        codes_TF = pre_TF * (pre_TF * norm_F > 0.7)
        expected = (codes_TF @ trained.W_dec + trained.b_dec) / (scale or 1)
        stored = load_checkpoint(write_checkpoint(trained, tmp_path, ActivationScaler(scaling_factor=scale)))
        found = stored.encode(x_TD)
        np.testing.assert_array_equal(found > 0, codes_TF > 0)
        np.testing.assert_allclose(stored.decode(found), expected, rtol=1e-3, atol=1e-3)
    assert checkpoint_folder(tmp_path / "cfg.json") == tmp_path == checkpoint_folder(tmp_path)
    assert checkpoint_folder(tmp_path.parent) is None


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "activation_scaler.json").write_text('{"scaling_factor": null}'), "has no scaling_factor"),
        (lambda f: (f / "activation_scaler.json").write_text('{"scaling_factor": NaN}'), "scaling factor nan"),
        (lambda f: (f / "activation_scaler.json").write_text('{"scaling_factor": "x"}'), "no complete checkpoint"),
        (lambda f: (f / "activation_scaler.json").write_text("{"), "no complete checkpoint"),
        (lambda f: (f / "cfg.json").unlink(), "no complete checkpoint"),
        (lambda f: (f / "cfg.json").write_text('{"architecture": "nonsense"}'), "no complete checkpoint"),
        (lambda f: (f / "sae_weights.safetensors").write_bytes(b"x" * 99), "no complete checkpoint"),
        (lambda f: (f / "sae_weights.safetensors").unlink(), "no complete checkpoint"),
    ],
)
def test_a_broken_checkpoint_is_refused(harm: Any, message: str, tmp_path: Path) -> None:
    trained = trained_sae("standard", normalize_activations="expected_average_only_in")
    harm(write_checkpoint(trained, tmp_path, ActivationScaler(scaling_factor=0.5)))
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path)


def test_a_checkpoint_with_values_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    trained = trained_sae("standard")
    with torch.no_grad():
        trained.W_dec[3, 2] = float("nan")
    with pytest.raises(UserError, match=r"'W_dec'.*not finite"):
        load_checkpoint(write_checkpoint(trained, tmp_path, ActivationScaler()))


NASTY = "| a pipe, a\nline and <script>alert(1)</script> *stars* in the ledger | of the old harbour."
SMALL = ["--texts", "7", "--context", "12", "--spliced-texts", "2", "--top", "6", "--examples", "5"]


def test_the_command_writes_a_report_that_its_json_agrees_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in [*TEXTS, NASTY]))
    out = tmp_path / "out"
    assert command.main(["--corpus", str(corpus), "--out", str(out), *SMALL]) == 0
    (report,) = out.glob("*.md")
    assert report.name in capsys.readouterr().out
    assert re.fullmatch(r"evaluation-\d{8}T\d{6}Z\.md", report.name)
    text, found = report.read_text(encoding="utf-8"), json.loads(report.with_suffix(".json").read_text())
    stamp = report.stem.removeprefix("evaluation-")
    assert {f"l0-{stamp}.png", f"firing_density-{stamp}.png"} <= {path.name for path in out.iterdir()}
    assert found["written"].endswith("+00:00")
    figures = found["figures"]
    assert f"| {figures['fvu_clean']:.4f} |" in text
    assert f"| {figures['loss_recovered']:.4f} |" in text
    assert sum(found["l0"]["tokens_by_l0"]) == figures["n_tokens"]
    dead = round(figures["dead"] * found["latents"])
    assert sum(found["firing_density"]["latents"]) + found["firing_density"]["never_fired"] == found["latents"]
    assert found["firing_density"]["never_fired"] == pytest.approx(dead, abs=1)
    assert sum(found["decoder"]["largest_cosine_histogram"]["latents"]) == found["latents"]
    assert found["dense_latents"]["n"] == pytest.approx(figures["dense"] * found["latents"], abs=1)
    masses = [row["mass"] for row in found["top_latents"]]
    assert len(masses) == 6
    assert masses == sorted(masses, reverse=True)
    assert all(len(row["texts"]) == 5 for row in found["top_latents"][:1])
    assert "<script>" not in text
    assert r"\<script\>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    table: list[int] = []
    for line in rows:
        table.append(len(re.findall(r"(?<!\\)\|", line)))
    assert set(table) == {3, 8}  # two or seven cells, whatever the texts hold


def test_the_verb_saves_what_the_command_writes(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n\n".join(text.replace("\n", " ") for text in TEXTS))
    corpus = str(tmp_path / "corpus.txt")
    assert command.main(["--corpus", corpus, "--out", str(tmp_path / "command"), *SMALL, "--quiet"]) == 0
    (written,) = (tmp_path / "command").glob("*.json")
    found = evaluate_sae(corpus=corpus, texts=7, context=12, spliced_texts=2, top=6, examples=5)
    report = found.save(tmp_path / "verb")
    theirs, ours = (json.loads(path.read_text()) for path in (written, report.with_suffix(".json")))
    assert ours | {"written": theirs["written"]} == theirs
    assert found.top_latents["latent"].tolist() == [row["latent"] for row in ours["top_latents"]]
    assert "![" not in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("wrong", [{"texts": 0}, {"batch_size": 0}, {"top": 0}, {"sae": "no-such-sae"}])
def test_the_verb_names_the_argument_that_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as told:
        evaluate_sae(**wrong)
    assert told.value.where == next(iter(wrong))


def test_the_command_applies_the_scale_of_a_checkpoint(tmp_path: Path, language_model: LanguageModel) -> None:
    """A constant in scaled units is the mean in raw ones only with the scale."""
    x_TD = torch.cat(
        [run_batch(language_model, [ids], [Site(15)])[0][0, 1:] for ids in language_model.token_ids(TEXTS)]
    )
    mean_D = x_TD[x_TD.norm(dim=-1) < 1000].mean(0)
    sae_class, config_class = get_sae_training_class("standard")
    about = SAEMetadata(hook_name="blocks.15.hook_resid_post", model_name="smollm2-135m-instruct")
    trained = sae_class(
        config_class(d_in=576, d_sae=8, normalize_activations="expected_average_only_in", metadata=about)
    )
    with torch.no_grad():
        trained.W_enc.zero_()
        trained.b_dec.copy_(0.1 * mean_D)
    folder = write_checkpoint(trained, tmp_path / "100", ActivationScaler(scaling_factor=0.1))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(text.replace("\n", " ") for text in TEXTS))
    named = ["--checkpoint", str(folder / "sae_weights.safetensors")]
    assert command.main([*named, "--corpus", str(corpus), "--out", str(tmp_path / "out"), *SMALL]) == 0
    (report,) = (tmp_path / "out").glob("*.md")
    assert json.loads(report.with_suffix(".json").read_text())["figures"]["fvu_clean"] == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(load(str(folder)).b_dec.detach(), mean_D, rtol=1e-5)
    moved = load(f"{folder}@3.mlp_out", dtype="bfloat16")
    assert (site_of(moved), moved.W_dec.dtype) == (Site(3, "mlp_out"), torch.bfloat16)


def test_what_cannot_be_measured_is_told(sae: Any, language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="no texts"):
        evaluate(sae, language_model, [])
    with pytest.raises(UserError, match="no clean token"):
        evaluate(sae, language_model, ["", ""])
    with pytest.raises(UserError, match="no variance"):
        evaluate(sae, language_model, ["Tuesday"], context=2)
    with pytest.raises(UserError, match="width 16"):
        evaluate(trained_sae("standard"), language_model, TEXTS)
    beyond = constant_sae(torch.zeros(language_model.d_model), "blocks.99.hook_resid_post")
    with pytest.raises(UserError, match="no block 99"):
        evaluate(beyond, language_model, TEXTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere/at/all"], "no file or folder"),
        (["--texts", "0"], "--texts"),
        (["--batch-size", "0"], "--batch-size"),
        (["--context", "0"], "--context"),
        (["--corpus", "nothing.txt"], "no corpus"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_transcoder_is_refused(language_model: LanguageModel) -> None:
    about = SAEMetadata(hook_name="blocks.15.hook_resid_post")
    transcoder = Transcoder(TranscoderConfig(d_in=576, d_sae=8, d_out=576, apply_b_dec_to_input=False, metadata=about))
    with pytest.raises(UserError, match="transcoder"):
        evaluate(transcoder, language_model, TEXTS)
