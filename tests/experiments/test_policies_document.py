"""docs/policies.md: what it says of policies is so, and its policy runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.config import RunConfig
from experiments.run import run
from loop.policies import make_policy, policy_names
from loop.ports import Policy
from loop.testing.policy import PolicyContract

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the page's policy."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code.count("\n") < 40
    path = tmp_path_factory.mktemp("own") / "step_down.py"
    path.write_text(code, encoding="utf-8")
    return path


class TestOwn(PolicyContract):
    """The policy of the page, held to what every policy is held to."""

    @pytest.fixture
    def policy(self, file: Path) -> Policy:
        """Return it as the command makes it."""
        return make_policy(str(file), share=0.5)


def test_it_runs_on_the_twin(file: Path) -> None:
    """It is the first thing that a reader does with it."""
    result = run(
        RunConfig(
            data=ROOT / "sample-data" / "small", scenario="steady", policy=str(file), hours=0.2
        )
    )
    assert result.cycles[-1]["policy"] == "step_down"
    assert result.config.period_s == 30.0
    assert not any(cycle["error"] for cycle in result.cycles)


def test_every_policy_is_in_the_table_with_its_tick() -> None:
    """Who compares must know how often each of them decides."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\| ([^|]*) \|", TEXT, re.MULTILINE)
    ticks = {name: re.findall(r"^(\d+) s", when) for name, when in rows}
    assert set(ticks) == set(policy_names())
    for name, found in ticks.items():
        if found:
            assert make_policy(name).tick_s == float(found[0])
