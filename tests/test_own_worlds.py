"""A world and a source of metrics are found by module:Name, as policies and engines are."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from inferno.cli.main import parse
from inferno.worlds.kube import Choices, make_source
from loop.controller import Controller
from loop.settings import Settings
from loop.testing.fakes import ManualClock
from tests.own_worlds import Mute

STILL = "tests.own_worlds:Still"


def test_a_controller_runs_over_a_world_of_somebodys_own() -> None:
    """With the options of that world, and without those of ours."""
    _, options = parse(["controller", "--backend", STILL, "--servers", "3"])
    with ExitStack() as stack:
        world = options.worlds.open_world(Settings(), options, stack)
        controller = Controller(
            backend=world.backend,
            policy=world.policy,
            data=world.data,
            clock=ManualClock(),
            settings=None,
        )
        record = controller.cycle(0.0)
    assert record.seen is not None
    assert list(record.seen.servers) == ["s0", "s1", "s2"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--backend", STILL, "--speed", "2"], "--speed belongs to --backend sim"),
        (["--backend", "tests.own_worlds:Gone"], "world: cannot load 'tests.own_worlds:Gone'"),
        (["--backend", "json:loads"], "json:loads: expected add_options and open_world"),
        (["--backend", "kub"], "did you mean kube?"),
        (["--backend", "kube", "--metrics", "prometeus"], "did you mean prometheus?"),
    ],
)
def test_what_is_no_world_is_told_in_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what may have been meant."""
    with pytest.raises(SystemExit) as left:
        parse(["controller", *words])
    line = capsys.readouterr().err
    assert left.value.code == 2
    assert expected in line
    assert line.count("\n") == 1


def test_figures_come_from_a_source_of_somebodys_own() -> None:
    """Made with the window that was asked for."""
    _, options = parse(["collector", "--metrics", "tests.own_worlds:Mute"])
    settings = Settings(metrics_window_s=90.0)
    with ExitStack() as stack:
        source = make_source(settings, Choices(metrics=options.metrics), None, stack=stack)  # type: ignore[arg-type] # asks nobody
    assert isinstance(source, Mute)
    assert source.window_s == 90.0
