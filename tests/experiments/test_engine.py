"""Which engine serves a run, and that it is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import RunConfig, run
from experiments.config import SAMPLE_DATA
from experiments.run import chosen_fast
from experiments.sources import read_sources
from twin.engine.compiled.cache import broken, installed
from twin.spec import SpecError

SMALL = RunConfig(
    data=SAMPLE_DATA / "small", scenario="steady", policy="static", period_s=60.0, hours=0.05
)


def test_a_short_run_does_not_wait_for_the_compiled_engine() -> None:
    """It would take longer than the run."""
    assert not chosen_fast(read_sources(SMALL))


def test_the_engine_that_is_asked_for_is_taken_or_missed() -> None:
    """A run that silently took the other one would be no measurement."""
    fast = read_sources(replace(SMALL, engine="fast"))
    assert not chosen_fast(read_sources(replace(SMALL, engine="plain", hours=1000.0)))
    if installed():
        assert chosen_fast(fast)
    else:
        with pytest.raises(SpecError, match="needs the extra"):
            chosen_fast(fast)
    with pytest.raises(SpecError, match="engine: expected one of auto, plain, fast"):
        replace(SMALL, engine="quick")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_compiler_that_cannot_be_loaded_is_told_or_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Numba that does not go with the installed NumPy ended runs with a traceback."""
    pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    package = tmp_path / "numba"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs NumPy 2.2\\nor less')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    broken.cache_clear()
    try:
        assert not chosen_fast(read_sources(replace(SMALL, hours=1000.0)))
        with pytest.raises(SpecError, match=r"cannot be loaded: ImportError: needs NumPy 2\.2 or"):
            chosen_fast(read_sources(replace(SMALL, engine="fast")))
    finally:
        broken.cache_clear()


@pytest.mark.slow
def test_both_engines_give_one_run() -> None:
    """The same name, scores and requests; only what served them differs, and is told."""
    pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")
    plain, fast = (run(replace(SMALL, engine=engine)) for engine in ("plain", "fast"))
    assert (plain.run_id, plain.summary) == (fast.run_id, fast.summary)
    for name, column in plain.requests.items():
        assert column.tobytes() == fast.requests[name].tobytes()
    assert (plain.compiled_share, fast.compiled_share) == (0.0, 1.0)


@pytest.mark.slow
def test_a_run_that_insists_on_the_compiled_engine_tells_whom_it_does_not_serve(
    tmp_path: Path,
) -> None:
    """It ended in silence, and took ten times as long."""
    pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")
    scenario = tmp_path / "users.yaml"
    scenario.write_text("load:\n  - {users: 3, think_s: 20}\n")
    closed = replace(SMALL, scenario=str(scenario), hours=0.01)
    insists = run(replace(closed, engine="fast"))
    told = [note for note in insists.notes if note.startswith("engine: ")]
    assert insists.compiled_share == 0.0
    assert told == [
        f"engine: served by the plain one, not fast: {', '.join(insists.names)} "
        "(each of its users waits for an answer)"
    ]
    assert not [note for note in run(closed).notes if note.startswith("engine: ")]
