"""`inferno adopt` against the twin as a cluster: it shows the labels, and writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferno.cli.main import main
from loop.backends.kube import labels as names
from tests.live.kube_worlds import KubeWorld, fault, kube_world, manifest
from tests.loop.data_files import files, write
from twin.kube.cluster import TOKEN
from twin.kube.files import write_kubeconfig

Capture = pytest.CaptureFixture[str]
BARE = dict.fromkeys((names.MANAGED, names.NAME, names.CLASS, names.MAX_BATCH), "")
GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}, "args": ["--max-num-seqs=48"]}


def adopt(world: KubeWorld, folder: Path, *more: str, name: str = "deployment/dep1") -> int:
    """Return the exit code of adopt over *world*."""
    write(folder, json.loads(json.dumps(files()).replace('"small"', '"llama_8b"')))
    config = folder / "kubeconfig"
    write_kubeconfig(config, world.twin.url, token=TOKEN)
    asked = ["--model", "llama_8b", "--class", "Premium", "-n", "infer"]
    try:
        return main(
            ["adopt", name, *asked, "--kubeconfig", str(config), "--data", str(folder), *more]
        )
    except SystemExit as end:
        return int(end.code or 0)


def test_a_dry_run_shows_the_labels_and_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    """From the next cycle on a controller scales what is labelled."""
    with kube_world(manifest(labels=BARE, container=GPU)) as world:
        before = world.get().metadata.labels
        assert adopt(world, tmp_path, "--accelerator", "H100", "--dry-run") == 0
        assert world.get().metadata.labels == before
    said = capsys.readouterr().out
    assert "label inferno.server.managed: true  (new)" in said
    assert "label inferno.server.allocation.maxbatchsize: 48  (new)" in said
    assert said.endswith("infer/dep1: nothing was written (--dry-run)\n")


def test_what_is_adopted_is_managed(tmp_path: Path, capsys: Capture) -> None:
    """The accelerator is read from the nodes of its pods."""
    with kube_world(manifest(labels=BARE, container=GPU)) as world:
        assert world.backend.observe().servers == {}
        assert adopt(world, tmp_path, "--accelerator", "H100") == 0
        assert capsys.readouterr().out.endswith("dep1: labelled; the loop manages it\n")
        assert adopt(world, tmp_path, "--accelerator", "H100") == 0
        assert capsys.readouterr().out.endswith("dep1: labelled already; nothing was written\n")
        view = world.backend.observe().servers["dep1"]
    assert (view.model, view.service_class, view.accelerator, view.max_batch) == (
        "llama_8b",
        "Premium",
        "H100",
        48,
    )


def test_a_status_that_moves_between_look_and_write_is_no_conflict(tmp_path: Path) -> None:
    """A Deployment that has just been made could not be adopted, now and then."""
    with kube_world(manifest(labels=BARE, container=GPU)) as world:
        world.suffer(fault("error", "patch", status=409, count=2))
        assert adopt(world, tmp_path, "--accelerator", "H100") == 0
        assert world.get().metadata.labels[names.ACCELERATOR] == "H100"


def test_the_accelerator_is_read_from_the_cluster(tmp_path: Path) -> None:
    """Who runs the Deployment need not know what its nodes are called in the data."""
    with kube_world(manifest(labels={**BARE, names.MANAGED: "true"}, container=GPU)) as world:
        world.settled()
        assert adopt(world, tmp_path) == 0
        assert world.get().metadata.labels[names.ACCELERATOR] == "H100"


def test_what_is_no_deployment_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    """Bad input ends with 2, a cluster that refuses with 1."""
    with kube_world() as world:
        assert adopt(world, tmp_path, name="pod/dep1") == 2
        assert "expected deployment/NAME, found 'pod/dep1'" in capsys.readouterr().err
        assert adopt(world, tmp_path, name="deployment/none") == 1
        assert "get deployments: 404" in capsys.readouterr().err
