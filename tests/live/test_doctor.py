"""`inferno doctor` against the twin as a cluster, and what a loop says at the start of the metrics
it found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from kubernetes import client

from inferno.cli.main import main
from loop.backends.kube import labels as names
from loop.backends.kube.checkup import Question, examine
from loop.backends.metrics.source import LabelsOnly, Shown
from loop.signals.names import NAMES
from loop.signals.pods import ScrapedServer
from loop.testing.fakes import ManualClock, system
from tests.live.kube_worlds import KubeWorld, cluster_spec, kube_world, manifest
from tests.live.twin_served import serving_twin
from tests.loop.data_files import files, write
from twin.kube.apiserver.auth import ADMIN, Identity, Rule
from twin.kube.cluster import TOKEN
from twin.kube.files import write_kubeconfig

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Return a data directory that knows what manifest() names."""
    objects = json.loads(json.dumps(files()).replace('"small"', '"llama_8b"'))
    return str(write(tmp_path, objects))


def doctor(world: KubeWorld, data: str, capsys: Capture, *more: str) -> tuple[int, list[str]]:
    """Return the exit code of doctor over *world*, and its lines."""
    return doctor_of(world.twin.url, data, capsys, *more)


def doctor_of(url: str, data: str, capsys: Capture, *more: str) -> tuple[int, list[str]]:
    """Return the exit code of doctor over the API at *url*, and its lines."""
    config = Path(data) / "kubeconfig"
    write_kubeconfig(config, url, token=TOKEN)
    words = ["doctor", "--kubeconfig", str(config), "--data", data, *more]
    code = main(words)
    return code, capsys.readouterr().out.splitlines()


def test_a_cluster_with_all_it_takes_is_well(data: str, capsys: Capture) -> None:
    """Its labels tell the load: nothing else has to be there."""
    with kube_world(manifest()) as world:
        world.settled()
        code, lines = doctor(world, data, capsys, "--metrics", "labels")
    assert code == 0, lines
    assert lines[-1].endswith("0 wrong")
    assert any(line.startswith("ok     permissions: all 5") for line in lines)


@pytest.mark.parametrize(("behind_s", "told"), [(0.0, 0), (3600.0, 1)])
def test_a_clock_that_is_not_the_one_of_the_cluster_is_told(behind_s: float, told: int) -> None:
    """Pods that are ready for an hour were not there yet, by the clock of a laptop."""
    question = Question(data=system())
    with kube_world(manifest()) as world:
        ours_s = world.epoch.timestamp() - behind_s
        lines = [one.line for one in examine(world.calls, LabelsOnly(), question, epoch_s=ours_s)]
    found = [line for line in lines if line.startswith("note   clock: ")]
    assert len(found) == told
    assert all("s ahead of that of this machine" in line for line in found)


def test_who_else_decides_is_named(data: str, capsys: Capture) -> None:
    """An autoscaler of the same Deployment would undo what the loop does; a pause is none of it."""
    autoscaler = {
        "metadata": {"name": "hpa"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "dep1"}},
    }
    paused = manifest(annotations={names.PAUSED: "true"})
    with kube_world(paused) as world:
        api = client.AutoscalingV2Api(world.apps.api_client)
        api.create_namespaced_horizontal_pod_autoscaler("infer", autoscaler)
        code, lines = doctor(world, data, capsys, "--metrics", "labels")
        assert code == 0
        ranks = manifest("ranks", server="s2")
        ranks["spec"]["serviceName"] = "ranks"
        world.apps.create_namespaced_stateful_set("infer", {**ranks, "kind": "StatefulSet"})
        wrong, more = doctor(world, data, capsys, "--metrics", "labels")
    assert wrong == 1
    assert any("StatefulSet infer/ranks: left alone" in line for line in more)
    told = [line for line in lines if line.startswith("note")]
    assert any("HorizontalPodAutoscaler infer/hpa scales it too" in line for line in told)
    assert any(f"annotation {names.PAUSED}: nothing is asked for it" in line for line in told)


def test_rights_for_the_pause_and_for_seeing_autoscalers_are_looked_at(
    data: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the first the loop cannot be paused by its ConfigMap; it can do without the other."""
    monkeypatch.setenv("INFERNO_PAUSE_CONFIGMAP", "inferno/loop")
    rules = (
        Rule(verbs=("get", "list", "patch"), resources=("deployments",)),
        Rule(verbs=("list",), resources=("pods", "nodes")),
    )
    tokens = {TOKEN: Identity(user="narrow", rules=rules)}
    with serving_twin(cluster_spec(), tokens=tokens) as twin:
        _, found = doctor_of(twin.url, data, capsys, "--metrics", "labels")
    assert any("wrong  permissions: not allowed: get configmaps in inferno" in one for one in found)
    assert any("note   permissions: not allowed: list horizontalpod" in one for one in found)


def test_what_has_to_be_mended_is_named_with_what_to_do(data: str, capsys: Capture) -> None:
    """A model that the data do not know, and a server whose pods show no metrics that count."""
    with kube_world(manifest(labels={names.MODEL: "llama_8c"})) as world:
        code, lines = doctor(world, data, capsys, "--metrics", "labels")
    (wrong,) = (line for line in lines if line.startswith("wrong"))
    assert code == 1
    assert "model 'llama_8c' is not in the data" in wrong
    assert "did you mean" in wrong
    assert "model-data.json" in wrong


def test_metrics_on_the_pages_of_pods_are_found(data: str, capsys: Capture) -> None:
    """The twin shows what vLLM does."""
    with kube_world(manifest()) as world:
        world.settled()
        code, lines = doctor(world, data, capsys, "--metrics", "pods")
    (found,) = (line for line in lines if "s1 metrics" in line)
    assert found.startswith("ok     s1 metrics: found requests (vllm:request_success_total)")
    assert code == 0


def test_a_server_without_the_label_is_found_and_said_to_be_unmanaged(
    data: str, capsys: Capture
) -> None:
    """Nothing managed looks like a quiet cluster otherwise."""
    with kube_world(manifest(labels={names.MANAGED: ""})) as world:
        code, lines = doctor(world, data, capsys, "--metrics", "labels")
    assert code == 1
    assert any("0 with the label" in line and line.startswith("wrong") for line in lines)
    assert any("inferno adopt deployment/dep1 -n infer" in line for line in lines)


def test_a_prometheus_that_is_not_there_is_wrong(data: str, capsys: Capture) -> None:
    """The loop would hold everybody."""
    with kube_world(manifest()) as world:
        code, lines = doctor(world, data, capsys, "--prometheus", "http://127.0.0.1:9")
    assert code == 1
    assert any(line.startswith("wrong  metrics: prometheus: ") for line in lines)


def test_a_cluster_that_does_not_answer_is_wrong_and_the_last_line(
    data: str, capsys: Capture
) -> None:
    """Nothing else can be asked then."""
    config = Path(data) / "kubeconfig"
    write_kubeconfig(config, "http://127.0.0.1:9", token=TOKEN)
    code = main(["doctor", "--kubeconfig", str(config)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert lines[0].startswith("wrong  api: get version: no answer")
    assert lines[-1] == "0 ok, 0 note, 1 wrong"


class RenamedMetrics(LabelsOnly):
    """A source whose metrics have other names than the table."""

    name = "prometheus"
    table = NAMES

    def show_names(self, servers: Sequence[ScrapedServer]) -> Shown:
        """Return a name that may be what is missing."""
        return Shown(names={one.name: frozenset({"llm_requests_total"}) for one in servers})


def test_a_loop_says_once_what_is_missing_as_soon_as_pods_should_have_been_scraped() -> None:
    """At the start of a pod nothing has been scraped yet."""
    clock = ManualClock()
    with kube_world(manifest(), source=lambda _calls: RenamedMetrics(), clock=clock) as world:
        world.settled()
        told = []
        for time_s in (10.0, 200.0, 260.0):
            clock.time_s = time_s
            lines = world.backend.observe().warnings
            told.append([line for line in lines if "seen instead: llm_requests_total" in line])
    assert [len(lines) for lines in told] == [0, 1, 0]
    assert told[1][0].startswith("s1: metrics (prometheus): found nothing; missing: requests")


def test_a_token_that_is_not_known_is_told_as_one(data: str, capsys: Capture) -> None:
    """The role was told to be given, which it was."""
    with kube_world(manifest()) as world:
        config = Path(data) / "kubeconfig"
        write_kubeconfig(config, world.twin.url, token="another")
        code = main(["doctor", "--kubeconfig", str(config), "--data", data])
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("wrong"))
    assert "401" in line
    assert line.endswith("to do: check the address and the credentials of the kubeconfig")
    assert code == 1


def test_a_namespace_that_cannot_be_listed_hides_no_other(data: str, capsys: Capture) -> None:
    """The loop goes on with the others: so does who looks what is wrong."""
    rule = Rule(verbs=("get", "list", "patch"), resources=("*",), namespaces=("infer",))
    body = manifest("dep1")
    with (
        serving_twin(
            cluster_spec(), tokens={TOKEN: Identity(user="narrow", rules=(rule,)), "admin": ADMIN}
        ) as twin,
        twin.api("admin") as api,
    ):
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "infer"}})
        client.AppsV1Api(api).create_namespaced_deployment("infer", body)
        words = ("--namespace", "other,infer", "--metrics", "labels")
        code, lines = doctor_of(twin.url, data, capsys, *words)
    assert code == 1
    assert any(line.startswith("wrong  namespace other: list deployments: 403") for line in lines)
    assert any(line.startswith("ok     s1: llama_8b") for line in lines)
