"""The API server without its world: a request in, an answer out. Identity, access, verbs, watches,
discovery.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from twin.kube.apiserver import discovery
from twin.kube.apiserver.auth import MASTERS, Attributes, Authority, Identity
from twin.kube.apiserver.errors import ApiError, bad_request, forbidden, no_such_path, not_found
from twin.kube.apiserver.listwatch import Watcher
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.printers import Form, forms, shaped
from twin.kube.apiserver.request import (
    Target,
    WriteOptions,
    parsed,
    target_of,
    verb_of,
    whole,
    write_options,
)
from twin.kube.apiserver.resources import ACCESS_REVIEWS, PODS, RESOURCES, SERVICE_ACCOUNTS
from twin.kube.apiserver.rest import Answer, Rest
from twin.kube.apiserver.storage import Commits, Dates, date_text

BODY_BYTES_MAX = 3 * 1024 * 1024
HEALTH = ("/healthz", "/livez", "/readyz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as it came; headers by lower-case name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """Return the type of the body, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to answer: JSON, a text, bytes, or a stream of JSON lines."""

    body: Json | None = None
    data: bytes | None = None
    text: str | None = None
    stream: AsyncIterator[Json] | None = None
    code: int = 200
    warnings: tuple[str, ...] = ()
    media_type: str = "application/json"


class PodAccess(Protocol):
    """What can be read from a pod that runs. Both raise ApiError where it cannot."""

    def log(self, namespace: str, name: str) -> str:
        """Return what it wrote."""
        ...

    def pod_page(self, namespace: str, name: str, path: str) -> str:
        """Return what it answers to a GET of *path*."""
        ...


class ApiServer:
    """Answers calls; all in one thread."""

    def __init__(
        self, commits: Commits, authority: Authority, *, pods: PodAccess, dates: Dates
    ) -> None:
        self._commits = commits
        self._authority = authority
        self._pods = pods
        self._now = dates.now
        self._rest = Rest(commits)
        self._watchers: set[Watcher] = set()

    def close(self) -> None:
        """End all watches. May be called by any thread."""
        for watcher in tuple(self._watchers):
            watcher.close()

    def identify(self, call: Call) -> Identity:
        """Return the identity of the client. Raise ApiError 401 for a bad token."""
        return self._authority.identify(call.headers.get("authorization", ""), now=self._now())

    def answer(self, call: Call) -> Reply:
        """Do what *call* asks. Raise ApiError where it cannot be done."""
        if call.path in HEALTH or call.path.startswith(tuple(f"{path}/" for path in HEALTH)):
            return Reply(text="ok")
        if call.path == "/version":
            return Reply(body=discovery.server_version())
        identity = self.identify(call)
        if call.path == "/openapi/v2":
            self._authority.check_reading(identity, call.path)
            return _openapi_v2(call.headers.get("accept", ""))
        described = self._described(call)
        if described is not None:
            self._authority.check_reading(identity, call.path)
            # The client tells by the type, not by the body, whether it got the aggregated form.
            kind = (
                discovery.AGGREGATED_TYPE
                if described.get("kind") == discovery.AGGREGATED
                else "application/json"
            )
            return Reply(body=described, media_type=kind)
        return self._on_resource(call, identity)

    def check_master(self, call: Call) -> None:
        """Raise ApiError if the client of *call* is not an administrator."""
        identity = self.identify(call)
        if MASTERS not in identity.groups:
            raise forbidden(
                None, "", f'User "{identity.user}" cannot {call.method.lower()} path "{call.path}"'
            )

    # -- what there is

    def _described(self, call: Call) -> Json | None:
        """Return the answer to a path that is about the API itself, None where it is about
        resources.
        """
        parts = call.path.strip("/").split("/")
        if call.path == "/openapi/v3":
            return discovery.openapi_index()
        if parts[:2] == ["openapi", "v3"]:
            return _there(discovery.openapi_document("/".join(parts[2:])))
        if parts in (["api"], ["apis"]):
            form = forms(call.headers.get("accept", ""))
            if form.kind == discovery.AGGREGATED and form.version == "v2":
                return discovery.aggregated(core=parts == ["api"])
            return discovery.core_versions() if parts == ["api"] else discovery.groups()
        if len(parts) == 2 and parts[0] == "api":
            return _there(discovery.resource_list("", parts[1]))
        if len(parts) == 2 and parts[0] == "apis":
            return _there(discovery.group(parts[1]) if discovery.has_group(parts[1]) else None)
        if len(parts) == 3 and parts[0] == "apis":
            return _there(discovery.resource_list(parts[1], parts[2]))
        if parts[0] not in ("api", "apis"):
            raise no_such_path()
        return None

    # -- resources

    def attributes(self, call: Call) -> tuple[Target, Attributes]:
        """Return what *call* does, and to what. Raise ApiError where there is no such
        thing.
        """
        target = target_of(call.path)
        verb = verb_of(call.method, target, call.query)
        name = target.name.split(":")[0] if target.subresource == "proxy" else target.name
        return target, Attributes(
            verb=verb,
            resource=target.resource,
            subresource=target.subresource,
            namespace=target.namespace,
            name=name,
        )

    def _on_resource(self, call: Call, identity: Identity) -> Reply:
        target, attributes = self.attributes(call)
        if target.resource is not ACCESS_REVIEWS:
            self._authority.check(identity, attributes)
        metadata = (
            "PartialObjectMetadataList" if attributes.verb == "list" else "PartialObjectMetadata"
        )
        # Before anything is done: a client that cannot read the answer must not have changed
        # anything.
        form = forms(call.headers.get("accept", ""), offered=("Table", metadata))
        if attributes.verb in ("get", "list", "watch"):
            return self._read(call, target, attributes.verb, form)
        options = write_options(call.query, agent=call.headers.get("user-agent", ""))
        if target.subresource in ("token", "eviction") or target.resource is ACCESS_REVIEWS:
            return self._special(call, target, identity, options)
        answer = self._written(call, target, attributes.verb, options)
        return self._replied(answer, call, target, form)

    def _read(self, call: Call, target: Target, verb: str, form: Form) -> Reply:
        if target.subresource == "log":
            return Reply(text=self._pods.log(target.namespace, target.name))
        if target.subresource == "proxy":
            # The name may say scheme and port: there is only one.
            names = [
                part
                for part in target.name.split(":")
                if part not in ("http", "") and not part.isdecimal()
            ]
            return Reply(
                text=self._pods.pod_page(target.namespace, "".join(names[:1]), f"/{target.rest}")
            )
        if verb == "watch":
            return self._watched(call, target, form)
        if verb == "list":
            return self._replied(self._rest.list(target, call.query), call, target, form)
        return self._replied(self._rest.get(target), call, target, form)

    def _watched(self, call: Call, target: Target, form: Form) -> Reply:
        query = dict(call.query)
        if target.name:
            query["fieldSelector"] = f"metadata.name={target.name}"
        watcher = Watcher(self._commits.store, target.resource, target.namespace, query)
        return Reply(stream=self._shaped_events(watcher, target, form, query))

    async def _shaped_events(
        self, watcher: Watcher, target: Target, form: Form, query: Mapping[str, str]
    ) -> AsyncIterator[Json]:
        header = True
        self._watchers.add(watcher)
        try:
            async for event in watcher.events():
                obj = shaped(
                    event["object"],
                    form,
                    target.resource,
                    now=self._now(),
                    query=query,
                    header=header,
                )
                header = header and event["type"] == "BOOKMARK"
                yield {"type": event["type"], "object": obj}
        finally:
            self._watchers.discard(watcher)

    def _written(self, call: Call, target: Target, verb: str, options: WriteOptions) -> Answer:
        if verb == "patch":
            return self._rest.patch(target, call.body, options, media_type=call.media_type)
        body = parsed(call.body, call.media_type)
        if verb == "create":
            return self._rest.create(target, body, options)
        if verb == "update":
            return self._rest.update(target, body, options)
        if verb == "delete":
            return self._rest.delete(target, body, call.query, options)
        return self._rest.delete_all(target, call.query, options)

    def _replied(self, answer: Answer, call: Call, target: Target, form: Form) -> Reply:
        body = shaped(answer.body, form, target.resource, now=self._now(), query=call.query)
        return Reply(body=body, code=answer.code, warnings=answer.warnings)

    # -- what only looks like a resource

    def _special(
        self, call: Call, target: Target, identity: Identity, options: WriteOptions
    ) -> Reply:
        body = parsed(call.body, call.media_type)
        if not isinstance(body, dict):
            raise bad_request("expected an object")
        if target.resource is ACCESS_REVIEWS:
            return Reply(body=self._review(body, identity), code=201)
        owner = self._commits.store.get(target.resource, target.namespace, target.name)
        if owner is None:
            raise not_found(target.resource, target.name)
        if target.resource is SERVICE_ACCOUNTS:
            return Reply(body=self._token(body, target), code=201)
        assert target.resource is PODS
        self._rest.delete(target, body.get("deleteOptions"), {}, options)
        return Reply(
            body={"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"},
            code=201,
        )

    def _token(self, body: Json, target: Target) -> Json:
        seconds = (
            whole({"s": str((body.get("spec") or {}).get("expirationSeconds") or 3600)}, "s") or 0
        )
        expires = self._now() + timedelta(seconds=seconds)
        token = self._authority.issue(target.namespace, target.name, expires=expires)
        status = {"token": token, "expirationTimestamp": date_text(expires)}
        metadata = {"name": target.name, "namespace": target.namespace}
        return {**body, "metadata": metadata, "status": status}

    def _review(self, body: Json, identity: Identity) -> Json:
        asked: Mapping[str, Any] = (body.get("spec") or {}).get("resourceAttributes") or {}
        # Who asks of no version asks of all.
        resource = next(
            (
                one
                for one in RESOURCES
                if (one.group, one.plural) == (asked.get("group", ""), asked.get("resource", ""))
                and asked.get("version") in (None, "", "*", one.version)
            ),
            None,
        )
        allowed = resource is not None and self._authority.allows(
            identity,
            Attributes(
                verb=asked.get("verb", ""),
                resource=resource,
                subresource=asked.get("subresource", ""),
                namespace=asked.get("namespace", ""),
                name=asked.get("name", ""),
            ),
        )
        return {**body, "metadata": {"creationTimestamp": None}, "status": {"allowed": allowed}}


def status_text(error: ApiError) -> str:
    """Return the body of the answer to a call that fails."""
    return json.dumps(error.status())


def _openapi_v2(accept: str) -> Reply:
    if "proto-openapi" in accept:
        data = discovery.openapi_v2_protobuf()
        return Reply(data=data, media_type=discovery.OPENAPI_V2_PROTOBUF)
    return Reply(body=discovery.openapi_v2())


def _there(document: Json | None) -> Json:
    if document is None:
        raise no_such_path()
    return document
