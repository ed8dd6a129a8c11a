"""What `pip install .` gives: wheel and sdist are built, and the command works in a clean
environment, from any directory.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

PACKAGES = ("inferno", "twin", "loop", "emulator", "experiments")
TIMEOUT_S = 120.0

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A clean environment with the wheel in it, and a directory to work in."""

    command: Path
    packages: Path
    folder: Path

    def environ(self, **more: str) -> dict[str, str]:
        """Return an environment in which nothing of the checkout is found."""
        names = ("PATH", "TMPDIR", "LANG")
        keep = {name: os.environ[name] for name in names if name in os.environ}
        home = {"HOME": str(self.folder), "MPLCONFIGDIR": str(self.folder)}
        return keep | home | {"PYTHONDONTWRITEBYTECODE": "1"} | more

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the directory."""
        return subprocess.run(
            [str(self.command), *arguments],
            check=False,
            cwd=self.folder,
            env=self.environ(**more),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(repository)], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel where nothing else is; dependencies come from this environment."""
    place = tmp_path_factory.mktemp("clean")
    venv.create(place, with_pip=False)
    (wheel,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    subprocess.run(
        [*command, "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
        timeout=TIMEOUT_S,
    )
    (packages,) = place.glob("lib/python*/site-packages")
    # Later on the path than what is installed here, and without the link to this checkout in it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(
        command=place / "bin" / "inferno",
        packages=packages,
        folder=tmp_path_factory.mktemp("elsewhere"),
    )


def test_the_wheel_holds_code_data_and_types(built: Path, repository: Path) -> None:
    """A file that the wheel forgets works in a checkout and fails everywhere else."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (about,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        text = archive.read(about).decode()
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    data = [
        path
        for folder in ("sample-data", "yamls")
        for path in (repository / folder).rglob("*")
        if path.is_file()
    ]
    assert data
    assert {f"inferno/{path.relative_to(repository)}" for path in data} <= held
    code = [path for package in PACKAGES for path in (repository / package).rglob("*.py")]
    assert {str(path.relative_to(repository)) for path in code} <= held
    static = [path for path in (repository / "inferno/web/static").iterdir() if path.is_file()]
    assert {str(path.relative_to(repository)) for path in static} <= held
    for line in ("Project-URL: Changelog, https://", "Classifier: Typing :: Typed"):
        assert line in text


def test_the_sdist_holds_what_a_wheel_is_built_from(built: Path) -> None:
    """The wheel above was built from it; who builds it again needs the pinned versions too."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"} <= held
    assert {"sample-data/large/server-data.json", "yamls/workload/dep1.yaml"} <= held
    assert not any(name.startswith(("tests/", "docs/", ".venv/")) for name in held)


def test_sim_needs_no_checkout(installed: Installed) -> None:
    """The defaults are the sample system and its scenarios, wherever one stands."""
    done = installed.run("sim", "--hours", "0.02", "--policy", "static", "--out", "out")
    assert done.returncode == 0, done.stderr
    about = json.loads((installed.folder / "out" / "run.json").read_text())
    assert Path(about["config"]["data"]) == installed.packages / "inferno" / "sample-data" / "large"
    assert len(about["servers"]) == 27


def test_optimize_needs_no_checkout(installed: Installed) -> None:
    """The message of the sample system, from standard input, has an allocation."""
    folder = installed.packages / "inferno" / "sample-data" / "small"
    parts = ("accelerator", "model", "serviceClass", "server", "optimizer", "capacity")
    system = {
        f"{part}Data": json.loads((folder / f"{part.lower()}-data.json").read_text())
        for part in parts
    }
    message = installed.folder / "system.json"
    message.write_text(json.dumps({"system": system}))
    done = installed.run("optimize", str(message))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["allocations"]) == 4


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["controller", "0", "--backend", "sim", "--port", "0"], "/invoke"),
        (["twin", "serve", "--port", "0", "--kubeconfig", "twin.kubeconfig"], "/version"),
    ],
)
def test_what_serves_needs_no_checkout(
    installed: Installed, arguments: list[str], path: str
) -> None:
    """Both answer over the sample system, and end well when they are told to."""
    with subprocess.Popen(
        [str(installed.command), *arguments],
        cwd=installed.folder,
        env=installed.environ(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            address = re.search(r"http://[\d.:]+|http://localhost:\d+", process.stderr.readline())
            assert address
            answer = httpx.get(address[0] + path, timeout=TIMEOUT_S, trust_env=False)
            assert answer.status_code == 200, answer.text
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("name", ["loop", "twin"])
def test_a_package_of_another_distribution_in_the_place_of_ours_is_named(
    installed: Installed, tmp_path: Path, name: str
) -> None:
    """The names are common ones: half of the one and half of the other would fail anywhere."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = installed.run("sim", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(rf"expected the package '{name}' .*found {tmp_path}.*virtual env", line)


def test_the_version_is_that_of_the_package(installed: Installed) -> None:
    """A report of a fault begins with it."""
    assert re.fullmatch(r"inferno-twin \d+\.\d+\.\d+\n", installed.run("--version").stdout)
