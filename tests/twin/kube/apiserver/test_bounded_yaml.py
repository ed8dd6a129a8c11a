"""YAML from anybody: aliases of aliases stand for more than any memory, and are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import yaml

from experiments.scenario import parse_scenario
from twin.kube.apiserver.bounded_yaml import load
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.request import parsed_json, parsed_yaml
from twin.spec import SpecError


def bomb(levels: int, *, fan: int = 9) -> str:
    """Return half a kilobyte that stands for fan ** levels nodes."""
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * fan)}]")
    return "\n".join(lines)


def test_aliases_that_stand_for_little_are_read() -> None:
    """Charts use them for what they repeat."""
    assert load("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }
    assert load(bomb(3))["a2"] == [[["x"]] * 9] * 9
    assert load("") is None


def test_numbers_with_an_exponent_are_numbers_without_a_point_or_sign_too() -> None:
    """`hours: 1e-1` was refused as the text '1e-1'; kubectl reads a number."""
    told = "[1e3, 1.5E2, -2.e-1, .5e1, 1_0e1, '1e3', e3, 1e, 1e3x, 0x1e3, 12:30e1]"
    numbers, texts = [1e3, 150.0, -0.2, 5.0, 100.0], ["1e3", "e3", "1e", "1e3x", 0x1E3, "12:30e1"]
    assert load(told) == parsed_yaml(told.encode()) == [*numbers, *texts]


@pytest.mark.parametrize("text", [bomb(12), bomb(200, fan=2), "a: &a [*a]"])
def test_aliases_that_stand_for_too_much_are_refused_at_once(text: str) -> None:
    """0.4 KB stopped the twin for 24 s."""
    with pytest.raises(yaml.YAMLError, match="alias"):
        load(text)
    with pytest.raises(ApiError, match="alias"):
        parsed_yaml(text.encode())
    with pytest.raises(SpecError, match="alias"):
        parse_scenario(text, name="bomb", source="bomb.yaml", base=Path())


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        '{"a":' * 20_000,
        "- " * 20_000,
        "\n".join(" " * depth + "a:" for depth in range(500)),
        "a: 1" + ":1" * 50_000,
        "a: " + "1" * 5_000,
        "a: " + "1" * 5_000 + ".0",
    ],
)
def test_depth_and_digits_beyond_all_measure_are_refused_at_once(text: str) -> None:
    """50 KB of brackets froze the twin for seconds."""
    begin_s = process_time()
    with pytest.raises(yaml.YAMLError, match=r"expected (lists and mappings|a number)"):
        load(text)
    assert process_time() - begin_s < 0.5


def test_what_people_write_is_within_the_bounds() -> None:
    """Deep enough, and with long texts."""
    text = "a" * 5_000
    assert load("[" * 90 + f"{text}, 1:30" + "]" * 90)
    assert load(f"a: '{'1' * 5_000}'") == {"a": "1" * 5_000}


@pytest.mark.parametrize("read", [lambda text: load(text.decode()), parsed_yaml, parsed_json])
def test_half_a_character_is_read_as_go_reads_it(read: Callable[[bytes], Any]) -> None:
    """Kept as it is, it would be in lists that no client could write down."""
    found = read(b'{"a": "\\ud800", "b": "\\ud83d\\ude00", "\\udfff": 1}')
    assert found == {"a": "\ufffd", "b": "\U0001f600", "\ufffd": 1}
