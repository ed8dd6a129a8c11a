"""The contract of a Kubernetes API: of the twin's always, of a real server where
KUBECONFIG_CONTRACT names one.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from kubernetes import client, config

for part in ("_changing", "_reading", "_refusing", "_watching"):
    pytest.register_assert_rewrite(f"tests.live.kube_contract{part}")
pytest.register_assert_rewrite("tests.live.kube_cluster")

from tests.live.kube_cluster import ClusterUnderTest  # noqa: E402 its asserts are rewritten first
from tests.live.kube_contract import KubeContract  # noqa: E402 as above
from tests.live.twin_served import serving_twin  # noqa: E402 as above

NAMESPACE = f"inferno-contract-{uuid4().hex[:6]}"


def with_namespace(
    api: client.ApiClient, http: httpx.Client, anonymous: httpx.Client, *, compacted: bool
) -> Iterator[ClusterUnderTest]:
    """Make a namespace for the tests, and take it away when they are done."""
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    try:
        yield ClusterUnderTest(
            api=api, http=http, anonymous=anonymous, namespace=NAMESPACE, compacted=compacted
        )
    finally:
        core.delete_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def twin() -> Iterator[ClusterUnderTest]:
    """Serve a twin."""
    with (
        serving_twin() as served,
        served.api() as api,
        httpx.Client(base_url=served.url, timeout=30.0, trust_env=False) as anonymous,
    ):
        yield from with_namespace(api, served.http, anonymous, compacted=True)


@pytest.fixture(scope="module")
def real_cluster() -> Iterator[ClusterUnderTest]:
    """Talk to the cluster of the kubeconfig."""
    api = config.new_client_from_config(config_file=os.environ["KUBECONFIG_CONTRACT"])
    settings = api.configuration
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    # Without the certificate: the server would take its user before that of a token.
    plain = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    token = settings.get_api_key_with_prefix("authorization") or settings.get_api_key_with_prefix(
        "BearerToken"
    )
    headers = {"Authorization": token} if token else {}
    with (
        httpx.Client(base_url=settings.host, headers=headers, verify=context, timeout=30.0) as http,
        httpx.Client(base_url=settings.host, verify=plain, timeout=30.0) as anonymous,
        api,
    ):
        yield from with_namespace(api, http, anonymous, compacted=False)


class TestTwin(KubeContract):
    """The twin's API."""

    @pytest.fixture
    def cluster(self, twin: ClusterUnderTest) -> ClusterUnderTest:
        """Return the twin."""
        return twin


if "KUBECONFIG_CONTRACT" in os.environ:

    class TestRealServer(KubeContract):
        """A real API server, in a namespace of its own."""

        @pytest.fixture
        def cluster(self, real_cluster: ClusterUnderTest) -> ClusterUnderTest:
            """Return the real cluster."""
            return real_cluster

else:

    def test_a_real_server_keeps_the_contract() -> None:
        """The same suite runs against any server that the variable names: the twin must not be
        asked for less.
        """
        pytest.skip("KUBECONFIG_CONTRACT names no real cluster")
