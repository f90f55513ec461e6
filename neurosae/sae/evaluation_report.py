"""The report of an evaluation in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neurosae.sae.examples import markdown
from neurosae.sae.latents import ALIKE, DENSE


def as_markdown(about: Mapping[str, Any], found: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The report for people.

    Parameters
    ----------
    about : mapping
        What was measured, on what and when; see `neurosae.sae.evaluate_sae.SaeEvaluation`.
    found : mapping
        Its figures as plain data.
    pictures : mapping of str to str
        File names of the pictures to show, by what they show: "L0", "firing density".
    """
    values, l0, decoder, dense = found["figures"], found["l0"], found["decoder"], found["dense_latents"]
    recovered = values["loss_recovered"]
    rows = [
        ("FVU, clean tokens, centred (the headline)", f"{values['fvu_clean']:.4f}"),
        ("FVU, naive (sink and outliers left in)", f"{values['fvu_naive']:.4f}"),
        ("FVU, clean tokens, uncentred", f"{values['fvu_uncentred']:.4f}"),
        ("MSE per dimension", f"{values['mse']:.4g}"),
        ("L0", f"{values['l0']:.2f}"),
        ("dead latents (never fired here)", f"{values['dead']:.2%}"),
        (f"dense latents (fire on more than {DENSE:.0%} of tokens)", f"{values['dense']:.2%}"),
        ("CE as it is", f"{values['ce']:.4f}"),
        ("CE with the reconstruction", f"{values['ce_spliced']:.4f}"),
        ("CE with zeros", f"{values['ce_zero']:.4f}"),
        ("CE with the mean activation", f"{values['ce_mean']:.4f}"),
        ("KL from the model as it is to the spliced one", f"{values['kl']:.4f}"),
        (
            "loss recovered",
            f"undefined: {values['loss_recovered_reason']}" if recovered is None else f"{recovered:.4f}",
        ),
    ]
    cosines = ", ".join(f"{float(q):.0%}: {value:.3f}" for q, value in decoder["largest_cosine_quantiles"].items())
    parts = [
        f"# Evaluation of {markdown(about['sae'])}",
        f"{about['latents']:,} latents ({about['architecture']}), {about['site']} of "
        f"{markdown(about['language_model'])}; {values['n_texts']:,} texts with {values['n_tokens']:,} clean tokens, "
        f"cross-entropies on {values['n_spliced_tokens']:,} predicted tokens. "
        f"Corpus: {markdown(about['corpus'])}. {about['written']}.",
        "Sink and outlier tokens are masked everywhere but in the naive FVU, and stay as they are when something is "
        "spliced in. Cross-entropies (CE) and KL divergence are in nats per predicted token.",
        _table(["figure", "value"], rows),
        "## Active latents per token",
        _table([f"{float(q):.0%} quantile" for q in l0["quantiles"]], [tuple(map(str, l0["quantiles"].values()))]),
        *_picture("L0", pictures),
        "## Firing density",
        *_picture("firing density", pictures),
        f"{dense['n']:,} dense latents" + (", the densest:" if dense["n"] else "."),
        *([_latent_table(dense["densest"])] if dense["n"] else []),
        "## Decoder",
        f"Row norms {decoder['norm_smallest']:.4g} to {decoder['norm_largest']:.4g}. Largest cosine of each row with "
        f"another one, quantiles: {cosines}; above {ALIKE:g}: {decoder['share_above_0.9']:.2%} of the latents.",
        "## Largest latents and their strongest texts",
        "By mass: mean activation over all clean tokens times decoder norm, the length that a latent adds to the "
        "reconstruction of an average token. The token that drives it is bold; of texts equal up to there, one is "
        "shown.",
        _latent_table(found["top_latents"]),
    ]
    for latent in found["top_latents"]:
        parts += [f"### Latent {latent['latent']}", _table(["activation", "text"], map(_example, latent["texts"]))]
    return "\n\n".join(parts) + "\n"


def _picture(name: str, pictures: Mapping[str, str]) -> list[str]:
    return [f"![{name}]({pictures[name]})"] if name in pictures else []


def _example(row: Mapping[str, Any]) -> tuple[str, str]:
    text = f"{markdown(row['before'])}<b>{markdown(row['token'])}</b>{markdown(row['after'])}"
    return f"{row['activation']:.2f}", text.strip()


def _latent_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["latent", "mass", "density", "mean", "max", "decoder norm", "largest cosine (with)"]
    return _table(
        header,
        (
            (
                str(row["latent"]),
                f"{row['mass']:.3g}",
                f"{row['density']:.2%}",
                f"{row['mean']:.3g}",
                f"{row['max']:.3g}",
                f"{row['decoder_norm']:.3g}",
                f"{row['largest_cosine']:.2f} ({row['nearest']})",
            )
            for row in rows
        ),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
