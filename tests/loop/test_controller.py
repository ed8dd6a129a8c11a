"""One cycle: what it records, what a failure leaves behind, and what advice must not do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from loop.actuator import Limits
from loop.collector import CollectorSettings
from loop.controller import SIMULATED_EPOCH, Controller, ControllerSettings, Pause
from loop.data import DataReading, FixedData
from loop.errors import SpecError
from loop.policies import make_policy
from loop.ports import Data, Policy
from loop.spec import OptimizerData, SystemData
from loop.testing.fakes import (
    FakeBackend,
    ListedData,
    ManualClock,
    change,
    server_view,
    system,
    target,
)
from loop.types import Decision, Load, ServerView, Snapshot, Target, Why, one_pool
from tests.loop.sim_worlds import sim_world


@dataclass
class Counting:
    """A policy that adds one replica each time it is asked, and counts how often that was."""

    name: str = "counting"
    tick_s: float = 60.0
    error: Exception | None = None

    def start(self) -> int:
        """Return the count of zero."""
        return 0

    def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:  # noqa: ARG002 the port
        """Want one replica more of each, the count as the reason."""
        if self.error:
            raise self.error
        targets = {
            name: grown(view, reason=f"decision {state + 1}")
            for name, view in snapshot.servers.items()
        }
        return Decision(targets=targets), state + 1


def grown(view: ServerView, *, reason: str) -> Target:
    """Return the target of one replica more."""
    return Target(
        server=view.name,
        pools=one_pool(
            accelerator=view.accelerator, replicas=view.wanted + 1, max_batch=view.max_batch
        ),
        why=Why(kind="remote", text=reason),
    )


def controller(
    backend: FakeBackend,
    *,
    policy: Policy | None = None,
    data: Data | None = None,
    settings: ControllerSettings | None = None,
) -> Controller:
    """Return a controller over fakes."""
    return Controller(
        backend=backend,
        policy=policy or Counting(),
        data=data or FixedData(system()),
        clock=ManualClock(step_s=0.001),
        settings=settings,
    )


def test_a_cycle_asks_for_what_the_policy_wants_and_records_it() -> None:
    """The record is the only product of the loop: it must hold the seen, the decided and the
    done.
    """
    backend = FakeBackend([server_view()])
    record = controller(backend).cycle(60.0)
    assert backend.views["s1"].wanted == 3
    assert (record.cycle, record.now_s, record.applied, record.failed) == (1, 60.0, True, False)
    assert record.seen is not None
    assert record.seen.servers["s1"].wanted == 2
    assert [change.replicas for change in record.changes] == [3]
    assert record.total_cost_cents_per_h == 3 * 400.0


def test_the_date_of_a_simulated_cycle_is_that_of_its_virtual_time() -> None:
    """Records of equal runs must be equal, so `ts` may not come from the machine."""
    assert controller(FakeBackend([])).cycle(90.5).ts == "2026-01-01T00:01:30.500Z"


def test_the_phases_are_timed_by_the_clock_of_the_controller() -> None:
    """Timings say where a slow cycle spends its time; nothing else reads a clock."""
    timing = controller(FakeBackend([server_view()])).cycle(60.0).timing
    assert timing.collect_ms == pytest.approx(1.0)
    assert timing.total_ms == pytest.approx(3.0)


@pytest.mark.parametrize("phase", ["observe", "apply"])
def test_a_world_that_fails_costs_one_cycle_and_no_more(phase: str) -> None:
    """The cycle is recorded with the phase that failed; the next starts clean."""
    backend = FakeBackend([server_view()])
    loop = controller(backend)
    backend.failing.add(phase)
    failed = loop.cycle(60.0)
    backend.failing.clear()
    good = loop.cycle(120.0)
    assert (failed.failed_phase, failed.applied, failed.cycle) == (phase, False, 1)
    assert "the world" in failed.error
    assert (good.failed, good.cycle, backend.views["s1"].wanted) == (False, 2, 3)


def test_a_failed_apply_still_shows_what_was_decided() -> None:
    """Nothing half-done is hidden: who reads the record sees what the world refused."""
    backend = FakeBackend([server_view()])
    backend.failing.add("apply")
    record = controller(backend).cycle(60.0)
    assert record.decision is not None
    assert [change.replicas for change in record.changes] == [3]


def test_an_advising_controller_decides_and_changes_nothing() -> None:
    """Advice is for trying a policy on a cluster that somebody else controls; it may never act,
    whoever asks.
    """
    backend = FakeBackend([server_view()])
    loop = controller(backend, settings=ControllerSettings(mode="advise"))
    records = [loop.cycle(60.0), loop.cycle(120.0, mode="act")]
    assert backend.applied == []
    assert [(record.mode, record.applied) for record in records] == [("advise", False)] * 2
    assert [record.changes[0].why.text for record in records] == ["decision 1", "decision 2"]


def test_advice_asked_of_an_acting_controller_leaves_no_trace() -> None:
    """A look at what would be decided must not move what the policy remembers."""
    loop = controller(FakeBackend([server_view()]))
    assert loop.cycle(60.0, mode="advise").changes[0].why.text == "decision 1"
    assert loop.cycle(61.0).changes[0].why.text == "decision 1"


def test_a_failed_apply_keeps_what_the_policy_learned() -> None:
    """The decision was taken on what was seen; only its effect is missing, and the next observe
    shows that.
    """
    backend = FakeBackend([server_view()])
    loop = controller(backend)
    backend.failing.add("apply")
    loop.cycle(60.0)
    backend.failing.clear()
    assert loop.cycle(120.0).changes[0].why.text == "decision 2"


def test_nothing_is_asked_of_the_world_when_nothing_is_to_change() -> None:
    """A steady system must see no writes."""
    backend = FakeBackend([server_view()])
    record = controller(backend, policy=make_policy("static")).cycle(60.0)
    assert backend.applied == []
    assert (record.applied, record.changes) == (True, ())


def test_limits_bound_what_one_cycle_may_change() -> None:
    """The record shows both: the target, and what the limit leaves of it in the changes."""
    backend = FakeBackend([server_view(wanted=9, ready=9)])

    class Halving(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:  # noqa: ARG002 the port
            return Decision(targets={"s1": target(replicas=1)}), state

    settings = ControllerSettings(limits=Limits(step_down_max=2))
    record = controller(backend, policy=Halving(), settings=settings).cycle(60.0)
    assert record.decision is not None
    assert (record.decision.targets["s1"].replicas, record.changes[0].replicas) == (1, 7)


def test_a_target_of_a_server_nobody_saw_is_left_out_and_told() -> None:
    """A server may be deleted while the policy decides; asking the world for it would fail the
    whole cycle.
    """

    class Inventing(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:  # noqa: ARG002 the port
            return Decision(targets={"ghost": grown(server_view("ghost"), reason="")}), state

    record = controller(FakeBackend([server_view()]), policy=Inventing()).cycle(60.0)
    assert record.changes == ()
    assert any("ghost" in line for line in record.warnings)


def test_what_a_policy_notes_is_a_warning_of_the_record() -> None:
    """A solver that ran out of time was told to nobody."""

    class Noting(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:
            decision, state = super().decide(snapshot, data, state)
            return replace(decision, notes=("optimizer: out of time",)), state

    settings = ControllerSettings(budget_usd_per_h=1e6)
    loop = controller(FakeBackend([server_view()]), policy=Noting(), settings=settings)
    record = loop.cycle(60.0)
    assert "optimizer: out of time" in record.warnings
    assert "decide" in record.warning_kinds


def test_what_runs_is_paid_for_before_another_server_grows() -> None:
    """The money of replicas that were given up and stayed was spent twice: $ 4/h above the budget
    for as long as their requests ran.
    """

    class Shifting(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:  # noqa: ARG002 the port
            targets = {"s1": target("s1", replicas=1), "s2": target("s2", replicas=3)}
            return Decision(targets=targets), state

    for running, wanted in ((128, [2, 2]), (1, [1, 3])):
        busy = server_view("s1", running=running)
        backend = FakeBackend([busy, server_view("s2", service_class="Free")])
        settings = ControllerSettings(budget_usd_per_h=16.0)
        record = controller(backend, policy=Shifting(), settings=settings).cycle(60.0)
        assert [backend.views[name].wanted for name in ("s1", "s2")] == wanted
        assert record.total_cost_cents_per_h == 1600.0


@pytest.mark.parametrize(
    ("seen", "settings"),
    [
        # Two replicas are full: the money of a third one is that of who has nothing to do.
        ({"running": 128}, {}),
        ({"load": None}, {}),
        ({"replicas_min": 3}, {}),
        ({}, {"limits": Limits(step_down_max=1)}),
    ],
)
def test_what_no_budget_can_take_away_is_paid_for_by_the_others(
    seen: dict[str, Any], settings: dict[str, Any]
) -> None:
    """They grew on money that was spent, or kept what the budget could not pay."""

    class Shifting(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:  # noqa: ARG002 the port
            targets = {"high": target("high", replicas=5), "low": target("low", replicas=1)}
            return Decision(targets=targets), state

    stays = server_view("low", service_class="Free", **{"wanted": 3, "ready": 3, **seen})
    backend = FakeBackend([server_view("high", wanted=4, ready=4, running=0), stays])
    bounds = ControllerSettings(budget_usd_per_h=20.0, **settings)
    record = controller(backend, policy=Shifting(), settings=bounds).cycle(60.0)
    assert record.total_cost_cents_per_h == 2000.0
    assert backend.views["low"].wanted > 1
    assert backend.views["high"].wanted < 4


def test_bad_data_in_a_running_loop_are_recorded_and_the_last_good_ones_stand_in() -> None:
    """A typing error in a file that is re-read must not stop the control of a cluster."""
    readings = [
        DataReading(system=system()),
        DataReading(system=system(), error="model-data.json: expected …"),
    ]
    record = controller(FakeBackend([server_view()]), data=ListedData(readings)).cycle(60.0)
    assert record.error.startswith("model-data.json")
    assert (record.failed, record.applied) == (False, True)


def test_heterogeneous_data_are_refused_at_the_start() -> None:
    """One server on several accelerators is beyond this loop; to ignore the flag would answer
    another question.
    """
    data = FixedData(system(optimizer=OptimizerData(heterogeneous=True)))
    with pytest.raises(SpecError, match="heterogeneous"):
        controller(FakeBackend([]), data=data)


def test_heterogeneous_data_in_a_running_loop_are_recorded_and_not_used() -> None:
    """The flag may appear in dynamic mode; then the last good data stay."""
    bad = system(optimizer=OptimizerData(heterogeneous=True))
    loop = controller(
        FakeBackend([server_view()]),
        data=ListedData([DataReading(system=system()), DataReading(system=bad)]),
    )
    record = loop.cycle(60.0)
    assert "heterogeneous" in record.error
    assert record.data is not None
    assert not record.data.optimizer.heterogeneous


def test_bad_input_that_the_policy_meets_fails_the_cycle_and_leaves_its_state() -> None:
    """SpecError is never a crash of a running loop."""
    policy = Counting(error=SpecError("model-data.json: …"))
    loop = controller(FakeBackend([server_view()]), policy=policy)
    assert loop.cycle(60.0).failed_phase == "decide"
    policy.error = None
    assert loop.cycle(120.0).changes[0].why.text == "decision 1"


def test_an_error_of_the_programmer_is_raised_and_its_record_carries_the_traceback() -> None:
    """A simulated run ends with it; a live driver records it, under the number of the cycle it
    ended.
    """
    policy = Counting(error=ZeroDivisionError("division by zero"))
    loop = controller(FakeBackend([server_view()]), policy=policy)
    with pytest.raises(ZeroDivisionError) as caught:
        loop.cycle(60.0)
    record = loop.failure(60.0, error=caught.value)
    policy.error = None
    assert (record.cycle, record.failed_phase) == (1, "program")
    assert record.error == "ZeroDivisionError: division by zero"
    assert "in decide" in record.traceback
    assert loop.cycle(120.0).cycle == 2


def test_a_policy_that_returns_something_else_is_told_what_it_must_return() -> None:
    """ "not enough values to unpack" was said of the first policy that somebody wrote."""

    class Wrong(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> Any:  # noqa: ARG002 the port
            return {"s1": 3}

    wrong = controller(FakeBackend([server_view()]), policy=Wrong(name="mine"))
    with pytest.raises(TypeError, match=r"policy mine: expected decide to return a Decision and"):
        wrong.cycle(60.0)


def wanting(replicas: Any, max_batch: Any = 64) -> Counting:
    """Return a policy that wants so much of s1."""

    class Wanting(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> Any:  # noqa: ARG002 the port
            pools = one_pool(accelerator="H100", replicas=replicas, max_batch=max_batch)
            why = Why(kind="metric", text="as told")
            return Decision(targets={"s1": Target(server="s1", pools=pools, why=why)}), state

    return Wanting(name="mine")


def test_whole_numbers_of_numpy_are_taken_for_what_they_are() -> None:
    """Who computes with arrays returns them; scores, records and messages know Python's only."""
    policy = wanting(np.ceil(np.array([2.5])).astype(int)[0], np.int32(64))
    record = controller(FakeBackend([server_view()]), policy=policy).cycle(60.0)
    (pool,) = record.changes[0].pools
    assert (type(pool.replicas), pool.replicas, type(pool.max_batch)) == (int, 3, int)


@pytest.mark.parametrize(
    ("replicas", "max_batch", "line"),
    [
        (2.0, 64, "policy mine: s1: replicas: expected a whole number >= 0, found 2.0"),
        (-1, 64, "policy mine: s1: replicas: expected a whole number >= 0, found -1"),
        (math.nan, 64, "policy mine: s1: replicas: expected a whole number >= 0, found nan"),
        (2, "64", "policy mine: s1: max_batch: expected a whole number >= 0, found '64'"),
    ],
)
def test_what_is_no_number_of_replicas_is_told_with_its_server(
    replicas: object, max_batch: object, line: str
) -> None:
    """It was a TypeError somewhere in the twin, and -1 was taken for the minimum unsaid."""
    loop = controller(FakeBackend([server_view()]), policy=wanting(replicas, max_batch))
    with pytest.raises(TypeError) as caught:
        loop.cycle(60.0)
    assert str(caught.value) == line


def test_a_smoothed_estimate_is_what_the_policy_is_told() -> None:
    """The record keeps both, so that a plot can show the noise and what was made of it."""
    backend = FakeBackend(
        [server_view(load=Load(rate_rpm=100.0, in_tokens=500.0, out_tokens=200.0))]
    )
    settings = ControllerSettings(collector=CollectorSettings(smoothing=0.5))
    loop = controller(backend, settings=settings)
    loop.cycle(60.0)
    backend.set_load("s1", Load(rate_rpm=200.0, in_tokens=500.0, out_tokens=200.0))
    record = loop.cycle(120.0)
    assert record.seen is not None
    assert record.estimated is not None
    assert record.seen.servers["s1"].load == Load(rate_rpm=200.0, in_tokens=500.0, out_tokens=200.0)
    assert record.estimated.servers["s1"].load == Load(
        rate_rpm=150.0, in_tokens=500.0, out_tokens=200.0
    )


def test_what_the_world_warns_of_is_in_the_record() -> None:
    """A cluster tells of servers that others have changed; nobody would look for that elsewhere."""

    class Wary(FakeBackend):
        def observe(self) -> Snapshot:
            return replace(super().observe(), warnings=("s1: changed by someone else",))

    record = controller(Wary([server_view()])).cycle(60.0)
    assert record.warnings == ("s1: changed by someone else",)


def test_a_pause_during_a_cycle_counts_for_it() -> None:
    """Who pauses while the loop decides has not said: after the next change."""
    pause, backend = Pause(), FakeBackend([server_view()])

    class Slow(Counting):
        def decide(self, snapshot: Snapshot, data: SystemData, state: int) -> tuple[Decision, int]:
            if state == 0:
                pause.pause("enough")
            return super().decide(snapshot, data, state)

    loop = Controller(
        backend=backend,
        policy=Slow(),
        data=FixedData(system()),
        clock=ManualClock(),
        pause=pause,
    )
    record = loop.cycle(60.0)
    assert (record.mode, record.applied, record.paused) == ("advise", False, "enough")
    assert (len(record.changes), backend.applied) == (1, [])
    pause.resume()
    assert loop.cycle(120.0).applied


def test_a_server_that_the_world_holds_is_left_alone_by_every_policy() -> None:
    """A paused one, or one that somebody else scales; the others go on."""
    hold = Why(kind="paused", text="annotation x")
    backend = FakeBackend([server_view(hold=hold), server_view("s2")])
    record = controller(backend).cycle(60.0)
    assert [change.server for change in record.changes] == ["s2"]
    assert record.decision is not None
    assert record.decision.targets["s1"].held
    assert record.decision.targets["s1"].why == hold
    assert "s1: nothing is asked for it: annotation x" in record.warnings


class MovedEpoch:
    """An epoch that has moved by an hour, and says so once."""

    def __init__(self) -> None:
        self.date = SIMULATED_EPOCH
        self._told = False

    def compare(self) -> str:
        """Move, the first time."""
        line = "" if self._told else "the clock has moved"
        self._told, self.date = True, SIMULATED_EPOCH + timedelta(hours=1)
        return line


def test_records_are_dated_by_a_clock_that_was_set() -> None:
    """Their dates would else be wrong for ever after a suspend."""
    loop = Controller(
        backend=FakeBackend([server_view()]),
        policy=Counting(),
        data=FixedData(system()),
        clock=ManualClock(),
        epoch=MovedEpoch(),
    )
    first, second = loop.cycle(60.0), loop.cycle(120.0)
    assert (first.ts, first.warnings) == ("2026-01-01T01:01:00.000Z", ("the clock has moved",))
    assert (second.ts, second.warnings) == ("2026-01-01T01:02:00.000Z", ())


def test_a_capacity_in_the_data_above_that_of_the_nodes_is_told_once_per_change() -> None:
    """People plan by the file, and wonder why the loop does not."""

    class Nodes(FakeBackend):
        def observe(self) -> Snapshot:
            return replace(super().observe(), capacity_source="nodes")

    backend = Nodes([server_view()], capacity={"H100": 6, "A100": 9})
    loop = controller(backend)
    line = "capacity: the data say 8 H100, the nodes have 6: these count"
    assert line in loop.cycle(60.0).warnings
    assert not [line for line in loop.cycle(120.0).warnings if "capacity" in line]
    backend.capacity = {"H100": 5, "A100": 9}
    (again,) = [line for line in loop.cycle(180.0).warnings if "capacity" in line]
    assert again.endswith("the nodes have 5: these count")


def test_a_simulated_capacity_is_the_world_and_no_fault_of_the_data() -> None:
    """A node that fails in a scenario is meant to."""
    record = controller(FakeBackend([server_view()], capacity={"H100": 1})).cycle(60.0)
    assert not [line for line in record.warnings if "capacity" in line]


def test_a_batch_that_stays_as_it_is_is_what_replicas_are_counted_by() -> None:
    """A replica was planned to take as many at a time as would be best, which nobody gave it."""
    busy = Load(rate_rpm=600.0, in_tokens=512.0, out_tokens=256.0)
    found = {}
    for fixed in (False, True):
        view = server_view(load=busy, max_batch=8, batch_fixed=fixed)
        record = controller(FakeBackend([view]), policy=make_policy("slo")).cycle(60.0)
        assert record.decision is not None
        found[fixed] = record.decision.targets["s1"]
    assert found[False].max_batch > 8 == found[True].max_batch
    assert found[True].replicas > found[False].replicas


def test_a_model_or_class_that_the_data_do_not_know_is_told_once() -> None:
    """Its server was held for ever, and only its row in the record said why."""
    backend = FakeBackend([server_view("s1", service_class="premium"), server_view("s2")])
    loop = controller(backend, policy=make_policy("slo"))
    line = "s1: the data know no class 'premium'; did you mean Premium?"
    assert [line in loop.cycle(60.0 * i).warnings for i in (1, 2)] == [True, False]
    backend.views["s1"] = server_view("s1", model="llama_9b")
    told = loop.cycle(180.0).warnings
    assert [one for one in told if "know no" in one] == [
        "s1: the data know no model 'llama_9b'; did you mean llama_8b?"
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """Decides the same, once and for all."""

    decision: Decision
    name: str = "same"
    tick_s: float | None = None

    def start(self) -> None:
        """Return that nothing is remembered."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return the decision."""
        return self.decision, state


def test_the_same_decision_about_other_servers_is_planned_anew() -> None:
    """A plan stands for servers that are older only, not for those of which something is new."""
    world = sim_world(start_up_s=7.5)
    view = world.backend.observe().servers["s1"]
    target = grown(view, reason="same")
    loop = Controller(
        backend=world.backend,
        policy=Same(decision=Decision(targets={"s1": target})),
        data=FixedData(world.data),
        clock=ManualClock(step_s=0.001),
    )
    records = []
    for step in range(1, 40):
        world.env.run(until=float(step))
        if step == 30:
            world.backend.apply([change(replicas=view.wanted + 3)])
        records.append(loop.cycle(float(step)))
    asked = [record.cycle for record in records if record.changes]
    assert asked == [1, 30], "as soon as somebody asked for something else, and only then"
    costs = [record.total_cost_cents_per_h for record in records]
    assert len(set(costs)) == 1
    assert all(record.decision == records[0].decision for record in records)


def test_a_policy_that_fills_the_same_mapping_anew_is_planned_anew() -> None:
    """Nobody is told that what a policy returned may not be written to."""
    world, targets = sim_world(), dict[str, Target]()
    policy = Same(decision=Decision(targets=targets))
    loop = Controller(
        backend=world.backend,
        policy=policy,
        data=FixedData(world.data),
        clock=ManualClock(step_s=0.001),
    )
    world.env.run(until=1.0)
    assert loop.cycle(1.0).changes == ()
    targets["s1"] = grown(world.backend.observe().servers["s1"], reason="more")
    assert len(loop.cycle(1.5).changes) == 1
