"""What the loop sees of a server of the cluster: counts that add up, bounds, and no load where
something is wrong.
"""

from __future__ import annotations

import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.patches import batch_note
from loop.backends.kube.views import Sight, server_view
from loop.policies.slo.demand import waiting_rpm
from loop.signals.demand import Figures, Gauges
from loop.types import Load
from tests.loop.kube_objects import date, pod, server

LOAD = Load(rate_rpm=60.0, in_tokens=128.0, out_tokens=256.0)


def test_replicas_without_a_pod_are_pending() -> None:
    """A quota or a slow cluster: they were asked for, and must not be asked for again as if
    missing.
    """
    view = server_view(server(pod("a"), pod("b", phase="draining"), replicas=4), Sight())
    assert (view.wanted, view.ready, view.starting, view.pending, view.draining) == (4, 1, 0, 3, 1)


def test_pods_beyond_what_is_wanted_are_seen_as_they_are() -> None:
    """A rolling change has some more for a while."""
    view = server_view(server(pod("a"), pod("b"), pod("c", phase="starting"), replicas=2), Sight())
    assert (view.wanted, view.ready, view.starting, view.pending) == (2, 2, 1, 0)


def test_what_is_in_pods_that_end_is_load_of_the_server() -> None:
    """Else half of what is in flight would seem to be gone with every scale-down, and a loop that
    goes by it would take away as much again; on the twin it counts until it has ended. Their KV
    caches are of no use to anybody, and no further pod would help what waits in them: the twin
    hands that back to its router.
    """
    one = server(pod("a"), pod("b"), pod("c", phase="draining"))
    names_of_pods = [each.name for each in one.pods]
    gauges = (
        Gauges(running=3, waiting=2, kv_usage=0.5),
        Gauges(running=1, kv_usage=0.1),
        Gauges(running=5, waiting=9, kv_usage=0.9),
    )
    figures = Figures(pods=dict(zip(names_of_pods, gauges, strict=True)))
    view = server_view(one, Sight(figures=figures))
    assert (view.running, view.waiting, view.backlog, view.kv_usage) == (9, 11, 2, 0.3)
    assert view.waiting_pods == 1
    assert waiting_rpm(view, drain_s=60.0) == 2.0
    assert [each.waiting for each in view.pods] == [2, 0, 9]


def test_gauges_that_no_pod_told_or_one_did_not_are_not_known() -> None:
    """In a record they were zeros, as if nothing ran."""
    one = server(pod("a"), pod("b"))
    assert server_view(one, Sight()).unknown_gauges == ("running", "waiting", "kv_usage")
    told = (Gauges(running=3, waiting=2), Gauges(unknown=frozenset({"waiting"})))
    names_of_pods = [each.name for each in one.pods]
    figures = Figures(pods=dict(zip(names_of_pods, told, strict=True)))
    view = server_view(one, Sight(figures=figures))
    assert (view.running, view.waiting, view.unknown_gauges) == (3, 2, ("waiting",))
    assert view.waiting_pods is None
    assert [each.unknown_gauges for each in view.pods] == [(), ("waiting",)]
    # Where there are no pods nothing runs in them.
    assert server_view(server(replicas=0), Sight()).unknown_gauges == ()


def test_what_runs_and_waits_in_pods_that_fail_their_probes_is_seen() -> None:
    """Under load all of them may fail: a server that is full would seem idle. One that has only
    begun runs nothing, and is no part of the mean.
    """
    one = server(pod("a"), pod("b", phase="starting"), pod("c", phase="starting"))
    gauges = (Gauges(running=3, kv_usage=0.5), Gauges(running=60, waiting=200, kv_usage=0.9))
    names_of_pods = [each.name for each in one.pods]
    figures = Figures(pods=dict(zip(names_of_pods, (*gauges, Gauges()), strict=True)))
    view = server_view(one, Sight(figures=figures))
    assert (view.running, view.waiting, view.backlog, view.kv_usage) == (63, 200, 200, 0.7)


def test_a_server_with_a_wrong_label_is_held_as_it_is() -> None:
    """A slip of the pen in a bound must neither be ignored nor guessed at."""
    view = server_view(server(annotations={names.REPLICAS_MIN: "two"}), Sight(load=LOAD))
    assert (view.load, view.replicas_min, view.replicas_max) == (None, 2, 2)


def test_bounds_come_from_annotations() -> None:
    """Zero as a minimum is said as well as any other."""
    view = server_view(
        server(annotations={names.REPLICAS_MIN: "0", names.REPLICAS_MAX: "9"}),
        Sight(blind_at_zero=True),
    )
    assert (view.replicas_min, view.replicas_max) == (0, 9)


def test_the_last_replica_stays_where_only_pods_tell_that_requests_come() -> None:
    """At zero nobody would ever see a request again. Who is at zero already was put there on
    purpose.
    """
    assert server_view(server(replicas=3), Sight(blind_at_zero=True)).replicas_min == 1
    assert server_view(server(replicas=0), Sight(blind_at_zero=True)).replicas_min == 0
    assert server_view(server(replicas=3), Sight()).replicas_min == 0


def test_the_batch_size_in_force_is_that_of_the_command_line_where_it_is_written_there() -> None:
    """During a rolling change some pods have the old one still."""
    old = pod("a", spec={"containers": [{"name": "vllm", "args": ["--max-num-seqs=32"]}]})
    one = server(old, pod("b"), annotations={names.APPLY_MAX_BATCH: "--max-num-seqs"})
    assert [each.max_batch for each in server_view(one, Sight()).pods] == [32, 64]
    # Without the annotation nobody writes it there, and it is no less in force.
    assert [each.max_batch for each in server_view(server(old), Sight()).pods] == [32]
    assert not server_view(one, Sight()).batch_fixed


def test_no_batch_is_worth_the_end_of_all_pods_at_once() -> None:
    """Where GPUs are scarce Deployments have the strategy Recreate: 32 to 40 was an outage."""
    pod_spec = {"containers": [{"name": "vllm", "args": ["--max-num-seqs=32"]}]}
    annotations = {names.APPLY_MAX_BATCH: "--max-num-seqs"}
    for strategy, replicas, fixed in (
        ("Recreate", 2, True),
        ("Recreate", 0, False),
        ("", 2, False),
    ):
        one = server(
            annotations=annotations,
            replicas=replicas,
            spec={
                "strategy": {"type": strategy},
                "template": {"metadata": {"labels": {"app": "dep1"}}, "spec": pod_spec},
            },
        )
        assert server_view(one, Sight()).batch_fixed is fixed
        assert ("Recreate" in batch_note(one.deployment)) is fixed


BRANCHES = 'if [ "$A" ]; then vllm serve --max-num-seqs 8; else vllm serve --max-num-seqs 16; fi'


@pytest.mark.parametrize(
    ("containers", "annotations", "batch", "fixed"),
    [
        ([{"name": "vllm", "args": ["--max-num-seqs=32"]}], {}, 32, True),
        ([{"name": "sgl", "args": ["--max-running-requests", "16"]}], {}, 16, True),
        # Each of the engines of data parallelism takes so many.
        ([{"name": "vllm", "args": ["--max-num-seqs=32", "-dp", "4"]}], {}, 128, True),
        ([{"name": "sgl", "args": ["--max-running-requests=16", "--dp-size=4"]}], {}, 16, True),
        # It is in force, whatever it is: a label of another number is read by no engine.
        ([{"name": "vllm", "args": ["--max-num-seqs=$(SEQS)"]}], {}, 64, True),
        ([{"name": "vllm", "command": ["sh", "-c", BRANCHES]}], {}, 64, True),
        ([{"name": "vllm", "args": ["--max-num-seqs=" + "9" * 15]}], {}, 64, True),
        ([{"name": "vllm", "args": ["--max-model-len=8192"]}], {}, 64, False),
        ([{"name": "vllm"}], {}, 64, False),
        (
            [{"name": "vllm", "args": ["--max-num-seqs=32"]}],
            {names.APPLY_MAX_BATCH: "--max-num-seqs"},
            32,
            False,
        ),
    ],
)
def test_a_batch_that_nobody_changes_is_that_of_the_command_line(
    containers: list[dict[str, object]], annotations: dict[str, str], batch: int, fixed: bool
) -> None:
    """The label said 117 once the loop had written it, and the engine took 32: too few replicas."""
    one = server(
        annotations=annotations,
        spec={
            "template": {
                "metadata": {"labels": {"app": "dep1"}},
                "spec": {"containers": containers},
            }
        },
    )
    view = server_view(one, Sight())
    assert (view.max_batch, view.batch_fixed) == (batch, fixed)
    assert ("is not known" in batch_note(one.deployment)) is (fixed and batch == 64)


def test_nothing_is_asked_for_what_is_being_deleted() -> None:
    """It makes no pods any more, and would take the GPUs of others in the plan."""
    leaving = server(metadata={"deletionTimestamp": date(0)})
    view = server_view(leaving, Sight(load=Load(rate_rpm=6000.0, in_tokens=1.0, out_tokens=1.0)))
    assert view.hold is not None
    assert view.hold.text == "it is being deleted"
