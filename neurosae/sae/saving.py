"""The finished SAE on disk, and the gate it passes: what was saved must be as good as what was trained."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sae_lens import TrainingSAE
from safetensors.torch import load_file, save_file

from neurosae.errors import UserError
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
    """Check that the stored SAE reconstructs texts as the trained one in memory does.

    Raises
    ------
    UserError
        The clean FVU differs by more than 0.01 or L0 by more than 5 %.
    """
    with tempfile.TemporaryDirectory() as unrounded:
        sae.save_inference_model(unrounded)
        before = evaluate(load(unrounded), language_model, texts, spliced_texts=1)
    after = evaluate(load(str(folder)), language_model, texts, spliced_texts=1)
    same_fvu = abs(before.fvu_clean - after.fvu_clean) <= _TOLERANCE_FVU
    same_l0 = abs(before.l0 - after.l0) <= _TOLERANCE_L0 * before.l0
    if not (same_fvu and same_l0):
        raise UserError(
            f"The stored SAE differs from the trained one: FVU {after.fvu_clean:.4f} against {before.fvu_clean:.4f}, "
            f"L0 {after.l0:.2f} against {before.l0:.2f}",
            where=str(folder),
        )
