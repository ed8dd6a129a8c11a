"""The SLO policy on a forecast: sized for the load that is expected when new replicas are ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from loop.policies import forecasts
from loop.policies.replicas import Options
from loop.policies.slo import DEFAULTS, SloPolicy
from loop.types import Decision, Load, ServerView, Snapshot

if TYPE_CHECKING:
    from loop.spec import SystemData

Forecast = Literal["holt", "damped", "constant", "kalman", "arima", "seasonal"]
LEAD_S = 60.0  # of a model of which nobody knows how long it takes to start
DAMPING = 0.9
HYSTERESIS = 0.05  # of loads as they are seen, which are less steady than what slo foresees


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The rates of one server as they were seen, and when."""

    times_s: tuple[float, ...] = ()
    rates_rpm: tuple[float, ...] = ()

    def seen(self, now_s: float, rate_rpm: float, *, reach_s: float) -> History:
        """Return it with one more rate, as far back as *reach_s*."""
        begin = next((i for i, at_s in enumerate(self.times_s) if at_s >= now_s - reach_s), None)
        if begin is None:
            return History(times_s=(now_s,), rates_rpm=(rate_rpm,))
        return History(
            times_s=(*self.times_s[begin:], now_s),
            rates_rpm=(*self.rates_rpm[begin:], rate_rpm),
        )


State = Mapping[str, History]
NOTHING: State = MappingProxyType({})
NO_HISTORY = History()


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictivePolicy:
    """Decides as slo does, with *forecast* in the place of the rate that is seen, if that is less.

    lead_s is how far ahead it looks (None: the start-up of a replica as the data have it, and one
    tick). Less than what is seen is never expected, so that replicas are not taken away
    before the load is gone. season_s is that of "seasonal"; reach_s is how far back is looked.
    """

    forecast: Forecast = "damped"
    lead_s: float | None = None
    season_s: float = 3600.0
    reach_s: float = 900.0
    headroom: float = DEFAULTS.headroom
    hysteresis: float = HYSTERESIS
    drain_s: float = 120.0
    name: str = "predictive"
    tick_s: float = 30.0
    slo: SloPolicy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.one_of("forecast", self.forecast, get_args(Forecast))
        check.number("season_s", self.season_s, low=0.0, above=True)
        check.number("reach_s", self.reach_s, low=0.0, above=True)
        if self.lead_s is not None:
            check.number("lead_s", self.lead_s, low=0.0)
        slo = SloPolicy(
            headroom=self.headroom,
            hysteresis=self.hysteresis,
            drain_s=self.drain_s,
            forecasts=False,
            name=self.name,
        )
        object.__setattr__(self, "slo", slo)

    def start(self) -> State:
        """Return the state of a policy that has seen nothing."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what slo would decide when new replicas are ready."""
        after: dict[str, History] = {}
        views: dict[str, ServerView] = {}
        ahead: dict[str, float] = {}
        reach_s = max(self.reach_s, 2 * self.season_s if self.forecast == "seasonal" else 0.0)
        for name, view in snapshot.servers.items():
            history = state.get(name, NO_HISTORY)
            if view.load is None:
                after[name], views[name] = history, view
                continue
            history = history.seen(snapshot.now_s, view.load.rate_rpm, reach_s=reach_s)
            after[name] = history
            expected = self._expected(history, lead_s=self._lead_s(view, data))
            ahead[name] = max(expected, view.load.rate_rpm)
            views[name] = replace(view, load=_at(view.load, ahead[name]))
        decision, _ = self.slo.decide(replace(snapshot, servers=views), data, self.slo.start())
        targets = {
            name: replace(
                target,
                why=replace(
                    target.why, details={**target.why.details, "expectedRpm": ahead.get(name)}
                ),
            )
            for name, target in decision.targets.items()
        }
        return replace(decision, targets=targets), after

    def _lead_s(self, view: ServerView, data: SystemData) -> float:
        if self.lead_s is not None:
            return self.lead_s
        known = view.start_up_s
        if known is None:
            perf = data.perf.get((view.model, view.accelerator))
            known = perf.start_up_s if perf else None
        return (LEAD_S if known is None else known) + self.tick_s

    def _expected(self, history: History, *, lead_s: float) -> float:
        """Return the rate *lead_s* from now [requests/min]."""
        times_s, rates = history.times_s, history.rates_rpm
        if self.forecast == "seasonal":
            found = forecasts.seasonal(times_s, rates, ahead_s=lead_s, season_s=self.season_s)
            return rates[-1] if found is None else found
        if self.forecast in ("holt", "damped"):
            damping = DAMPING if self.forecast == "damped" else 1.0
            return forecasts.holt(times_s, rates, ahead_s=lead_s, damping=damping)
        return self._step_by_step(rates, lead_s=lead_s)

    def _step_by_step(self, rates: Sequence[float], *, lead_s: float) -> float:
        """Return the forecast of one tick after another, each from the ones before it."""
        predictor: forecasts.Predictor = "constant"
        if self.forecast in ("kalman", "arima"):
            predictor = self.forecast
        series, value = list(rates), rates[-1]
        for _ in range(max(round(lead_s / self.tick_s), 1)):
            value = forecasts.predicted(predictor, series)
            series.append(value)
        return value


def _at(load: Load, rate_rpm: float) -> Load:
    return replace(load, rate_rpm=rate_rpm)
