"""How good is an SAE? Figures on held-out texts, what its latents do, and the texts that drive the largest of them.

Writes a report in Markdown, the same as JSON, and two figures, all with the moment in their names: nothing is replaced.
A checkpoint of SAELens' trainer is measured with the scale of its training folded in.

Examples
--------
python -m experiments.evaluate_sae
python -m experiments.evaluate_sae path/to/sae@15 --model gpt2 --corpus held_out.parquet --texts 2000
python -m experiments.evaluate_sae --checkpoint runs/mine/checkpoints/1048576 --corpus held_out.parquet
python -m experiments.evaluate_sae --smoke-test
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import options as shared
from neurosae import plots
from neurosae.console import Parser, Summary
from neurosae.errors import UserError
from neurosae.files import write_json, write_text
from neurosae.sae import loading
from neurosae.sae.evaluation import Measurement, measure
from neurosae.sae.examples import excerpts, markdown
from neurosae.sae.latents import DENSE, decoder_geometry, density_histogram, l0_quantiles

_QUANTILES = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
_ALIKE = 0.9  # decoder rows with a larger cosine are nearly one direction
_SPARE = 4  # so many times the texts to show are remembered: some are equal up to the token that counts
_SMOKE = {"texts": 12, "spliced_texts": 3, "context": 48, "top": 5}


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("evaluate_sae", __doc__)
    what = p.add_argument_group("what")
    which = what.add_mutually_exclusive_group()
    which.add_argument("sae", nargs="?", default=loading.DEFAULT, help="a bundled name, a file or folder, a hub name")
    which.add_argument(
        "--checkpoint", help="a checkpoint of SAELens' trainer, a file or folder in any known format (default: SAE)"
    )
    shared.add_texts(what)
    shared.add_model(p, default=None)
    how = p.add_argument_group("how")
    how.add_argument("--spliced-texts", type=int, default=40, help="texts for the cross-entropies")
    how.add_argument("--batch-size", type=int, default=8, help="texts at once: bounds memory")
    how.add_argument("--top", type=int, default=20, help="latents listed with their texts")
    how.add_argument("--examples", type=int, default=5, help="texts per listed latent")
    how.add_argument("--smoke-test", action="store_true", help="a few short texts: does everything run?")
    p.output.add_argument("--out", type=Path, help="folder of the report (default: results/sae/NAME)")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Measure and write."""
    if options.smoke_test:
        vars(options).update(_SMOKE)
    for name in ("context", "spliced_texts", "batch_size", "top", "examples"):
        if getattr(options, name) < 1:
            raise UserError(
                f"{getattr(options, name)} is too small", where=f"--{name.replace('_', '-')}", allowed="1 or more"
            )
    spec = options.checkpoint or options.sae
    if options.checkpoint and not Path(loading.split(spec)[0]).exists():
        raise UserError(f"There is no file or folder '{spec}'", where="--checkpoint")
    texts = shared.texts(options)
    sae = loading.load(spec, options.device, model=options.model)
    language_model = shared.load_model_of(sae, options)
    measurement = measure(
        sae,
        language_model,
        texts,
        context=options.context,
        batch_size=options.batch_size,
        spliced_texts=options.spliced_texts,
        n_strongest=_SPARE * options.examples,
        progress=True,
    )
    now = datetime.now(UTC)
    about = {
        "sae": spec,
        "architecture": sae.cfg.architecture(),
        "latents": sae.cfg.d_sae,
        "d_model": sae.cfg.d_in,
        "site": str(loading.site_of(sae)),
        "identity": loading.identity(spec),
        "language_model": language_model.name,
        "fingerprint": language_model.fingerprint,
        "corpus": options.corpus or "texts that ship: calibration text, stimuli",
        "context": options.context,
        "written": now.isoformat(timespec="seconds"),
    }
    latents = measurement.latents.join(decoder_geometry(sae.W_dec))
    # What a latent adds to the reconstruction of an average token: independent of how its scale is split in two.
    latents["mass"] = latents["mean"] * latents["decoder_norm"]
    shown = excerpts(
        measurement.strongest,
        largest(latents, options.top)["latent"],
        texts,
        language_model.tokenizer,
        n_texts=options.examples,
    )
    found = results(measurement, latents, shown, options.top)
    folder = options.out or Path("results", "sae", _name(spec))
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    figures = draw(measurement, folder, stamp)
    report = folder / f"evaluation-{stamp}.md"
    write_json(report.with_suffix(".json"), about | found)
    write_text(report, as_markdown(about, found, figures))
    return summary(spec, measurement, found, report)


def summary(spec: str, measurement: Measurement, found: dict[str, Any], report: Path) -> Summary:
    """The figures that matter, and where the report is."""
    figures = measurement.evaluation
    recovered = figures.loss_recovered
    sentences = [
        f"{spec} leaves {figures.fvu_clean:.1%} of the variance of clean tokens unexplained, with {figures.l0:.1f} "
        f"active latents per token.",
        f"Spliced into the model it costs {figures.ce_spliced - figures.ce:.3f} nats per token"
        + ("." if recovered is None else f": {recovered:.1%} of the loss is recovered."),
        f"{figures.dead:.1%} of its latents never fired on these {figures.n_tokens:,} tokens, {figures.dense:.1%} "
        f"fire on more than {DENSE:.0%} of them.",
    ]
    return Summary(
        sentences,
        found["figures"] | {"largest_latents": [row["latent"] for row in found["top_latents"]]},
        report.parent,
        {report.name: "the report", report.with_suffix(".json").name: "the same for programs"},
        [f"python -m experiments.check_sae {spec}   # does it fit the hook it declares?"],
    )


def _name(spec: str) -> str:
    """A folder's name out of a name or a path."""
    return re.sub(r"[^\w.-]+", "-", "-".join(Path(spec).parts[-3:])).strip("-.")


def largest(latents: pd.DataFrame, n: int, by: str = "mass") -> pd.DataFrame:
    """The n rows with the largest values, the first of equal ones."""
    return latents.sort_values([by, "latent"], ascending=[False, True]).head(n)


def results(measurement: Measurement, latents: pd.DataFrame, shown: pd.DataFrame, top: int) -> dict[str, Any]:
    """The figures of a report, as JSON holds them.

    Parameters
    ----------
    measurement : Measurement
    latents : DataFrame
        One row per latent: usage, decoder geometry and `mass`.
    shown : DataFrame
        Excerpts of the largest latents.
    top : int
        Latents to list.
    """
    evaluation, counts = measurement.evaluation, measurement.tokens_by_l0
    density, edges = density_histogram(latents["density"].to_numpy(), evaluation.n_tokens)
    most = int(np.flatnonzero(counts).max())
    alike, alike_edges = np.histogram(latents["largest_cosine"], np.linspace(-1, 1, 41))
    dense = latents[latents["density"] > DENSE]
    return {
        "figures": evaluation.as_dict() | {"loss_recovered_reason": evaluation.loss_recovered_reason},
        "l0": {
            "quantiles": dict(zip(map(str, _QUANTILES), l0_quantiles(counts, _QUANTILES), strict=True)),
            "tokens_by_l0": counts[: most + 1].tolist(),
        },
        "firing_density": {
            "log10_edges": edges.tolist(),
            "latents": density.tolist(),
            "never_fired": int((latents["fired"] == 0).sum()),
        },
        "decoder": {
            "norm_smallest": float(latents["decoder_norm"].min()),
            "norm_largest": float(latents["decoder_norm"].max()),
            "largest_cosine_quantiles": {str(q): float(latents["largest_cosine"].quantile(q)) for q in _QUANTILES},
            "largest_cosine_histogram": {"edges": alike_edges.round(2).tolist(), "latents": alike.tolist()},
            "share_above_0.9": float((latents["largest_cosine"] > _ALIKE).mean()),
        },
        "dense_latents": {"n": len(dense), "densest": largest(dense, top, "density").to_dict("records")},
        "top_latents": [
            row | {"texts": shown[shown["latent"] == row["latent"]].drop(columns="latent").to_dict("records")}
            for row in largest(latents, top).to_dict("records")
        ],
    }


def draw(measurement: Measurement, folder: Path, stamp: str) -> dict[str, str]:
    """Draw both figures beside the report; returns their names by what they show."""
    latents, n_tokens = measurement.latents, measurement.evaluation.n_tokens
    counts, edges = density_histogram(latents["density"].to_numpy(), n_tokens)
    n_dead = int((latents["fired"] == 0).sum())
    drawn = {
        "firing density": plots.firing_density(counts, edges, n_dead, n_tokens),
        "L0": plots.l0_histogram(measurement.tokens_by_l0),
    }
    names = {}
    for title, ax in drawn.items():
        path = folder / f"{title.lower().replace(' ', '_')}-{stamp}.png"
        plots.save(ax.figure, path)
        names[title] = path.name
    return names


def as_markdown(about: dict[str, Any], found: dict[str, Any], figures: dict[str, str]) -> str:
    """The report for people."""
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
        f"![L0]({figures['L0']})",
        "## Firing density",
        f"![firing density]({figures['firing density']})",
        f"{dense['n']:,} dense latents" + (", the densest:" if dense["n"] else "."),
        *([_latent_table(dense["densest"])] if dense["n"] else []),
        "## Decoder",
        f"Row norms {decoder['norm_smallest']:.4g} to {decoder['norm_largest']:.4g}. Largest cosine of each row with "
        f"another one, quantiles: {cosines}; above {_ALIKE:g}: {decoder['share_above_0.9']:.2%} of the latents.",
        "## Largest latents and their strongest texts",
        "By mass: mean activation over all clean tokens times decoder norm, the length that a latent adds to the "
        "reconstruction of an average token. The token that drives it is bold; of texts equal up to there, one is "
        "shown.",
        _latent_table(found["top_latents"]),
    ]
    for latent in found["top_latents"]:
        parts += [f"### Latent {latent['latent']}", _table(["activation", "text"], map(_example, latent["texts"]))]
    return "\n\n".join(parts) + "\n"


def _example(row: dict[str, Any]) -> tuple[str, str]:
    text = f"{markdown(row['before'])}<b>{markdown(row['token'])}</b>{markdown(row['after'])}"
    return f"{row['activation']:.2f}", text.strip()


def _latent_table(rows: list[dict[str, Any]]) -> str:
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


def _table(header: list[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
