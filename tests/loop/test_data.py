"""loop.data: which files a cycle reads, and what stands in for them when they are bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loop.data import DataSource, FixedData
from loop.schema.reading import read_system
from loop.testing.fakes import system as fake_system
from tests.loop.data_files import files, write
from twin.spec import SpecError


def change(directory: Path, *, alpha: float | None = None, gpus: int | None = None) -> None:
    """Write the minimal system again with another latency model or another capacity."""
    objects: dict[str, dict[str, Any]] = files()
    if alpha is not None:
        objects["model-data.json"]["models"][0]["perfParms"]["alpha"] = alpha
    if gpus is not None:
        objects["capacity-data.json"]["count"][0]["count"] = gpus
    write(directory, objects)


@pytest.mark.parametrize(("dynamic", "alpha"), [(False, 6.5), (True, 9.0)])
def test_capacity_is_read_every_cycle_and_the_rest_only_in_dynamic_mode(
    dynamic: bool, alpha: float, tmp_path: Path
) -> None:
    """That is what <isDynamicMode> of the walk-through means."""
    data = DataSource(write(tmp_path), dynamic=dynamic)
    assert data.load().system.capacity == {"H100": 8}
    change(tmp_path, alpha=9.0, gpus=3)
    reading = data.load()
    assert reading.system.capacity == {"H100": 3}
    assert reading.system.perf["small", "H100"].alpha_ms == alpha
    assert (reading.error, reading.warnings) == ("", ())


def test_the_first_reading_ends_the_program_when_a_file_is_bad(tmp_path: Path) -> None:
    """At the start there are no last good data to go on with."""
    (write(tmp_path) / "model-data.json").write_text("{")
    with pytest.raises(SpecError, match=r"model-data\.json: line 1"):
        DataSource(tmp_path, dynamic=False).load()


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_last_good_data_stay_when_a_file_goes_bad(dynamic: bool, tmp_path: Path) -> None:
    """A ConfigMap with a typing error must not stop a running loop, nor go unseen."""
    data = DataSource(write(tmp_path), dynamic=dynamic)
    good = data.load().system
    file = tmp_path / "capacity-data.json"
    file.write_text('{"count": [{"type": "H100", "count": -1}]}')
    reading = data.load()
    assert reading.system == good
    assert (
        reading.error == f"{file}: count[0] 'H100': count: expected a whole number >= 0, found -1"
    )
    assert data.load().error == reading.error, "it is as bad as it was"
    change(tmp_path, gpus=5)
    reading = data.load()
    assert (reading.system.capacity, reading.error) == ({"H100": 5}, "")
    assert data.load().system.capacity == {"H100": 5}


def test_a_bad_static_file_does_not_hide_a_change_of_capacity(tmp_path: Path) -> None:
    """In dynamic mode a broken model file and a lost node may come together."""
    data = DataSource(write(tmp_path), dynamic=True)
    data.load()
    change(tmp_path, gpus=2)
    file = tmp_path / "model-data.json"
    file.unlink()
    reading = data.load()
    assert reading.system.capacity == {"H100": 2}
    assert reading.error == f"{file}: expected a file, found none"


def test_a_warning_is_told_when_it_is_new(tmp_path: Path) -> None:
    """The same line in the record of every cycle would hide the one that is new."""
    objects = files()
    objects["capacity-data.json"]["note"] = "by hand"
    data = DataSource(write(tmp_path, objects), dynamic=True)
    line = f"{tmp_path / 'capacity-data.json'}: unknown key 'note' is not used"
    assert data.load().warnings == (line,)
    assert data.load().warnings == ()
    change(tmp_path)
    assert data.load().warnings == ()
    write(tmp_path, objects)
    assert data.load().warnings == (line,)


def test_fixed_data_are_always_the_same(tmp_path: Path) -> None:
    """An experiment that perturbs the estimate hands its system over as it is."""
    system = read_system(write(tmp_path))
    data = FixedData(system)
    assert data.load() == data.load()
    assert data.load().system is system


def test_warnings_of_data_that_do_not_change_are_told_once() -> None:
    """A run of a thousand cycles has them in its first record."""
    data = FixedData(fake_system(), warnings=("one",))
    assert [data.load().warnings for _ in range(3)] == [("one",), (), ()]
