"""twin.datafile: what a JSON file may hold, and the one line that says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.datafile import Entry, parse_json, read_entry, read_json
from twin.spec import SpecError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def entry(obj: object, **options: Any) -> Entry:
    """Return an entry of a file that does not exist."""
    return Entry(obj, source="server-data.json", **options)


def line_of(error: pytest.ExceptionInfo[SpecError]) -> str:
    """Return the message of an error, which is one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_error_names_file_entry_field_what_was_expected_and_what_came() -> None:
    """A user of a file with hundreds of rows must find the wrong figure from the line alone."""
    file = entry({"servers": [{"name": f"vllm-00{n}", "maxBatchSize": 2 - n} for n in range(1, 5)]})
    row = file.children("servers")[3]
    with pytest.raises(SpecError) as error:
        row.whole("maxBatchSize", at_least=0)
    assert line_of(error) == (
        "server-data.json: servers[3] 'vllm-004': maxBatchSize: expected a whole number >= 0, "
        "found -2"
    )


def test_a_nested_field_is_named_with_its_path() -> None:
    """arrivalRate alone would leave open which of the objects of a server is meant."""
    file = entry({"servers": [{"name": "a", "currentAlloc": {"load": {"arrivalRate": "many"}}}]})
    allocation = file.children("servers")[0].child("currentAlloc")
    assert allocation is not None
    load = allocation.child("load")
    assert load is not None
    with pytest.raises(SpecError) as error:
        load.number("arrivalRate", at_least=0)
    assert line_of(error) == (
        "server-data.json: servers[0] 'a': currentAlloc.load.arrivalRate: expected a number >= 0, "
        "found 'many'"
    )


def test_keys_match_in_any_case() -> None:
    """The existing sample data write AvgInTokens and milpsolver; the Go tools accept it, so do
    we.
    """
    assert entry({"AVGINTOKENS": 128}).number("avgInTokens") == 128.0


def test_null_counts_as_absent() -> None:
    """A program that writes null for what it does not know means the default."""
    row = entry({"cost": None})
    assert not row.has("cost")
    assert row.number("cost", default=7.0) == 7.0


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, "true", '"5"', "[5]"]
)
def test_what_is_not_a_finite_number_is_refused(value: str) -> None:
    """A NaN that got in would end as a NaN in every table of a sweep; true is not 1."""
    row = Entry(parse_json(f'{{"cost": {value}}}', source="a.json"), source="a.json")
    with pytest.raises(SpecError, match=r"a\.json: cost: expected a number, found"):
        row.number("cost")


@pytest.mark.parametrize(
    ("value", "good"), [(8, True), (8.0, True), (8.5, False), (-1, False), (9, False)]
)
def test_a_whole_number_is_whole_and_within_its_bounds(value: float, good: bool) -> None:
    """8.0 is how some writers print 8; 8.5 replicas do not exist."""
    row = entry({"numReplicas": value})
    if good:
        assert row.whole("numReplicas", at_least=0, at_most=8) == 8
    else:
        with pytest.raises(SpecError, match="expected a whole number >= 0 and <= 8, found"):
            row.whole("numReplicas", at_least=0, at_most=8)


@given(value=VALUES)
def test_any_value_is_either_read_within_bounds_or_refused_in_one_line(value: object) -> None:
    """No JSON value may pass as something else, or end in a traceback."""
    good = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= 100
        and value == int(value)
    )
    row = entry({"count": value})
    if good:
        assert row.whole("count", at_least=0, at_most=100) == value
    else:
        with pytest.raises(SpecError) as error:
            row.whole("count", at_least=0, at_most=100)
        assert len(line_of(error)) < 300


def test_unknown_keys_are_told_once_for_all_rows_alike() -> None:
    """Twenty-seven servers with the same old key are one fact, not twenty-seven lines."""
    file = entry(
        {
            "note": 1,
            "servers": [{"name": "a", "zone": 1}, {"name": "b", "zone": 1, "old": {"x": 1}}],
        }
    )
    for row in file.children("servers"):
        row.text("name")
        row.ignore("OLD")
    assert file.warnings() == (
        "server-data.json: unknown key 'note' is not used",
        "server-data.json: servers[0] 'a': unknown key 'zone' is not used (and in 1 more)",
    )


def test_a_choice_is_returned_in_its_own_spelling() -> None:
    """What compares names later must not meet two spellings of one."""
    row = entry({"policy": "roundrobin", "other": "fifo"})
    assert row.choice("policy", ("None", "RoundRobin"), default="None") == "RoundRobin"
    with pytest.raises(SpecError, match="other: expected one of None, RoundRobin, found 'fifo'"):
        row.choice("other", ("None", "RoundRobin"), default="None")


def test_texts_and_flags_are_of_their_kind() -> None:
    """A name must be there and a flag must be true or false."""
    row = entry({"name": "", "model": 5, "keep": 1, "class": ""})
    assert row.text("class", default="Free") == "Free"
    with pytest.raises(SpecError, match="name: expected a text, found ''"):
        row.text("name")
    with pytest.raises(SpecError, match="model: expected a text, found 5"):
        row.text("model")
    with pytest.raises(SpecError, match="keep: expected true or false, found 1"):
        row.flag("keep")


def test_lists_and_objects_are_of_their_kind() -> None:
    """A list where an object belongs is said at its own place."""
    file = entry({"servers": {"name": "a"}, "rows": [[1]], "optimizer": []})
    with pytest.raises(SpecError, match=r"servers: expected a list \[…\], found \{"):
        file.children("servers")
    with pytest.raises(SpecError, match=r"rows\[0\]: expected an object \{…\}, found \[1\]"):
        file.children("rows")
    with pytest.raises(SpecError, match=r"optimizer: expected an object \{…\}, found \[\]"):
        file.child("optimizer")
    with pytest.raises(SpecError, match=r"missing: expected a list \[…\], found nothing"):
        file.children("missing")
    assert file.children("missing", required=False) == []


def test_malformed_json_names_the_file_and_the_line(tmp_path: Path) -> None:
    """A lost comma in a file of two hundred lines is found by its line."""
    path = tmp_path / "model-data.json"
    path.write_text('{\n  "models": [\n    {"name": "a"}\n    {"name": "b"}\n  ]\n}\n')
    with pytest.raises(SpecError) as error:
        read_json(path)
    assert line_of(error).startswith(f"{path}: line 4: expected JSON, found ")


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "nothing"])
def test_no_text_ends_in_a_traceback(text: str) -> None:
    """Whatever stands in a file, the answer is a line that names it."""
    with pytest.raises(SpecError, match=r"^a\.json: .*expected JSON, found "):
        parse_json(text, source="a.json")


def test_a_key_given_twice_is_refused() -> None:
    """JSON readers take the last of two equal keys in silence, and the user the first."""
    with pytest.raises(SpecError, match=r"a\.json: expected every key once, found 'Count' twice"):
        parse_json('{"count": 1, "Count": 2}', source="a.json")


def test_a_missing_file_is_named_with_its_folder(tmp_path: Path) -> None:
    """The usual cause is a wrong --data."""
    path = tmp_path / "capacity-data.json"
    with pytest.raises(SpecError) as error:
        read_entry(path)
    assert line_of(error) == f"{path}: expected a file, found none"


def test_what_is_no_text_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    """Some editors write a byte order mark; nobody writes Latin-1 on purpose."""
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"x": 1}).encode())
    assert read_entry(path).whole("x") == 1
    path.write_bytes(b'{"x": "\xe9"}')
    with pytest.raises(SpecError) as error:
        read_json(path)
    assert "expected a text file in UTF-8" in line_of(error)


def test_a_file_that_holds_no_object_is_refused(tmp_path: Path) -> None:
    """A bare list is a common other form of such files."""
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    with pytest.raises(SpecError) as error:
        read_entry(path)
    assert line_of(error) == f"{path}: expected an object {{…}}, found [1, 2]"


def test_a_list_of_words_may_be_one_word_or_absent() -> None:
    """`verbs: get` and `verbs: [get]` mean the same to who writes them."""
    file = entry({"one": "get", "two": ["get", "list"], "none": None, "bad": ["get", 1]})
    assert [file.words(key) for key in ("one", "two", "none", "absent")] == [
        ("get",),
        ("get", "list"),
        (),
        (),
    ]
    with pytest.raises(SpecError) as error:
        file.words("bad")
    assert line_of(error) == 'server-data.json: bad: expected a list of texts, found ["get", 1]'
