"""What was compiled once is called without a compiler, and never if it is damaged."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")

from twin.engine.compiled.machine_code import Addresses, Function, has_code, machine_code

pytestmark = pytest.mark.slow  # it loads the compiler

RUN = """
import sys
from twin.engine.compiled.table import TableReplica
from twin.spec import EngineSpec, LatencyModel
model = LatencyModel(alpha_ms=1.0, beta_ms=0.1, gamma_ms=0.0)
spec = EngineSpec(model="m", accelerator="A", latency_model=model)
replica = TableReplica.of_spec(spec, max_batch=1, queue_max=None, on_finish=print)
print("numba" in sys.modules)
"""


def product(ints: Addresses, floats: Addresses, sizes: Addresses, instants: Addresses) -> int:
    """Write sizes[0] * instants[0] to the first array of floats, and return what the first of whole
    numbers holds.
    """
    floats[0][0] = sizes[0] * instants[0]
    return int(ints[0][0])


def called(function: Function) -> tuple[int, float]:
    """Return what *function* returned and wrote, asked for 2 * 3.5."""
    whole, real = np.array([7]), np.zeros(1)
    addresses = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (whole, real)]
    sizes, instants = np.array([2]), np.array([3.5])
    found = function(*addresses, sizes.ctypes.data, instants.ctypes.data)
    return found, float(real[0])


def test_code_is_kept_and_made_anew_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was cut must not end the process."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    make = machine_code.__wrapped__
    assert not has_code("product")
    assert called(make("product", lambda: product)) == (7, 7.0)
    (path,) = tmp_path.rglob("product-*.code")
    whole = path.read_bytes()
    assert called(make("product", lambda: pytest.fail("made again"))) == (7, 7.0)
    for damaged in (b"", whole[:-9], whole.replace(b"product", b"another", 1)):
        path.write_bytes(damaged)
        assert called(make("product", lambda: product)) == (7, 7.0)
        assert path.read_bytes() != damaged
    assert [each.name for each in path.parent.glob("product*.code*")] == [path.name]


def test_code_is_kept_elsewhere_where_its_directory_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process compiled it anew, for half a minute."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null")
    make = machine_code.__wrapped__
    assert called(make("product", lambda: product)) == (7, 7.0)
    assert has_code("product")
    assert [each.suffix for each in tmp_path.rglob("product-*")] == [".code"]
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    assert not has_code("product")
    assert called(make("product", lambda: product)) == (7, 7.0)


def test_code_of_another_processor_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that several kinds of machines share: a short run must not wait for a compilation."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make = machine_code.__wrapped__
    make("product", lambda: product)
    (path,) = tmp_path.rglob("product-*.code")
    path.rename(path.with_name("product-0123456789abcdef.code"))
    assert not has_code("product")


def test_a_later_process_loads_no_compiler() -> None:
    """That takes a second, more than many a run."""
    for _ in range(2):  # the first one compiles if nobody did
        words = [sys.executable, "-c", RUN]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
