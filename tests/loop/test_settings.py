"""Arguments before variables before defaults, and one line for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from loop.errors import SpecError
from loop.settings import SOURCES, Settings, read_settings


def test_defaults_are_those_of_the_walk_through() -> None:
    """A user who exports nothing gets a loop of a minute on localhost."""
    settings = read_settings({})
    assert settings == Settings()
    assert (settings.period_s, settings.dynamic, settings.controller_port) == (60.0, False, 3300)
    assert settings.controller_host == "127.0.0.1"


def test_every_field_has_a_variable_and_the_other_way_round() -> None:
    """A field that nothing sets would be a setting in name only."""
    assert set(SOURCES) == set(Settings.__dataclass_fields__)


def test_the_variables_of_the_walk_through_are_read() -> None:
    """setparms.sh exports these."""
    settings = read_settings(
        {
            "INFERNO_DATA_PATH": "/data/large/",
            "INFERNO_CONTROL_PERIOD": "30",
            "INFERNO_CONTROL_DYNAMIC": "true",
            "CONTROLLER_HOST": "localhost",
            "CONTROLLER_PORT": "4300",
            "INFERNO_HOST": "localhost",
            "INFERNO_PORT": "4302",
            "WATCH_NAMESPACE": "infer, other",
            "INFERNO_LOAD_ALPHA": "0.25",
        }
    )
    assert settings == Settings(
        data_path=Path("/data/large"),
        period_s=30.0,
        dynamic=True,
        controller_host="localhost",
        controller_port=4300,
        optimizer_host="localhost",
        optimizer_port=4302,
        namespaces=("infer", "other"),
        load_alpha=0.25,
    )


def test_an_argument_wins_over_the_environment() -> None:
    """`inferno controller 0 true` must not be overruled by what a shell has exported."""
    environ = {"INFERNO_CONTROL_PERIOD": "30", "INFERNO_CONTROL_DYNAMIC": "false"}
    settings = read_settings(
        environ, arguments={"period_s": "0", "dynamic": "True", "data_path": None}
    )
    assert (settings.period_s, settings.dynamic) == (0.0, True)


def test_an_empty_variable_counts_as_not_set() -> None:
    """`export INFERNO_DATA_PATH=` is how one unsets it in a hurry."""
    assert read_settings({"INFERNO_DATA_PATH": "", "CONTROLLER_PORT": " "}) == Settings()


def test_a_wrong_variable_is_not_looked_at_where_an_argument_was_given() -> None:
    """The user has said what counts."""
    assert (
        read_settings({"INFERNO_CONTROL_PERIOD": "x"}, arguments={"period_s": "5"}).period_s == 5.0
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("WATCH_NAMESPACE", "team-a,,team-b"),
        ("INFERNO_CONTROL_PERIOD", "-1"),
        ("INFERNO_CONTROL_PERIOD", "nan"),
        ("INFERNO_CONTROL_PERIOD", "inf"),
        ("INFERNO_CONTROL_PERIOD", "a minute"),
        ("INFERNO_CONTROL_DYNAMIC", "maybe"),
        ("CONTROLLER_PORT", "65536"),
        ("CONTROLLER_PORT", "-1"),
        ("ACTUATOR_PORT", "33O3"),
        ("INFERNO_LOAD_INTERVAL", "0"),
        ("INFERNO_LOAD_ALPHA", "1.5"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_that_names_its_variable(
    variable: str, text: str
) -> None:
    """The user must see where to look, and what was expected there."""
    with pytest.raises(SpecError) as caught:
        read_settings({variable: text})
    line = str(caught.value)
    assert line.startswith(f"{variable}: expected ")
    assert repr(text) in line


def test_a_wrong_argument_is_named_as_one() -> None:
    """As it was typed: the environment is then not at fault."""
    with pytest.raises(
        SpecError, match=r"^PERIOD: expected a number of seconds >= 0, found 'soon'$"
    ):
        read_settings({}, arguments={"period_s": "soon"})
    with pytest.raises(SpecError, match=r"^--port: expected a port, 0 to 65535, found 'x'$"):
        read_settings({"CONTROLLER_PORT": "3300"}, arguments={"controller_port": "x"})
