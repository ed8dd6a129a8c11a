"""The command starts at once: what each subcommand imports before it works, and what that costs."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from experiments import RunConfig, run, write_run
from inferno.cli.main import NAMES, module_of

FIGURES = frozenset({"pandas", "matplotlib", "pyarrow"})
SERVING = frozenset({"fastapi", "starlette", "uvicorn", "prometheus_client"})
CLIENTS = frozenset({"kubernetes", "httpx"})
SOLVERS = frozenset({"scipy.optimize", "scipy.sparse"})
PACKAGES = frozenset({"twin", "loop", "emulator", "experiments"})
ALL = FIGURES | SERVING | CLIENTS | SOLVERS

HELP_TIMES, LISTENING_CPU_S = 3.5, 1.2
TRIES = 5
NONE: Mapping[str, str] = MappingProxyType({})

# What a command must not have imported when it begins to listen.
SERVICES = {
    "controller --backend sim": FIGURES | CLIENTS | SOLVERS,
    "controller --backend http": FIGURES | SOLVERS | {"kubernetes"},
    "optimizer": FIGURES | CLIENTS | SOLVERS | {"simpy"},
    "twin serve": FIGURES | CLIENTS | SOLVERS,
}


def imported(code: str, *, folder: Path) -> set[str]:
    """Return the modules that are there once a new interpreter has run *code*."""
    lines = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return set(done.stderr.splitlines()[-1].split())


def cpu_s(command: Sequence[str]) -> float:
    """Return the CPU time of *command*."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def holds(measure: Callable[[float], bool]) -> bool:
    """Tell whether *measure* holds in one of some tries, each given what importing SimPy and NumPy
    costs beside it: on a busy machine everything costs more, now and then.
    """
    base = [sys.executable, "-c", "import simpy, numpy"]
    return any(measure(cpu_s(base)) for _ in range(TRIES))


def test_help_imports_nothing_but_the_command(repository: Path) -> None:
    """All commands show their summary, so each module of them is imported: none may be heavy."""
    modules = imported("from inferno.cli.main import main\nmain(['--help'])", folder=repository)
    assert {f"inferno.cli.{module_of(name)}" for name in NAMES} <= modules
    assert modules & (ALL | PACKAGES | {"numpy", "simpy", "yaml", "rich", "pydantic"}) == set()


@pytest.fixture(scope="module")
def parsers(repository: Path) -> Mapping[str, set[str]]:
    """Return what is imported once the parser of a command is made, by the command: each in a fork
    of one interpreter, which has imported no command.
    """
    code = """
import os, sys
from inferno.cli.main import NAMES, find_command
for name in NAMES:
    if os.fork() == 0:
        find_command(name).parser()
        print(name, *sys.modules, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, check=True, cwd=repository, stdout=subprocess.PIPE, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: set(modules) for name, *modules in rows}


@pytest.mark.costly
@pytest.mark.parametrize("name", NAMES)
def test_a_parser_imports_nothing_heavy(parsers: Mapping[str, set[str]], name: str) -> None:
    """Wrong arguments, and --help of one command, are answered as fast."""
    assert f"inferno.cli.{module_of(name)}" in parsers[name]
    assert parsers[name] & (ALL | PACKAGES | {"numpy", "simpy"}) == set()


@pytest.mark.costly
def test_help_costs_little_more_than_the_interpreter(repository: Path) -> None:
    """It took ten times what importing SimPy and NumPy takes."""
    command = [sys.executable, "-m", "inferno", "--help"]
    assert holds(lambda base_s: cpu_s(command) <= HELP_TIMES * base_s)


def listening(
    command: str, *, folder: Path, options: Sequence[str] = (), environ: Mapping[str, str] = NONE
) -> tuple[set[str], float]:
    """Start a service; return what it has imported when it says that it listens, and its CPU
    time.
    """
    words = [sys.executable, *options, "-m", "inferno", *command.split(), "--port", "0"]
    modules: set[str] = set()
    with subprocess.Popen(
        words, cwd=folder, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                found = re.match(r"import time:.*\| +(\S+)$", line)
                if found:
                    modules.add(found[1])
                elif "http://" in line:
                    break
            else:
                raise AssertionError("it ended before it listened")
            times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            spent_s = sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
    return modules, spent_s


@pytest.mark.slow
@pytest.mark.parametrize("command", SERVICES)
def test_a_service_listens_before_it_imports_what_it_may_need(
    command: str, repository: Path, tmp_path: Path
) -> None:
    """A pod that restarts is missed until it listens."""
    more = f" --kubeconfig {tmp_path / 'kubeconfig'}" if command.startswith("twin") else ""
    modules, _ = listening(command + more, folder=repository, options=("-X", "importtime"))
    assert "inferno.cli.main" in modules
    assert modules & SERVICES[command] == set()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_controller_over_the_twin_listens_soon(repository: Path) -> None:
    """A rehearsal that takes seconds to begin is not made. On a slow machine it may take longer."""
    # As where it is installed: compiled once.
    compiled = {"PYTHONDONTWRITEBYTECODE": ""}

    def soon(base_s: float) -> bool:
        _, spent_s = listening("controller 0 --backend sim", folder=repository, environ=compiled)
        return spent_s <= max(LISTENING_CPU_S, 5.0 * base_s)

    assert holds(soon)


@pytest.mark.slow
def test_a_process_of_a_sweep_imports_neither_tables_nor_figures(repository: Path) -> None:
    """As many processes as cores: each would take 100 MB and a second for what it never uses."""
    code = """
from pathlib import Path
from experiments import RunConfig, SweepConfig
from experiments.sweep import plan, simulate_row
base = RunConfig(data=Path("sample-data/small"), scenario="steady", policy="static", hours=0.01)
(planned,) = plan(SweepConfig(base=base))
simulate_row(planned)
"""
    modules = imported(code, folder=repository)
    assert "twin.serving.cluster" in modules
    assert modules & (FIGURES | SERVING | CLIENTS | {"rich"}) == set()
    assert modules & SOLVERS == set()


@pytest.mark.costly
def test_a_page_is_written_without_what_draws_pictures(repository: Path, tmp_path: Path) -> None:
    """The browser draws a report: to import Matplotlib was a quarter of what one of a run takes."""
    small = RunConfig(data=repository / "sample-data" / "small", scenario="steady", hours=0.02)
    write_run(run(small), tmp_path / "run")
    words = ["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html"), "--quiet"]
    code = f"from inferno.cli.main import main\nassert main({words}) == 0"
    modules = imported(code, folder=repository)
    assert "inferno.web.page" in modules
    assert modules & {"matplotlib", *SERVING, *CLIENTS} == set()
