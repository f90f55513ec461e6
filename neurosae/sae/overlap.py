"""Was this text in an SAE's training data? Sentence hashes that ship with the SAE answer without the text.

A sentence is lower-cased, reduced to its words and hashed to 40 bits; with 200,000 sentences a foreign one is taken for
a known one about twice in ten million.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from neurosae.corpora import sentences

_BYTES = 5
_WORD = re.compile(r"\w+")
FILE = "training_sentences.npy"


def sentence_hash(sentence: str) -> int:
    """40-bit hash of a sentence's words; spelling of spaces, case and punctuation does not count.

    Examples
    --------
    >>> sentence_hash("The lamp went out.") == sentence_hash("the  lamp went out")
    True
    """
    words = " ".join(_WORD.findall(sentence.lower()))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=_BYTES).digest(), "big")


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Sorted unique hashes of all sentences, shape (n, 5), uint8: five bytes each on disk."""
    unique = sorted({sentence_hash(sentence) for text in texts for sentence in sentences(text)})
    return np.frombuffer(b"".join(value.to_bytes(_BYTES, "big") for value in unique), np.uint8).reshape(-1, _BYTES)


def overlap(texts: Sequence[str], sae_folder: Path) -> np.ndarray:
    """Share of each text's sentences that the SAE was trained on.

    Parameters
    ----------
    texts : sequence of str
    sae_folder : Path
        Folder with ``training_sentences.npy``.

    Returns
    -------
    ndarray of shape (S,)
        0 for texts without a sentence of at least four words.
    """
    stored = np.load(sae_folder / FILE, allow_pickle=False)
    known = _as_integers(stored)
    shares = np.zeros(len(texts))
    for row, text in enumerate(texts):
        hashes = np.array([sentence_hash(sentence) for sentence in sentences(text)], dtype=np.uint64)
        shares[row] = np.isin(hashes, known).mean() if len(hashes) else 0.0
    return shares


def _as_integers(rows: np.ndarray) -> np.ndarray:
    padded = np.zeros((len(rows), 8), np.uint8)
    padded[:, 8 - _BYTES :] = rows
    return padded.view(">u8")[:, 0].astype(np.uint64)
