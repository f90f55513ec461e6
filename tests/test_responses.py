"""Pooling and windows against naive loops, dense and sparse alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from neurosae.responses import Alignment, Pooling, Responses

LENGTHS = [6, 3, 9, 1, 4]


@pytest.fixture
def responses() -> Responses:
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    role = np.concatenate([["sink"] + ["text"] * (n - 1) for n in LENGTHS])
    clean = (role == "text") & (rng.random(len(owner)) > 0.2)
    target = (role == "text") & (rng.random(len(owner)) > 0.6)
    values = rng.normal(size=(len(owner), 7)).astype(np.float32) * (rng.random((len(owner), 7)) > 0.5)
    tokens = pd.DataFrame({"stimulus": owner, "role": role, "clean": clean, "target": target})
    return Responses(values, tokens, pd.DataFrame({"text": ["x"] * len(LENGTHS)}), "blocks.0.hook_resid_post")


def naive_pool(responses: Responses, how: str) -> tuple[np.ndarray, np.ndarray]:
    values, tokens = np.asarray(responses.values), responses.tokens
    out, valid = np.zeros((len(responses.stimuli), values.shape[1])), []
    for s in range(len(responses.stimuli)):
        use = (tokens["stimulus"] == s) & tokens["clean"]
        if how == "target":
            use &= tokens["target"]
        if how == "prompt_end":
            use = tokens["stimulus"] == s
        rows = np.flatnonzero(use)
        valid.append(len(rows) > 0)
        if len(rows):
            out[s] = {
                "mean": lambda r: values[r].mean(0),
                "target": lambda r: values[r].mean(0),
                "max": lambda r: values[r].max(0),
                "last": lambda r: values[r[-1]],
                "prompt_end": lambda r: values[r[-1]],
            }[how](rows)
    return out, np.array(valid)


@pytest.mark.parametrize("how", ["mean", "max", "last", "target", "prompt_end"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_pooling_equals_a_naive_loop(responses: Responses, how: Pooling, kind: str) -> None:
    given = responses if kind == "dense" else responses.with_values(sp.csr_array(responses.values))
    expected, valid = naive_pool(responses, how)
    pooled = given.pool(how)
    np.testing.assert_allclose(pooled.dense(), expected, atol=1e-6)
    np.testing.assert_array_equal(pooled.valid_S, valid)
    assert all(bool(reason) != ok for reason, ok in zip(pooled.reason_S, pooled.valid_S, strict=True))


@pytest.mark.parametrize("align", ["left", "centre", "target", "end"])
def test_windows_put_clean_text_tokens_where_they_belong(responses: Responses, align: Alignment) -> None:
    width = 5
    profiles = responses.profiles(align, width)
    tokens, values = responses.tokens, np.asarray(responses.values)
    for s in range(len(LENGTHS)):
        rows = np.flatnonzero((tokens["stimulus"] == s) & (tokens["role"] == "text"))
        hits = np.flatnonzero(tokens["target"].to_numpy()[rows])
        origin = {"left": 0, "centre": len(rows) // 2 - 2, "end": len(rows) - 5}.get(align)
        if align == "target":
            origin = None if not len(hits) else hits[0] - 1
        for w in range(width):
            position = None if origin is None or not len(rows) else origin + w
            inside = position is not None and 0 <= position < len(rows) and tokens["clean"].iloc[rows[position]]
            assert profiles.defined_SW[s, w] == bool(inside)
            expected = values[rows[position]] if inside and position is not None else np.zeros(7)
            np.testing.assert_array_equal(profiles.values_SWF[s, w], expected.astype(np.float32))


def test_sparse_windows_equal_dense_ones(responses: Responses) -> None:
    sparse = responses.with_values(sp.csr_array(responses.values))
    a, b = responses.profiles("left", 4, slice(1, 5)), sparse.profiles("left", 4, slice(1, 5))
    np.testing.assert_array_equal(a.values_SWF, b.values_SWF)
    assert a.values_SWF.shape == (5, 4, 4)


def test_sparse_responses_survive_the_disk(responses: Responses, tmp_path: Path) -> None:
    sparse = responses.with_values(sp.csr_array(responses.values), sae="x")
    sparse.save(tmp_path / "r")
    again = Responses.load(tmp_path / "r")
    assert sp.issparse(again.values)
    np.testing.assert_array_equal(again.values.toarray(), responses.values)
    np.testing.assert_array_equal(again.pool().dense(), sparse.pool().dense())
