"""Rules of access: tokens with rules, ServiceAccounts with roles, and reviews of access."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.twin.kube.clients import SPEC, START
from twin.datafile import Entry
from twin.kube.apiserver.auth import ADMIN, ANONYMOUS, Attributes, Authority, Identity
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.resources import DEPLOYMENTS, LEASES, PODS
from twin.kube.apiserver.server import Call
from twin.kube.apiserver.storage import Store
from twin.kube.cluster import TOKEN, TwinCluster
from twin.kube.files import read_tokens
from twin.spec import SpecError

TOKENS = {
    "tokens": [
        {"token": "t-admin", "user": "root", "groups": ["system:masters"]},
        {
            "token": "t-reader",
            "user": "reader",
            "rules": [
                {
                    "verbs": ["get", "list"],
                    "resources": ["deployments", "pods"],
                    "namespaces": ["infer"],
                },
                {"verbs": "patch", "resources": "deployments/scale"},
            ],
        },
    ]
}


def identity(token: str) -> Identity:
    """Return the identity that the file gives *token*."""
    return read_tokens(Entry(TOKENS, source="tokens.yaml"))[token]


@pytest.mark.parametrize(
    ("attributes", "allowed"),
    [
        (Attributes(verb="list", resource=DEPLOYMENTS, namespace="infer"), True),
        (Attributes(verb="get", resource=PODS, namespace="infer", name="p"), True),
        (Attributes(verb="list", resource=DEPLOYMENTS, namespace="other"), False),
        (Attributes(verb="list", resource=DEPLOYMENTS), False),
        (Attributes(verb="patch", resource=DEPLOYMENTS, namespace="infer", name="d"), False),
        (
            Attributes(
                verb="patch", resource=DEPLOYMENTS, subresource="scale", namespace="any", name="d"
            ),
            True,
        ),
        (Attributes(verb="get", resource=LEASES, namespace="infer", name="l"), False),
    ],
)
def test_a_token_may_do_what_its_rules_say(attributes: Attributes, allowed: bool) -> None:
    """Without a namespace in the path only a rule for all namespaces counts."""
    authority = Authority(Store(), {})
    assert authority.allows(identity("t-reader"), attributes) is allowed
    assert authority.allows(identity("t-admin"), attributes)
    assert not authority.allows(ANONYMOUS, attributes)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"token": "t-reader"}, "expected a token that no entry before it has"),
        ({"token": None}, "token: expected a text"),
        ({"user": ""}, "user: expected a text"),
        ({"groups": [1]}, "groups: expected a list of texts"),
    ],
)
def test_a_tokens_file_that_makes_no_sense_is_refused(change: dict[str, Any], line: str) -> None:
    """One line that says where."""
    entry = {"token": "t-more", "user": "more"} | change
    with pytest.raises(SpecError) as error:
        read_tokens(Entry({"tokens": [*TOKENS["tokens"], entry]}, source="tokens.yaml"))
    assert line in str(error.value)


def test_a_token_is_known_until_it_expires() -> None:
    """Tokens of ServiceAccounts do."""
    authority = Authority(Store(), {"t": ADMIN})
    now = datetime(2026, 1, 1, tzinfo=UTC)
    token = authority.issue("infer", "bob", expires=now + timedelta(seconds=60))
    found = authority.identify(f"Bearer {token}", now=now)
    assert found.user == "system:serviceaccount:infer:bob"
    assert authority.identify("bearer t", now=now) is ADMIN
    assert authority.identify("", now=now) is ANONYMOUS
    for header, later_s in ((f"Bearer {token}", 60), ("Bearer wrong", 0), ("Basic t", 0), ("t", 0)):
        with pytest.raises(ApiError) as error:
            authority.identify(header, now=now + timedelta(seconds=later_s))
        assert error.value.code == 401


class Clients:
    """A twin, asked with tokens."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.twin = TwinCluster(SPEC, clock=lambda: self.time_s, start=START, anonymous=ANONYMOUS)
        self.ask(TOKEN, "POST", "/api/v1/namespaces", '{"metadata": {"name": "infer"}}')

    def ask(self, token: str, method: str, path: str, body: str = "", **query: str) -> Any:
        """Ask with *token*; return JSON."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        call = Call(method=method, path=path, query=query, headers=headers, body=body.encode())
        return self.twin.server.answer(call).body

    def code(self, token: str, method: str, path: str, **query: str) -> int:
        """Ask with *token*; return the status."""
        try:
            self.ask(token, method, path, **query)
        except ApiError as error:
            return error.code
        return 200

    def account(self, name: str) -> str:
        """Make a ServiceAccount in infer; return a token of it that lasts a minute."""
        path = "/api/v1/namespaces/infer/serviceaccounts"
        self.ask(TOKEN, "POST", path, f'{{"metadata": {{"name": "{name}"}}}}')
        body = '{"spec": {"expirationSeconds": 60}}'
        return str(self.ask(TOKEN, "POST", f"{path}/{name}/token", body)["status"]["token"])

    def bind(self, kind: str, rules: str, subject: str) -> None:
        """Make a role of *kind* with *rules* and bind it to *subject*."""
        place = "/apis/rbac.authorization.k8s.io/v1"
        inside = "" if kind == "ClusterRole" else "namespaces/infer/"
        plural = f"{kind.lower()}s"
        self.ask(
            TOKEN,
            "POST",
            f"{place}/{inside}{plural}",
            f'{{"metadata": {{"name": "r"}}, "rules": {rules}}}',
        )
        ref = f'{{"apiGroup": "rbac.authorization.k8s.io", "kind": "{kind}", "name": "r"}}'
        body = f'{{"metadata": {{"name": "b"}}, "subjects": [{subject}], "roleRef": {ref}}}'
        self.ask(TOKEN, "POST", f"{place}/{inside}{kind.lower()}bindings", body)


BOB = '{"kind": "ServiceAccount", "name": "bob", "namespace": "infer"}'
DEPLOY = "/apis/apps/v1/namespaces/infer/deployments"


def test_a_service_account_may_do_what_its_roles_say() -> None:
    """So the manifests of the loop are tried with the rights that they grant, and no more."""
    clients = Clients()
    token = clients.account("bob")
    assert clients.code(token, "GET", DEPLOY) == 403
    rules = '[{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch"]}]'
    clients.bind("Role", rules, BOB)
    assert clients.code(token, "GET", DEPLOY) == 200
    assert clients.code(token, "GET", f"{DEPLOY}/x") == 403
    assert clients.code(token, "GET", "/apis/apps/v1/deployments") == 403
    assert clients.code(token, "GET", "/api/v1/namespaces/infer/pods") == 403
    assert clients.code(token, "GET", "/apis/apps/v1") == 200
    clients.time_s = 61.0
    clients.twin.advance()
    while clients.twin.now_s < 61.0:
        clients.twin.advance()
    assert clients.code(token, "GET", DEPLOY) == 401


@pytest.mark.parametrize(
    "subject",
    [
        BOB,
        '{"kind": "User", "name": "system:serviceaccount:infer:bob"}',
        '{"kind": "Group", "name": "system:serviceaccounts:infer"}',
    ],
)
def test_a_cluster_role_reaches_everywhere(subject: str) -> None:
    """Bound to an account, to its name as a user, or to its group."""
    clients = Clients()
    token = clients.account("bob")
    rules = '[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]'
    clients.bind("ClusterRole", rules, subject)
    assert clients.code(token, "GET", "/apis/apps/v1/deployments") == 200
    assert clients.code(token, "GET", f"{DEPLOY}/x") == 404
    assert clients.code(token, "DELETE", DEPLOY) == 403


def test_a_rule_may_be_about_one_object_and_about_a_subresource() -> None:
    """resourceNames, and deployments/scale is not deployments."""
    clients = Clients()
    token = clients.account("bob")
    rules = (
        '[{"apiGroups": ["apps"], "resources": ["deployments/scale", "*/status"], "verbs": ["get"],'
        ' "resourceNames": ["mine"]}]'
    )
    clients.bind("Role", rules, BOB)
    assert clients.code(token, "GET", f"{DEPLOY}/mine/scale") == 404
    assert clients.code(token, "GET", f"{DEPLOY}/mine/status") == 404
    assert clients.code(token, "GET", f"{DEPLOY}/other/scale") == 403
    assert clients.code(token, "GET", f"{DEPLOY}/mine") == 403


def test_who_is_unknown_may_only_ask_for_health() -> None:
    """And for the version."""
    clients = Clients()
    assert [clients.code("", "GET", path) for path in ("/healthz", "/version")] == [200, 200]
    closed = ("/api", "/apis", DEPLOY, "/openapi/v2", "/openapi/v3")
    assert [clients.code("", "GET", path) for path in closed] == [403] * len(closed)


def test_a_client_may_ask_what_it_may_do() -> None:
    """kubectl auth can-i."""
    clients = Clients()
    token = clients.account("bob")
    clients.bind(
        "Role", '[{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}]', BOB
    )

    def may(token: str, verb: str, resource: str) -> bool:
        about = (
            f'{{"verb": "{verb}", "resource": "{resource}", "group": "apps", "namespace": "infer"}}'
        )
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        body = f'{{"spec": {{"resourceAttributes": {about}}}}}'
        return bool(clients.ask(token, "POST", path, body)["status"]["allowed"])

    assert (may(token, "patch", "deployments"), may(token, "delete", "deployments")) == (
        True,
        False,
    )
    assert (may(TOKEN, "delete", "deployments"), may(TOKEN, "delete", "spaceships")) == (
        True,
        False,
    )


def test_only_administrators_steer_the_world() -> None:
    """A loop under test must not be able to switch off its faults."""
    clients = Clients()
    headers = {"authorization": f"Bearer {clients.account('bob')}"}
    with pytest.raises(ApiError) as error:
        clients.twin.server.check_master(
            Call(method="PUT", path="/twin/faults", query={}, headers=headers, body=b"")
        )
    assert error.value.code == 403
