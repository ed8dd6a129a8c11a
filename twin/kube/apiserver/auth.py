"""Authentication and authorization: bearer tokens with rules, and RBAC objects. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_urlsafe
from typing import Any

from twin.kube.apiserver.errors import forbidden, unauthorized
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    Resource,
)
from twin.kube.apiserver.storage import Store

MASTERS = "system:masters"
ANYTHING = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a token may do: "*" stands for all. resources are plurals or plural/subresource; no
    namespaces: in all.
    """

    verbs: tuple[str, ...]
    resources: tuple[str, ...] = (ANYTHING,)
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user that a token stands for, until expires (None: for ever)."""

    user: str
    groups: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    expires: datetime | None = None


ADMIN = Identity(user="kubernetes-admin", groups=(MASTERS, "system:authenticated"))
ANONYMOUS = Identity(user="system:anonymous", groups=("system:unauthenticated",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a request does, to what: the attributes that rules of access are about."""

    verb: str
    resource: Resource
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def thing(self) -> str:
        """Return what it is done to, as rules name it."""
        return (
            f"{self.resource.plural}/{self.subresource}"
            if self.subresource
            else self.resource.plural
        )


class Authority:
    """Identities by token; *anonymous* is that of a client without one (kubectl over plain
    HTTP).
    """

    def __init__(
        self, store: Store, tokens: Mapping[str, Identity], *, anonymous: Identity = ANONYMOUS
    ) -> None:
        self._store = store
        self._tokens = dict(tokens)
        self._anonymous = anonymous

    def identify(self, header: str, *, now: datetime) -> Identity:
        """Return the identity behind the Authorization *header*. Raise ApiError 401 for a token
        that is unknown or has expired.
        """
        if not header:
            return self._anonymous
        scheme, _, token = header.partition(" ")
        identity = self._tokens.get(token.strip()) if scheme.lower() == "bearer" else None
        if identity is None or (identity.expires is not None and identity.expires <= now):
            raise unauthorized()
        return identity

    def issue(self, namespace: str, account: str, *, expires: datetime) -> str:
        """Return a new token of a ServiceAccount."""
        token = token_urlsafe(24)
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        )
        self._tokens[token] = Identity(
            user=f"system:serviceaccount:{namespace}:{account}", groups=groups, expires=expires
        )
        return token

    def check(self, identity: Identity, attributes: Attributes) -> None:
        """Raise ApiError 403 where *identity* may not do *attributes*."""
        if not self.allows(identity, attributes):
            group = attributes.resource.group
            where = (
                f'in the namespace "{attributes.namespace}"'
                if attributes.namespace
                else "at the cluster scope"
            )
            why = (
                f'User "{identity.user}" cannot {attributes.verb} resource "{attributes.thing}" '
                f'in API group "{group}" {where}'
            )
            raise forbidden(attributes.resource, attributes.name, why)

    def check_reading(self, identity: Identity, path: str) -> None:
        """Raise ApiError 403 where *identity* may not read *path*, which is no resource: every
        known client may.
        """
        if identity is ANONYMOUS:
            raise forbidden(None, "", f'User "{identity.user}" cannot get path "{path}"')

    def allows(self, identity: Identity, attributes: Attributes) -> bool:
        """Tell whether *identity* may do *attributes*, by its token or by the roles bound to it."""
        if MASTERS in identity.groups or any(
            _token_allows(rule, attributes) for rule in identity.rules
        ):
            return True
        return any(
            _role_allows(rule, attributes)
            for rule in self._bound_rules(identity, attributes.namespace)
        )

    def _bound_rules(self, identity: Identity, namespace: str) -> Iterator[Json]:
        bindings = [*self._store.items(CLUSTER_ROLE_BINDINGS)]
        if namespace:
            bindings += self._store.items(ROLE_BINDINGS, namespace)
        for binding in bindings:
            if any(_is_subject(subject, identity) for subject in binding.get("subjects") or ()):
                yield from self._rules_of(binding)

    def _rules_of(self, binding: Json) -> Iterable[Json]:
        role, name = binding["roleRef"], binding["roleRef"]["name"]
        if role["kind"] == "ClusterRole":
            found = self._store.get(CLUSTER_ROLES, "", name)
        else:
            found = self._store.get(ROLES, binding["metadata"].get("namespace", ""), name)
        return (found or {}).get("rules") or ()


def _token_allows(rule: Rule, attributes: Attributes) -> bool:
    return (
        _among(attributes.verb, rule.verbs)
        and _among(attributes.thing, rule.resources)
        and (not rule.namespaces or _among(attributes.namespace, rule.namespaces))
    )


def _role_allows(rule: Json, attributes: Attributes) -> bool:
    names: Sequence[Any] = rule.get("resourceNames") or ()
    things = rule.get("resources") or ()
    any_of_it = bool(attributes.subresource) and f"*/{attributes.subresource}" in things
    return (
        _among(attributes.verb, rule.get("verbs") or ())
        and _among(attributes.resource.group, rule.get("apiGroups") or ())
        and (_among(attributes.thing, things) or any_of_it)
        and (not names or attributes.name in names)
    )


def _among(word: str, words: Sequence[str]) -> bool:
    return word in words or ANYTHING in words


def _is_subject(subject: Json, identity: Identity) -> bool:
    if subject["kind"] == "ServiceAccount":
        return (
            identity.user
            == f"system:serviceaccount:{subject.get('namespace', '')}:{subject['name']}"
        )
    if subject["kind"] == "Group":
        return subject["name"] in identity.groups
    return bool(identity.user == subject["name"])
