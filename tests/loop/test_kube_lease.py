"""Leader election with clocks that a test moves: one acts at a time, whoever fails, and somebody
always will.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.backends.kube.client import CONFLICT, NOT_FOUND, ApiError
from loop.backends.kube.lease import Lease, LeaseSettings, LedController
from loop.controller import Controller
from loop.data import FixedData
from loop.policies import make_policy
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system
from tests.loop.kube_objects import EPOCH
from tests.loop.test_controller import Counting

Json = dict[str, Any]


class StoredLease:
    """One Lease as an API server keeps it: replaced only by who has read its latest version."""

    def __init__(self) -> None:
        self.body: Json | None = None
        self.version = 0
        self.failing = False
        self.answer_lost = False

    def lease(self, namespace: str, name: str) -> Json:
        """Return it."""
        self._answer(namespace, name)
        if self.body is None:
            raise ApiError("not found", status=NOT_FOUND)
        return copy.deepcopy(self.body)

    def create_lease(self, namespace: str, body: Json) -> Json:
        """Create it."""
        self._answer(namespace, body["metadata"]["name"])
        if self.body is not None:
            raise ApiError("already exists", status=CONFLICT)
        return self._keep(body)

    def replace_lease(self, namespace: str, name: str, body: Json) -> Json:
        """Replace it."""
        self._answer(namespace, name)
        if body["metadata"].get("resourceVersion") != str(self.version):
            raise ApiError("the object has been modified", status=CONFLICT)
        return self._keep(body)

    def _keep(self, body: Json) -> Json:
        self.version += 1
        self.body = copy.deepcopy(body)
        self.body["metadata"]["resourceVersion"] = str(self.version)
        if self.answer_lost:
            raise ApiError("no answer", status=0)
        return copy.deepcopy(self.body)

    def _answer(self, namespace: str, name: str) -> None:
        assert (namespace, name) == ("inferno", "controller")
        if self.failing:
            raise ApiError("no answer", status=0)


class LateStore(StoredLease):
    """The same lease as somebody sees it who read it a while ago and replaces it now."""

    def __init__(self, store: StoredLease) -> None:
        super().__init__()
        self.body, self._store = copy.deepcopy(store.body), store

    def replace_lease(self, namespace: str, name: str, body: Json) -> Json:
        """Replace the lease itself."""
        return self._store.replace_lease(namespace, name, body)


def contender(store: StoredLease, clock: ManualClock, name: str = "a") -> Lease:
    """Return a contender for the lease: 15 s long, acted on for 8 s."""
    settings = LeaseSettings(namespace="inferno", name="controller", holder=name)
    return Lease(store, settings=settings, clock=clock, epoch=EPOCH)


def spec(store: StoredLease) -> Json:
    """Return what the lease says."""
    assert store.body is not None
    told: Json = store.body["spec"]
    return told


def test_the_first_one_gets_it_and_the_second_does_not() -> None:
    """Two controllers were started by mistake: one acts."""
    store, clock = StoredLease(), ManualClock()
    first, second = contender(store, clock), contender(store, clock, "b")
    assert (first.step(), second.step()) == (True, False)
    assert second.state == "lease inferno/controller is held by a"
    assert (spec(store)["leaseTransitions"], spec(store)["leaseDurationSeconds"]) == (0, 15)


def test_nobody_acts_before_having_asked() -> None:
    """A controller that has just started knows nothing yet."""
    assert not contender(StoredLease(), ManualClock()).held()


def test_who_renews_keeps_it() -> None:
    """For hours, with the other one asking all the time."""
    store, clock = StoredLease(), ManualClock()
    first, second = contender(store, clock), contender(store, clock, "b")
    for _ in range(100):
        assert first.step()
        assert not second.step()
        clock.time_s += 2.0
    assert spec(store)["acquireTime"] < spec(store)["renewTime"]


def test_who_is_gone_is_followed_after_the_lease_has_ended_and_not_before() -> None:
    """kill -9 leaves no time to give it up."""
    store, clock = StoredLease(), ManualClock()
    contender(store, clock).step()
    second = contender(store, clock, "b")
    second.step()
    clock.time_s = 14.9
    assert not second.step()
    clock.time_s = 15.0
    assert second.step()
    assert (spec(store)["holderIdentity"], spec(store)["leaseTransitions"]) == ("b", 1)


def test_the_time_of_a_lease_runs_from_when_it_was_first_seen() -> None:
    """The holder's clock, and so the date in the lease, may be wrong by hours."""
    store, clock = StoredLease(), ManualClock()
    contender(store, clock).step()
    spec(store)["renewTime"] = "2020-01-01T00:00:00.000000Z"
    clock.time_s = 100.0
    second = contender(store, clock, "b")
    assert not second.step()
    clock.time_s = 115.0
    assert second.step()


def test_a_lease_that_somebody_deletes_is_not_free_while_its_holder_may_act() -> None:
    """Its holder notes it at its next renewal: until then two acted."""
    store, clock = StoredLease(), ManualClock()
    first, second = contender(store, clock, "a"), contender(store, clock, "b")
    assert first.step()
    assert not second.step()
    store.body = None
    assert not second.step()
    assert first.step()
    store.body, clock.time_s = None, clock.time_s + 16.0
    assert second.step(), "who has gone meanwhile is followed all the same"


def test_a_label_renews_no_lease() -> None:
    """What is written on it again and again by others kept one alive whose holder was gone."""
    store, clock = StoredLease(), ManualClock()
    gone, second = contender(store, clock, "a"), contender(store, clock, "b")
    assert gone.step()
    for _ in range(4):
        assert not second.step()
        clock.time_s += 4.0
        assert store.body is not None
        store.version += 1
        store.body["metadata"] |= {"resourceVersion": str(store.version), "labels": {"at": "x"}}
    assert second.step()


def test_the_holder_stops_acting_before_others_may_begin() -> None:
    """Cut off from the API server, it cannot know that another one leads; a request of it may still
    be on its way.
    """
    store, clock = StoredLease(), ManualClock()
    first = contender(store, clock)
    first.step()
    store.failing = True
    clock.time_s = 7.9
    assert first.step()
    clock.time_s = 8.0
    assert not first.step()
    assert first.state == "lease inferno/controller: no answer"
    store.failing = False
    assert first.step()


def test_a_lease_given_up_is_free_at_once() -> None:
    """A rolling update of the controller should not leave the cluster alone for a quarter of a
    minute.
    """
    store, clock = StoredLease(), ManualClock()
    first, second = contender(store, clock), contender(store, clock, "b")
    first.step()
    second.step()
    first.stop()
    assert not first.held()
    assert second.step()


def test_who_stands_by_gives_nothing_up() -> None:
    """Stopping the second one must not free the lease of the first."""
    store, clock = StoredLease(), ManualClock()
    first, second = contender(store, clock), contender(store, clock, "b")
    first.step()
    second.step()
    second.stop()
    assert spec(store)["holderIdentity"] == "a"


def test_of_two_that_take_a_free_lease_at_once_one_fails() -> None:
    """Both have read the same version; the server takes the first write."""
    store, clock = StoredLease(), ManualClock()
    contender(store, clock, "gone").step()
    rivals = [contender(store, clock, "a"), contender(LateStore(store), clock, "b")]
    for rival in rivals:
        rival.step()
    clock.time_s = 20.0
    assert [rival.step() for rival in rivals] == [True, False]
    assert [rival.held() for rival in rivals] == [True, False]
    assert spec(store)["holderIdentity"] == "a"


def test_an_answer_that_is_lost_is_made_good_by_the_next_attempt() -> None:
    """The server may have taken the renewal: the next one reads and goes on."""
    store, clock = StoredLease(), ManualClock()
    first = contender(store, clock)
    store.answer_lost = True
    assert not first.step()
    store.answer_lost = False
    clock.time_s = 2.0
    assert first.step()


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.floats(min_value=0.0, max_value=20.0),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_two_never_lead_at_once(steps: list[tuple[str, float, bool]]) -> None:
    """Whoever asks whenever, and whatever fails: this is what a lease is for."""
    store, clock = StoredLease(), ManualClock()
    contenders = {name: contender(store, clock, name) for name in "abc"}
    for name, passed_s, failing in steps:
        clock.time_s += passed_s
        store.failing = failing
        contenders[name].step()
        assert sum(one.held() for one in contenders.values()) <= 1


def test_a_controller_that_does_not_lead_looks_and_advises() -> None:
    """Standing by is no failure: it stays ready to take over, and says why it does nothing."""
    store, clock = StoredLease(), ManualClock()
    contender(store, clock).step()
    backend = FakeBackend([server_view(wanted=7, ready=7)], capacity={"H100": 8})
    controller = Controller(
        backend=backend, policy=make_policy("slo"), data=FixedData(system()), clock=clock
    )
    lease = contender(store, clock, "b")
    led = LedController(controller, lease)
    lease.step()
    record = led.cycle(60.0)
    assert (record.mode, record.failed, bool(record.changes), backend.applied) == (
        "advise",
        False,
        True,
        [],
    )
    assert record.warnings[-1] == "standing by: lease inferno/controller is held by a"
    clock.time_s = 15.0
    lease.step()
    assert led.cycle(120.0).applied
    assert len(backend.applied) == 1


def test_a_controller_that_stands_by_knows_the_load_when_it_takes_over() -> None:
    """It began with nothing each time that the leader changed, and took away at once what the one
    before had held. Advice that somebody asks of it leaves no trace, as of one that leads.
    """
    store, clock = StoredLease(), ManualClock()
    contender(store, clock).step()
    controller = Controller(
        backend=FakeBackend([server_view()]),
        policy=Counting(),
        data=FixedData(system()),
        clock=clock,
    )
    lease = contender(store, clock, "b")
    led = LedController(controller, lease)
    lease.step()
    standing_by = [led.cycle(60.0), led.cycle(90.0, mode="advise"), led.cycle(120.0)]
    clock.time_s = 15.0
    lease.step()
    reasons = [record.changes[0].why.text for record in (*standing_by, led.cycle(180.0))]
    assert reasons == ["decision 1", "decision 2", "decision 2", "decision 3"]


@pytest.mark.parametrize("times", [{"renew_s": 9.0}, {"act_s": 15.0}, {"holder": ""}])
def test_times_that_could_have_two_act_are_refused(times: dict[str, Any]) -> None:
    """A lease that is acted on for as long as it lasts has no margin for what is on its way."""
    with pytest.raises(AssertionError):
        LeaseSettings(**{"namespace": "n", "name": "n", "holder": "a", **times})
