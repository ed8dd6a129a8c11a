"""The Dockerfile, without a daemon: its install steps are run in a clean directory, the rest is
checked as text.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster_files import YAMLS, documents

PACKAGES = ("twin", "loop", "emulator", "experiments")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction."""

    word: str
    text: str


def stages(repository: Path) -> list[list[Step]]:
    """Return the stages of the Dockerfile, each from its FROM on."""
    text = re.sub(r"\\\n\s*", " ", (repository / "Dockerfile").read_text(encoding="utf-8"))
    steps = [
        Step(*line.split(maxsplit=1))
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    starts = [at for at, step in enumerate(steps) if step.word == "FROM"]
    return [steps[at:until] for at, until in zip(starts, [*starts[1:], len(steps)], strict=True)]


def texts(stage: list[Step], word: str) -> list[str]:
    """Return what follows each *word* of a stage."""
    return [step.text for step in stage if step.word == word]


def test_every_base_is_named_with_its_exact_version(repository: Path) -> None:
    """An image built next year must be the one that was tested, and both stages the same Python."""
    bases = [stage[0].text.split()[0] for stage in stages(repository)]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases[0])


def test_the_final_stage_installs_nothing_and_is_not_root(repository: Path) -> None:
    """No compiler and no index in what runs; and a number, for Kubernetes cannot tell whether a
    name is root.
    """
    final = stages(repository)[-1]
    assert texts(final, "RUN") == []
    assert texts(final, "ADD") == []
    assert texts(final, "USER") == ["10001:10001"]
    assert "--from=build /opt/inferno /opt/inferno" in texts(final, "COPY")


def test_the_command_is_inferno_and_nothing_else(repository: Path) -> None:
    """One image for all services: what it is to be is its argument."""
    final = stages(repository)[-1]
    assert [json.loads(text) for text in texts(final, "ENTRYPOINT")] == [["inferno"]]
    (path,) = re.findall(r"PATH=(\S+)", " ".join(texts(final, "ENV")))
    assert path.startswith("/opt/inferno/bin:")


def test_nothing_is_written_but_to_the_directory_for_it(repository: Path) -> None:
    """The root file system is to be read only; matplotlib and others want a home to write to."""
    told = dict(
        pair.split("=", 1) for pair in " ".join(texts(stages(repository)[-1], "ENV")).split()
    )
    assert (told["HOME"], told["MPLCONFIGDIR"].split("/")[1]) == ("/tmp", "tmp")
    assert told["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_manifests_run_this_user_with_this_command(repository: Path) -> None:
    """The image and its pods are changed in two places."""
    (user,) = texts(stages(repository)[-1], "USER")
    pod = next(
        one
        for one in documents(YAMLS / "deploy" / "deploy-loop.yaml")
        if one["kind"] == "Deployment"
    )
    spec = pod["spec"]["template"]["spec"]
    assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == user
    assert {container["image"] for container in spec["containers"]} == {"inferno-loop:latest"}
    assert {container["command"][0] for container in spec["containers"]} == {"inferno"}


def test_the_context_holds_what_is_copied_and_little_else(repository: Path) -> None:
    """A context with .venv and .git in it takes minutes, and may carry secrets."""
    lines = [
        line
        for line in (repository / ".dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    copied = {
        source
        for stage in stages(repository)
        for text in texts(stage, "COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((repository / source).exists() for source in copied)


def test_the_versions_installed_are_those_tested_with(repository: Path) -> None:
    """Each dependency is pinned, so that today's image is next year's."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    tested = versions(repository / "constraints.txt")
    extras = project["optional-dependencies"]
    for name, wanted in (
        ("image", project["dependencies"]),
        ("extras-image", [*project["dependencies"], *extras["dask"], *extras["fast"]]),
        ("build", ["hatchling"]),
    ):
        installed = versions(repository / "requirements" / f"{name}.txt")
        needed = {plain(re.split(r"[<>=]", one)[0]) for one in wanted}
        assert needed <= installed.keys(), "after a change of dependencies: make requirements"
        other = {one: found for one, found in installed.items() if tested.get(one) != found}
        assert other == {}, "after a change of constraints.txt: make requirements"


@pytest.mark.parametrize("name", ["image", "extras-image", "build"])
def test_every_package_of_the_image_is_known_by_its_digest(repository: Path, name: str) -> None:
    """A version can be published once, and served changed later. Where packages come from is said
    by who builds: no address stands in the files.
    """
    text = (repository / "requirements" / f"{name}.txt").read_text()
    for package in re.split(r"\n(?=\S)", text.strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package
    assert "://" not in text
    assert "index" not in text.replace("importlib", "")
    steps = texts(stages(repository)[0], "RUN")
    assert all(
        "--require-hashes" in step or "--no-deps" in step for step in steps if " pip " in step
    )


def versions(file: Path) -> dict[str, str]:
    """Return the versions that a file of requirements pins."""
    lines = (line.split(" ")[0] for line in file.read_text().splitlines() if "==" in line)
    return {plain(line.split("==")[0]): line.split("==")[1] for line in lines}


def plain(name: str) -> str:
    """Return the name of a package as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
def test_the_install_steps_make_the_command_work_in_a_clean_directory(
    repository: Path, tmp_path: Path
) -> None:
    """Files that a package forgets work in a checkout and fail in an image. Dependencies come from
    this environment.
    """
    source, target = tmp_path / "src", tmp_path / "opt" / "inferno"
    source.mkdir()
    environ = {**os.environ, "PYTHONNOUSERSITE": "1", "HOME": str(tmp_path)}
    for step in stages(repository)[0][1:]:
        if step.word == "COPY":
            copy(repository, step.text, to=source)
        elif step.word == "RUN":
            if "--require-hashes" in step.text:
                continue  # dependencies come from this environment
            # So do pip and the tools that build: one environment is enough here.
            line = step.text.replace("python -m venv /opt/build && ", "")
            line = line.replace("-m venv ", "-m venv --without-pip ")
            line = line.replace("/opt/build/bin/python", sys.executable)
            line = line.replace(
                "/opt/inferno/bin/python -m pip ",
                f"{sys.executable} -m pip --python /opt/inferno/bin/python ",
            )
            line = re.sub(r"(?<![-/\w])python ", f"{sys.executable} ", line)
            line = line.replace("/opt/", f"{target.parent}/")
            done = run(["sh", "-c", line], folder=source, environ=environ)
            if done.returncode != 0 and re.search(
                r"ConnectionError|No matching distribution", done.stderr
            ):
                pytest.skip(
                    "the tools that build a package cannot be had here: "
                    f"{done.stderr.splitlines()[-1][:100]}"
                )
            assert done.returncode == 0, done.stderr
    (installed,) = target.glob("lib/python*/site-packages")
    assert missing_files(repository, installed) == []
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    environ |= {"MPLCONFIGDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    shutil.rmtree(source)
    command = [
        str(target / "bin" / "inferno"),
        "sim",
        "--data",
        str(installed / "inferno" / "sample-data" / "small"),
    ]
    done = run(
        [*command, "--hours", "0.02", "--out", str(tmp_path / "out")],
        folder=tmp_path,
        environ=environ,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "summary.json").exists()


def run(
    command: list[str], *, folder: Path, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command, and return what became of it."""
    return subprocess.run(
        command, check=False, cwd=folder, env=environ, capture_output=True, text=True, timeout=240
    )


def copy(repository: Path, text: str, *, to: Path) -> None:
    """Do a COPY of the context, as far as this Dockerfile uses it."""
    *sources, target = text.split()
    place = to / target
    for name in sources:
        if (repository / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(repository / name, place, ignore=ignored)
        else:
            shutil.copy(repository / name, place)


def missing_files(repository: Path, installed: Path) -> list[str]:
    """Return the files of the packages that were not installed."""
    wanted = [
        path.relative_to(repository)
        for package in PACKAGES
        for path in (repository / package).rglob("*")
        if path.is_file() and not fnmatch.fnmatch(str(path), "*/__pycache__/*")
    ]
    return [str(path) for path in wanted if not (installed / path).exists()]


def test_the_walk_through_builds_this_image(repository: Path) -> None:
    """`docker build -t inferno-loop . --load`, and the kustomization names it."""
    assert "docker build -t inferno-loop . --load" in (repository / "Dockerfile").read_text()
    told = yaml.safe_load((YAMLS / "deploy" / "kustomization.yaml").read_text())
    assert told["images"][0]["name"] == "inferno-loop"
