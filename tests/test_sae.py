"""Encoding, controls and bundled SAEs do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments import train_sae
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae import overlap
from neurosae.sae.loading import load, site_of, untrained_like
from neurosae.sites import Site


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_untrained_control_takes_samples_of_any_precision(sae: object, dtype: torch.dtype) -> None:
    x = (torch.randn(200, 576, generator=torch.Generator().manual_seed(2)) * 8).to(torch.bfloat16)
    expected, control = untrained_like(sae, x.float()), untrained_like(sae, x.to(dtype))
    assert control.dtype == control.W_enc.dtype == control.threshold.dtype == torch.float32
    assert control.W_enc.device == sae.W_enc.device  # type: ignore[attr-defined]
    for name, value in expected.state_dict().items():
        assert torch.equal(control.state_dict()[name], value), name


def test_the_untrained_control_reads_a_bounded_sample(sae: object) -> None:
    """A long sample counts by 2,000 evenly spaced tokens, its ends included; a shorter one as a whole."""
    x = torch.randn(7997, 576, generator=torch.Generator().manual_seed(2)) * 8  # every fourth of them
    expected, control = untrained_like(sae, x[::4]), untrained_like(sae, x)
    assert len(x[::4]) == 2000
    assert torch.equal(control.threshold, expected.threshold)
    assert torch.equal(control.b_dec, x[::4].mean(0))


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
