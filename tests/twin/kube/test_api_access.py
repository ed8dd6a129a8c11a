"""Who may do what: tokens with rules, ServiceAccounts with roles, and reviews of access."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.twin.kube.desks import SPEC, START
from twin.datafile import Entry
from twin.kube.apiserver.authority import ADMIN, ANONYMOUS, Authority, Deed, Identity, read_tokens
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.resources import DEPLOYMENTS, LEASES, PODS
from twin.kube.apiserver.server import Call
from twin.kube.apiserver.store import Store
from twin.kube.twincluster import TOKEN, TwinCluster
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
    """Return who has *token* by the file."""
    return read_tokens(Entry(TOKENS, source="tokens.yaml"))[token]


@pytest.mark.parametrize(
    ("deed", "allowed"),
    [
        (Deed(verb="list", resource=DEPLOYMENTS, namespace="infer"), True),
        (Deed(verb="get", resource=PODS, namespace="infer", name="p"), True),
        (Deed(verb="list", resource=DEPLOYMENTS, namespace="other"), False),
        (Deed(verb="list", resource=DEPLOYMENTS), False),
        (Deed(verb="patch", resource=DEPLOYMENTS, namespace="infer", name="d"), False),
        (
            Deed(
                verb="patch", resource=DEPLOYMENTS, subresource="scale", namespace="any", name="d"
            ),
            True,
        ),
        (Deed(verb="get", resource=LEASES, namespace="infer", name="l"), False),
    ],
)
def test_a_token_may_do_what_its_rules_say(deed: Deed, allowed: bool) -> None:
    """Without a namespace in the path only a rule for all namespaces counts."""
    authority = Authority(Store(), {})
    assert authority.allows(identity("t-reader"), deed) is allowed
    assert authority.allows(identity("t-admin"), deed)
    assert not authority.allows(ANONYMOUS, deed)


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


class Office:
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
    office = Office()
    token = office.account("bob")
    assert office.code(token, "GET", DEPLOY) == 403
    rules = '[{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch"]}]'
    office.bind("Role", rules, BOB)
    assert office.code(token, "GET", DEPLOY) == 200
    assert office.code(token, "GET", f"{DEPLOY}/x") == 403
    assert office.code(token, "GET", "/apis/apps/v1/deployments") == 403
    assert office.code(token, "GET", "/api/v1/namespaces/infer/pods") == 403
    assert office.code(token, "GET", "/apis/apps/v1") == 200
    office.time_s = 61.0
    office.twin.advance()
    while office.twin.now_s < 61.0:
        office.twin.advance()
    assert office.code(token, "GET", DEPLOY) == 401


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
    office = Office()
    token = office.account("bob")
    rules = '[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]'
    office.bind("ClusterRole", rules, subject)
    assert office.code(token, "GET", "/apis/apps/v1/deployments") == 200
    assert office.code(token, "GET", f"{DEPLOY}/x") == 404
    assert office.code(token, "DELETE", DEPLOY) == 403


def test_a_rule_may_be_about_one_object_and_about_a_subresource() -> None:
    """resourceNames, and deployments/scale is not deployments."""
    office = Office()
    token = office.account("bob")
    rules = (
        '[{"apiGroups": ["apps"], "resources": ["deployments/scale", "*/status"], "verbs": ["get"],'
        ' "resourceNames": ["mine"]}]'
    )
    office.bind("Role", rules, BOB)
    assert office.code(token, "GET", f"{DEPLOY}/mine/scale") == 404
    assert office.code(token, "GET", f"{DEPLOY}/mine/status") == 404
    assert office.code(token, "GET", f"{DEPLOY}/other/scale") == 403
    assert office.code(token, "GET", f"{DEPLOY}/mine") == 403


def test_who_is_unknown_may_only_ask_for_health() -> None:
    """And for the version."""
    office = Office()
    assert [office.code("", "GET", path) for path in ("/healthz", "/version")] == [200, 200]
    assert [office.code("", "GET", path) for path in ("/api", "/apis", DEPLOY, "/openapi/v3")] == [
        403
    ] * 4


def test_access_is_reviewed_for_whoever_asks() -> None:
    """kubectl auth can-i."""
    office = Office()
    token = office.account("bob")
    office.bind(
        "Role", '[{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}]', BOB
    )

    def may(who: str, verb: str, resource: str) -> bool:
        about = (
            f'{{"verb": "{verb}", "resource": "{resource}", "group": "apps", "namespace": "infer"}}'
        )
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        body = f'{{"spec": {{"resourceAttributes": {about}}}}}'
        return bool(office.ask(who, "POST", path, body)["status"]["allowed"])

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
    office = Office()
    headers = {"authorization": f"Bearer {office.account('bob')}"}
    with pytest.raises(ApiError) as error:
        office.twin.server.check_master(
            Call(method="PUT", path="/twin/faults", query={}, headers=headers, body=b"")
        )
    assert error.value.code == 403
