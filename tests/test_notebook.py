"""The quickstart notebook runs from top to bottom, and keeps the outputs of a run without errors."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = nbformat.read(Path(__file__).parents[1] / "docs" / "quickstart.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_the_stored_outputs_are_those_of_one_whole_run() -> None:
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    kinds = [output.output_type for cell in CODE for output in cell.outputs]
    assert set(kinds) <= {"execute_result", "display_data", "stream"}
    assert all(output.name == "stdout" for cell in CODE for output in cell.outputs if output.output_type == "stream")


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    notebook = NOTEBOOK.copy()
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {
        kind: output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
        for kind in output.data
    }
    assert "image/png" in shown
    texts = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    assert any("200 of 400 denoiser rows" in text for text in texts)  # half the cost, as the tuned policy promises
