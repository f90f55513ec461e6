"""How much of the speed of the bare forward pass does discovery keep, writing its state? Paired, in one process.

python -m benchmarks.discovery
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from neurosae import stimuli
from neurosae.decoding.fitted import fit_ensemble
from neurosae.decoding.variants import Variant
from neurosae.discovery import gold
from neurosae.discovery.search import discover
from neurosae.forward import stream
from neurosae.representations import Bench, Source

SENTENCES, ROUNDS, BATCH = 64, 3, 16


def main() -> None:
    """Print sentences per second of both, and their ratio; process time, so that neighbours count for nothing."""
    bench = Bench(stimuli.load("success"), Source())
    variants = [Variant(r, "t", 8, "logistic_l2", 15, "mean") for r in ("sae", "raw")]
    ensembles = [fit_ensemble(bench, "success", variant) for variant in variants]
    texts = gold.load().table["text"].tolist()[:SENTENCES]
    ids = bench.language_model.token_ids(texts)
    sites = [ensembles[0].site]
    discover(bench, ensembles, texts[:BATCH], split=False)  # warm
    bare = ours = 0.0
    for _ in range(ROUNDS):
        start = time.process_time()
        for _batch in stream(bench.language_model, ids, sites, batch_size=BATCH):
            pass
        middle = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            discover(bench, ensembles, texts, split=False, batch_size=BATCH, resume=Path(folder))
        bare, ours = bare + middle - start, ours + time.process_time() - middle
    n = SENTENCES * ROUNDS
    print(f"bare forward {n / bare:.1f}, discovery {n / ours:.1f} sentences per CPU second: ratio {bare / ours:.3f}")


if __name__ == "__main__":
    main()
