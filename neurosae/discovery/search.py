"""Discovery: which sentences of a corpus drive an ensemble towards its target? Streamed, bounded and resumable.

A corpus is read once for any number of ensembles, at all their sites, sentence by sentence: what ensembles are fitted
on. Sentences are ranked by the decision for the *target* condition. Beside the strongest stand a sample from every
tenth of the scores and random controls, all with what each token adds to the decision.

Scores are not stored. A uniform sample of the sentences (2,000 by default) gives the tenths and the controls; a corpus
that is no larger than it is known completely.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from neurosae.corpora import sentences as split_sentences
from neurosae.decoding.ensembles import LinearEnsemble
from neurosae.decoding.fitted import FittedEnsemble, check_fits
from neurosae.discovery.keeping import Keeper
from neurosae.discovery.reading import Reader
from neurosae.errors import UserError
from neurosae.files import canonical_json, digest
from neurosae.progress import progress_bar
from neurosae.representations import Bench
from neurosae.sae import loading
from neurosae.sae.overlap import FILE as HASHES
from neurosae.sae.overlap import hash_texts
from neurosae.stimuli import LabelledContrast, StimulusSet

Array = NDArray[np.float64]
CHUNK = 16  # batches that are sorted by length together, and after which the state is written
TOP, DECILE, RANDOM = "top", "decile", "random"


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a corpus says about some ensembles.

    Attributes
    ----------
    ensembles : tuple of E FittedEnsemble
    texts : DataFrame
        One row per ensemble and kept sentence: `ensemble` (its number), `set` ("top", "decile", "random"), `rank`
        (within the set, from 1, larger scores first), `decile` (1 the lowest tenth to 10; 0 in the other sets),
        `sentence` (its number in the corpus), `score` (decision for the target), `text`, `in_sae_training`. The sets of
        one ensemble can share sentences: `sentence` tells.
    tokens : DataFrame
        One row per token of these: `ensemble`, `sentence`, `position` (from 0), `token`, `contribution`; with the
        ensemble's intercept the contributions sum to the score. Tokens that do not count (not clean) have 0.
        Under a chat template `prompt_end` reads a token of the template: those of the text all have 0.
    sample : DataFrame
        The uniform sample: `sentence`, `text`, `in_sae_training`; in the order of the corpus.
    scores_NE : float64 array [N, E]
        Scores of the sample.
    n_texts, n_sentences : int
        Read so far: whole texts, and sentences with a score.
    n_too_long, n_without_value : int
        Sentences left out: more tokens than `longest`; no clean token.
    overlap_reason : str
        Why nothing is known of the SAE's training text; empty where something is.
    """

    ensembles: tuple[FittedEnsemble, ...]
    texts: pd.DataFrame
    tokens: pd.DataFrame
    sample: pd.DataFrame
    scores_NE: Array
    n_texts: int
    n_sentences: int
    n_too_long: int
    n_without_value: int
    overlap_reason: str

    def of(self, ensemble: int, which: str = TOP) -> pd.DataFrame:
        """The rows of `texts` of one ensemble and set, best first."""
        rows = self.texts[(self.texts["ensemble"] == ensemble) & (self.texts["set"] == which)]
        return rows.reset_index(drop=True)


def discover(
    bench: Bench,
    ensembles: Sequence[FittedEnsemble],
    texts: Iterable[str],
    *,
    top: int = 50,
    per_decile: int = 5,
    n_random: int = 50,
    sample: int = 2000,
    split: bool = True,
    longest: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    resume: Path | None = None,
    progress: bool = False,
) -> Discovery:
    """Search a corpus for sentences that drive ensembles towards their targets.

    Parameters
    ----------
    bench : Bench
        Language model and SAE on which the ensembles were fitted.
    ensembles : sequence of FittedEnsemble
    texts : iterable of str
        Read once, in order; `neurosae.corpora.read_texts` streams files and datasets.
    top : int, default 50
        Strongest sentences kept per ensemble, no two of the same words.
    per_decile : int, default 5
        Sentences per ensemble from every tenth of its scores.
    n_random : int, default 50
        Random controls, the same for all ensembles.
    sample : int, default 2000
        Uniform sample of sentences from which tenths and controls are drawn.
    split : bool, default True
        Texts are split at sentence ends and pieces under four words are dropped (`neurosae.corpora.sentences`). False:
        every text is one unit as it is.
    longest : int, default 256
        Sentences of more tokens are left out and counted.
    batch_size : int, default 32
        Sentences per forward pass: bounds memory, together with `CHUNK` of them.
    seed : int, default 0
        Of the uniform sample.
    resume : Path, optional
        Folder for the state, written after every chunk; the same call on the same corpus goes on where it was
        interrupted, with bitwise the same result. Calls with other settings do not share a state.
    progress : bool, default False

    Raises
    ------
    UserError
        An ensemble of another language model, SAE or site, or one that pools over target spans; a corpus that is empty,
        holds something else than text, or has changed since the state was written.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> from neurosae.decoding.fitted import fit_ensemble
    >>> from neurosae.representations import Source
    >>> from neurosae.decoding.variants import Variant
    >>> bench = Bench(stimuli.load("success"), Source())
    >>> ensemble = fit_ensemble(bench, "success", Variant("raw", "t", 4, "logistic_l2", 15, "mean"))
    >>> found = discover(bench, [ensemble], ["She won the race. Nobody knew where he had gone."], top=1)
    >>> found.n_sentences, len(found.of(0))
    (2, 1)
    """
    ensembles = tuple(ensembles)
    sizes = {"top": top, "per_decile": per_decile, "n_random": n_random, "sample": sample, "longest": longest}
    _check_settings(ensembles, sizes | {"batch_size": batch_size})
    for ensemble in ensembles:
        check_fits(ensemble, bench)
    keeper, corpus = Keeper(len(ensembles), top, sample, seed), _Corpus(texts, split)
    counts = {"n_read": 0, "n_sentences": 0, "n_too_long": 0, "n_without_value": 0}
    state = resume / f"{_settings_digest(ensembles, sizes, split, batch_size, seed)}.npz" if resume else None
    if state and state.exists():
        about = keeper.restore(state)
        corpus.skip(about["n_read"], about["fingerprint"], str(state))
        counts = {name: about[name] for name in counts}
    reader = Reader(bench, ensembles, batch_size)
    bar = progress_bar(desc="reading sentences", unit="sentences", initial=counts["n_read"], shown=progress)
    with bar:
        while units := list(itertools.islice(corpus, CHUNK * batch_size)):
            _take_in(units, counts, keeper, reader, longest)
            bar.update(len(units))
            if state:
                keeper.save(state, counts | {"fingerprint": corpus.fingerprint})
    if not counts["n_sentences"]:
        raise UserError(
            f"The corpus has no sentence that can be scored: {corpus.n_texts} texts, {counts['n_read']} sentences",
            where="corpus",
            suggestion="Give texts with whole sentences, or split=False",
        )
    return _result(bench, ensembles, keeper, per_decile, n_random, corpus.n_texts, counts)


def score_sentences(
    bench: Bench, ensembles: Sequence[FittedEnsemble], sentences: Sequence[str], *, batch_size: int = 32
) -> Array:
    """Decision of every ensemble for every sentence as it is, from one forward pass.

    Parameters
    ----------
    bench, ensembles, batch_size
        As in `discover`.
    sentences : sequence of str

    Returns
    -------
    float64 array [S, E]

    Raises
    ------
    UserError
        As `discover`; a sentence without a clean token or longer than the context.
    """
    ensembles = tuple(ensembles)
    _check_settings(ensembles, {"batch_size": batch_size})
    for ensemble in ensembles:
        check_fits(ensemble, bench)
    units = list(_Corpus(sentences, split=False))
    if not units:
        raise UserError("There is no sentence to score", where="sentences")
    reader, size = Reader(bench, ensembles, batch_size), CHUNK * batch_size
    scores_SE = np.concatenate([reader.read(units[i : i + size]).scores_SE for i in range(0, len(units), size)])
    if np.isnan(scores_SE).any():
        raise UserError(f"Sentence {int(np.isnan(scores_SE).any(axis=1).argmax())} has no clean token")
    return scores_SE


def word_scores(stimuli: StimulusSet, contrast: str, texts: Sequence[str]) -> Array:
    """Baseline: decisions [S] of a logistic regression on which words of the stimuli occur in each text.

    It is fitted like every ensemble (`neurosae.decoding.ensembles.LinearEnsemble`); words of no stimulus do not count.
    """
    sides = LabelledContrast.of(stimuli, contrast)
    words = CountVectorizer(binary=True)
    known_SV = words.fit_transform(sides.table["text"]).toarray()
    fitted = LinearEnsemble().fit(known_SV, sides.labels_S > 0)
    return fitted.decision_function(words.transform(texts).toarray())


class _Corpus:
    """The units of a stream of texts, counted, with a running fingerprint."""

    def __init__(self, texts: Iterable[str], split: bool) -> None:
        if isinstance(texts, str | bytes):
            raise UserError("The corpus is a single text, not a sequence of texts", where="corpus")
        self.n_texts, self._chain = 0, b""
        self._units = self._read(texts, split)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        unit = next(self._units)
        self._chain = hashlib.blake2b(self._chain + unit.encode(), digest_size=16).digest()
        return unit

    @property
    def fingerprint(self) -> str:
        """Of all units so far."""
        return self._chain.hex()

    def skip(self, n: int, fingerprint: str, where: str) -> None:
        """Pass over units that were read before."""
        for _ in itertools.islice(self, n):
            pass
        if self.fingerprint != fingerprint:
            raise UserError(
                f"The corpus is not the one this state was made from: its first {n} sentences differ",
                where=where,
                suggestion="Delete the state, or choose another folder",
            )

    def _read(self, texts: Iterable[str], split: bool) -> Iterator[str]:
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"Text {self.n_texts} is {type(text).__name__}, not text", where="corpus")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"Text {self.n_texts} is no valid Unicode: {error}", where="corpus") from None
            self.n_texts += 1
            yield from split_sentences(text) if split else [text]


def _take_in(units: list[str], counts: dict[str, int], keeper: Keeper, reader: Reader, longest: int) -> None:
    """Read one chunk and keep what is worth keeping."""
    number = counts["n_read"] + np.arange(len(units))
    counts["n_read"] += len(units)
    fits_S = reader.short_enough(units, longest)
    counts["n_too_long"] += int((~fits_S).sum())
    if not fits_S.any():
        return
    number = number[fits_S]
    reading = reader.read([unit for unit, fits in zip(units, fits_S, strict=True) if fits])
    rows = np.flatnonzero(np.isfinite(reading.scores_SE).all(axis=1))
    counts["n_without_value"] += len(number) - len(rows)
    counts["n_sentences"] += len(rows)
    if len(rows):
        texts = [reading.texts[row] for row in rows.tolist()]
        keeper.add(number[rows].tolist(), texts, reading.scores_SE[rows], lambda i: reading.sentence(int(rows[i])))


def _result(
    bench: Bench,
    ensembles: tuple[FittedEnsemble, ...],
    keeper: Keeper,
    per_decile: int,
    n_random: int,
    n_texts: int,
    counts: dict[str, int],
) -> Discovery:
    """Tables of what was kept."""
    known, reason = _in_training(bench, keeper)
    kept, rows = keeper.sentences, []
    sampled_NE = np.array([kept[number].scores_E for number in keeper.sampled])
    for e in range(len(ensembles)):
        chosen = [(TOP, 0, number) for number in keeper.strongest[e]]
        chosen += _by_decile(keeper.sampled, sampled_NE[:, e], per_decile)
        controls = sorted(keeper.sampled[:n_random], key=lambda number: (-kept[number].scores_E[e], number))
        chosen += [(RANDOM, 0, number) for number in controls]
        ranks = dict.fromkeys((TOP, DECILE, RANDOM), 0)
        for which, decile, number in chosen:
            ranks[which] += 1
            score, text = float(kept[number].scores_E[e]), kept[number].text
            rows.append((e, which, ranks[which], decile, number, score, text, known[number]))
    columns = ["ensemble", "set", "rank", "decile", "sentence", "score", "text", "in_sae_training"]
    texts = pd.DataFrame(rows, columns=columns)
    parts = []
    for e, number in texts[["ensemble", "sentence"]].drop_duplicates().itertuples(index=False):
        tokens, added_T = kept[number].tokens, kept[number].contributions_TE[:, e]
        about = {"ensemble": e, "sentence": number, "position": np.arange(len(tokens))}
        parts.append(pd.DataFrame(about | {"token": tokens, "contribution": added_T}))
    in_order = np.argsort(keeper.sampled)
    numbers = [keeper.sampled[i] for i in in_order]
    sample = pd.DataFrame(
        {
            "sentence": numbers,
            "text": [kept[number].text for number in numbers],
            "in_sae_training": [known[number] for number in numbers],
        }
    )
    found = {name: counts[name] for name in ("n_sentences", "n_too_long", "n_without_value")}
    return Discovery(
        ensembles=ensembles,
        texts=texts,
        tokens=pd.concat(parts, ignore_index=True),
        sample=sample,
        scores_NE=sampled_NE[in_order],
        n_texts=n_texts,
        overlap_reason=reason,
        **found,
    )


def _by_decile(sampled: list[int], scores_N: Array, per_decile: int) -> list[tuple[str, int, int]]:
    """Sentences from every tenth, strongest first; equal scores are ordered by chance, as the sample is.

    Those late in the random order are taken: the controls are its beginning.
    """
    ascending = np.lexsort((np.arange(len(sampled)), scores_N))
    decile_N = np.empty(len(sampled), dtype=np.int64)
    decile_N[ascending] = 1 + 10 * np.arange(len(sampled)) // len(sampled)
    chosen = [n for d in range(10, 0, -1) for n in np.flatnonzero(decile_N == d)[::-1][:per_decile]]
    chosen.sort(key=lambda n: (-scores_N[n], -decile_N[n], sampled[n]))
    return [(DECILE, int(decile_N[n]), sampled[n]) for n in chosen]


def _in_training(bench: Bench, keeper: Keeper) -> tuple[dict[int, bool], str]:
    """Which kept sentences the SAE was trained on, by the hashes that ship with it."""
    name, _ = loading.split(bench.source.sae)
    folder = loading.bundled().get(name, Path(name))
    if not (folder / HASHES).is_file():
        return dict.fromkeys(keeper.sentences, False), f"{name} comes without hashes of its training text"
    known = {row.tobytes() for row in np.load(folder / HASHES, allow_pickle=False)}
    return {
        number: any(row.tobytes() in known for row in hash_texts([sentence.text]))
        for number, sentence in keeper.sentences.items()
    }, ""


def _settings_digest(
    ensembles: tuple[FittedEnsemble, ...], sizes: dict[str, int], split: bool, batch_size: int, seed: int
) -> str:
    """Everything a state depends on besides the corpus; tables made at the end do not count."""
    decisions = [{name: _plain(value) for name, value in vars(ensemble).items()} for ensemble in ensembles]
    kept = {name: sizes[name] for name in ("top", "sample", "longest")}
    about = {"ensembles": decisions, **kept, "split": split, "batch_size": batch_size, "seed": seed}
    return digest(canonical_json(about), 16)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def _check_settings(ensembles: tuple[FittedEnsemble, ...], sizes: dict[str, int]) -> None:
    if not ensembles:
        raise UserError("There is no ensemble to look for", where="ensembles")
    for name, least in {"top": 1, "per_decile": 0, "n_random": 0, "sample": 10, "longest": 1, "batch_size": 1}.items():
        if sizes.get(name, least) < least:
            raise UserError(f"{name} is {sizes[name]}", where="discovery", allowed=f"integers from {least}")
    if any(ensemble.variant.pooling == "target" for ensemble in ensembles):
        raise UserError(
            "An ensemble that pools over target spans cannot read texts without them",
            where="pooling",
            allowed="mean, max, last, prompt_end",
        )
    if len({canonical_json(ensemble.chat) for ensemble in ensembles}) > 1:
        raise UserError("Some ensembles were fitted inside a chat template and some were not", where="ensembles")
