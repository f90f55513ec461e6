"""How good is an SAE? Figures on held-out texts, what its latents do, and the texts that drive the largest of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.corpora import first_texts
from neurosae.errors import at_least
from neurosae.files import write_json, write_text
from neurosae.models import LanguageModel
from neurosae.sae import loading
from neurosae.sae.evaluation import Evaluation, measure
from neurosae.sae.evaluation_report import as_markdown
from neurosae.sae.examples import excerpts
from neurosae.sae.latents import ALIKE, DENSE, decoder_geometry, density_histogram, l0_quantiles

_QUANTILES = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
_SPARE = 4  # so many times the texts to show are remembered: some are equal up to the token that counts


@dataclass(frozen=True)
class SaeEvaluation:
    """Everything about an SAE of F latents.

    Attributes
    ----------
    about : dict
        `sae`, `architecture`, `latents`, `d_model`, `site`, `identity`, `language_model`, `fingerprint`, `corpus`,
        `context`, `written` (UTC): what was measured, on what and when.
    figures : Evaluation
        Reconstruction, sparsity and losses.
    latents : DataFrame of F rows
        `latent`; `fired`, `density`, `mean`, `max` over clean tokens; `decoder_norm`, `largest_cosine`, `nearest`; and
        `mass`, mean times decoder norm: what a latent adds to the reconstruction of an average token, independent of
        how its scale is split in two.
    tokens_by_l0 : int array [F + 1]
        Clean tokens with 0, 1, 2, ... active latents.
    examples : DataFrame
        The strongest texts of the `top` largest latents; see `neurosae.sae.examples.excerpts`.
    top : int
        Latents that are listed.
    """

    about: dict[str, Any]
    figures: Evaluation
    latents: pd.DataFrame
    tokens_by_l0: NDArray[np.int64]
    examples: pd.DataFrame
    top: int

    @property
    def top_latents(self) -> pd.DataFrame:
        """The rows of `latents` with the largest mass, the largest first."""
        return largest(self.latents, self.top)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The figures that matter, in words."""
        figures = self.figures
        recovered = figures.loss_recovered
        return (
            f"{self.about['sae']} leaves {figures.fvu_clean:.1%} of the variance of clean tokens unexplained, with "
            f"{figures.l0:.1f} active latents per token.",
            f"Spliced into the model it costs {figures.ce_spliced - figures.ce:.3f} nats per token"
            + ("." if recovered is None else f": {recovered:.1%} of the loss is recovered."),
            f"{figures.dead:.1%} of its latents never fired on these {figures.n_tokens:,} tokens, {figures.dense:.1%} "
            f"fire on more than {DENSE:.0%} of them.",
        )

    @property
    def firing_density(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts and edges of `neurosae.sae.latents.density_histogram`."""
        return density_histogram(self.latents["density"].to_numpy(), self.figures.n_tokens)

    @property
    def n_never_fired(self) -> int:
        """Latents that no token of these texts drove."""
        return int((self.latents["fired"] == 0).sum())

    @property
    def stamp(self) -> str:
        """When it was measured, as the names of its files say it."""
        return datetime.fromisoformat(self.about["written"]).strftime("%Y%m%dT%H%M%SZ")

    def as_dict(self) -> dict[str, Any]:
        """Figures, distributions, and the largest latents with their texts, as plain data."""
        figures, latents, counts = self.figures, self.latents, self.tokens_by_l0
        density, edges = self.firing_density
        most = int(np.flatnonzero(counts).max())
        alike, alike_edges = np.histogram(latents["largest_cosine"], np.linspace(-1, 1, 41))
        dense = latents[latents["density"] > DENSE]
        texts = {latent: rows.drop(columns="latent") for latent, rows in self.examples.groupby("latent")}
        none = self.examples.iloc[:0]
        return {
            "figures": figures.as_dict() | {"loss_recovered_reason": figures.loss_recovered_reason},
            "l0": {
                "quantiles": dict(zip(map(str, _QUANTILES), l0_quantiles(counts, _QUANTILES), strict=True)),
                "tokens_by_l0": counts[: most + 1].tolist(),
            },
            "firing_density": {
                "log10_edges": edges.tolist(),
                "latents": density.tolist(),
                "never_fired": self.n_never_fired,
            },
            "decoder": {
                "norm_smallest": float(latents["decoder_norm"].min()),
                "norm_largest": float(latents["decoder_norm"].max()),
                "largest_cosine_quantiles": {str(q): float(latents["largest_cosine"].quantile(q)) for q in _QUANTILES},
                "largest_cosine_histogram": {"edges": alike_edges.round(2).tolist(), "latents": alike.tolist()},
                "share_above_0.9": float((latents["largest_cosine"] > ALIKE).mean()),
            },
            "dense_latents": {"n": len(dense), "densest": largest(dense, self.top, "density").to_dict("records")},
            "top_latents": [
                row | {"texts": texts.get(row["latent"], none).to_dict("records")}
                for row in self.top_latents.to_dict("records")
            ],
        }

    def save(self, folder: str | Path, pictures: Mapping[str, str] | None = None) -> Path:
        """Write ``evaluation-MOMENT.md`` and the same as ``.json``; nothing is replaced.

        Parameters
        ----------
        folder : str or Path
        pictures : mapping of str to str, optional
            File names of pictures in that folder that the report shows: of "L0" and of "firing density".

        Returns
        -------
        Path
            The report.
        """
        report = Path(folder) / f"evaluation-{self.stamp}.md"
        found = self.as_dict()
        write_json(report.with_suffix(".json"), self.about | found)
        write_text(report, as_markdown(self.about, found, pictures or {}))
        return report


def evaluate_sae(
    sae: str = loading.DEFAULT,
    *,
    corpus: str | Path | None = None,
    texts: int = 600,
    context: int = 256,
    spliced_texts: int = 40,
    top: int = 20,
    examples: int = 5,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> SaeEvaluation:
    """Measure an SAE on texts that it was not trained on.

    Parameters
    ----------
    sae : str
        A bundled name, a file or folder (also a checkpoint of SAELens' trainer, whose scale is folded in), a hub name.
    corpus : str or Path, optional
        See `neurosae.corpora.read_texts`. Default: the calibration text and every built-in stimulus.
    texts : int, default 600
        At most so many texts.
    context : int, default 256
        Longest context in tokens.
    spliced_texts : int, default 40
        Texts for the cross-entropies.
    top : int, default 20
        Latents that are listed with their texts.
    examples : int, default 5
        Texts per listed latent.
    model : str, optional
        Default: the language model that the SAE names.
    device, dtype, device_map
        See `neurosae.models.load`.
    batch_size : int, default 8
        Texts at once: bounds memory.
    progress : bool, default False

    Raises
    ------
    UserError
        A number out of range, an SAE, a language model or a corpus that cannot be read; see
        `neurosae.sae.evaluation.measure`.

    References
    ----------
    See `neurosae.sae.evaluation.measure`.

    Examples
    --------
    >>> found = evaluate_sae(texts=4, context=16, spliced_texts=2, top=1, examples=1)
    >>> 0 < found.figures.fvu_clean < 0.5
    True
    >>> len(found.latents), len(found.top_latents), len(found.examples)
    (9216, 1, 1)
    """
    at_least(1, context=context, spliced_texts=spliced_texts, batch_size=batch_size, top=top, examples=examples)
    read = first_texts(corpus, texts)
    loaded, language_model = loading.load_pair(sae, model=model, device=device, dtype=dtype, device_map=device_map)
    measurement = measure(
        loaded,
        language_model,
        read,
        context=context,
        batch_size=batch_size,
        spliced_texts=spliced_texts,
        n_strongest=_SPARE * examples,
        progress=progress,
    )
    latents = measurement.latents.join(decoder_geometry(loaded.W_dec))
    latents["mass"] = latents["mean"] * latents["decoder_norm"]
    shown = excerpts(
        measurement.strongest, largest(latents, top)["latent"], read, language_model.tokenizer, n_texts=examples
    )
    about = _about(sae, loaded, language_model) | {
        "corpus": str(corpus) if corpus else "texts that ship: calibration text, stimuli",
        "context": context,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return SaeEvaluation(about, measurement.evaluation, latents, measurement.tokens_by_l0, shown, top)


def _about(spec: str, sae: Any, language_model: LanguageModel) -> dict[str, Any]:
    return {
        "sae": spec,
        "architecture": sae.cfg.architecture(),
        "latents": sae.cfg.d_sae,
        "d_model": sae.cfg.d_in,
        "site": str(loading.site_of(sae)),
        "identity": loading.identity(spec),
        "language_model": language_model.name,
        "fingerprint": language_model.fingerprint,
    }


def largest(latents: pd.DataFrame, n: int, by: str = "mass") -> pd.DataFrame:
    """The n rows with the largest values, the first of equal ones."""
    return latents.sort_values([by, "latent"], ascending=[False, True]).head(n)
