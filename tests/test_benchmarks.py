"""The benchmarks end, whatever happens, and say what moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import run_one
from benchmarks.baseline import compare, update
from benchmarks.kube_server import fresh, stored
from benchmarks.yardstick import relative

HANGING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""
DEADLINE_S = 20.0


def _figure(name: str, value: float) -> dict[str, object]:
    return {"name": name, "value": value, "unit": "ratio", "relative": value}


@pytest.mark.slow
def test_a_benchmark_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """It hung for ever once, and left a server behind that nobody ended."""
    told = tmp_path / "pid"
    figures: list[dict[str, object]] = []
    error = run_one([sys.executable, "-c", HANGING, str(told)], figures, limit_s=2.0)
    assert (error, figures) == ("ended, for it took longer than 2 s", [])
    _await_end(int(told.read_text()))


def test_a_benchmark_that_fails_is_told_and_its_figures_are_kept() -> None:
    """The others still count."""
    figures: list[dict[str, object]] = []
    script = f"import sys; print({json.dumps(_figure('a', 1.0))!r}); sys.exit(3)"
    error = run_one([sys.executable, "-c", script], figures, limit_s=DEADLINE_S)
    assert (error, figures) == ("failed with exit status 3", [_figure("a", 1.0)])


def test_the_stand_in_of_the_cluster_ends_with_whoever_started_it() -> None:
    """A benchmark that is killed cannot end it."""
    command = [sys.executable, "-m", "benchmarks.kube_server", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert int(process.stdout.readline()) > 0
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


def test_the_samples_of_the_stand_in_are_of_the_minute_before_each_query() -> None:
    """They were those of its start: after a minute the loop rightly called them stale, and the
    benchmark failed on a busy machine.
    """
    answer = stored(1)["/api/v1/query"]
    for at_s in (1_700_000_000.0, 1_700_003_600.0):
        series = json.loads(fresh(answer, at_s=at_s))["data"]["result"]
        times = {t_s for one in series for t_s, _ in one["values"]}
        assert (min(times), max(times)) == (at_s - 60.0, at_s)


def test_what_moved_by_more_than_a_fifth_is_shown(tmp_path: Path) -> None:
    """In both directions: a figure that halves is a change that somebody should know of."""
    file = tmp_path / "baseline.json"
    update([_figure("same", 2.0), _figure("more", 2.0), _figure("less", 2.0)], file=file)
    now = [_figure("same", 2.3), _figure("more", 2.5), _figure("less", 1.0), _figure("other", 1.0)]
    first, _, *rows = compare(now, file=file)
    assert first == "4 figures, 3 moved by more than 20 %"
    assert [row.split() for row in rows] == [
        ["more", "2", "2.5", "+25", "%"],
        ["less", "2", "1", "-50", "%"],
        ["other", "-", "1", "new"],
    ]


def test_a_part_of_the_benchmarks_renews_its_part_of_the_baseline(tmp_path: Path) -> None:
    """Who measures one anew must not lose the others."""
    file = tmp_path / "baseline.json"
    update([_figure("a", 1.0), _figure("b", 1.0)], file=file)
    update([_figure("b", 3.0)], file=file)
    assert json.loads(file.read_text())["figures"] == {"a": 1.0, "b": 3.0}


def test_times_are_compared_in_yardsticks_and_ratios_as_they_are() -> None:
    """Another machine is not a change of the code."""
    assert relative(3.0, "s", 0.5) == relative(3e3, "ms", 0.5) == relative(3e6, "us", 0.5) == 6.0
    assert relative(100.0, "requests/s", 0.5) == 50.0
    assert relative(1.25, "ratio", 0.5) == 1.25


def _await_end(pid: int) -> None:
    """Poll with a deadline until the process *pid* is gone; one that nobody waited for counts as
    gone.
    """
    end_s = time.monotonic() + DEADLINE_S
    while _runs(pid):
        assert time.monotonic() < end_s, f"process {pid} still runs"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
