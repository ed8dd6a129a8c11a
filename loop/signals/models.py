"""Which engines of a pod serve the model of their server: what is asked of others is no load of it;
pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from loop.signals.names import Names
from loop.signals.pods import ScrapedServer
from loop.signals.processes import MODEL_NAME, Labels, Series, told_apart
from loop.signals.together import models_of, names_of


def matched_model(names_told: Collection[str], known: Collection[str]) -> str:
    """Return which model an engine serves that calls what it serves *names_told* (adapters have
    names of their own): one of those *known* to the data, by its name or by the part behind its
    organisation. "" if that is not one model.
    """
    if not known:
        return next(iter(names_told)) if len(names_told) == 1 else ""
    found = {told for told in names_told if told in known}
    if not found:
        short = {told.rpartition("/")[2].lower() for told in names_told}
        found = {model for model in known if model.rpartition("/")[2].lower() in short}
    return found.pop() if len(found) == 1 else ""


class Own(NamedTuple):
    """The series of the pods of a server that are of engines of its model, and which models
    *further* engines of these pods serve. No series where nobody can tell which are its own.
    """

    pods: dict[str, Sequence[Series]]
    further: frozenset[str] = frozenset()


class OwnEngines:
    """Tells the engines of servers apart by what they call their models, look after look: engines
    that were seen beside those of a server are none of its own when they tell alone, and may tell
    again, as long as one of the pods is there in which they were seen.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._further: dict[str, tuple[frozenset[str], frozenset[str]]] = {}  # and in which pods

    def further(self, server: str) -> frozenset[str]:
        """Return which models further engines in the pods of *server* serve."""
        return self._further.get(server, (frozenset[str](), ()))[0]

    def of(
        self, server: ScrapedServer, pods: dict[str, Sequence[Series]]
    ) -> dict[str, Sequence[Series]]:
        """Return of the series of its *pods* those of the own engines of *server*."""
        known, beside = self._further.pop(server.name, (frozenset[str](), frozenset[str]()))
        beside &= {pod.name for pod in server.pods}
        if not beside:
            known = frozenset()
        told = frozenset[str]().union(*map(models_of, pods.values()))
        if len(told) < 2 and not known:
            return pods  # as nearly always
        own = own_engines(pods, models=server.models, names=self._names, further=known)
        known |= own.further
        if known:
            beside |= {pod for pod, of in pods.items() if not known.isdisjoint(models_of(of))}
            self._further[server.name] = (known, beside)
        return own.pods


def own_engines(
    pods: dict[str, Sequence[Series]],
    *,
    models: Collection[str],
    names: Names,
    further: Collection[str] = (),
) -> Own:
    """Return which of the series of *pods* are of engines that serve the model of their server:
    that one of *models* which names an engine in them. *further* are models that are known to be
    others'.

    An engine that names no model is its own, and so are all if no pod has engines of several.
    """
    engines = {pod: _engines(series, names) for pod, series in pods.items()}
    called = {one.called for of_pod in engines.values() for one in of_pod if one.called}
    beside = any(len({one.called for one in of if one.called}) > 1 for of in engines.values())
    if not beside and not any(name <= set(further) for name in called):
        return Own(pods)
    matched = {name: matched_model(name, models) if models else "" for name in called}
    # A rollout may give one model another name; engines of one pod serve several.
    if len({model for model in matched.values() if model}) != 1:
        return Own(dict.fromkeys(pods, ()), frozenset().union(*called))
    others = frozenset().union(*(name for name in called if not matched[name]))
    return Own(
        {
            pod: [
                pods[pod][place]
                for one in of
                if not one.called or matched[one.called]
                for place in one.places
            ]
            for pod, of in engines.items()
        },
        others,
    )


class _Engine(NamedTuple):
    """What may be one engine: the places of its series, and what it calls its models."""

    called: frozenset[str]
    places: list[int]


def _engines(series: Sequence[Series], names: Names) -> list[_Engine]:
    """Return the engines of one pod, by the labels of their series: each has a KV cache of its own,
    where a page tells of several under names of models (those of adapters have none).
    """
    targets: dict[Labels, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    called = names_of(series)
    for place, (_, labels) in enumerate(called):
        part = told_apart(labels)
        targets[part.target][dict(part.own).get(MODEL_NAME, "")].append(place)
    found = []
    for by_model in targets.values():
        caches = [
            model
            for model, of in by_model.items()
            if model and _has_cache((called[place].metric for place in of), names)
        ]
        if len(caches) < 2:
            every = [place for of in by_model.values() for place in of]
            found.append(_Engine(frozenset(by_model) - {""}, every))
            continue
        found += [_Engine(frozenset({model}), by_model[model]) for model in caches]
        found.append(_Engine(frozenset(), by_model.get("", [])))
    return found


def _has_cache(metrics: Iterable[str], names: Names) -> bool:
    return any(
        quantity == "kv_usage" for metric in metrics for quantity, _ in names.ranks.get(metric, ())
    )
