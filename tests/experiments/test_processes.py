"""Tasks on processes: same answers on one and on two, failures as outcomes, nothing left
running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.processes import run_tasks
from tests.experiments.process_work import hears_interrupts, square, square_or_die

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_task_is_reported_and_does_not_stop_the_others(jobs: int) -> None:
    """The outcome of a failure is one line for the table and a traceback for its file."""
    outcomes = {outcome.index: outcome for outcome in run_tasks(square, [1, 2, 3, 4], jobs=jobs)}
    assert [outcomes[i].value for i in range(4)] == [1, 4, None, 16]
    assert outcomes[2].error == "ValueError: three is not liked"
    assert "process_work.py" in outcomes[2].trace
    assert not outcomes[0].error


def test_a_task_that_kills_its_process_takes_no_other_with_it() -> None:
    """The executor gives the whole pool up when one process dies; only the guilty task may fail."""
    outcomes = {
        outcome.index: outcome for outcome in run_tasks(square_or_die, [1, 2, 3, 4, 5], jobs=2)
    }
    assert [outcomes[i].value for i in range(5)] == [1, 4, None, 16, 25]
    assert "killed" in outcomes[2].error


def test_a_process_never_hears_of_an_interrupt() -> None:
    """Ctrl-C in the first seconds showed the imports of each process as a traceback."""
    found = [outcome.value for outcome in run_tasks(hears_interrupts, [None, None], jobs=2)]
    assert found == [False, False]
    assert hears_interrupts(None)


@pytest.mark.costly
def test_a_script_that_every_process_reads_again_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Python's own answer is a traceback of forty lines from each process."""
    script = tmp_path / "script.py"
    script.write_text(
        "from experiments.processes import run_tasks\n"
        "print([one.error for one in run_tasks(abs, [1, 2], jobs=2)])\n"
    )
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 'if __name__ == "__main__"' in done.stderr
    assert "Traceback" not in done.stderr
    assert "ended by itself" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_parent_ends_its_processes(
    tmp_path: Path, how: signal.Signals, repository: Path
) -> None:
    """After Ctrl-C, or a kill that no handler sees, nothing may go on simulating for nobody."""
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from experiments.processes import run_tasks; "
        "from tests.experiments.process_work import beat; "
        f"list(run_tasks(beat, [{str(tmp_path)!r}] * 2, jobs=2))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=repository, stderr=subprocess.DEVNULL
    ) as parent:
        wait_until(lambda: len(signs_of_life(tmp_path)) == 2, "the processes to begin")
        parent.send_signal(how)
        parent.wait(timeout=30)

    def silent() -> bool:
        before = signs_of_life(tmp_path)
        time.sleep(0.5)  # ten beats
        return signs_of_life(tmp_path) == before

    wait_until(silent, "the processes to end")


def signs_of_life(directory: Path) -> dict[str, str]:
    """Return what each process wrote last."""
    return {path.name: path.read_text() for path in directory.iterdir()}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
