"""Labels and annotations: what they say, and that what makes no sense is told and never guessed
at.
"""

from __future__ import annotations

import pytest

from emulator import load_labels
from loop.backends.kube import labels as names
from loop.types import Load


def test_the_names_are_those_of_the_walk_through() -> None:
    """Manifests, the existing components and users type these."""
    assert names.SELECTOR == "inferno.server.managed=true"
    assert {names.NAME, names.MODEL, names.CLASS} == {
        f"inferno.server.{word}" for word in ("name", "model", "class")
    }
    assert names.ACCELERATOR == "inferno.server.allocation.accelerator"
    assert names.MAX_BATCH == "inferno.server.allocation.maxbatchsize"


def test_the_emulator_writes_the_load_where_the_loop_reads_it() -> None:
    """The two know nothing of each other but these labels."""
    load = load_labels.read_load(
        {names.LOAD_RPM: "30", names.LOAD_IN_TOKENS: "128", names.LOAD_OUT_TOKENS: "512"}
    )
    assert load is not None
    written = load_labels.labels_of(load, load.current)
    assert {names.LOAD_RPM, names.LOAD_IN_TOKENS, names.LOAD_OUT_TOKENS} <= written.keys()
    assert load_labels.SELECTOR == names.SELECTOR
    assert load_labels.NAME == names.NAME


def test_a_load_is_read_under_the_present_and_the_older_name_of_its_tokens() -> None:
    """Older manifests know the length of an answer only; the prompt is then not known, which is not
    0 tokens.
    """
    new = {names.LOAD_RPM: "30.5", names.LOAD_IN_TOKENS: "128", names.LOAD_OUT_TOKENS: "512"}
    assert names.load_of(new) == (Load(rate_rpm=30.5, in_tokens=128.0, out_tokens=512.0), "")
    old = {names.LOAD_RPM: "30", names.LOAD_TOKENS: "2048"}
    assert names.load_of(old) == (Load(rate_rpm=30.0, in_tokens=0.0, out_tokens=2048.0), "")


def test_without_a_rate_there_is_no_load() -> None:
    """A server that says nothing is not idle: nobody knows."""
    assert names.load_of({names.LOAD_OUT_TOKENS: "512"}) == (None, "")


@pytest.mark.parametrize("text", ["", "much", "-1", "nan", "inf"])
def test_a_figure_that_is_none_makes_the_load_unknown_and_is_told(text: str) -> None:
    """Never zero: the server would be scaled down for a slip of the pen."""
    load, problem = names.load_of({names.LOAD_RPM: text})
    assert load is None
    assert problem == f"label {names.LOAD_RPM}: expected a number >= 0, found {text!r}"


@pytest.mark.parametrize("text", ["1e300", "1e13", "9" * 60])
@pytest.mark.parametrize("key", [names.LOAD_RPM, names.LOAD_IN_TOKENS, names.LOAD_OUT_TOKENS])
def test_a_figure_beyond_all_loads_is_told_and_not_used(key: str, text: str) -> None:
    """Arithmetic on it would overflow for all servers of the optimizer."""
    load, problem = names.load_of({names.LOAD_RPM: "60", key: text})
    assert load is None
    assert problem == f"label {key}: expected a number >= 0 and <= 1e+12, found {text!r}"


@pytest.mark.parametrize("text", ["7" * 5000, "\u00b2", "\u0663", "1_000", " 7"])
def test_a_count_is_written_in_plain_digits_and_not_too_many(text: str) -> None:
    """Python raises an error for 5,000 of them, and for some signs that it calls digits."""
    bounds, problem = names.bounds_of({names.REPLICAS_MIN: text})
    assert (bounds, len(problem) < 160) == (names.Bounds(), True)
    assert names.max_batch_of({names.MAX_BATCH: text})[0] == 0


@pytest.mark.parametrize(
    ("text", "number", "wrong"),
    [("8", 8, False), ("", 0, False), ("-8", 0, True), ("8.5", 0, True)],
)
def test_a_batch_size_is_a_whole_number(text: str, number: int, wrong: bool) -> None:
    """None at all is allowed: the optimizer has its own."""
    found, problem = names.max_batch_of({names.MAX_BATCH: text})
    assert (found, bool(problem)) == (number, wrong)


def test_bounds_are_read_from_annotations() -> None:
    """Either may be there alone."""
    assert names.bounds_of({names.REPLICAS_MIN: "2"}) == (names.Bounds(replicas_min=2), "")
    assert names.bounds_of({names.REPLICAS_MAX: "5"}) == (names.Bounds(replicas_max=5), "")
    assert names.bounds_of({}) == (names.Bounds(), "")


@pytest.mark.parametrize(
    "wrong", [{names.REPLICAS_MIN: "two"}, {names.REPLICAS_MIN: "5", names.REPLICAS_MAX: "4"}]
)
def test_bounds_that_make_no_sense_are_told(wrong: dict[str, str]) -> None:
    """Whoever set them wanted something: ignoring it in silence would be worst."""
    bounds, problem = names.bounds_of(wrong)
    assert bounds == names.Bounds()
    assert names.REPLICAS_MIN in problem


@pytest.mark.parametrize(
    "value", ["", "H100", "4xA100", "NVIDIA-A100-SXM4-80GB", "a.b_c-d", "x" * 63]
)
def test_a_value_that_can_be_a_label_has_no_problem(value: str) -> None:
    """An empty one is a label, too: no accelerator."""
    assert names.value_problem(value) == ""


@pytest.mark.parametrize("value", ["a b", "-a", "a-", "x" * 64, "über", "a\n"])
def test_a_value_that_cannot_be_a_label_is_told_before_it_is_sent(value: str) -> None:
    """A server refuses the whole patch for it, replicas included."""
    assert "cannot be a label" in names.value_problem(value)


def test_keys_that_look_like_the_loops_own_and_are_none_are_told() -> None:
    """A slip of the pen in a bound is a bound that does not bind, and nobody notices."""
    lines = names.unread_keys(
        [
            *names.LABELS,
            *names.ANNOTATIONS,
            f"{names.LOAD_RPM}.nominal",
            "app",
            "inferno.server.clas",
        ],
        [*names.ANNOTATIONS, "inferno.server.replica.min", names.CLASS, "note"],
    )
    assert lines == [
        "label inferno.server.clas: the loop reads no such label; did you mean "
        "inferno.server.class?",
        "annotation inferno.server.replica.min: the loop reads no such annotation; did you mean "
        "inferno.server.replicas.min?",
        "annotation inferno.server.class: the loop reads no such annotation; it is a label",
    ]
