"""The finished SAE on disk, and the gate it passes: what was saved must be as good as what was trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from sae_lens import TrainingSAE
from sae_lens.saes.batchtopk_sae import BatchTopK
from safetensors.torch import load_file, save_file

from neurosae.errors import CheckFailed
from neurosae.files import write_json
from neurosae.models import LanguageModel
from neurosae.sae.evaluation import evaluate
from neurosae.sae.loading import load

_TOLERANCE_FVU = 0.01  # rounding to bfloat16 may cost so much, absolute
_TOLERANCE_L0 = 0.05  # relative


def save(sae: TrainingSAE, folder: Path) -> None:
    """Write SAELens' inference format, weights rounded to bfloat16, thresholds in float32.

    Parameters
    ----------
    sae : sae_lens.TrainingSAE
        topk and standard stay what they are, batchtopk and matryoshka become jumprelu.
    folder : Path
        Gets ``cfg.json`` and ``sae_weights.safetensors``.
    """
    weights, config = sae.save_inference_model(folder)
    tensors = load_file(weights)
    rounded = {name: t.float() if name == "threshold" else t.bfloat16() for name, t in tensors.items()}
    save_file({name: t.contiguous() for name, t in rounded.items()}, weights)
    about = json.loads(config.read_text(encoding="utf-8"))
    write_json(config, about | {"dtype": "float32", "device": "cpu"})


def refuse_if_changed(sae: TrainingSAE, folder: Path, language_model: LanguageModel, texts: Sequence[str]) -> None:
    """Check that the stored SAE, read back, reconstructs texts as the trained one in memory does.

    Raises
    ------
    CheckFailed
        The clean FVU differs by more than 0.01 or L0 by more than 5 %.
    """
    with _as_at_inference(sae):
        before = evaluate(sae, language_model, texts, spliced_texts=1)
    after = evaluate(load(str(folder)), language_model, texts, spliced_texts=1)
    same_fvu = abs(before.fvu_clean - after.fvu_clean) <= _TOLERANCE_FVU
    same_l0 = abs(before.l0 - after.l0) <= _TOLERANCE_L0 * before.l0
    if not (same_fvu and same_l0):
        raise CheckFailed(
            f"The stored SAE differs from the trained one: FVU {after.fvu_clean:.4f} against {before.fvu_clean:.4f}, "
            f"L0 {after.l0:.2f} against {before.l0:.2f}",
            where=str(folder),
        )


class _Threshold(torch.nn.Module):
    """What takes the place of BatchTopK after training."""

    def __init__(self, threshold: torch.Tensor) -> None:
        super().__init__()
        self.threshold = threshold.clamp(min=0)

    def forward(self, pre: torch.Tensor) -> torch.Tensor:
        """Pre-activations above the threshold, zeros elsewhere."""
        return pre * (pre > self.threshold)


@contextmanager
def _as_at_inference(sae: TrainingSAE) -> Iterator[None]:
    """BatchTopK chooses within a batch while it trains; what is stored has a threshold. The others stay as they are."""
    activation = sae.activation_fn
    if isinstance(activation, BatchTopK):
        sae.activation_fn = _Threshold(sae.topk_threshold)
    try:
        yield
    finally:
        sae.activation_fn = activation
