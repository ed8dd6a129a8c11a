"""What a Kubernetes API answers, question by question: for the twin's API always, for a real server
where there is one.

A subclass gives a fixture `cluster` (ClusterUnderTest). Everything happens in a namespace of its
own; what is asked is what documentation and spec say of a real API server, no more: messages, for
instance, are left alone.
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.live.kube_contract_changing import Changing
from tests.live.kube_contract_reading import Reading
from tests.live.kube_contract_refusing import Refusing
from tests.live.kube_contract_watching import Watching


class KubeContract(Reading, Changing, Refusing, Watching):
    """All questions. Each test makes what it needs under a name of its own."""

    @pytest.fixture
    def name(self) -> str:
        """Return a name that nothing else has."""
        return f"c-{uuid4().hex[:10]}"
