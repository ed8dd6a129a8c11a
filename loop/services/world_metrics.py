"""What an operator has to know of the world, as metrics of any service and as one line; fed with
snapshots and decisions only.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from loop.types import WarningKind

if TYPE_CHECKING:
    from loop.types import OfPools, Snapshot

# The looks in a row at which the source of metrics may be silent before a service is not ready: as
# many as the failures that a ready actor may have.
SILENT_READY_MAX = 2
# The same of looks in which the world took none of the changes that were asked of several servers.
REFUSED_READY_MAX = 2
SEVERAL = 2
# After so many looks in a row in which nothing was asked for, refusals of before tell nothing more.
QUIET_LOOKS = 10

# Nothing is amiss if a policy keeps what there is, or whoever decides asks for nothing else.
ON_PURPOSE = frozenset({"unchanged", "held-by-request", "absent"})

Reasons = Mapping[str, str]  # why a server is held, by its name
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What is amiss with the world as a whole: nothing if line is empty. ready: a service can do
    what it is for all the same.
    """

    line: str = ""
    ready: bool = True


NO_CONCERN = Concern()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """How often the world was asked for changes since it last took one, of which servers, and how
    it refused them last, *quiet* looks ago.
    """

    looks: int = 0
    quiet: int = 0
    servers: frozenset[str] = frozenset()
    line: str = ""

    def after(self, refused: Mapping[str, str], *, taken: bool, there: Collection[str]) -> Refusals:
        """Return it after a look in which changes of the *refused* servers, of those that are
        *there*, were not taken, and others were if *taken*. Where nothing was asked for nothing is
        known anew, and after QUIET_LOOKS of these nothing at all.
        """
        if taken:
            return NO_REFUSALS
        servers = (self.servers | refused.keys()).intersection(there)
        if not refused:
            if self.quiet + 1 >= QUIET_LOOKS:
                return NO_REFUSALS
            return replace(self, servers=servers, quiet=self.quiet + 1)
        return Refusals(looks=self.looks + 1, servers=servers, line=next(iter(refused.values())))

    @property
    def concern(self) -> Concern:
        """Return what is amiss: whoever refuses several servers and takes none may refuse all.
        What one server is refused may be its own, and the others are looked after.
        """
        if len(self.servers) < SEVERAL:
            return NO_CONCERN
        names = ", ".join(sorted(self.servers)[:NAMED_MAX])
        line = (
            f"the cluster takes no change: refused for all of {len(self.servers)} servers "
            f"({names}): {self.line}"
        )
        return Concern(line=line, ready=self.looks <= REFUSED_READY_MAX)


CONCERN = "concern"  # the kind of warning that is of no record: it is of the world as a whole
NO_REFUSALS = Refusals()
NAMED_MAX = 3


def concern_of(
    seen: Snapshot,
    held: Reasons,
    *,
    silent: int,
    asleep: Collection[str] = (),
    refusals: Refusals = NO_REFUSALS,
) -> Concern:
    """Return what is amiss with what was *seen*, the worst first, of which the *held* servers get
    no changes, and those *asleep* have no replicas. *silent* is for how many looks in a row the
    source of metrics has told nothing, *refusals* what the world has refused.
    """
    if seen.source_error:
        line = f"the source of metrics tells nothing: {seen.source_error}"
        return Concern(line=line, ready=silent <= SILENT_READY_MAX)
    if not seen.servers:
        # A restart would not help, and a Service without endpoints would help nobody to see it.
        return Concern(
            line="no managed server is seen: nothing is controlled (inferno doctor says what is "
            "missing, inferno adopt labels a Deployment)"
        )
    if refusals.concern.line:
        return refusals.concern
    reasons = Counted(held.get(name, "unchanged") for name in seen.servers if name not in asleep)
    if not reasons:
        line = f"all of {len(asleep)} servers have no replicas, and nobody can tell their load"
        return Concern(line=line)
    if ON_PURPOSE.isdisjoint(reasons):
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        others = f"; {len(asleep)} are asleep" if asleep else ""
        return Concern(line=f"all of {reasons.total()} servers are held: {why}{others}")
    return NO_CONCERN


class ReasonGauge:
    """A gauge that counts by reason. A reason that has gone stays at 0: an alert on it must be able
    to end.
    """

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._gauge = Gauge(name, text, ["reason"], registry=registry)
        self._known: set[str] = set()

    def show(self, reasons: Iterable[str]) -> None:
        """Show how often each of *reasons* is there."""
        counts = Counted(reasons)
        self._known |= counts.keys()
        for reason in self._known:
            self._gauge.labels(reason).set(counts[reason])


class WorldMetrics:
    """Shows the latest look at the world in *registry*. One thread feeds it; any may collect."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.concern = NO_CONCERN
        self._ready = Gauge(
            "inferno_ready_replicas", "Replicas seen ready.", ["server"], registry=registry
        )
        self._missing = Gauge(
            "inferno_missing_replicas",
            "Replicas that are wanted and not ready, by the reason that most of them have.",
            ["server", "reason"],
            registry=registry,
        )
        self._desired = Gauge(
            "inferno_desired_replicas",
            "Replicas that a server should have, on which accelerator.",
            ["server", "accelerator"],
            registry=registry,
        )
        self._held = ReasonGauge(
            "inferno_held_servers", "Servers of which nothing is asked, by reason.", registry
        )
        self._asleep = Gauge(
            "inferno_asleep",
            "1 for each server without replicas of which nobody can tell whether requests come.",
            ["server"],
            registry=registry,
        )
        self._age = Gauge(
            "inferno_load_age_seconds",
            "Age of the newest sample behind the load of a server.",
            ["server"],
            registry=registry,
        )
        self._warnings = Counter(
            "inferno_warnings",
            "Warnings by kind (data, observe, estimate, decide, apply, report; concern: a look in "
            "which something was amiss with the world as a whole).",
            ["kind"],
            registry=registry,
        )
        for kind in (*get_args(WarningKind), CONCERN):
            # A series that appears with its first warning would hide that warning from rate().
            self._warnings.labels(kind)
        self._placed: dict[str, str] = {}  # accelerator by server, as shown
        self._sampled_s: dict[str, float] = {}  # the time of the newest sample by server
        self._shown: set[str] = set()
        self._silent = 0
        self._refusals = NO_REFUSALS

    def look(
        self,
        seen: Snapshot,
        *,
        desired: Mapping[str, OfPools],
        held: Reasons,
        now_s: float,
        asleep: Collection[str] = (),
        refused: Mapping[str, str] = NOTHING,
        taken: bool = False,
    ) -> None:
        """Take in what was *seen*, what servers should have (those of which that is not told keep
        what was shown), which of them are *held*, and why, and which are *asleep*; and whose
        changes were *refused*, with what words, and whether others were *taken*.
        """
        self._silent = self._silent + 1 if seen.source_error else 0
        self._refusals = self._refusals.after(refused, taken=taken, there=seen.servers)
        self.concern = concern_of(
            seen, held, asleep=asleep, silent=self._silent, refusals=self._refusals
        )
        if self.concern.line:
            self.warn([CONCERN])
        self.hold(held)
        self._missing.clear()
        self._asleep.clear()
        for name in asleep:
            self._asleep.labels(name).set(1.0)
        for name, view in seen.servers.items():
            self._ready.labels(name).set(view.ready)
            if view.missing is not None:
                self._missing.labels(name, view.missing.kind).set(view.missing.count)
            if view.load_age_s is not None:
                self._sampled_s[name] = seen.now_s - view.load_age_s
        for name, pools in desired.items():
            self._place(name, pools)
        self._forget(self._shown - seen.servers.keys())
        self._shown = set(seen.servers)
        self.pass_time(now_s)

    def hold(self, held: Reasons) -> None:
        """Show how many servers are held for which reason."""
        self._held.show(held.values())

    def hold_all(self, reason: str) -> None:
        """Show that nothing was asked of any server: the step has failed."""
        self.hold(dict.fromkeys(self._shown, reason))

    def pass_time(self, now_s: float) -> None:
        """Let figures become older: a source that has fallen silent has them from long ago."""
        for name, sampled_s in self._sampled_s.items():
            self._age.labels(name).set(max(0.0, now_s - sampled_s))

    def warn(self, kinds: Iterable[str]) -> None:
        """Count warnings of *kinds*."""
        for kind in kinds:
            self._warnings.labels(kind).inc()

    def _place(self, name: str, pools: OfPools) -> None:
        before = self._placed.get(name)
        if before is not None and before != pools.accelerator:
            # Whoever adds up the series of a server must not count the replicas of before.
            self._desired.remove(name, before)
        self._placed[name] = pools.accelerator
        self._desired.labels(name, pools.accelerator).set(pools.replicas)

    def _forget(self, gone: set[str]) -> None:
        """Drop the series of servers that are no longer there: a last value would look alive for
        ever.
        """
        for name in gone:
            self._ready.remove(name)
            if name in self._placed:
                self._desired.remove(name, self._placed.pop(name))
            if self._sampled_s.pop(name, None) is not None:
                self._age.remove(name)
