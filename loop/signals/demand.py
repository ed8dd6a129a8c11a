"""From what engine processes did to the demand on a server and its latencies; pure.

The rules, for all sources that have samples of pods, are in docs/kubernetes.md: what counts as
demand, which pods are missing, and what is done about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from loop.replacing import replace, replacer
from loop.signals.growth import Growth, totals
from loop.signals.histograms import Buckets, percentiles_ms, plausible
from loop.signals.latest import latest_of
from loop.signals.names import HISTOGRAMS, SECONDS
from loop.signals.pods import ScrapedPod, ScrapedServer
from loop.signals.series import Track
from loop.types import Latest, Load
from twin.frozen import made_quickly

MINUTE_S, MS = 60.0, 1000.0
# The part of the window that a process must have been heard of for its rate to count: of less, one
# burst (the backlog of an outage) is taken for a rate.
HEARD_PART_MIN = 0.25
HANGS_PART_MIN = 0.5  # of the window, for an engine that may only have begun with a long prompt
# Requests that first tokens tell of and ends do not, beyond which the two contradict each other:
# some are always between the two.
CONTRADICTION_SHARE, CONTRADICTION_MIN = 1.25, 5.0
# A scrape may fail, and engines of one pod are scraped at instants of their own.
ENDED_INTERVALS = 2.5
# Ends that may be explained by serving since readiness, over what the slope explains: more says
# that the pod was served before it was (last) ready.
# A pod that becomes ready later than that has been ready before, and one that took far longer than
# those beside it may have been: then its counters are of longer.
BEGUN_S_MAX, BEGUN_LATE_S = 1800.0, 180.0
DATES_S = 2.0  # dates of objects are of whole seconds, and of clocks of their own
BEGUN_RPS_MAX = 100.0  # an engine that has ended more since it is ready had begun before
EXPLAINED_FACTOR, EXPLAINED_MIN = 3.0, 4.0
MODELS_TOLD = 4
GAUGES_SHOWN = ("running", "waiting", "kv_usage")  # of a pod
_SHOWN = frozenset(GAUGES_SHOWN)
# Steps carry several tokens each (speculative decoding) where tokens exceed them by so much.
TOKENS_PER_STEP_MIN = 1.1
# Of the prompt tokens that are not in its own cache, a decode engine gets all but the last one from
# one that does prefill: it computes no more than a block of each. A cache in host memory never has
# what is new in a prompt, be that little of a long one.
FETCHED_SHARE_MIN, COMPUTED_TOKENS_MAX = 0.98, 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """Figures are over window_s; a process whose latest sample is older than stale_s does not
    report.

    speed: how many seconds pass in the world in one of the machine: other than 1 for a simulated
    cluster only.
    """

    window_s: float = 60.0
    stale_s: float = 60.0
    speed: float = 1.0

    @property
    def heard_s_min(self) -> float:
        """Return how long a process must have been heard of."""
        return HEARD_PART_MIN * self.window_s


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The latest gauges of one pod, those of its engines added up, and its own figures over the
    window (None: unknown). age_s: of the gauges; unknown: those of them that an engine did not
    tell, of which the others are what is here; engines: how many tell.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    rate_rpm: float | None = None
    completions_rpm: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    age_s: float | None = None
    unknown: frozenset[str] = frozenset()
    engines: int = 0


# A pod that serves and does not tell: what it runs is not known, and not none.
NOT_HEARD = Gauges(unknown=_SHOWN)
_with_own = replacer(Gauges, "rate_rpm", "completions_rpm", "ttft_ms", "itl_ms")


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of one server; None: unknown. measured: its pods were heard of, whether or not
    they report now.

    age_s: of the newest sample. at_first: requests that young processes had when they were scraped
    first: backlog, no arrivals. cache_hit_share: of the prompt tokens, those found in the prefix
    cache. fetched_share: of those that are not in the cache of their own engine, those that another
    has computed for it, if these are nearly all (None: not so, or not known). preemptions: how many
    requests lost their place in the KV cache within the window. model_names: what its engines call
    the models that they serve; further_models: what others in its pods serve, of which nothing
    counts here. percentiles_ms are those of histograms, by latency ("ttft", …) and percentile
    ("p95"), percentiles_age_s how old their newest sample is.
    """

    load: Load | None = None
    latest: Latest | None = None
    completions_rpm: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    output_tps: float | None = None
    pods: Mapping[str, Gauges] = field(default_factory=dict)
    measured: bool = False
    reporting: int = 0
    age_s: float | None = None
    at_first: float = 0.0
    cache_hit_share: float | None = None
    fetched_share: float | None = None
    preemptions: int | None = None
    model_names: frozenset[str] = frozenset()
    further_models: frozenset[str] = frozenset()
    percentiles_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    percentiles_age_s: float | None = None
    warnings: tuple[str, ...] = ()


def figures(
    server: ScrapedServer,
    tracks: Mapping[str, Sequence[Track]],
    *,
    now_s: float,
    settings: WindowSettings,
    gone: Mapping[str, tuple[float, float]] | None = None,
    own_looks: bool = False,
    served: frozenset[str] = frozenset(),
    further: frozenset[str] = frozenset(),
) -> Figures:
    """Return the figures of *server* from the tracks of its pods by name, those of pods that are
    gone included. *served* are the names of the models that its engines serve, *further* those that
    others in its pods serve.

    *gone* tells of pods that have gone the time of their last sample, and when they are thought to
    have gone after it. *own_looks*: each sample is a look of the loop itself.
    """
    if further and not any(tracks.values()):
        return Figures(
            pods={pod.name: NOT_HEARD for pod in server.pods if pod.phase == "ready"},
            measured=True,
            further_models=further,
            warnings=(_nobodys(server, further),),
        )
    alive = {pod.name for pod in server.pods}
    heard, good = _heard(tracks, alive, now_s=now_s, settings=settings)
    newest_s = max([one.times_s[-1] for of in tracks.values() for one in of], default=None)
    seen = Figures(
        pods={
            name: _gauges(of_pod, now_s=now_s) for name, of_pod in heard.items() if name in alive
        },
        measured=newest_s is not None,
        age_s=None if newest_s is None else max(0.0, now_s - newest_s),
        model_names=served,
        further_models=further,
    )
    serving = [
        pod for pod in server.pods if pod.phase == "ready" or (pod.name in good and _serves(pod))
    ]
    telling = [pod.name for pod in serving if pod.name in good]
    young = all(now_s - pod.since_s <= settings.window_s for pod in serving)
    if serving and young and good and not telling:
        # All pods were replaced at once: what came to those before goes on at these.
        telling = list(good)
        last_s = max(track.times_s[-1] for of_pod in good.values() for track in of_pod)
        seen = replace(seen, age_s=max(0.0, now_s - last_s))
    if not telling:
        return _unknown(seen, serving, heard, settings=settings, now_s=now_s, own_looks=own_looks)
    latest = latest_of(
        [pod.name for pod in serving],
        good,
        gone_s=max((gone_s for _, gone_s in (gone or {}).values()), default=None),
        window_s=settings.window_s,
        speed=settings.speed,
    )
    return _known(
        replace(seen, latest=latest),
        serving,
        good,
        heard,
        gone or {},
        telling=telling,
        settings=settings,
        now_s=now_s,
    )


def _heard(
    tracks: Mapping[str, Sequence[Track]],
    alive: Collection[str],
    *,
    now_s: float,
    settings: WindowSettings,
) -> tuple[dict[str, list[Track]], dict[str, list[Track]]]:
    """Return the tracks by pod that report, or that pods have left which are not *alive*; and those
    of them whose rate is known.
    """
    heard: dict[str, list[Track]] = {}
    good: dict[str, list[Track]] = {}
    oldest_s, heard_s_min = now_s - settings.stale_s, settings.heard_s_min
    for name, of_pod in tracks.items():
        fresh = [track for track in of_pod if name not in alive or track.times_s[-1] >= oldest_s]
        if fresh:
            heard[name] = fresh
        if any(track.alive_s >= heard_s_min for track in fresh):
            good[name] = [track for track in fresh if track.alive_s > 0.0]
    return heard, good


def _nobodys(server: ScrapedServer, further: Collection[str]) -> str:
    """Return that of the engines in the pods of *server* none is known to serve its model."""
    found = ", ".join(sorted(further)[:MODELS_TOLD])
    own = ", ".join(sorted(server.models)[:MODELS_TOLD]) or "one of the data"
    return f"its pods serve {found}: expected exactly one that is its model, {own}: held"


def _serves(pod: ScrapedPod) -> bool:
    # Under load pods fail their probes; what they tell is no less true for it.
    return pod.phase == "starting"


def _known(
    seen: Figures,
    serving: Sequence[ScrapedPod],
    good: Mapping[str, Sequence[Track]],
    heard: Mapping[str, Sequence[Track]],
    gone: Mapping[str, tuple[float, float]],
    *,
    telling: Sequence[str],
    settings: WindowSettings,
    now_s: float,
) -> Figures:
    """Return the figures that *good* tracks tell, from the first sample to the last one of any.

    A pod without a track had as many requests, while it was ready, as one of those *telling*; one
    that was *heard* once and is new had those that it tells of.
    """
    every = [track for of_pod in good.values() for track in of_pod]
    there = {name: _span(of_pod) for name, of_pod in good.items()}
    begin_s = min([first_s for first_s, _ in there.values()])
    end_s = max([last_s for _, last_s in there.values()])
    for name, (last_s, gone_s) in gone.items():
        first_s = there[name][0] if name in there else max(last_s, begin_s)
        there[name] = (first_s, min(max(gone_s, first_s), end_s))
    at_first = 0.0
    for pod in serving:
        of_pod = good.get(pod.name, ())
        since_s = _serving_since_s(pod, of_pod, begin_s=begin_s)
        there[pod.name] = (min(max(since_s, begin_s), end_s), end_s)
        if since_s > begin_s:
            at_first += sum(track.at_first for track in of_pod)
    begun = _begun(serving, heard, telling=telling, begin_s=begin_s)
    arrivals = sum(
        _came(good[name], span)
        if name in good
        else begun[name]
        if name in begun
        else sum(_came(good[one], span) for one in telling) / len(telling)
        for name, span in there.items()
    )
    length_s = (end_s - begin_s) * settings.speed
    there_per_s = sum(end - begin for begin, end in there.values()) / length_s
    grown = Growth(every)
    total = grown.total
    ends = max(total.get("ends") or 0.0, total.get("answers") or 0.0)
    rate_rpm = max(0.0, arrivals) * MINUTE_S / length_s
    silent = _silent(serving, {**begun, **good}, settings=settings, now_s=now_s)
    missing = _missing(serving, silent)
    load: Load | None = _load(grown, rate_rpm=rate_rpm)
    odd = _odd(every, settings=settings) if rate_rpm else ""
    warnings = [line for line in (missing, _contradiction(every), odd) if line]
    if rate_rpm == 0.0 and (line := _no_zero(every, missing, settings=settings)):
        load = None
        warnings.append(line)
    return replace(
        seen,
        pods=dict.fromkeys(silent, NOT_HEARD)
        | {name: _own(one, good.get(name), settings) for name, one in seen.pods.items()},
        load=load,
        completions_rpm=_scaled(_each(ends, good, "ends", "answers"), there_per_s * MINUTE_S),
        ttft_ms=_ttft_ms(grown),
        itl_ms=_itl_ms_of(grown),
        output_tps=_scaled(_each(total.get("generation"), good, "generation"), there_per_s),
        measured=True,
        reporting=len(telling),
        at_first=at_first,
        cache_hit_share=_cache_hit_share(grown.over("cache_hits", "cache_queries").total),
        fetched_share=_fetched_share(total, ends=ends),
        preemptions=_whole(total.get("preemptions")),
        warnings=tuple(warnings),
    )


def _each(total: float | None, good: Mapping[str, Sequence[Track]], *counters: str) -> float | None:
    """Return the *total* growth of *counters* per second and pod that tells any of them."""
    if total is None:
        return total
    covered_s = sum(
        max((track.alive_s for track in of_pod if track.grown.keys() & counters), default=0.0)
        for of_pod in good.values()
    )
    return total / covered_s if covered_s else total


def _load(grown: Growth, *, rate_rpm: float) -> Load:
    """Return the load that tracks tell, the lengths of prompts and answers by those of them that
    tell both tokens and requests.
    """
    of_prompts = grown.over("prompt", "firsts")
    of_answers = grown.over("answer_tokens", "answers")
    prompts = _load_told(of_prompts, rate_rpm=rate_rpm)
    answers = prompts
    if of_answers.tracks != of_prompts.tracks:
        answers = _load_told(of_answers, rate_rpm=rate_rpm)
    out_tokens = max(answers.out_tokens, _tokens_of_several(grown))
    return prompts if out_tokens == prompts.out_tokens else replace(prompts, out_tokens=out_tokens)


def _tokens_of_several(grown: Growth) -> float:
    """Return how many tokens are generated per request where more end than come: each has several
    answers (n of its parameters), of which vLLM counted every end, and prompt and first token once.
    0 where that is not so.
    """
    by_ends = sum(track.arrived_by_ends for track in grown.tracks)
    if not is_far_more(by_ends, sum(track.arrived[-1] for track in grown.tracks)):
        return 0.0
    total = grown.over("generation", "firsts").total
    return _mean(total.get("generation"), total.get("firsts")) or 0.0


def is_far_more(figure: float, other: float) -> bool:
    """Tell whether of two counts of requests the one is more than those between the two explain."""
    return figure > CONTRADICTION_SHARE * max(other, 0.0) + CONTRADICTION_MIN


def _load_told(grown: Growth, *, rate_rpm: float) -> Load:
    total = grown.total
    ends = max(total.get("ends") or 0.0, total.get("answers") or 0.0)
    came = sum(track.arrived[-1] for track in grown.tracks)
    served = ends - sum(track.given_up for track in grown.tracks)
    return load_of(rate_rpm, total, ends, came=came, served=served)


def _ttft_ms(grown: Growth) -> float | None:
    total = grown.over("ttft_s", "firsts").total
    # Some versions observe nothing but zeros: nobody's token came at once.
    return _mean(total.get("ttft_s"), total.get("firsts"), scale=MS) or None


def _itl_ms_of(grown: Growth) -> float | None:
    total = grown.over("per_token_s", "per_token").total
    if _mean(total.get("per_token_s"), total.get("per_token")) is None:
        total = grown.over("steps_s", "steps").total
    return _itl_ms(total) or None


def _no_zero(every: Sequence[Track], missing: str, *, settings: WindowSettings) -> str:
    """Return why no requests at all are not known to be none, or nothing."""
    if missing:
        return "those that report had no requests: the others may have, so it is held"
    if any(track.uncounted for track in every):
        return (
            "its engines are busy, and no counter tells of requests: answers longer than "
            f"{settings.window_s:g} s, or requests that nothing counts; held"
        )
    if any(track.by_turns and track.started_s is None for track in every):
        # One that begins anew between two scrapes shows the same again and again, too.
        return (
            "several processes answer by turns at one port, or one begins anew all the time: held"
        )
    line = _hanging([track for track in every if track.hangs])
    return f"{line} Held" if line else ""


def _hanging(tracks: Sequence[Track]) -> str:
    if not tracks:
        return ""
    inside = sum(track.gauges["running"] + track.gauges["waiting"] for track in tracks)
    return (
        f"{inside:.0f} requests are in engines of which no counter has moved for "
        f"{max(track.alive_s for track in tracks):.0f} s: do they hang?"
    )


def _odd(every: Sequence[Track], *, settings: WindowSettings) -> str:
    """Return what an operator should know of engines whose load is known all the same."""
    long_s = HANGS_PART_MIN * settings.window_s
    if line := _hanging([track for track in every if track.hangs and track.alive_s >= long_s]):
        return line
    if any(track.by_turns for track in every):
        return "several processes answer by turns at one port: each was read by itself"
    return ""


def _span(of_pod: Sequence[Track]) -> tuple[float, float]:
    """Return the times of the first and of the last scrape of the processes of one pod."""
    first_s, last_s = of_pod[0].times_s[0], of_pod[0].times_s[-1]
    for track in of_pod[1:]:
        first_s, last_s = min(first_s, track.times_s[0]), max(last_s, track.times_s[-1])
    return first_s, last_s


def _came(of_pod: Sequence[Track], span: tuple[float, float]) -> float:
    """Return how many requests came to the processes of one pod between two times."""
    return sum([track.came(*span) for track in of_pod])


def _begun(
    serving: Sequence[ScrapedPod],
    heard: Mapping[str, Sequence[Track]],
    *,
    telling: Sequence[str],
    begin_s: float,
) -> dict[str, float]:
    """Return how many requests came to pods that have begun within the window and were *heard* once
    so far: all that they had by then. A router may send these all that comes, and those with full
    queues nothing.

    None if no other pod has served all the time: it may all have been waiting for them.
    """
    before = [pod for pod in serving if pod.name in telling and pod.since_s <= begin_s]
    if not before:
        return {}
    usual_s = BEGUN_LATE_S + EXPLAINED_FACTOR * min(map(_start_up_s, before))
    return {
        pod.name: sum(track.at_first for track in of_pod)
        for pod in serving
        # What has been there for longer may have served, and failed a probe for a moment.
        if pod.since_s > begin_s - DATES_S
        if pod.since_s - pod.created_s < BEGUN_S_MAX and _start_up_s(pod) < usual_s
        for of_pod in [heard.get(pod.name, ())]
        if of_pod and all(track.counts and len(track.times_s) == 1 for track in of_pod)
        for ready_s in [max(0.0, max(track.times_s[0] for track in of_pod) - pod.since_s)]
        if sum(track.ended_at_first for track in of_pod) <= EXPLAINED_MIN + BEGUN_RPS_MAX * ready_s
    }


def _start_up_s(pod: ScrapedPod) -> float:
    return pod.since_s - (pod.created_s if pod.started_s is None else pod.started_s)


def _serving_since_s(pod: ScrapedPod, of_pod: Sequence[Track], *, begin_s: float) -> float:
    """Return since when *pod* has been getting requests: since it is ready, unless its counters
    tell that it was before.

    A pod that failed its probe for a moment is scraped anew when it is ready again, with counters
    of hours; one that has just begun shows what came since.
    """
    if not of_pod:
        return pod.since_s
    first_s = min(track.times_s[0] for track in of_pod)
    if pod.phase != "ready":
        return first_s
    if pod.since_s <= begin_s:
        return begin_s
    ended = sum(track.ended_at_first for track in of_pod)
    slope = sum(
        max(track.total("ends") or 0.0, track.total("answers") or 0.0) / track.alive_s
        for track in of_pod
    )
    explained = EXPLAINED_MIN + EXPLAINED_FACTOR * slope * max(0.0, first_s - pod.since_s)
    running = sum(track.gauges["running"] for track in of_pod)
    return begin_s if ended > explained + running else min(pod.since_s, first_s)


def _contradiction(every: Sequence[Track]) -> str:
    """Return what first tokens and ends tell of requests, if one tells of far more."""
    ends = firsts = counted = prompts = late = 0.0
    for track in every:
        ends += track.arrived_by_ends
        firsts += track.arrived_by_firsts
        prompts += track.arrived_by_prompts
        counted += track.arrived[-1]
        late = max(late, track.late)
    ends, firsts, prompts = max(0.0, ends), max(0.0, firsts), max(0.0, prompts)
    line = f"first tokens tell of {firsts:.0f} requests, ends and those inside of {ends:.0f}: "
    if is_far_more(firsts, ends):
        return line + (
            "clients give up, or engines do not count all ends; the higher figure counts"
        )
    if is_far_more(ends, counted):
        return line + "more ends than first tokens can be; the lower figure counts"
    if is_far_more(prompts, ends):
        return (
            f"prompts tell of {prompts:.0f} requests, ends and those inside of {ends:.0f}: clients "
            "give up, or engines do not count all ends; the higher figure counts"
        )
    if late:
        return f"counters that are shown only now had counted {late:.0f} requests before: left out"
    return ""


def stale_line(age_s: float, stale_s: float) -> str:
    """Return the line that says that the latest samples of a server are too old."""
    return f"the latest metrics of its pods are {age_s:.0f} s old: expected at most {stale_s:g}"


def _unknown(
    seen: Figures,
    serving: Sequence[ScrapedPod],
    heard: Mapping[str, Sequence[Track]],
    *,
    settings: WindowSettings,
    now_s: float,
    own_looks: bool,
) -> Figures:
    """Return figures without a load, and why, where that is amiss: pods just begun have nothing to
    tell yet.
    """
    old = [pod for pod in serving if now_s - pod.since_s > settings.window_s]
    heard_s = max((track.alive_s for of_pod in heard.values() for track in of_pod), default=0.0)
    if 0.0 < heard_s < settings.heard_s_min:
        line = (
            f"its pods have told of {heard_s:.0f} s so far: held until it is "
            f"{settings.heard_s_min:g} s"
        )
    elif not old:
        return seen
    elif seen.age_s is None:
        line = f"none of {len(serving)} ready pods has metrics"
    elif seen.age_s > settings.stale_s:
        line = stale_line(seen.age_s, settings.stale_s)
    elif not any(track.counts for of_pod in heard.values() for track in of_pod):
        line = "its pods show gauges and no counter of requests: nobody knows how many come"
    elif any(track.by_turns for of_pod in heard.values() for track in of_pod):
        line = (
            "several processes answer by turns at one port, and it is not known what each did "
            f"within {settings.window_s:g} s: a longer --window, or a port for each?"
        )
    elif restarts := max((track.restarts for of in heard.values() for track in of), default=0):
        line = (
            f"its engine has begun anew {restarts} times or more within {settings.window_s:g} s, "
            "and nobody knows what came between: does it crash again and again?"
        )
    elif own_looks:
        line = "its pods have been looked at once so far: held until the next look"
    else:
        line = (
            f"its pods have no two samples within {settings.window_s:g} s: is the scrape "
            "interval longer?"
        )
    return replace(seen, warnings=(line,))


def _silent(
    serving: Sequence[ScrapedPod],
    good: Collection[str],
    *,
    settings: WindowSettings,
    now_s: float,
) -> list[str]:
    """Return the pods that should have told of themselves by now."""
    return [
        pod.name
        for pod in serving
        if pod.name not in good and now_s - pod.since_s > settings.window_s
    ]


def _missing(serving: Sequence[ScrapedPod], silent: Sequence[str]) -> str:
    if not silent:
        return ""
    reporting = len(serving) - len(silent)
    return f"{reporting} of {len(serving)} ready pods report: the load is scaled up to all of them"


def load_of(
    rate_rpm: float,
    total: Mapping[str, float | None],
    ends: float,
    *,
    came: float,
    served: float = 0.0,
) -> Load:
    """Return the load, by the growth of counters in *total*; tokens that nobody counted are 0.
    *served* are ends that were not given up.

    Prompts are counted at the first token, as TTFT is; the length of an answer when it has ended.
    Where none has, tokens generated per first token tell its length from below; where none had a
    first token either, those per request that *came*. Where requests were served and no token was
    generated (embeddings), an answer is what one token is: its prompt has been worked through, and
    some engines count that as a first token.
    """
    firsts = total.get("firsts")
    in_tokens = next(
        filter(None, (_mean(total.get("prompt"), count) for count in (firsts, ends, came))),
        _mean(total.get("prompt_lengths_tokens"), total.get("prompt_lengths")),
    )
    out_tokens = _mean(total.get("answer_tokens"), total.get("answers")) or next(
        filter(None, (_mean(total.get("generation"), count) for count in (ends, firsts, came))),
        None,
    )
    if served > 0.0 and total.get("generation") == 0.0:
        out_tokens = out_tokens or 1.0
    return Load(rate_rpm=rate_rpm, in_tokens=in_tokens or 0.0, out_tokens=out_tokens or 0.0)


def with_percentiles(
    found: Figures,
    grown: Mapping[str, Mapping[str, Sequence[Buckets]]],
    tracks: Mapping[str, Sequence[Track]],
    *,
    age_s: float,
) -> Figures:
    """Return *found* with percentiles, by how the histograms of its pods have *grown*, by pod and
    latency. *tracks* of the pods tell how many observations that can be, and how many tokens come a
    step; age_s is that of the newest sample.

    A latency of which nothing was observed, or nothing but zeros, or that has no buckets, is left
    out.
    """
    together: dict[str, list[Buckets]] = defaultdict(list)
    for pod, by_latency in grown.items():
        total = totals(tracks.get(pod, ()))
        for latency, histograms in by_latency.items():
            count = total.get(HISTOGRAMS[latency])
            zeros = count and total.get(SECONDS.get(latency, "")) == 0.0
            if plausible(histograms, count) and not zeros:
                together[latency] += histograms
    steps, tokens = _steps_and_tokens(totals([one for of in tracks.values() for one in of]))
    scales = {"itl": steps / tokens if steps and tokens else 1.0}
    percentiles = {
        latency: values
        for latency, histograms in together.items()
        if (values := percentiles_ms(histograms, scale=scales.get(latency, 1.0)))
    }
    if not percentiles:
        return found
    return replace(found, percentiles_ms=percentiles, percentiles_age_s=max(0.0, age_s))


def _itl_ms(total: Mapping[str, float | None]) -> float | None:
    """Return the mean time between two tokens of an answer, as docs/experiments.md defines it.

    A step may carry several tokens (speculative decoding), so the mean of an engine over its steps
    is that only where there are as many tokens as steps.
    """
    per_token = _mean(total.get("per_token_s"), total.get("per_token"), scale=MS)
    if per_token is not None:
        return per_token
    steps, tokens = _steps_and_tokens(total)
    return None if steps is None else _mean(total.get("steps_s"), tokens, scale=MS)


def _steps_and_tokens(total: Mapping[str, float | None]) -> tuple[float | None, float | None]:
    """Return how many steps were observed, and how many tokens these gave."""
    steps = total.get("steps")
    if steps is None:
        return None, None
    gaps = (total.get("generation") or 0.0) - (total.get("firsts") or 0.0)
    return steps, gaps if gaps > TOKENS_PER_STEP_MIN * steps else steps


def _cache_hit_share(total: Mapping[str, float | None]) -> float | None:
    """Return which share of prompt tokens is not computed: found in the cache of the engine, or
    fetched from one elsewhere.
    """
    hits, asked = total.get("cache_hits"), total.get("cache_queries")
    if hits is not None:
        hits += total.get("transferred") or 0.0
    share = _mean(hits, asked if asked is not None else total.get("prompt"))
    return None if share is None else min(1.0, share)


def _fetched_share(total: Mapping[str, float | None], *, ends: float) -> float | None:
    """Return which share of the prompt tokens that are not in the cache of the engine is fetched
    from elsewhere, None if it is not nearly all. *ends*: of how many requests.
    """
    asked = total.get("cache_queries") or total.get("prompt") or 0.0
    fetched, missing = total.get("transferred"), asked - (total.get("cache_hits") or 0.0)
    share = _mean(fetched, missing)
    if fetched is None or share is None or share < FETCHED_SHARE_MIN:
        return None
    return min(1.0, share) if missing - fetched <= COMPUTED_TOKENS_MAX * ends else None


def _whole(total: float | None) -> int | None:
    return None if total is None else round(total)


def _gauges(of_pod: Sequence[Track], *, now_s: float) -> Gauges:
    if len(of_pod) == 1:  # as nearly always, and there are thousands
        (track,) = of_pod
        return Gauges(
            running=round(track.gauges["running"]),
            waiting=round(track.gauges["waiting"]),
            kv_usage=track.gauges["kv_usage"],
            unknown=_SHOWN - track.tells,
            age_s=max(0.0, now_s - track.times_s[-1]),
            engines=1,
        )
    newest_s = max(track.times_s[-1] for track in of_pod)
    of_pod = [track for track in of_pod if not _ended(track, newest_s)]
    unknown = frozenset[str]()
    if all(track.by_turns and len(track.times_s) == 1 for track in of_pod):
        # Which page was of whom nobody knows, nor how many there are: at least who told last.
        of_pod, unknown = [max(of_pod, key=lambda track: track.times_s[-1])], _SHOWN
    return Gauges(
        running=round(sum(track.gauges["running"] for track in of_pod)),
        waiting=round(sum(track.gauges["waiting"] for track in of_pod)),
        kv_usage=max(track.gauges["kv_usage"] for track in of_pod),
        unknown=unknown
        | _SHOWN.difference(_SHOWN.intersection(*(track.tells for track in of_pod))),
        age_s=max(0.0, now_s - max(track.times_s[-1] for track in of_pod)),
        engines=len(of_pod),
    )


def _ended(track: Track, newest_s: float) -> bool:
    """Tell whether a process has gone from its pod, whose other ones told of themselves until
    newest_s: what was in it is not there any more.
    """
    first_s, last_s = track.times_s[0], track.times_s[-1]
    interval_s = (last_s - first_s) / max(len(track.times_s) - 1, 1)
    return interval_s > 0.0 and newest_s - last_s > ENDED_INTERVALS * interval_s


def _own(gauges: Gauges, of_pod: Sequence[Track] | None, settings: WindowSettings) -> Gauges:
    """Return *gauges* with what one pod did between its first sample and its last one, if it has
    good tracks.
    """
    if not of_pod:
        return gauges
    begin_s, end_s = _span(of_pod)
    per_minute = MINUTE_S / ((end_s - begin_s) * settings.speed)
    grown = Growth(of_pod)
    total = grown.total
    ends = max(total.get("ends") or 0.0, total.get("answers") or 0.0)
    return _with_own(
        gauges,
        max(0.0, _came(of_pod, (begin_s, end_s))) * per_minute,
        ends * per_minute,
        _ttft_ms(grown),
        _itl_ms_of(grown),
    )


def _scaled(total: float | None, factor: float) -> float | None:
    return None if total is None else total * factor


def _mean(total: float | None, count: float | None, *, scale: float = 1.0) -> float | None:
    if total is None or count is None or count <= 0.0:
        return None
    return scale * total / count
