"""Shared fixtures: the bundled language model and SAE, loaded once."""

from __future__ import annotations

import numpy as np
import pytest

from neurosae import models
from neurosae.models import LanguageModel

TEXTS = [
    "The bridge held while the trucks crossed.",
    "Nobody had expected the small orchestra to fill the hall on a rainy Tuesday in March.",
    "It failed.",
    "Café owners, naïve or not, paid 3.50 € for a croissant – and smiled 🙂.",
    "First line.\n\nSecond line after an empty one.",
]


@pytest.fixture(scope="session")
def language_model() -> LanguageModel:
    return models.load()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
