"""Contrast expressions: the algebra of level indicators, and what is refused."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neurosae.errors import UserError
from neurosae.stimuli.contrasts import parse_contrast

FACTORS = {"shape": ["a", "b", "c"], "size": ["x", "y"], "tone": ["u", "v"]}
CELLS = pd.DataFrame(list(itertools.product(*FACTORS.values())), columns=list(FACTORS))


def indicator(level: str) -> np.ndarray:
    return CELLS.isin([level]).any(axis=1).to_numpy(dtype=float)


coefficients = st.lists(st.integers(-5, 5), min_size=3, max_size=3)


def weighted_sum(numbers: list[int], levels: str) -> str:
    return " + ".join(f"({number}) * {level}" for number, level in zip(numbers, levels, strict=False))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a - b", indicator("a") - indicator("b")),
        ("0.5 * a + 0.5*b - c", 0.5 * indicator("a") + 0.5 * indicator("b") - indicator("c")),
        ("(a + b) / 2 - c", 0.5 * indicator("a") + 0.5 * indicator("b") - indicator("c")),
        ("a * x - b * x", (indicator("a") - indicator("b")) * indicator("x")),
        ("-(x - y)\n * (u - v)", -(indicator("x") - indicator("y")) * (indicator("u") - indicator("v"))),
        ("a * x * u - 1", indicator("a") * indicator("x") * indicator("u") - 1),
        ("1 - 2 * x", indicator("y") - indicator("x")),
    ],
)
def test_an_expression_is_evaluated_with_level_indicators(expression: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(parse_contrast(expression, FACTORS).weights(CELLS), expected, atol=1e-15)


@given(coefficients, coefficients, st.integers(-4, 4), st.integers(-4, 4))
@settings(max_examples=60, deadline=None)
def test_weights_are_linear(first: list[int], second: list[int], p: int, q: int) -> None:
    assume(len({p * i + q * j for i, j in zip(first, second, strict=True)}) > 1)
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    one, other = weighted_sum(first, "abc"), weighted_sum(second, "abc")
    joined = parse_contrast(f"({p}) * ({one}) + ({q}) * ({other})", FACTORS).weights(CELLS)
    apart = [parse_contrast(part, FACTORS).weights(CELLS) for part in (one, other)]
    np.testing.assert_array_equal(joined, p * apart[0] + q * apart[1])


@given(coefficients, coefficients)
@settings(max_examples=60, deadline=None)
def test_weights_of_a_product_are_the_product_of_the_weights(first: list[int], second: list[int]) -> None:
    assume(len(set(first)) > 1 and len(set(second[:2])) > 1)
    one, other = weighted_sum(first, "abc"), weighted_sum(second[:2], "xy")
    product = parse_contrast(f"({one}) * ({other})", FACTORS)
    apart = [parse_contrast(part, FACTORS).weights(CELLS) for part in (one, other)]
    np.testing.assert_array_equal(product.weights(CELLS), apart[0] * apart[1])
    assert product.is_interaction == (sum(first) == 0 and sum(second[:2]) == 0)


def test_weights_that_cancel_are_exactly_zero() -> None:
    contrast = parse_contrast("0.1 * a + 0.2 * a - 0.3 * a + b - c", FACTORS)
    assert 0.1 + 0.2 - 0.3 != 0  # in floating point they do not
    assert contrast.weights(CELLS)[0] == 0.0
    rows, _ = contrast.labels(CELLS)
    assert set(CELLS["shape"].iloc[rows]) == {"b", "c"}


def test_a_factor_that_does_not_matter_is_not_part_of_the_contrast() -> None:
    contrast = parse_contrast("(a - b) * x + (a - b) * y", FACTORS)
    assert contrast.factors == ("shape",) and not contrast.is_interaction
    np.testing.assert_array_equal(contrast.weights(CELLS), parse_contrast("a - b", FACTORS).weights(CELLS))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("(x - y) * (u - v)", True),
        ("x*u + y*v - x*v - y*u", True),
        ("(x - y) * (u - v) * (a - b)", True),
        ("x - y", False),
        ("x * u - y * u", False),
        ("x * u - y * v", False),
    ],
)
def test_an_interaction_sums_to_zero_along_every_factor(expression: str, expected: bool) -> None:
    assert parse_contrast(expression, FACTORS).is_interaction is expected


def test_labels_leave_out_weight_zero_and_name_rows_by_position() -> None:
    table = CELLS.sample(frac=1, random_state=0)  # a shuffled index
    rows, y = parse_contrast("a - c", FACTORS).labels(table)
    assert table["shape"].iloc[rows].map({"a": 1, "c": 0}).tolist() == y.tolist()
    assert "b" not in set(table["shape"].iloc[rows]) and len(rows) == 8


def test_a_contrast_survives_pickling_and_equals_its_copy() -> None:
    contrast = parse_contrast("a - b", FACTORS, name="shape")
    assert pickle.loads(pickle.dumps(contrast)) == contrast and len({contrast, contrast}) == 1


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a - bb", "Unknown level 'bb'"),
        ("a * b - c", "multiplies levels of one factor, 'shape'"),
        ("(a - b) * (x - a)", "multiplies levels of one factor, 'shape'"),
        ("a - a", "weighs every stimulus the same"),
        ("x + y", "weighs every stimulus the same"),
        ("1 + 2", "weighs every stimulus the same"),
        ("0 * (a - b)", "weighs every stimulus the same"),
        ("", "not a complete expression"),
        ("a -", "not a complete expression"),
        ("(a - b", "not a complete expression"),
        ("a / b", "does not divide by a number"),
        ("a / 0", "does not divide by a number"),
        ("a / (1 - 1)", "does not divide by a number"),
        ("a ** 2 - b", "something that is not allowed"),
        ("a // 2 - b", "something that is not allowed"),
        ("+a - b", "something that is not allowed"),
        ("a if x else b", "something that is not allowed"),
        ("a - True", "something that is not allowed"),
        ("a - 1j", "something that is not allowed"),
        ("a - 1e999", "something that is not allowed"),
        ("a.real - b", "something that is not allowed"),
        ("a(b)", "something that is not allowed"),
        ("1e300 * 1e300 * a - b", "too large"),
        ("__import__('os').system('true')", "contains '''"),
        ("a - b # c", "contains '#'"),
        ("a\0 - b", "contains"),
        ("[a for a in b]", "contains '['"),
        ("a - b" + " " * 500, "505 characters"),
        ("-" * 400 + "a", "nested too deeply"),
        ("(" * 240 + "a" + ")" * 240, "not a complete expression"),
    ],
)
def test_what_is_no_contrast_is_refused_with_a_reason(expression: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_contrast(expression, FACTORS, where="file.yaml:7")
    assert message in str(error.value) and str(error.value).startswith("file.yaml:7: ")


def test_the_nearest_level_is_suggested() -> None:
    with pytest.raises(UserError, match="Did you mean 'negative'"):
        parse_contrast("positive - negatve", {"valence": ["positive", "negative"]})


def test_the_number_of_cells_is_bounded() -> None:
    factors = {f"f{i}": [f"p{i}", f"q{i}"] for i in range(40)}
    with pytest.raises(UserError, match="1099511627776 cells"):
        parse_contrast(" * ".join(f"p{i}" for i in range(40)), factors)


def test_levels_must_differ_over_factors() -> None:
    with pytest.raises(UserError, match="listed twice"):
        parse_contrast("a - b", {"f": ["a", "b"], "g": ["a", "c"]})


@pytest.mark.parametrize(("expression", "side"), [("a", "foil"), ("-a", "target"), ("c - a", "target")])
def test_both_sides_need_stimuli(expression: str, side: str) -> None:
    with pytest.raises(UserError, match=f"The {side} side"):
        parse_contrast(expression, FACTORS).labels(CELLS[CELLS["shape"] != "c"])


def test_a_table_without_the_factor_or_with_another_level_is_refused() -> None:
    contrast = parse_contrast("a - b", FACTORS)
    with pytest.raises(UserError, match="Unknown factor 'shape'"):
        contrast.weights(CELLS.drop(columns="shape"))
    with pytest.raises(UserError, match="Unknown level of 'shape' 'd'"):
        contrast.weights(CELLS.replace("b", "d"))
