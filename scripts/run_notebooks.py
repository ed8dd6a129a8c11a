"""Runs the notebooks and keeps what comes out in them: `make notebooks`.

A notebook carries the digest of the code that its outputs are of; a test compares it with the
code that is there, so that outputs do not age unseen.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
DIGEST = "outputs_of"  # in the metadata of a notebook
LIMIT_S = 3600


def digest(notebook: nbformat.NotebookNode) -> str:
    """Return the digest of the code of *notebook*."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def execute(path: Path) -> None:
    """Run the notebook at *path* from top to bottom, and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(
            notebook,
            timeout=LIMIT_S,
            kernel_name="python3",
            resources=where,
            # When each cell ran would differ with each run.
            record_timing=False,
            coalesce_streams=True,
        ).execute()
    notebook.metadata[DIGEST] = digest(notebook)
    # The version of the Python at hand would, too.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def main(names: list[str]) -> None:
    """Run the notebooks named, or all."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or path.stem in names:
            execute(path)


if __name__ == "__main__":
    main(sys.argv[1:])
