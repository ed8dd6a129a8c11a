"""A table that is not what was written is refused, whichever bit of its file has flipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.checked_parquet import read_checked, write_checked


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return a table with what results hold: words, figures, and gaps."""
    return pd.DataFrame(
        {
            "run_id": [f"run-{k}" for k in range(6)],
            "alpha": [0.1, 0.2, 0.3, 0.4, 0.5, np.nan],
            "seed": range(6),
            "met": [True, False, None, True, True, False],
            "error": ["", "", "a bug", "", "", ""],
            "nothing": [None] * 6,
        }
    )


def test_a_table_is_read_as_it_was_written(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Words, figures and gaps."""
    path = tmp_path / "results.parquet"
    write_checked(frame, path)
    pd.testing.assert_frame_equal(read_checked(path), pd.read_parquet(path))
    assert read_checked(path)["alpha"].tolist()[:5] == frame["alpha"].tolist()[:5]


@pytest.mark.costly
def test_no_bit_that_flips_makes_other_figures(frame: pd.DataFrame, tmp_path: Path) -> None:
    """64 of 1,606 were drawn as other figures."""
    path, odd = tmp_path / "results.parquet", tmp_path / "odd.parquet"
    write_checked(frame, path)
    content, right = path.read_bytes(), read_checked(path)
    refused = 0
    for place in np.random.default_rng(1).integers(8 * len(content), size=300):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        odd.write_bytes(changed)
        try:
            found = read_checked(odd)
        except (OSError, ValueError):
            refused += 1
        else:
            pd.testing.assert_frame_equal(found, right)
    assert refused > 100


def test_a_file_without_a_digest_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Nobody knows whether it is what was written."""
    frame.to_parquet(tmp_path / "results.parquet", index=False)
    with pytest.raises(ValueError, match="without a digest"):
        read_checked(tmp_path / "results.parquet")
