"""The notebooks run from top to bottom, and carry what comes out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from scripts.run_notebooks import digest

pytestmark = pytest.mark.slow

# In place of the cell tagged "parameters": the same names, with values that take seconds.
TINY = {
    "compare_policies": """
data, hours, seeds = SAMPLE_DATA / "small", 0.05, 1
policies, scenarios = ("slo", "hpa"), ("step", "day")
out, jobs = Path(mkdtemp()), 1
""",
    "quickstart": """
config = RunConfig(data=SAMPLE_DATA / "small", scenario="ramp", hours=0.1)
""",
    "sweep_alpha_period": """
data, hours, seeds = SAMPLE_DATA / "small", 0.05, 2
alphas, periods_s = (0.1, 0.5), (30.0,)
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
def test_a_notebook_carries_the_outputs_of_its_code(repository: Path, name: str) -> None:
    """It is read before it is run, on the site above all; outputs of other code would mislead.
    `make notebooks` runs them anew.
    """
    nodes = notebook(repository, name)
    code = [cell for cell in nodes.cells if cell.cell_type == "code"]
    assert nodes.metadata["outputs_of"] == digest(nodes)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs}.isdisjoint({"error"})
    assert "image/png" in {kind for output in outputs for kind in output.get("data", {})}
    # A machine's own places do not belong into what everybody reads.
    assert str(Path.home()) not in json.dumps(outputs)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_notebook_shows_how_far_it_is(repository: Path, name: str) -> None:
    """A cell that is silent for minutes is taken for one that hangs."""
    code = [cell for cell in notebook(repository, name).cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    lines = [output.text for output in outputs if output.output_type == "stream"]
    bars = [text for output in outputs if "<progress" in (text := json.dumps(output))]
    assert bars or any("1/" in text and "left" in text for text in lines)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_notebook_says_how_to_run_it(repository: Path, name: str) -> None:
    """Who finds it on the site may have neither a checkout nor a Jupyter."""
    assert "pip install '.[notebooks]'" in notebook(repository, name).cells[0].source
