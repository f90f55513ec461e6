"""Model RDMs: what they say, and files that are not as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from neurosae.errors import UserError
from neurosae.rsa import KINDS, score_model
from neurosae.rsa.models import (
    frequency_model,
    label_model,
    length_model,
    overlap_model,
    rating_model,
    read_model,
)

IDS = ["dog", "cat", "car"]
SQUARE = ",dog,cat,car\ndog,0,1,5\ncat,1,0,6\ncar,5,6,0\n"
LONG = "item1,item2,dissimilarity\ncat,dog,1\ndog,car,5\ncar,cat,6\n"
TABLE = [[0, 1, 5], [1, 0, 6], [5, 6, 0]]


@pytest.fixture
def read(tmp_path):
    def read(text, ids=IDS, name="rdm.csv", **options):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_model(tmp_path / name, ids, **options)

    return read


@pytest.mark.parametrize("kind", KINDS)
def test_label_models_say_which_pairs_are_compared(kind):
    code_S = [1, 1, -1, -1, 0]
    table_SS = label_model(code_S, kind).table_SS
    sides = {"discriminative": (0, np.nan, 1), "categorical": (0, 1, np.nan), "category": (0, 0, 1)}[kind]
    within_target, within_foil, across = sides
    np.testing.assert_equal(table_SS[[0, 2, 0, 0], [1, 3, 2, 4]], [within_target, within_foil, across, np.nan])
    np.testing.assert_equal(table_SS, table_SS.T)
    assert (np.diag(table_SS) == 0).all()


def test_models_from_words():
    texts = ["The dog barks.", "the DOG, the dog", "Ontological epistemology"]
    assert length_model(texts).table_SS.tolist() == [[0, 1, 1], [1, 0, 2], [1, 2, 0]]
    assert overlap_model(texts).table_SS == pytest.approx(np.array([[0, 1 / 3, 1], [1 / 3, 0, 1], [1, 1, 0]]))
    frequency_SS = frequency_model(texts).table_SS
    assert frequency_SS[0, 2] > frequency_SS[0, 1] and frequency_SS[1, 2] > 1
    with pytest.raises(UserError, match="stimulus 1"):
        overlap_model(["one", "..."])


def test_ratings_must_be_numbers_that_differ():
    assert rating_model([1, 3], "valence", "squared").table_SS.tolist() == [[0, 4], [4, 0]]
    with pytest.raises(UserError, match="stimulus 1"):
        rating_model([1, np.nan, 2], "valence")
    with pytest.raises(UserError, match="same for every stimulus"):
        length_model(["a b", "c d"])
    with pytest.raises(UserError, match="Unknown difference"):
        rating_model([1, 2], "valence", "cubic")


def test_models_go_where_tables_go():
    rng = np.random.default_rng(0)
    X_SF, rating_S = rng.normal(size=(12, 3)), rng.random(12)
    model, other = rating_model(rating_S, "a"), rating_model(rating_S**2, "b")
    alone = score_model(X_SF, model, nuisance=other).value
    assert alone.shape == (3,)
    both = score_model(X_SF, [model, other]).value
    np.testing.assert_allclose(both[0], score_model(X_SF, np.abs(rating_S[:, None] - rating_S)).value, atol=1e-12)


@pytest.mark.parametrize("text", [SQUARE, LONG])
def test_files_in_both_layouts_are_put_in_the_order_of_the_stimuli(read, text):
    np.testing.assert_array_equal(read(text).table_SS, TABLE)
    assert read(text).name == "rdm" and read(text, name="human.csv").name == "human"
    order = [2, 0, 1]
    reordered = read(text, ids=[IDS[s] for s in order]).table_SS
    np.testing.assert_array_equal(reordered, np.array(TABLE)[np.ix_(order, order)])
    np.testing.assert_array_equal(read(text.replace(",", "\t"), name="rdm.tsv").table_SS, TABLE)
    np.testing.assert_array_equal(read("\ufeff" + text).table_SS, TABLE)


def test_rows_and_columns_of_a_square_file_may_be_in_different_orders(read):
    np.testing.assert_array_equal(read(",cat,car,dog\ncar,6,0,5\ndog,1,5,0\ncat,0,6,1\n").table_SS, TABLE)


def test_both_halves_of_a_long_file_may_be_given_if_they_agree(read):
    np.testing.assert_array_equal(read(LONG + "dog,cat,1\ndog,dog,0\ndog,bus,9\n").table_SS, TABLE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SQUARE.replace("cat,1,0,6", "cat,1,0,7"), r"row 3 \('cat'\), column 'car'.*not symmetric: 7 .* 6"),
        (SQUARE.replace("dog,0,1,5", "dog,0,1,nan"), r"row 2 \('dog'\), column 'car'.*'nan'"),
        (SQUARE.replace("dog,0,1,5", "dog,0,,5"), r"row 2 \('dog'\), column 'cat'.*''"),
        (SQUARE.replace("dog,0,1,5", "dog,0,1"), "row 2: 3 cells in a table of 3 stimuli"),
        (SQUARE.replace("car", "bus"), "stimulus in the header: 'car'"),
        (SQUARE.replace("\ncar", "\nbus"), "stimulus in the first column: 'car'"),
        (SQUARE.replace("\ncar", "\ncat"), "first column: 'cat' appears twice"),
        (SQUARE.replace(",dog,cat,car\n", ",dog,cat,cat\n"), "header: 'cat' appears twice"),
        (",dog,cat,car\ndog,0,2,2\ncat,2,0,2\ncar,2,2,0\n", "Every pair of stimuli has the dissimilarity 2"),
        (LONG.replace("car,cat,6\n", ""), "'cat', 'car' is missing"),
        (LONG + "cat,dog,1\n", "row 5: The pair 'cat', 'dog' appears twice"),
        (LONG + "dog,cat,2\n", "row 5: The RDM is not symmetric: 2 and, mirrored, 1"),
        (LONG + "dog,cat\n", "row 5: 2 cells"),
        (LONG.replace("6", "six"), "row 4, column 'dissimilarity'.*'six'"),
        ("", "empty"),
    ],
)
def test_bad_files_are_refused_with_the_place(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_missing_files_and_repeated_stimuli_are_refused(read, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_model(tmp_path / "none.csv", IDS)
    with pytest.raises(UserError, match="'dog' appears twice"):
        read(SQUARE, ids=["dog", "cat", "dog"])
