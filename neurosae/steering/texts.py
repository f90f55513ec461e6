"""What else steering does: its cost on neutral text, what the steered model says a text is, what it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.capture import capture
from neurosae.decoding.ensembles import LinearEnsemble
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.discovery.ranking import RELEVANT
from neurosae.errors import UserError
from neurosae.inference.design import make_folds
from neurosae.inference.heldout import auroc
from neurosae.models import LanguageModel
from neurosae.norms import calibration_texts
from neurosae.responses import Responses
from neurosae.sites import Site
from neurosae.steering.endings import Endings
from neurosae.steering.interventions import Intervention, Positions

Array = NDArray[np.float64]
Judge = Callable[[Sequence[str]], Array]

NEUTRAL_TOKENS = 64
QUESTION = 'Text: "{text}"\nIs this text about {first} or {second}? Answer with one of these two words.'
_GOLD_SENTENCES = 400


def perplexity_cost(
    language_model: LanguageModel,
    interventions: Mapping[float, Intervention],
    site: Site,
    *,
    texts: Sequence[str] | None = None,
    batch_size: int = 4,
) -> pd.DataFrame:
    """Perplexity of neutral text under interventions at a site.

    Parameters
    ----------
    language_model : LanguageModel
    interventions : mapping of float to Intervention
        By dose.
    site : Site
    texts : sequence of str, optional
        Cut after 64 tokens. Default: the calibration text.
    batch_size : int, default 4

    Returns
    -------
    DataFrame
        One row per dose, the unsteered model first (dose 0): `dose`, `perplexity`, `ratio` to the unsteered one,
        `n_tokens`.
    """
    rows = language_model.token_ids(calibration_texts() if texts is None else texts, NEUTRAL_TOKENS)
    ids = [row for row in rows if len(row) > 1]
    if not ids:
        raise UserError("None of these texts has a token to predict", where="texts")
    endings = Endings(language_model, ids, [1] * len(ids), site, batch_size=batch_size)
    weights_N = endings.lengths_N / endings.lengths_N.sum()
    loss = {0.0: -float(weights_N @ endings.log_p()[0])}
    loss |= {dose: -float(weights_N @ endings.log_p(change)[0]) for dose, change in interventions.items()}
    rows_of = [{"dose": d, "perplexity": np.exp(ce), "ratio": np.exp(ce - loss[0.0])} for d, ce in loss.items()]
    return pd.DataFrame(rows_of).assign(n_tokens=int(endings.lengths_N.sum()))


def what_is_it(
    language_model: LanguageModel,
    texts: Sequence[str],
    names: tuple[str, str],
    interventions: Mapping[float, Intervention],
    site: Site,
    *,
    positions: Positions = "prompt",
    batch_size: int = 8,
) -> pd.DataFrame:
    """Ask the steered model which of two levels a text is, through its chat template.

    Each answer is scored by the mean log probability of the tokens of both names. The question is asked with the names
    in either order and the two log odds are averaged, which cancels a liking for the name that comes first or last.

    Parameters
    ----------
    language_model : LanguageModel
        With a chat template.
    texts : sequence of str
    names : tuple of str
        Of the target and the foil level; underscores are read as spaces.
    interventions : mapping of float to Intervention
        By dose; the unsteered model is dose 0.
    site : Site
    positions : {"prompt", "generated", "both"}, default "prompt"

    Returns
    -------
    DataFrame
        One row per dose and text: `dose`, `text` (its number), `log_odds` (target over foil, nats per token),
        `order_bias` (half the difference between the two orders).

    Raises
    ------
    UserError
        No text, a model without chat template, names that are equal.
    """
    target, foil = (name.replace("_", " ").strip() for name in names)
    if target == foil or not texts:
        raise UserError(f"Nothing to tell apart: {len(texts)} texts, '{target}' and '{foil}'", where="names")
    ids, starts = [], []
    for text in texts:
        for first, second in ((target, foil), (foil, target)):
            question = _chat(language_model, QUESTION.format(text=text, first=first, second=second))
            for name in (target, foil):
                answer = language_model.tokenizer(name, add_special_tokens=False).input_ids
                ids.append([*question, *answer])
                starts.append(len(question))
    endings = Endings(language_model, ids, starts, site, batch_size=batch_size)
    tables = []
    for dose, intervention in ({0.0: None} | dict(interventions)).items():
        log_p_SON = endings.log_p(intervention, positions)[0].reshape(len(texts), 2, 2)
        odds_SO = log_p_SON[:, :, 0] - log_p_SON[:, :, 1]
        columns = {"log_odds": odds_SO.mean(axis=1), "order_bias": (odds_SO[:, 0] - odds_SO[:, 1]) / 2}
        tables.append(pd.DataFrame({"dose": dose, "text": np.arange(len(texts)), **columns}))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, eq=False)
class GoldProbe:
    """A decision about texts, learned from the grades of the gold corpus on all neurons of a site, read unsteered.

    Attributes
    ----------
    concept : str
        Graded concept; instances are sentences with grade 2 or 3.
    auroc : float
        Held out, over five folds of the gold sentences.
    n_sentences : int
    """

    concept: str
    auroc: float
    n_sentences: int
    _language_model: LanguageModel
    _site: Site
    _ensemble: LinearEnsemble

    def __call__(self, texts: Sequence[str]) -> Array:
        """Decision value of every text, positive for the concept; 0 for texts without a clean token."""
        values_SF, valid_S = _read(self._language_model, texts, self._site)
        return np.where(valid_S, self._ensemble.decision_function(values_SF), 0.0)


def gold_probe(
    language_model: LanguageModel,
    concept: str,
    site: Site,
    *,
    seed: int = 0,
    corpus: GoldCorpus | None = None,
    heard: Responses | None = None,
) -> GoldProbe:
    """Fit a probe of a graded concept to the instances and as many other sentences, hard negatives first.

    The grades were given by language models, not by people (`neurosae.discovery.gold`).

    Parameters
    ----------
    language_model : LanguageModel
    concept : str
        One of `neurosae.discovery.gold.CONCEPTS`.
    site : Site
    seed : int, default 0
        Of the draw of sentences, at most 400, and of the folds.
    corpus : GoldCorpus, optional
        Default: all graded sentences.
    heard : Responses, optional
        Neurons at the site for every sentence of the corpus, where they were read before.
    """
    corpus = corpus or gold.load()
    instance_S = corpus.grades(concept) >= RELEVANT
    order = np.random.default_rng(seed).permutation(len(instance_S))
    others = order[~instance_S[order]]
    written_for = corpus.table["written_for"].astype(str).to_numpy() == concept
    others = others[np.argsort(~written_for[others], kind="stable")]
    instances = order[instance_S[order]][: _GOLD_SENTENCES // 2]
    rows = np.concatenate([instances, others[: len(instances)]])
    is_instance_S = np.repeat([True, False], len(instances))
    if heard is None:
        values_SF, _ = _read(language_model, corpus.table["text"].iloc[rows].tolist(), site)
    else:
        values_SF = heard.pool("mean").dense()[rows]
    fold_S = make_folds(np.where(is_instance_S, 1, -1), np.arange(len(rows)), n_repeats=1, seed=seed)[0]
    decision_S = np.empty(len(rows))
    for fold in range(5):
        held = fold_S == fold
        fitted = LinearEnsemble().fit(values_SF[~held], is_instance_S[~held])
        decision_S[held] = fitted.decision_function(values_SF[held])
    score = float(auroc(decision_S[None], np.where(is_instance_S, 1, -1)[None])[0])
    ensemble = LinearEnsemble().fit(values_SF, is_instance_S)
    return GoldProbe(concept, score, len(rows), language_model, site, ensemble)


def score_texts(texts: pd.DataFrame, judge: Judge, baseline: str = "baseline") -> pd.DataFrame:
    """Judge generated texts against those of the unsteered model, prompt by prompt.

    Parameters
    ----------
    texts : DataFrame
        Columns `dose`, `condition`, `prompt` (its number) and `generated`; rows of the condition `baseline` hold the
        unsteered text of every prompt.
    judge : callable
        Texts to scores, all at once; finite.
    baseline : str, default "baseline"

    Returns
    -------
    DataFrame
        The same with `score` and `change` (score less that of the unsteered text).

    Raises
    ------
    UserError
        A prompt without an unsteered text; scores that are not finite.
    """
    score_S = np.asarray(judge(texts["generated"].tolist()), dtype=np.float64)
    if score_S.shape != (len(texts),) or not np.isfinite(score_S).all():
        raise UserError("The judge did not give one finite score per text", where="judge")
    scored = texts.assign(score=score_S)
    unsteered = scored[scored["condition"] == baseline].drop_duplicates("prompt").set_index("prompt")["score"]
    if missing := sorted(set(scored["prompt"]) - set(unsteered.index)):
        raise UserError(f"Prompt {missing[0]} has no unsteered text", where="texts")
    return scored.assign(change=scored["score"] - scored["prompt"].map(unsteered))


def _read(language_model: LanguageModel, texts: Sequence[str], site: Site) -> tuple[Array, ArrayLike]:
    """Mean neurons over clean tokens, and which texts have any; an empty text is read as a blank."""
    responses = capture(language_model, [text if text.strip() else " " for text in texts], [site])[site]
    pooled = responses.pool("mean")
    return pooled.dense(), pooled.valid_S


def _chat(language_model: LanguageModel, message: str) -> list[int]:
    tokenizer: Any = language_model.tokenizer
    if not tokenizer.chat_template:
        raise UserError("This language model has no chat template, so that it cannot be asked", where="model")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
    )
    return [language_model.sink_token, *tokenizer(rendered, add_special_tokens=False).input_ids]
