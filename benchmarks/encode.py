"""Encoding against the bare matrix product: what does turning activations into sparse latents cost on top?

``python -m benchmarks.encode [--json]`` prints one line per measurement: tokens per second of ours and of the peer,
their ratio, and how far our codes are from ``sae.encode`` on the first tokens. The peer is ``x @ W_enc`` in float32 on
all cores, same shapes, without bias or threshold and with nothing kept: no encoder does less. Ours and the peer's run
alternate in one process; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from neurosae import models, stimuli
from neurosae.norms import calibration_texts
from neurosae.sae.activations import clean_activations
from neurosae.sae.encoding import encode_rows
from neurosae.sae.loading import load, site_of

_COMPARED = 256  # tokens whose codes are compared with those of sae.encode


def measure(name: str, sae: Any, x_TD: np.ndarray, repeats: int) -> dict[str, Any]:
    """One SAE on one set of activations."""
    x = torch.from_numpy(x_TD)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    with torch.inference_mode():
        expected = sae.encode(x[:_COMPARED]).numpy()
        for _ in range(repeats):
            for key, function in (("peer", lambda: x @ sae.W_enc), ("ours", lambda: encode_rows(sae, x_TD))):
                started = time.perf_counter()
                result = function()
                seconds[key].append(time.perf_counter() - started)
    rate = {key: len(x_TD) / statistics.median(values) for key, values in seconds.items()}
    return {
        "name": f"encode, {name}, {len(x_TD)} x {sae.cfg.d_in} x {sae.cfg.d_sae}, tokens/s",
        "ours": round(rate["ours"]),
        "peer": round(rate["peer"]),
        "ratio": round(rate["ours"] / rate["peer"], 3),
        "agreement": float(np.abs(result[:_COMPARED].toarray() - expected).max()),
        "l0": round(result.nnz / len(x_TD), 1),
        "peer_is": f"x @ W_enc in float32, {torch.get_num_threads()} threads",
    }


def real_activations(sae: Any, n_tokens: int) -> np.ndarray:
    """Clean activations of the bundled language model on the texts that ship."""
    texts = calibration_texts()
    for name in ("success", "valence", "logic", "continuation"):
        texts += stimuli.load(name).table["text"].tolist()
    parts, n = [], 0
    for activations, _ in clean_activations(models.load(), texts, site_of(sae), context=256):
        parts.append(activations.float().numpy())
        n += len(activations)
        if n >= n_tokens:
            break
    return np.concatenate(parts)[:n_tokens]


def synthetic(d_model: int, n_latents: int, l0: int, seed: int = 0) -> Any:
    """A JumpReLU SAE of random directions; on normal activations about `l0` latents are active."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_model, d_sae=n_latents, apply_b_dec_to_input=False))
    generator = torch.Generator().manual_seed(seed)
    above = statistics.NormalDist().inv_cdf(1 - l0 / n_latents)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_model, n_latents, generator=generator) / d_model**0.5)
        sae.threshold.fill_(above)
    return sae.eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args(arguments)
    bundled = load()
    x_TD = real_activations(bundled, options.tokens)
    noise_TD = np.random.default_rng(0).normal(size=(options.tokens, 576)).astype(np.float32)
    for line in (
        measure("bundled SAE", bundled, x_TD, options.repeats),
        measure("synthetic JumpReLU", synthetic(576, 65536, 60), noise_TD, options.repeats),
    ):
        print(json.dumps(line) if options.json else "  ".join(f"{key}: {value}" for key, value in line.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
