"""Tables of runs are those that pandas would have written, and pandas is not imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from experiments.arrow_table import arrow_table
from experiments.columns import Columns

NAN = float("nan")
WORDS = ["a", "東京", ""]


@pytest.mark.parametrize(
    "columns",
    [
        {
            "server": np.array([2, 0, 1, 1]),
            "whole": np.arange(8, dtype=np.uint32)[::2],
            "t_s": np.array([0.5, NAN, -0.0, np.inf]),
            "pod": np.array(["x", "", "ü", "x"], dtype=object),
        },
        {
            "server": np.empty(0, dtype=np.int64),
            "t_s": np.empty(0),
            "pod": np.empty(0, dtype=object),
        },
    ],
)
def test_a_table_is_the_one_that_pandas_makes(columns: Columns) -> None:
    """Whoever reads files of older versions reads these: equal kinds, and nothing where NaN was."""
    codes = pd.Categorical.from_codes(columns["server"], categories=pd.Index(WORDS))
    frame = pd.DataFrame({**columns, "server": codes})
    expected = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    found = arrow_table(columns, {"server": WORDS})
    found.validate(full=True)
    if len(frame):  # of no text at all pandas does not know that it is text
        assert found.schema == expected.schema
        assert found.equals(expected)
    pd.testing.assert_frame_equal(found.to_pandas(), frame, check_dtype=bool(len(frame)))


@pytest.mark.costly
def test_to_write_a_run_imports_no_pandas(repository: Path) -> None:
    """It was a tenth of what an hour of a large system costs as a command: pyarrow imports it for
    the first list or array that it is given.
    """
    code = """
import sys
import numpy as np
import experiments.run_files, experiments.tables, experiments.timeline_figure
from experiments.arrow_table import arrow_table
arrow_table({"k": np.zeros(2, dtype=int), "t_s": np.zeros(2)}, {"k": ["a"]})
print("pandas" in sys.modules)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, check=True, cwd=repository, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
