"""What an operator sees of the world in /metrics and /readyz of the services."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loop.backends.http import RemoteOptimizer, remote_policy
from loop.controller import Controller
from loop.data import FixedData
from loop.errors import BackendError
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.policies import make_policy
from loop.policies.slo import SloPolicy
from loop.records import held_servers, record_line
from loop.schema.messages import update_message
from loop.services.controller_metrics import ControllerMetrics
from loop.services.optimizer_app import make_optimizer_app
from loop.services.world_metrics import WorldMetrics, concern_of
from loop.testing.fakes import FakeBackend, ManualClock, change, server_view, system
from loop.types import CycleRecord, Decision, Load, ServerView, Snapshot, Target, Why
from tests.live.optimizer_served import serving as serving_app
from tests.live.served import GatedBackend, serving
from tests.live.world_served import client_of, serving_world

Samples = dict[tuple[str, ...], float]


def samples(page: str) -> Samples:
    """Return the values of a page by name and values of labels, those by their names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def shown(registry: CollectorRegistry) -> Samples:
    """Return what *registry* shows."""
    return samples(generate_latest(registry).decode())


def snapshot(*views: ServerView, now_s: float = 0.0, source_error: str = "") -> Snapshot:
    """Return a snapshot of *views*."""
    servers = {view.name: view for view in views}
    return Snapshot(now_s=now_s, servers=servers, source_error=source_error)


def record(*views: ServerView, held: str = "", **fields: object) -> CycleRecord:
    """Return the record of a cycle that saw *views*, and holds those named *held*."""
    seen = snapshot(*views)
    targets = {
        view.name: Target(
            server=view.name,
            pools=view.pools,
            why=Why(kind="held-unknown" if view.name == held else "slo-itl"),
            held=view.name == held,
        )
        for view in views
    }
    given: dict[str, object] = {
        "cycle": 1,
        "now_s": 0.0,
        "ts": "2026-01-01T00:00:00.000Z",
        "trigger": "period",
        "mode": "act",
        "backend": "fake",
        "policy": "slo",
        "seen": seen,
        "estimated": seen,
        "data": system(),
        "decision": Decision(targets=targets),
    }
    return CycleRecord(**{**given, **fields})  # type: ignore[arg-type]


def test_it_shows_what_should_be_where_and_drops_where_it_was() -> None:
    """Whoever adds up the series of a server must not count the replicas of before a move."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view(), changes=(change(replicas=5),)))
    assert shown(metrics.registry)["inferno_desired_replicas", "H100", "s1"] == 5.0
    metrics.observe(record(server_view(), changes=(change(accelerator="2xA100", replicas=3),)))
    page = shown(metrics.registry)
    assert {key for key in page if key[0] == "inferno_desired_replicas"} == {
        ("inferno_desired_replicas", "2xA100", "s1")
    }
    assert page["inferno_desired_replicas", "2xA100", "s1"] == 3.0


def test_it_shows_how_many_are_held_and_why_until_none_is() -> None:
    """An alert on it must be able to end."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view("s1"), server_view("s2"), held="s2"))
    assert shown(metrics.registry)["inferno_held_servers", "held-unknown"] == 1.0
    metrics.observe(record(server_view("s1"), server_view("s2")))
    assert shown(metrics.registry)["inferno_held_servers", "held-unknown"] == 0.0


def test_a_failed_cycle_holds_everybody_and_leaves_the_decision() -> None:
    """Whoever scales by the metric keeps what there is, as the loop itself does."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view("s1"), server_view("s2"), changes=(change(replicas=5),)))
    failed = record(seen=None, estimated=None, decision=None, failed_phase="observe")
    metrics.observe(failed)
    page = shown(metrics.registry)
    assert page["inferno_held_servers", "cycle-failed"] == 2.0
    assert page["inferno_desired_replicas", "H100", "s1"] == 5.0
    metrics.observe(record(server_view("s1"), server_view("s2")))
    assert shown(metrics.registry)["inferno_held_servers", "cycle-failed"] == 0.0


def test_the_age_of_a_load_grows_while_its_source_is_silent() -> None:
    """A series that disappears alerts nobody."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view(load_age_s=5.0)))
    assert shown(metrics.registry)["inferno_load_age_seconds", "s1"] == 5.0
    metrics.observe(record(server_view(load=None), now_s=60.0))
    metrics.observe(record(seen=None, estimated=None, failed_phase="observe", now_s=120.0))
    assert shown(metrics.registry)["inferno_load_age_seconds", "s1"] == 125.0


def test_attainment_is_the_share_of_cycles_within_both_targets() -> None:
    """The targets of Premium are 12 ms and 500 ms; a cycle without figures says nothing."""
    metrics = ControllerMetrics()
    for itl_ms, ttft_ms in ((11.0, 400.0), (13.0, 400.0), (11.0, 600.0), (None, None), (12.0, 1.0)):
        metrics.observe(record(server_view(itl_ms=itl_ms, ttft_ms=ttft_ms)))
    assert shown(metrics.registry)["inferno_slo_attainment", "s1"] == 0.5


def test_cycles_within_and_beyond_the_targets_are_counted() -> None:
    """How fast an error budget burns is a rate of counters; the first miss must not be hidden from
    it.
    """
    metrics = ControllerMetrics()
    metrics.observe(record(server_view(itl_ms=11.0, ttft_ms=400.0)))
    assert shown(metrics.registry)["inferno_slo_cycles_total", "missed", "s1"] == 0.0
    metrics.observe(record(server_view(itl_ms=13.0, ttft_ms=400.0)))
    page = shown(metrics.registry)
    assert page["inferno_slo_cycles_total", "met", "s1"] == 1.0
    assert page["inferno_slo_cycles_total", "missed", "s1"] == 1.0


def test_figures_stand_beside_their_targets_while_they_are_known() -> None:
    """In seconds, as Prometheus has all times; what is not measured any more is not shown."""
    metrics = ControllerMetrics()
    load = Load(rate_rpm=90.0, in_tokens=512.0, out_tokens=128.0)
    metrics.observe(record(server_view(itl_ms=11.0, ttft_ms=400.0, load=load)))
    page = shown(metrics.registry)
    assert page["inferno_load_requests_per_minute", "s1"] == 90.0
    assert (page["inferno_itl_seconds", "s1"], page["inferno_slo_itl_seconds", "s1"]) == (
        pytest.approx(0.011),
        pytest.approx(0.012),
    )
    assert (page["inferno_ttft_seconds", "s1"], page["inferno_slo_ttft_seconds", "s1"]) == (
        pytest.approx(0.4),
        pytest.approx(0.5),
    )
    metrics.observe(record(server_view(itl_ms=None, ttft_ms=None, load=None)))
    page = shown(metrics.registry)
    assert ("inferno_itl_seconds", "s1") not in page
    assert ("inferno_load_requests_per_minute", "s1") not in page
    assert ("inferno_slo_itl_seconds", "s1") in page


def test_gpus_of_a_decision_stand_beside_those_there_are() -> None:
    """By type."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view(), changes=(change(replicas=5),)))
    page = shown(metrics.registry)
    assert page["inferno_gpus_allocated", "H100"] == 5.0
    assert page["inferno_gpus_available", "H100"] == system().capacity["H100"]


def test_what_nothing_can_serve_is_counted_by_reason_until_something_can() -> None:
    """Such a server is not held: it is answered for by people."""
    metrics = ControllerMetrics()
    decision = record(server_view()).decision
    assert decision is not None
    unserved = {"s1": Why(kind="capacity", text="2 GPUs are missing")}
    metrics.observe(record(server_view(), decision=replace(decision, unserved=unserved)))
    assert shown(metrics.registry)["inferno_unserved_servers", "capacity"] == 1.0
    metrics.observe(record(server_view()))
    assert shown(metrics.registry)["inferno_unserved_servers", "capacity"] == 0.0
    # Of 12,474 requests a minute 3,179 had replicas, and nobody was alerted.
    (name, target), *_ = decision.targets.items()
    why = Why(kind="capacity", text="capacity: 3179 of 12474 requests/min")
    part = replace(decision, targets={name: replace(target, why=why)})
    metrics.observe(record(server_view(), decision=part))
    assert shown(metrics.registry)["inferno_unserved_servers", "capacity"] == 1.0


def test_a_server_without_targets_or_figures_has_no_attainment() -> None:
    """100 % of nothing would look like success."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view("s1"), server_view("s2", model="no_such", itl_ms=1.0)))
    assert not [key for key in shown(metrics.registry) if key[0] == "inferno_slo_attainment"]


def test_warnings_are_counted_by_kind() -> None:
    """A rate of them is what one can be alerted by."""
    metrics = ControllerMetrics()
    kinds = ("data", "data", "decide")
    for _ in range(2):
        metrics.observe(record(server_view(), warnings=("a", "b", "c"), warning_kinds=kinds))
    page = shown(metrics.registry)
    assert page["inferno_warnings_total", "data"] == 4.0
    assert page["inferno_warnings_total", "decide"] == 2.0


def test_data_that_are_refused_are_warned_of() -> None:
    """The cycle goes through with the last good ones, and has an error but no warning: the alert on
    refused data slept.
    """
    metrics = ControllerMetrics()
    metrics.observe(record(server_view(), error="capacity-data.json: line 5: expected JSON"))
    assert shown(metrics.registry)["inferno_warnings_total", "data"] == 1.0
    metrics.observe(record(server_view(), error="no answer", failed_phase="apply"))
    assert shown(metrics.registry)["inferno_warnings_total", "data"] == 1.0


def test_what_is_amiss_with_the_world_is_counted_in_each_look() -> None:
    """Nobody can be alerted by a line of /readyz, which stays ready."""
    metrics = ControllerMetrics()
    assert shown(metrics.registry)["inferno_warnings_total", "concern"] == 0.0
    for views in ((), (), (server_view("s1"),)):
        metrics.observe(record(*views))
    assert shown(metrics.registry)["inferno_warnings_total", "concern"] == 2.0


def test_a_server_that_is_gone_leaves_all_metrics() -> None:
    """A last value that stays for ever looks like a server that is stuck."""
    metrics = ControllerMetrics()
    metrics.observe(record(server_view("s1", itl_ms=1.0, load_age_s=1.0), server_view("s2")))
    metrics.observe(record(server_view("s2")))
    assert not [key for key in shown(metrics.registry) if "s1" in key]


@pytest.mark.parametrize(
    ("seen", "held", "line", "ready"),
    [
        (snapshot(), {}, "no managed server is seen", True),
        (snapshot(server_view()), {"s1": "held-unknown"}, "all of 1 servers are held", True),
        (snapshot(server_view(), source_error="prometheus: away"), {}, "prometheus: away", False),
    ],
    ids=["nothing managed", "everything held", "no source"],
)
def test_what_is_amiss_with_the_world_is_told(
    seen: Snapshot, held: dict[str, str], line: str, ready: bool
) -> None:
    """Each of these looks like a quiet cluster to whoever only sees that cycles go through."""
    concern = concern_of(seen, held, silent=3)
    assert line in concern.line
    assert concern.ready is ready


def test_nothing_is_amiss_where_some_act_or_all_are_held_on_purpose() -> None:
    """--policy static holds everybody."""
    two = snapshot(server_view("s1"), server_view("s2"))
    assert not concern_of(two, {"s1": "held-unknown"}, silent=0).line
    assert not concern_of(two, {"s1": "unchanged", "s2": "unchanged"}, silent=0).line


def test_a_server_without_replicas_that_nobody_can_see_is_told_and_is_no_fault() -> None:
    """Somebody put it there: it was counted as held in each cycle for ever. While the source of
    metrics is away nobody knows that it is only that.
    """
    zero = server_view("s2", load=None, wanted=0, ready=0)
    waits = server_view("s3", load=None, wanted=0, ready=0, backlog=5)
    for policy in ("slo", "hpa", "predictive"):
        world = FakeBackend([server_view("s1"), zero])
        loop = Controller(
            backend=world, policy=make_policy(policy), data=FixedData(system()), clock=ManualClock()
        )
        metrics = ControllerMetrics()
        made = loop.cycle(60.0)
        metrics.observe(made)
        page = shown(metrics.registry)
        assert page["inferno_asleep", "s2"] == 1.0
        assert not sum(value for key, value in page.items() if key[0] == "inferno_held_servers")
        row = {each["name"]: each for each in record_line(made)["servers"]}["s2"]
        assert (row["held"], row["reasonKind"], row["replicas"]) == (False, "asleep", 0)
        assert "s2" not in {one.server for one in made.changes}
        world.source_error = "prometheus: away"
        metrics.observe(loop.cycle(120.0))
        page = shown(metrics.registry)
        assert ("inferno_asleep", "s2") not in page
        assert page["inferno_held_servers", "held-unknown"] >= 1.0
        world.source_error, world.views["s3"] = "", waits
        metrics.observe(loop.cycle(180.0))
        page = shown(metrics.registry)
        assert page["inferno_asleep", "s2"] == 1.0
        assert ("inferno_asleep", "s3") not in page, "requests wait for it"


def test_a_fault_that_holds_all_who_have_replicas_is_told_beside_who_is_asleep() -> None:
    """The others are not there to be looked after."""
    two = snapshot(server_view("s1"), server_view("s2", load=None, wanted=0, ready=0))
    told = concern_of(two, {"s1": "held-unknown"}, asleep=["s2"], silent=0)
    assert told.line == "all of 1 servers are held: held-unknown 1; 1 are asleep"
    assert not concern_of(two, {}, asleep=["s2"], silent=0).line
    assert (
        "all of 2 servers have no replicas"
        in concern_of(two, {}, asleep=["s1", "s2"], silent=0).line
    )


def refused_record(*refused: str, taken: bool = False) -> CycleRecord:
    """Return the record of a cycle whose changes of *refused* were not taken, of four servers."""
    made = record(*(server_view(f"s{i}") for i in range(4)), applied=True)
    assert made.decision is not None
    why = Why(kind="refused", text="500 failed calling webhook")
    targets = {
        name: replace(target, held=True, why=why) if name in refused else target
        for name, target in made.decision.targets.items()
    }
    changes = (change("s3", replicas=5),) if taken else ()
    return replace(made, decision=Decision(targets=targets), changes=changes)


@pytest.mark.parametrize(
    ("records", "ready"),
    [
        ([refused_record("s0", "s1")] * 3, [True, True, False]),
        ([refused_record("s0")] * 3, [True] * 3),
        ([refused_record("s0", "s1", taken=True)] * 3, [True] * 3),
        (
            [*[refused_record("s0", "s1")] * 3, refused_record("s0", taken=True)],
            [True, True, False, True],
        ),
        ([*[refused_record("s0", "s1")] * 3, refused_record()], [True, True, False, False]),
        (
            [refused_record("s0", "s1"), refused_record()] * 3,
            [True] * 4 + [False] * 2,
        ),
    ],
    ids=["all", "one of many", "some are taken", "taken again", "nothing asked for", "in turn"],
)
def test_a_cluster_that_takes_no_change_at_all_makes_it_unready(
    records: list[CycleRecord], ready: list[bool]
) -> None:
    """A webhook that is down for all left a loop that looked well and could do nothing."""
    metrics, found = ControllerMetrics(), []
    for each in records:
        metrics.observe(each)
        found.append(metrics.concern)
    assert [concern.ready for concern in found] == ready
    told = ["takes no change" in concern.line for concern in found]
    assert told == [all_refused(records[: number + 1]) for number in range(len(records))]
    if not ready[-1]:
        assert found[-1].line.endswith("all of 2 servers (s0, s1): 500 failed calling webhook")


def all_refused(made: list[CycleRecord]) -> bool:
    """Tell whether the latest cycle that asked for something took nothing, of several servers."""
    asked = [one for one in made if one.changes or held_servers(one)]
    return not asked[-1].changes and len(held_servers(asked[-1])) > 1


def test_who_refused_what_is_gone_may_take_all_else() -> None:
    """Nobody will ever ask for it again."""
    metrics = WorldMetrics(CollectorRegistry())
    both = {"s1": "no", "s2": "no"}
    for refused, servers in [(both, ("s1", "s2", "s3"))] * 3 + [({}, ("s1", "s3"))]:
        seen = snapshot(*map(server_view, servers))
        metrics.look(seen, desired={}, held={}, now_s=0.0, refused=refused)
    assert metrics.concern.ready


@pytest.mark.parametrize("quiet", [0, 1, 9, 10, 11])
def test_what_was_refused_long_ago_is_forgotten(quiet: int) -> None:
    """Where nothing more is asked for nobody can tell that all is well again; and one refusal a
    week later is none in a row.
    """
    metrics = ControllerMetrics()
    for each in [refused_record("s0", "s1")] * 3 + [refused_record()] * quiet:
        metrics.observe(each)
    assert metrics.concern.ready is (quiet >= 10)
    assert ("takes no change" in metrics.concern.line) is (quiet < 10)
    metrics.observe(refused_record("s2"))
    assert metrics.concern.ready is (quiet >= 10)


def test_a_source_that_is_silent_for_a_moment_leaves_it_ready() -> None:
    """Three looks in a row, as with failed cycles; one answer is enough again."""
    metrics = WorldMetrics(CollectorRegistry())
    ready = []
    for error in ("away", "away", "away", ""):
        seen = snapshot(server_view(), source_error=error)
        metrics.look(seen, desired=seen.servers, held={}, now_s=0.0)
        ready.append(metrics.concern.ready)
    assert ready == [True, True, False, True]


def test_readyz_of_a_controller_tells_that_nothing_is_managed() -> None:
    """It stays ready: a first installation on a cluster has nothing to manage yet."""
    with serving(FakeBackend([])) as served:
        served.client.get("/invoke")
        answer = served.client.get("/readyz")
    assert answer.status_code == 200
    assert "no managed server" in answer.json()["lastError"]


def test_a_warning_has_the_kind_of_its_origin() -> None:
    """The counter must not read words."""
    backend = GatedBackend()
    backend.views["s1"] = server_view(load=Load(rate_rpm=-1.0, in_tokens=1.0, out_tokens=1.0))
    with serving(backend) as served:
        line = served.client.get("/invoke").json()
        page = samples(served.client.get("/metrics").text)
    assert line["warningKinds"] == ["estimate"]
    assert page["inferno_warnings_total", "estimate"] == 1.0


def test_collector_and_actuator_show_the_world_too() -> None:
    """Where the loop is five processes, each of them is asked by itself."""
    world = FakeBackend([server_view("s1", load_age_s=4.0), server_view("s2", load=None)])
    with serving_world(world) as services:
        services.collector.get("/collect")
        collected = samples(services.collector.get("/metrics").text)
        body = update_message(world.observe(), [change(replicas=4)], {})
        assert services.actuator.post("/update", json=body).status_code == 200
        asked = samples(services.actuator.get("/metrics").text)
    assert collected["inferno_ready_replicas", "s1"] == 2.0
    assert collected["inferno_load_age_seconds", "s1"] == 4.0
    assert collected["inferno_held_servers", "held-unknown"] == 1.0
    assert asked["inferno_desired_replicas", "H100", "s1"] == 4.0
    assert asked["inferno_held_servers", "held-by-request"] == 1.0


def test_an_optimizer_shows_what_the_controller_saw_of_the_servers_it_asks_about() -> None:
    """It sees no world: who asks tells it what decides nothing, so that each process can be looked
    at by itself.
    """
    world = FakeBackend([server_view("s1", load_age_s=4.0, itl_ms=11.0), server_view("s2")])
    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS))
    with serving_world(world) as services, serving_app(app) as optimizer:
        client = client_of("optimizer", optimizer)
        loop = Controller(
            backend=services.backend,
            policy=remote_policy(client, backend=services.backend),
            data=FixedData(system()),
            clock=ManualClock(),
        )
        record = loop.cycle(60.0)
        page = samples(optimizer.get("/metrics").text)
        client.close()
    assert record.decision is not None
    target = record.decision.targets["s1"]
    assert page["inferno_desired_replicas", target.accelerator, "s1"] == target.replicas
    assert page["inferno_ready_replicas", "s1"] == page["inferno_ready_replicas", "s2"] == 2.0
    assert page["inferno_load_age_seconds", "s1"] == 4.0
    assert ("inferno_load_age_seconds", "s2") not in page, "nobody told"
    assert page["inferno_slo_attainment", "s1"] == 1.0
    assert ("inferno_slo_attainment", "s2") not in page


def test_an_optimizer_shows_no_server_that_is_asked_about_to_compare_only() -> None:
    """To learn how tokens weigh our policy asks about five servers that nobody has: they were shown
    as servers that should have replicas.
    """
    views = {"s1": server_view("s1", load_source="router")}
    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS))
    with serving_app(app) as optimizer:
        client = client_of("optimizer", optimizer)
        policy = SloPolicy(optimize=RemoteOptimizer(service=client, seen=lambda: views))
        state = policy.start()
        for step in range(10):
            seen = Snapshot(now_s=30.0 * step, servers=views, window_s=60.0)
            _, state = policy.decide(seen, system(), state)
        page = samples(optimizer.get("/metrics").text)
        client.close()
    assert {labels[-1] for name, *labels in page if name.endswith("question_age_seconds")} == {"s1"}


@pytest.mark.parametrize("known", [True, False])
def test_a_collector_shows_attainment_where_it_knows_the_targets(known: bool) -> None:
    """The targets of Premium are 12 ms and 500 ms; without data nobody told it."""
    world = FakeBackend([server_view("s1", itl_ms=11.0), server_view("s2")])
    with serving_world(world, data=system() if known else None) as services:
        services.collector.get("/collect")
        world.views["s1"] = server_view("s1", itl_ms=13.0)
        services.collector.get("/collect")
        page = samples(services.collector.get("/metrics").text)
        del world.views["s1"]
        services.collector.get("/collect")
        later = samples(services.collector.get("/metrics").text)
    told = {key: value for key, value in page.items() if key[0] == "inferno_slo_attainment"}
    assert told == ({("inferno_slo_attainment", "s1"): 0.5} if known else {})
    assert ("inferno_slo_attainment", "s1") not in later


def test_a_collector_whose_source_is_silent_is_not_ready_and_says_why() -> None:
    """It answers, but every server in its answer is held."""
    world = FakeBackend([server_view()])
    world.source_error = "prometheus: no answer"
    with serving_world(world) as services:
        for _ in range(3):
            services.collector.get("/collect")
        answer = services.collector.get("/readyz")
    assert answer.status_code == 503
    assert "prometheus: no answer" in answer.json()["lastError"]


def test_an_error_of_the_world_is_told_first() -> None:
    """What happened last is what one looks for."""
    backend = GatedBackend()
    with serving(backend) as served:
        backend.bug = BackendError("away", phase="observe")
        served.client.get("/invoke")
        assert served.client.get("/readyz").json()["lastError"] == "away"
