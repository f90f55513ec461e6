"""Does an SAE fit the language model, the hook and the scaling that it declares?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurosae.corpora import first_texts
from neurosae.errors import at_least
from neurosae.sae import loading
from neurosae.sae.evaluation import Evaluation, evaluate
from neurosae.sae.self_check import SelfCheck, self_check


@dataclass(frozen=True)
class CheckedSae:
    """Verdict on an SAE, and its figures as declared.

    Attributes
    ----------
    sae, language_model, site : str
        What was checked: the SAE as it was named, and the site it declares.
    check : SelfCheck
        The verdict and every reading that was tried; `check.table` has the declared one, then the best of every site.
    figures : Evaluation
        Of the declared reading.
    """

    sae: str
    language_model: str
    site: str
    check: SelfCheck
    figures: Evaluation

    @property
    def fits(self) -> bool:
        """Whether the declared reading explains the activations, and none explains them clearly better."""
        return self.check.fits

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict and how good the SAE is as declared, in words."""
        figures = self.figures
        return (
            self.check.sentence,
            f"As declared it leaves {figures.fvu_clean:.1%} of the variance unexplained with {figures.l0:.0f} active "
            f"latents per token ({figures.n_tokens:,} clean tokens of {figures.n_texts:,} texts).",
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "fits": self.fits,
            "sentence": self.check.sentence,
            "figures": self.figures.as_dict(),
            "readings": self.check.table.to_dict("records"),
            "decoder_cosine": self.check.decoder.cosine,
        }


def check_sae(
    sae: str = loading.DEFAULT,
    *,
    corpus: str | Path | None = None,
    texts: int = 200,
    context: int = 256,
    tokens: int = 4000,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
) -> CheckedSae:
    """Measure an SAE as declared, then try other sites, scales and decoders: which reading of it fits?

    Parameters
    ----------
    sae : str
        A bundled name, a file or folder, a hub name; ``@SITE`` behind it overrules its hook.
    corpus : str or Path, optional
        See `neurosae.corpora.read_texts`. Default: the calibration text and every built-in stimulus.
    texts : int, default 200
        At most so many texts.
    context : int, default 256
        Longest context in tokens, 2 or more.
    tokens : int, default 4000
        Clean tokens to compare readings on; bounds memory.
    model : str, optional
        Default: the language model that the SAE names.
    device, dtype, device_map
        See `neurosae.models.load`.

    Raises
    ------
    UserError
        A number out of range, an SAE, a language model or a corpus that cannot be read, fewer than 100 clean tokens;
        see `neurosae.sae.self_check.self_check`.

    Examples
    --------
    >>> found = check_sae(texts=40, tokens=800)  # doctest: +SKIP
    >>> found.fits  # doctest: +SKIP
    True
    """
    at_least(2, context=context)
    at_least(1, tokens=tokens)
    read = first_texts(corpus, texts)
    loaded, language_model = loading.load_pair(sae, model=model, device=device, dtype=dtype, device_map=device_map)
    check = self_check(loaded, language_model, read, context=context, n_tokens=tokens)
    figures = evaluate(loaded, language_model, read, context=context)
    return CheckedSae(sae, language_model.name, str(loading.site_of(loaded)), check, figures)
