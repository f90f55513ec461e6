"""The benchmark of RSA at a tiny size: every line agrees with its peer."""

from __future__ import annotations

import json

import pytest

from benchmarks import rsa


@pytest.fixture(scope="module")
def lines():
    pytest.importorskip("nilearn")
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", printed.append)
        assert rsa.main(["--json", "--repeats", "1", "--share", "0.002", "--jobs", "1"]) == 0
    return [json.loads(text) for text in printed]


def test_every_line_has_a_figure_and_names_its_peer(lines):
    assert len(lines) >= 14
    assert all(line["ours"] > 0 for line in lines)
    for line in lines:
        assert ("peer_is" in line and line["ratio"] > 0) or line["peak_GB"] > 0


def test_ours_and_the_peers_agree(lines):
    compared = [line for line in lines if line.get("agreement") is not None]
    assert len(compared) >= 10
    for line in compared:
        assert line["agreement"] < 1e-9, line["name"]


def test_family_wise_p_values_agree_within_monte_carlo_error(lines):
    key = "largest_p_difference_in_standard_errors"
    differences = [line[key] for line in lines if key in line]
    assert len(differences) == 1 and differences[0] < 6
