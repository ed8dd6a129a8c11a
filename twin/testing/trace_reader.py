"""What every reader of traces must do, as a suite for pytest: subclass it, and give it a file.

class TestMine(TraceReaderContract):
    @pytest.fixture
    def reader(self) -> TraceReader:
        return read_mine

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        ...
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twin.spec import SpecError
from twin.traces import TraceReader, read_trace


class TraceReaderContract:
    """What every reader must do, whatever its files look like."""

    @pytest.fixture
    def reader(self) -> TraceReader:
        """Return the reader under test; a subclass says which."""
        raise NotImplementedError("a subclass defines the fixture reader")

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """Return a file of two requests and more; a subclass writes it."""
        raise NotImplementedError("a subclass defines the fixture file")

    def test_every_request_has_a_time_and_tokens(self, reader: TraceReader, file: Path) -> None:
        """A column that is shifted by a row would give each request another one's tokens."""
        rows = reader(file)
        assert len(rows.times_s) == len(rows.prompt_tokens) == len(rows.output_tokens) > 1
        assert np.isfinite(rows.times_s).all()
        assert min(rows.prompt_tokens.min(), rows.output_tokens.min()) >= 0

    def test_what_is_read_twice_is_the_same(self, reader: TraceReader, file: Path) -> None:
        """Rows are used up when a trace is made of them: they must not be kept."""
        once, again = (read_trace(file, reader) for _ in range(2))
        assert once.times_s.tolist() == again.times_s.tolist()
        assert once.prompt_tokens.tolist() == again.prompt_tokens.tolist()
        assert once.output_tokens.tolist() == again.output_tokens.tolist()

    def test_a_trace_begins_at_0_and_goes_on(self, reader: TraceReader, file: Path) -> None:
        """Times may be of any clock, and in any order."""
        times_s = read_trace(file, reader).times_s
        assert times_s[0] == 0.0
        assert (np.diff(times_s) >= 0.0).all()

    def test_a_file_of_something_else_is_one_line(self, reader: TraceReader, file: Path) -> None:
        """Files are mixed up; whoever reads a million lines of another kind says so."""
        other = file.with_name("other")
        other.write_bytes(bytes(range(256)))
        with pytest.raises(SpecError, match=r"^(.*/)?other: [^\n]+$"):
            read_trace(other, reader)
