"""The notebooks run from top to bottom, and none is committed with its outputs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

# In place of the cell tagged "parameters": the same names, with values that take seconds.
TINY = {
    "quickstart": """
config = RunConfig(data=SAMPLE_DATA / "small", scenario="ramp", hours=0.3)
""",
    "sweep_alpha_period": """
base = RunConfig(data=SAMPLE_DATA / "small", scenario="disturbed", hours=0.05, interval_s=20.0)
alphas, periods_s, seeds = (0.1, 0.5), (30.0, 60.0), 2
out, jobs = Path(mkdtemp()), 1
""",
}


def notebook(repository: Path, name: str) -> nbformat.NotebookNode:
    """Read a notebook as it is committed."""
    return nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_run_here(repository: Path) -> None:
    """A new notebook must not slip past the tests."""
    assert {path.stem for path in (repository / "notebooks").glob("*.ipynb")} == TINY.keys()


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_notebook_runs_to_its_end(repository: Path, tmp_path: Path, name: str) -> None:
    """What a newcomer tries first must work; a table or a picture comes out of every other cell at
    least.
    """
    nodes = notebook(repository, name)
    (parameters,) = (cell for cell in nodes.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = TINY[name]
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "TMPDIR": str(tmp_path),
        "PYTHONWARNINGS": "default",
    }
    client = NotebookClient(
        nodes, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)
    outputs = [
        output for cell in nodes.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_notebook_is_committed_without_outputs(repository: Path, name: str) -> None:
    """Outputs would age, and make every difference unreadable."""
    for cell in notebook(repository, name).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
