"""Output where a terminal is not in UTF-8."""

from __future__ import annotations

from io import BytesIO, TextIOWrapper

import pytest

from inferno.cli.plain_signs import show_plainly


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "hpa − slo: 2 × H100 → größer …"),
        ("latin-1", "hpa - slo: 2 × H100 -> größer ..."),
        ("ascii", r"hpa - slo: 2 x H100 -> gr\xf6\xdfer ..."),
    ],
)
def test_signs_that_an_encoding_lacks_are_shown_plainly(encoding: str, shown: str) -> None:
    """An hour of simulation ended with a traceback as its table was printed."""
    written = BytesIO()
    stream = TextIOWrapper(written, encoding=encoding)
    show_plainly([stream])
    stream.write("hpa − slo: 2 × H100 → größer …")
    stream.flush()
    assert written.getvalue().decode(encoding) == shown
