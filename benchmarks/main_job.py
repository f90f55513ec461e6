"""Where the time of the main job goes, and how capture compares with the bare forward pass.

``python -m benchmarks.main_job [--json]`` prints one line per measurement: our figure, the peer's, their ratio
and how far the results differ. Ours and the peer's run alternate in one process; figures are medians.

Then a fresh default run on `success`, responses captured anew in a temporary cache, split by stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurosae import models
from neurosae.capture import capture, make_prompts
from neurosae.forward import batches
from neurosae.models import LanguageModel
from neurosae.norms import median_norms
from neurosae.sites import Site
from neurosae.stimuli import load

_SITE, _BATCH = Site(15), 32


def bare_pass(language_model: LanguageModel, ids: list[list[int]]) -> np.ndarray:
    """The peer: transformers' own model cut after the block, right-padded batches of the same plan, nothing else."""
    rows: list[np.ndarray] = [np.empty(0)] * len(ids)
    for plan in batches(ids, _BATCH):
        width = max(len(ids[row]) for row in plan)
        tokens = torch.full((len(plan), width), language_model.sink_token)
        for i, row in enumerate(plan):
            tokens[i, : len(ids[row])] = torch.tensor(ids[row])
        with torch.inference_mode():
            hidden = language_model.base(input_ids=tokens, use_cache=False).last_hidden_state
        for i, row in enumerate(plan):
            rows[row] = hidden[i, : len(ids[row])].numpy()
    return np.concatenate(rows)


def cut_model() -> LanguageModel:
    """A plain transformers model with only the blocks that are needed, without the final norm."""
    from dataclasses import replace

    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(models.prepare()), dtype=torch.float32).eval()
    plain.model.layers = plain.model.layers[: _SITE.block + 1]
    plain.model.norm = torch.nn.Identity()
    return replace(models.load(), plain=plain, components={})


def measure_capture(repeats: int) -> dict[str, Any]:
    """Capture, tables included, against the bare truncated forward pass on the same texts."""
    language_model, bare = models.load(), cut_model()
    table = load("success").table
    ids = [prompt.ids for prompt in make_prompts(language_model, table)]
    median_norms(language_model, [_SITE])

    def ours() -> np.ndarray:
        return np.asarray(capture(language_model, table, [_SITE], batch_size=_BATCH)[_SITE].values)

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    difference = 0.0
    for _ in range(repeats):
        results = {}
        for name, function in (("peer", lambda: bare_pass(bare, ids)), ("ours", ours)):
            started = time.perf_counter()
            results[name] = function()
            seconds[name].append(time.perf_counter() - started)
        difference = max(difference, float(np.abs(results["ours"] - results["peer"])[1:].max()))
    tokens = sum(map(len, ids))
    rate = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    return {
        "name": "capture, block 15, tokens/s",
        "ours": round(rate["ours"]),
        "peer": round(rate["peer"]),
        "ratio": round(rate["ours"] / rate["peer"], 3),
        "agreement": difference,
        "peer_is": "transformers model cut after block 15, same batches, no hooks",
    }


def measure_stages(jobs: int) -> list[dict[str, Any]]:
    """A fresh default run on `success`, responses captured anew."""
    import os

    from experiments import combinatorial, reporting
    from neurosae.runs import RunFolder

    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        prepared = models.prepare()
        os.environ["NEUROSAE_CACHE"] = scratch
        (Path(scratch) / "models").mkdir()
        (Path(scratch) / "models" / prepared.name).symlink_to(prepared)
        options = combinatorial.parser().parse_args(["--out", scratch, "--jobs", str(jobs), "--quiet"])
        started = time.perf_counter()
        contrast_run = combinatorial.runs(options, combinatorial.settings(options))[0]
        folder = RunFolder(Path(scratch) / "success", contrast_run.configuration())
        lines.append({"name": "set-up, SAE and stimuli read", "seconds": round(time.perf_counter() - started, 1)})
        tables = contrast_run.compute(folder)
        timings = json.loads((folder.path / "manifest.json").read_text())["timings"]
        lines += [{"name": name, "seconds": round(seconds, 1)} for name, seconds in timings.items()]
        before = time.perf_counter()
        reporting.draw(contrast_run, folder, tables)
        lines.append({"name": "figures", "seconds": round(time.perf_counter() - before, 1)})
        lines.append({"name": "whole run, imports not counted", "seconds": round(time.perf_counter() - started, 1)})
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.main_job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    results = [measure_capture(options.repeats), *measure_stages(options.jobs)]
    for line in results:
        print(json.dumps(line) if options.json else "  ".join(f"{key}: {value}" for key, value in line.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
