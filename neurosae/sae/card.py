"""The card of a trained SAE in Markdown: what it is, how it was made, how good it is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from neurosae.sae import overlap
from neurosae.sae.evaluation import Evaluation
from neurosae.sae.examples import markdown
from neurosae.sae.training_plan import TrainingPlan

_SINK = """Put the sink token (id 0, `<|endoftext|>` for the default model) in front of every text and leave it out of
    everything, as `neurosae.capture` does. Without it the first word becomes an attention sink and the latents mean
    nothing."""
_FIGURES = """FVU is the fraction of variance unexplained. *Clean* is the headline: centred, without sink and outlier
    tokens. *Naive* leaves them in: their norms are a hundred times the usual, so that it describes a few tokens that
    the SAE never saw and nothing else. L0 is the number of active latents per clean token. CE is in nats per token,
    with and without the reconstruction in place of clean activations, on the first 40 texts; a dead latent never fired
    on that data."""
_COLUMNS = [
    *("held-out data", "texts", "clean tokens", "FVU, clean", "FVU, naive", "FVU, uncentred"),
    *("L0", "dead", "CE", "CE spliced", "increase"),
]
_STORED = {"batchtopk": "jumprelu with one threshold", "matryoshka": "jumprelu with one threshold"}


def card(about: Mapping[str, Any], plan: TrainingPlan, held_out: Mapping[str, Evaluation], description: str) -> str:
    """The card.

    Parameters
    ----------
    about : mapping
        What ``training.json`` holds.
    plan : TrainingPlan
    held_out : mapping of str to Evaluation
        By name of the data; measured on the stored weights.
    description : str
        One paragraph about the data and its licence.
    """
    stored = _STORED.get(plan.architecture, plan.architecture)
    what = f"""Sparse autoencoder, trained as {plan.architecture} with {plan.n_latents:,} latents{_sparsity(plan)},
        stored as {stored} in SAELens' format: weights rounded to bfloat16, thresholds in float32. It reads raw
        activations; nothing has to be scaled. Decoder rows have norm 1."""
    recipe = f"""{_origin(about)} {plan.epochs:g} epochs, batch {plan.batch_size:,}, Adam {plan.lr:g} with 5 % warm-up
        (at most 1,000 steps) and linear decay over the last 20 %, gradient clip 1; {_method(plan)}; seed {plan.seed}.
        This is the SAE at the end of the training, not the best of several checkpoints. `training.json` and
        `training.csv` have the history{_hashes(about)}."""
    return f"""# SAE of {markdown(about["model"])}, {about["site"]}

{_paragraph(what)}

## Use

    from neurosae.sae.loading import load
    sae = load("folder of this card")           # or sae_lens.SAE.load_from_disk(folder)

{_paragraph(_SINK)}

## Quality, measured on the stored (rounded) weights

{_table(held_out)}

{_paragraph(_FIGURES)}

## Recipe

{_paragraph(recipe)}

## Data and licence

{description or "Not described."}
"""


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _table(held_out: Mapping[str, Evaluation]) -> str:
    rows = [_COLUMNS, ["---"] * len(_COLUMNS)]
    for name, e in held_out.items():
        counts = [f"{e.n_texts:,}", f"{e.n_tokens:,}"]
        fvu = [f"{e.fvu_clean:.3f}", f"{e.fvu_naive:.5f}", f"{e.fvu_uncentred:.3f}"]
        losses = [f"{e.ce:.3f}", f"{e.ce_spliced:.3f}", f"{e.ce_spliced - e.ce:+.3f}"]
        rows.append([markdown(name), *counts, *fvu, f"{e.l0:.1f}", f"{e.dead:.2%}", *losses])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _sparsity(plan: TrainingPlan) -> str:
    return "" if plan.architecture == "standard" else f", k = {plan.k}"


def _origin(about: Mapping[str, Any]) -> str:
    every = about["context"]["sentences_every"]
    cut = f" (every {every}th text cut into single sentences, each with its own sink token)" if every else ""
    tokens = f"{about['tokens']:,} clean tokens from {about['texts']:,} texts of {markdown(about['corpus'])}{cut}"
    tokens += f", contexts of at most {about['context']['context']} tokens"
    if about["capture_dtype"] is None:
        return tokens + "."
    how = "streamed through the language model" if about["streaming"] else "captured"
    held_out = f"the first {about['held_out_texts']} texts of the corpus were held out"
    return f"{tokens}, {how} in {about['capture_dtype']}; {held_out}."


def _method(plan: TrainingPlan) -> str:
    """Sparsity and what is done about dead latents, in words."""
    dead = f"latents silent for {plan.dead_after_tokens:,} tokens"
    if plan.architecture == "standard":
        return f"L1 loss {plan.sparsity:g}, nothing that revives dead latents"
    if plan.architecture == "jumprelu":
        return f"quadratic loss {plan.sparsity:g} around {plan.k} active latents, pre-activation loss for {dead}"
    annealed = f"k falls from {min(plan.k_start, plan.n_latents)} to {plan.k} over the first tenth"
    nested = f"; nested dictionaries of {', '.join(map(str, plan.widths))}" if plan.architecture == "matryoshka" else ""
    return f"{annealed}; auxiliary loss {plan.aux_coefficient:g} for {dead}{nested}"


def _hashes(about: Mapping[str, Any]) -> str:
    if about["capture_dtype"] is None:
        return ""
    return f", `{overlap.FILE}` hashes of the sentences of all training texts (`neurosae.sae.overlap`)"
