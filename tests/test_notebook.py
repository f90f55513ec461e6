"""The notebook is stored as it ran, and runs again to the same numbers."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from_yaml_to_claim.ipynb"
NUMBER = r"[-+]?\d+(?:\.\d+)?"
FREE = "generate("
"""In the cell that has this, the language model writes freely: its words may differ from one processor to the next."""


def stored() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode) -> str:
    """What a cell printed and showed as text, on one line."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return " ".join(" ".join(texts).split())


def images(cell: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_the_notebook_is_stored_as_it_ran() -> None:
    notebook = stored()
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {(output.output_type, output.get("name", "")) for cell in cells for output in cell.outputs}
    assert kinds <= {("display_data", ""), ("execute_result", ""), ("stream", "stdout")}, "no error, no warning"
    assert sum(map(images, cells)) >= 5
    assert NOTEBOOK.stat().st_size < 600_000
    assert not re.search(r"/(?:tmp|home|root|Users)/", NOTEBOOK.read_text(encoding="utf-8"))


def test_text_stands_between_the_cells() -> None:
    kinds = [cell.cell_type for cell in stored().cells]
    assert kinds[0] == kinds[-1] == "markdown"
    assert not any(a == b == "code" for a, b in pairwise(kinds))


def test_the_notebook_runs_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as in Jupyter
    before, after = stored(), stored()
    nbclient.NotebookClient(after, timeout=600).execute()
    for old, new in zip(code_cells(before), code_cells(after), strict=True):
        assert images(old) == images(new)
        if FREE in old.source:
            assert shown(new)
            continue
        assert re.sub(NUMBER, "#", shown(new)) == re.sub(NUMBER, "#", shown(old))
        numbers = [np.array(re.findall(NUMBER, shown(cell)), dtype=float) for cell in (new, old)]
        np.testing.assert_allclose(*numbers, rtol=0.02, atol=0.02, err_msg=old.source)
