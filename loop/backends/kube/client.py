"""The calls of the loop to an API server: raw JSON in and out, every one with a timeout, few
repetitions, one error.

The official client is used for configuration, credentials and transport, and not for its models:
parsing those takes twice the time.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

import kubernetes.client as official
import urllib3
import yaml
from kubernetes import config as official_config
from kubernetes.client.exceptions import ApiException

from loop.backends.fetch import MOVED, retry_after_s
from loop.backends.kube import labels
from loop.backends.kube.kinds import KINDS, OTHER_KINDS
from loop.backends.kube.objects import Object, continue_of, texts_of
from loop.backends.kube.transport import ANSWER_BYTES_MAX, WholeAnswers
from loop.errors import LoopError, SpecError
from twin.datafile import unreadable
from twin.magnitudes import whole

if TYPE_CHECKING:
    from loop.ports import Clock

Json = dict[str, Any]

UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"
MISLABELLED = f"{labels.MANAGED},{labels.MANAGED} notin (true,false)"
GONE, PAGES_MAX = 410, 1000
# Each part of a list may take as long as an answer; a thousand of them would take hours.
ANSWERS_OF_A_LIST = 4.0
REPEATABLE = (429, 500, 502, 503, 504)
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT = 401, 403, 404, 409


class ApiError(LoopError):
    """An API server refused, with its status, or did not answer: status 0. untrusted: its
    certificate is signed by nobody that we know, or ours by nobody that it knows.
    """

    def __init__(
        self, message: str, *, status: int, retry_after_s: float = 0.0, untrusted: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.untrusted = untrusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for an API server: for a connection, an answer, between attempts (doubled
    each time), in all.
    """

    connect_s: float = 3.0
    read_s: float = 10.0
    attempts: int = 4
    pause_s: float = 0.1
    pause_max_s: float = 2.0
    total_s: float = 25.0


class Reply(Protocol):
    """A raw answer."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return its headers, by names in any case."""
        ...

    @property
    def data(self) -> bytes:
        """Read the body."""
        ...


def connect(kubeconfig: str = "", *, context: str = "", connections: int = 8) -> official.ApiClient:
    """Return a client of the cluster of *kubeconfig*; without one: of the pod's own, else of the
    default file.

    Raise SpecError, one line, where there is no such thing.
    """
    settings = official.Configuration()
    configs: Any = official_config  # its functions have no types
    try:
        if kubeconfig or context:
            configs.load_kube_config(
                config_file=kubeconfig or None,
                context=context or None,
                client_configuration=settings,
            )
        else:
            _load_found(configs, settings)
    except (
        official_config.ConfigException,
        OSError,
        yaml.YAMLError,
        AttributeError,  # the official client takes a text for an object
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        where = kubeconfig or "kubernetes"
        found = unreadable(error)
        if kubeconfig and os.pathsep not in kubeconfig and not os.path.lexists(kubeconfig):
            found = "no such file"
        elif isinstance(error, AttributeError | IndexError | KeyError | TypeError):
            found = "a file that is no kubeconfig"
        elif not kubeconfig and "No configuration found" in found:
            found = "no kubeconfig: give --kubeconfig FILE, or export KUBECONFIG"
        raise SpecError(f"{where}: expected a cluster to talk to, found {found}") from error
    if _is_loopback(settings.host) and settings.proxy in getproxies().values():
        # As kubectl does: a proxy of the environment cannot reach this machine.
        settings.proxy = None
    # GETs would be repeated in silence three times, each with the full timeout.
    settings.retries = False
    settings.connection_pool_maxsize = connections
    client: Any = official.ApiClient(settings)
    client.rest_client.pool_manager = WholeAnswers(client.rest_client.pool_manager)
    made: official.ApiClient = client
    return made


def _is_loopback(host: str) -> bool:
    name = urlsplit(host).hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _load_found(configs: Any, settings: official.Configuration) -> None:
    try:
        configs.load_incluster_config(client_configuration=settings)
    except official_config.ConfigException:
        configs.load_kube_config(client_configuration=settings)


def ask_version(kubeconfig: str = "", *, timeout_s: float = 3.0) -> None:
    """Ask the cluster of *kubeconfig* for its version, once. Return if it answers, if only to
    refuse.

    Raise SpecError where there is no such cluster, ApiError if there is no answer.
    """
    api: Any = connect(kubeconfig)
    try:
        official.VersionApi(api).get_code(_request_timeout=(timeout_s, timeout_s))
    except ApiException as error:
        if not error.status:
            raise ApiError(f"get version: {_one_line(error)}", status=0) from error
    except urllib3.exceptions.HTTPError as error:
        raise ApiError(f"get version: no answer: {_one_line(error)}", status=0) from error
    finally:
        api.close()


class KubeClient:
    """One API server. *connector* makes the client, and makes it anew when its credentials were
    refused.

    Any thread may call. `calls` counts requests by verb and resource, repeated ones included.
    """

    def __init__(
        self,
        connector: Callable[[], official.ApiClient],
        *,
        clock: Clock,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self._connector = connector
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._epoch_s: float | None = None
        self._fresh_epoch_s: float | None = None  # of the answers since it was asked for
        self._api = connector()

    def close(self) -> None:
        """End pauses between attempts, and let go of the connections."""
        self._closed.set()
        api: Any = self._api
        api.close()

    def take_epoch_s(self) -> float | None:
        """Return the date of second 0 of the clock [Unix time] by that of the cluster, as answers
        have told since this was asked last, else as they told before. None if none ever has.
        """
        fresh_s, self._fresh_epoch_s = self._fresh_epoch_s, None
        self._epoch_s = self._epoch_s if fresh_s is None else fresh_s
        return self._epoch_s

    def deployments(self, namespace: str = "") -> list[Json]:
        """Return the managed Deployments of *namespace*, of all of them when it is empty: one
        call.
        """
        return self._list("deployments", namespace, label_selector=labels.SELECTOR)

    def deployment_texts(self, namespace: str = "", *, once: bool = False) -> list[Object]:
        """Return as `deployments` does, each as its text, where the list can be cut into these; try
        only *once* if so told.
        """
        return self._listed("deployments", namespace, once=once, label_selector=labels.SELECTOR)

    def all_deployments(self, namespace: str = "") -> list[Json]:
        """Return the Deployments of *namespace*, managed or not, of all of them when it is
        empty.
        """
        return self._list("deployments", namespace)

    def replica_sets(self, namespace: str = "") -> list[Json]:
        """Return the ReplicaSets of *namespace*, of all of them when it is empty: one call. An
        empty list where they may not be listed.
        """
        return self._list_if_allowed("replicasets", namespace)

    def version(self) -> str:
        """Return the version of the API server."""
        answer = self._json("get version", lambda api: official.VersionApi(api).get_code)
        return str(answer.get("gitVersion") or "unknown")

    def may(self, verb: str, group: str, resource: str, *, namespace: str = "") -> bool:
        """Tell whether this client is allowed to do *verb* to *resource* (pods, pods/proxy) of
        *namespace*, of all of them when it is empty.
        """
        plural, _, part = resource.partition("/")
        about = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
        if part:
            about["subresource"] = part
        answer = self._json(
            "create selfsubjectaccessreviews",
            lambda api: official.AuthorizationV1Api(api).create_self_subject_access_review,
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": about},
            },
        )
        return bool((answer.get("status") or {}).get("allowed"))

    def pods(self, namespace: str = "") -> list[Json]:
        """Return the pods of *namespace* that have not finished, of all of them when it is empty:
        one call.
        """
        return self._list("pods", namespace, field_selector=UNFINISHED)

    def pod_texts(self, namespace: str = "", *, once: bool = False) -> list[Object]:
        """Return as `pods` does, each as its text, where the list can be cut into these; try only
        *once* if so told.
        """
        return self._listed("pods", namespace, once=once, field_selector=UNFINISHED)

    def autoscalers(self, namespace: str = "") -> list[Json]:
        """Return the HorizontalPodAutoscalers of *namespace*, of all of them when it is empty: one
        call. Those of KEDA are such, too.
        """
        return self._list("horizontalpodautoscalers", namespace)

    def scaled_objects(self, namespace: str = "") -> list[Json]:
        """Return the ScaledObjects of KEDA in *namespace*, in all of them when it is empty: one
        call. An empty list where there is no KEDA, or they may not be listed: what it scales by is
        an autoscaler that can.
        """
        return self._list_if_allowed("scaledobjects", namespace)

    def left_alone(self, namespace: str = "") -> list[Json]:
        """Return what has the label of what is managed in *namespace*, in all of them when it is
        empty, and is not looked after, for its value or its kind: one call a kind. Nothing of a
        kind that the cluster does not have, or that may not be listed.
        """
        asked = {"deployments": MISLABELLED, **dict.fromkeys(OTHER_KINDS, labels.SELECTOR)}
        return [
            {**one, "kind": OTHER_KINDS.get(plural, "Deployment")}
            for plural, selector in asked.items()
            for one in self._list_if_allowed(plural, namespace, label_selector=selector)
        ]

    def disruption_budgets(self, namespace: str = "") -> list[Json]:
        """Return the PodDisruptionBudgets of *namespace*, of all of them when it is empty: one
        call. An empty list where they may not be listed.
        """
        return self._list_if_allowed("poddisruptionbudgets", namespace)

    def nodes(self) -> list[Json]:
        """Return the nodes: one call."""
        return self._list("nodes", "")

    def deployment(self, namespace: str, name: str) -> Json:
        """Return one Deployment."""
        return self._json(
            "get deployments",
            lambda api: official.AppsV1Api(api).read_namespaced_deployment,
            name,
            namespace,
        )

    def is_gone(self, namespace: str) -> bool:
        """Tell whether there is no *namespace*, by what a single try says of it."""
        try:
            self._call(
                "get namespaces",
                lambda api: official.CoreV1Api(api).read_namespace,
                namespace,
                once=True,
            )
        except ApiError as error:
            return error.status == NOT_FOUND
        return False

    def config_map(self, namespace: str, name: str) -> Json:
        """Return one ConfigMap."""
        return self._json(
            "get configmaps",
            lambda api: official.CoreV1Api(api).read_namespaced_config_map,
            name,
            namespace,
        )

    def patch_deployment(
        self,
        namespace: str,
        name: str,
        body: Json,
        *,
        manager: str,
        go_on: Callable[[], bool] = lambda: True,
    ) -> Json:
        """Change a Deployment by a strategic merge and return it; try again only while *go_on*
        allows.
        """
        return self._json(
            "patch deployments",
            lambda api: official.AppsV1Api(api).patch_namespaced_deployment,
            name,
            namespace,
            body,
            go_on=go_on,
            field_manager=manager,
        )

    def patch_pod(self, namespace: str, name: str, body: Json, *, manager: str) -> None:
        """Change a pod by a strategic merge."""
        self._json(
            "patch pods",
            lambda api: official.CoreV1Api(api).patch_namespaced_pod,
            name,
            namespace,
            body,
            field_manager=manager,
        )

    def create_event(self, namespace: str, body: Json) -> None:
        """Tell of something that happened to an object; once, since a repetition would tell it
        twice.
        """
        self._json(
            "create events",
            lambda api: official.CoreV1Api(api).create_namespaced_event,
            namespace,
            body,
            once=True,
        )

    def lease(self, namespace: str, name: str) -> Json:
        """Return one Lease. Asked for once, as all that is about Leases: who contends asks again
        soon by itself.
        """
        return self._json(
            "get leases",
            lambda api: official.CoordinationV1Api(api).read_namespaced_lease,
            name,
            namespace,
            once=True,
        )

    def create_lease(self, namespace: str, body: Json) -> Json:
        """Create a Lease; ApiError with status 409 where there is one."""
        return self._json(
            "create leases",
            lambda api: official.CoordinationV1Api(api).create_namespaced_lease,
            namespace,
            body,
            once=True,
        )

    def replace_lease(self, namespace: str, name: str, body: Json) -> Json:
        """Replace a Lease; ApiError with status 409 where it has changed since *body* was read."""
        return self._json(
            "update leases",
            lambda api: official.CoordinationV1Api(api).replace_namespaced_lease,
            name,
            namespace,
            body,
            once=True,
        )

    def pod_page(
        self, namespace: str, name: str, *, port: int, path: str, tls: bool = False
    ) -> str:
        """Return what a pod answers at *port* and *path*, through the API server, which asks it by
        HTTPS if *tls*. Asked for once.
        """
        try:
            page = self._call(
                "proxy pods",
                lambda api: official.CoreV1Api(api).connect_get_namespaced_pod_proxy_with_path,
                f"{'https:' * tls}{name}:{port}",
                namespace,
                path.lstrip("/"),
                once=True,
            )
        except ApiError as error:
            # Frameworks show a page that is mounted behind a further slash only.
            if error.status in MOVED and not path.endswith("/"):
                return self.pod_page(namespace, name, port=port, path=f"{path}/", tls=tls)
            raise
        return page.decode("utf-8", errors="replace")

    def _list(self, plural: str, namespace: str, **query: str) -> list[Json]:
        texts = self._list_texts(plural, namespace, **query)
        return [item for text in texts for item in _items(_parsed(f"list {plural}", text))]

    def _list_if_allowed(self, plural: str, namespace: str, **query: str) -> list[Json]:
        try:
            return self._list(plural, namespace, **query)
        except ApiError as error:
            if error.status in (FORBIDDEN, NOT_FOUND):
                return []
            raise

    def _listed(
        self, plural: str, namespace: str, *, once: bool = False, **query: str
    ) -> list[Object]:
        found: list[Object] = []
        for text in self._list_texts(plural, namespace, once=once, **query):
            cut = texts_of(text)
            found += _items(_parsed(f"list {plural}", text)) if cut is None else cut
        return found

    def _list_texts(self, plural: str, namespace: str, **query: Any) -> list[bytes]:
        """Return the pages of a list: it is asked for whole, but a proxy may give it in parts. If
        it is too old to be gone on with (410), it is asked for once more from the begin. All parts
        together are no longer than one answer may be, and take no more time than some may.
        """
        end_s = self._clock.now_s() + ANSWERS_OF_A_LIST * self._timeouts.total_s
        for last in (False, True):
            texts = [self._list_text(plural, namespace, **query)]
            try:
                while (token := continue_of(texts[-1])) and len(texts) < PAGES_MAX:
                    if self._clock.now_s() > end_s or sum(map(len, texts)) > ANSWER_BYTES_MAX:
                        most = f"more than {ANSWER_BYTES_MAX >> 20} MiB"
                        text = f"list {plural}: its parts take too long, or {most}"
                        raise ApiError(text, status=0)
                    texts.append(self._list_text(plural, namespace, **query, _continue=token))
            except ApiError as error:
                if last or error.status != GONE:
                    raise
                continue
            if token:
                raise ApiError(f"list {plural}: expected at most {PAGES_MAX} parts", status=0)
            return texts
        raise AssertionError("the second try returns or raises")

    def _list_text(self, plural: str, namespace: str, **query: Any) -> bytes:
        kind = KINDS[plural]
        name, where = (kind.of_one, (namespace,)) if namespace else (kind.of_all, ())

        def method(api: official.ApiClient) -> Callable[..., Any]:
            found: Callable[..., Any] = getattr(getattr(official, kind.group)(api), name)
            return found

        return self._call(f"list {plural}", method, *kind.before, *where, *kind.behind, **query)

    def _json(
        self,
        what: str,
        method: Callable[[official.ApiClient], Callable[..., Any]],
        *args: Any,
        **query: Any,
    ) -> Json:
        return _parsed(what, self._call(what, method, *args, **query))

    def _call(
        self,
        what: str,
        method: Callable[[official.ApiClient], Callable[..., Any]],
        *args: Any,
        once: bool = False,
        go_on: Callable[[], bool] = lambda: True,
        **query: Any,
    ) -> bytes:
        """Return the body of an answer. What may pass is tried again, within the timeouts."""
        timeouts, begin_s = self._timeouts, self._clock.now_s()
        attempts = 1 if once else timeouts.attempts
        for attempt in range(1, attempts + 1):
            left_s = timeouts.total_s - (self._clock.now_s() - begin_s)
            api = self._api
            try:
                return self._try(
                    what, method(api), *args, read_s=min(timeouts.read_s, max(left_s, 0.1)), **query
                )
            except ApiError as error:
                if (error.status == UNAUTHORIZED or error.untrusted) and attempt == 1:
                    # The next attempt has what the files of token and certificates hold by now, if
                    # that is what was wrong.
                    self._reconnect(api, error)
                    if not once:
                        continue
                pause_s = max(
                    min(timeouts.pause_s * 2 ** (attempt - 1), timeouts.pause_max_s),
                    error.retry_after_s,
                )
                out_of_time = self._clock.now_s() - begin_s + pause_s >= timeouts.total_s
                last = attempt == attempts or error.status not in (0, *REPEATABLE)
                if last or out_of_time or self._closed.wait(pause_s) or not go_on():
                    raise
        raise AssertionError("the last attempt answers or raises")

    def _try(
        self, what: str, method: Callable[..., Any], *args: Any, read_s: float, **query: Any
    ) -> bytes:
        self.calls[what] += 1
        try:
            reply: Reply = _unchecked(method)(
                *args,
                **query,
                _preload_content=False,
                _request_timeout=(self._timeouts.connect_s, read_s),
            )
            self._note_date(reply.headers)
            return reply.data
        except ApiException as error:
            raise _refused(what, error) from error
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{what}: no answer: {_one_line(error)}", status=0) from error

    def _note_date(self, headers: Mapping[str, str]) -> None:
        """Note what an answer says of the clock of the cluster: whole seconds, cut, and from before
        it came whole, so the latest of several is the nearest.
        """
        try:
            date_s = parsedate_to_datetime(headers["Date"]).timestamp() + 0.5
        except (KeyError, OverflowError, TypeError, ValueError):
            return
        age_s = whole(headers.get("Age") or "") or 0  # if somebody had kept the answer
        epoch_s, before_s = date_s + age_s - self._clock.now_s(), self._fresh_epoch_s
        self._fresh_epoch_s = epoch_s if before_s is None else max(before_s, epoch_s)

    def _reconnect(self, used: official.ApiClient, refused: ApiError) -> None:
        """Connect with the present credentials in place of those *used*. Raise ApiError if they
        cannot be read just now: whoever renews them may be writing them.
        """
        with self._lock:
            if self._api is not used:
                return
            try:
                self._api = self._connector()
            except SpecError as problem:
                text = f"{refused}; its present credentials: {problem}"
                raise ApiError(text, status=refused.status) from problem


def _unchecked(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a *method* of the official client without its look through the types of what it is
    given, which is an eighth of a patch: these are ours.
    """
    function = getattr(method, "__wrapped__", None)
    return method if function is None else partial(function, getattr(method, "__self__", None))


def _parsed(what: str, text: bytes) -> Json:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ApiError(f"{what}: expected a JSON object, found {text[:60]!r}", status=0)
    return answer


def _items(answer: Json) -> list[Json]:
    items = answer.get("items")
    if items is None and "items" in answer and str(answer.get("kind")).endswith("List"):
        return []  # as servers in Go write a list of none
    if not isinstance(items, list):
        raise ApiError(f"expected a list, found {json.dumps(answer)[:60]}", status=0)
    return items


def _refused(what: str, error: ApiException) -> ApiError:
    """Return the refusal in one line: what the Status says, else what HTTP says."""
    body = error.body
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else body or ""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = str(error.reason or "")
    status = int(error.status or 0)
    return ApiError(
        f"{what}: {status} {' '.join(message.split())[:300]}",
        status=status,
        retry_after_s=retry_after_s(error.headers or {}) if status in REPEATABLE else 0.0,
        untrusted=status == 0,  # the official client tells of TLS alone so
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
