"""Claims about reading request logs: what is taken as it is, and the one line that everything else
gets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twin.fit.request_csv import parse_request_rows, read_log_text
from twin.spec import SpecError

HEADER = "request,queued_s,input_tokens,output_tokens,scheduled_s,first_token_s,last_token_s\n"
GOOD = "a,1.0,100,5,1.1,1.5,2.0\n"


def test_rows_are_put_in_order_of_arrival_and_time_starts_at_the_first() -> None:
    """A replay submits in order of time; logs are often written in order of completion, on the
    clock of the epoch.
    """
    rows = parse_request_rows(
        HEADER
        + "b,1700000012.5,20,3,1700000013,1700000014,1700000015\n"
        + "a,1700000010,10,2,1,1700000011,1700000012\n",
        source="log.csv",
    )
    np.testing.assert_allclose(rows.queued_s, [0.0, 2.5])
    np.testing.assert_allclose(rows.ttft_s, [1.0, 1.5])
    np.testing.assert_allclose(rows.e2e_s, [2.0, 2.5])
    assert rows.input_tokens.tolist() == [10, 20]
    assert rows.output_tokens.tolist() == [2, 3]
    assert rows.line.tolist() == [3, 2]


def test_columns_may_come_in_any_order_and_case_with_others_between() -> None:
    """Logs of other tools carry more columns; only the five that are needed are looked at."""
    text = "Last_Token_S, note ,INPUT_TOKENS,output_tokens,first_token_s,queued_s\n4,x,7,2,3,1\n"
    rows = parse_request_rows(text, source="log.csv")
    assert (rows.input_tokens[0], rows.output_tokens[0]) == (7, 2)
    assert (rows.ttft_s[0], rows.e2e_s[0]) == (2.0, 3.0)


def test_a_part_keeps_the_times_of_the_whole() -> None:
    """A held-out half is replayed after the first: its clock must not start again."""
    rows = parse_request_rows(
        HEADER + GOOD + "b,3,1,1,3,4,4\nc,5,1,1,5,6,6\n", source="log.csv"
    ).part(slice(1, None))
    assert len(rows) == 2
    assert rows.queued_s.tolist() == [2.0, 4.0]


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    """Spreadsheets write both."""
    path = tmp_path / "log.csv"
    path.write_bytes(("\ufeff" + HEADER + GOOD).replace("\n", "\r\n").encode())
    assert len(parse_request_rows(read_log_text(path), source=path.name)) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "log.csv: line 1: expected a column queued_s, found only an empty line"),
        ("a,b\n", "log.csv: line 1: expected a column queued_s, found only a, b"),
        (
            HEADER.replace("first_token_s", "ttft"),
            "log.csv: line 1: expected a column first_token_s, found only "
            "request, queued_s, input_tokens, output_tokens, scheduled_s, ttft, last_token_s",
        ),
        (
            HEADER.replace("scheduled_s", "queued_s"),
            "log.csv: line 1: expected a column queued_s, found it twice",
        ),
        (HEADER, "log.csv: expected at least one row below the header, found none"),
        (HEADER + GOOD + "b,1\n", "log.csv: line 3: expected 7 fields as in the header, found 2"),
        (HEADER + "a,x,1,1,0,2,3\n", "log.csv: line 2: queued_s: expected a number, found 'x'"),
        (HEADER + "a,nan,1,1,0,2,3\n", "log.csv: line 2: queued_s: expected a number, found 'nan'"),
        (HEADER + "a,1,,1,0,2,3\n", "log.csv: line 2: input_tokens: expected a number, found ''"),
        (
            HEADER + "a,1,0,1,0,2,3\n",
            "log.csv: line 2: input_tokens: expected a whole number in 1..1000000000, found 0",
        ),
        (
            HEADER + "a,1,1,2.5,0,2,3\n",
            "log.csv: line 2: output_tokens: expected a whole number in 1..1000000000, found 2.5",
        ),
        (
            HEADER + "a,1,1,1e300,0,2,3\n",
            "log.csv: line 2: output_tokens: expected a whole number in 1..1000000000, found "
            "1e+300",
        ),
        (
            HEADER + "a,2,1,1,0,2,3\n",
            "log.csv: line 2: first_token_s: expected > queued_s (2), found 2",
        ),
        (
            HEADER + GOOD + "\nb,1,1,1,0,3,2\n",
            "log.csv: line 4: last_token_s: expected >= first_token_s (3), found 2",
        ),
        (
            HEADER + 'a,"1,1,1,0,3,2\n',
            "log.csv: line 2: expected CSV, found unexpected end of data",
        ),
    ],
)
def test_a_bad_log_is_told_in_one_line_that_names_the_place(text: str, line: str) -> None:
    """Whoever sent the log must find the spot without reading our code."""
    with pytest.raises(SpecError) as caught:
        parse_request_rows(text, source="log.csv")
    assert str(caught.value) == line


def test_a_file_that_is_not_there_or_not_text_is_told_in_one_line(tmp_path: Path) -> None:
    """Both are mistakes of the command line, not of the program."""
    with pytest.raises(
        SpecError, match=r"absent\.csv: expected a request log, found no such file$"
    ):
        read_log_text(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        SpecError, match=r"binary\.csv: expected a request log \(text in UTF-8\), found .*"
    ):
        read_log_text(tmp_path / "binary.csv")
    with pytest.raises(SpecError, match="expected a request log"):
        read_log_text(tmp_path)
