"""The optimizer service in compat against what the existing one was recorded to answer, request by
request.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.services.optimizer_app import make_optimizer_app
from tests.live.optimizer_served import difference, serving

COMPAT = OptimizerSettings(solver="greedy", rules=GO_TODAY)


@pytest.fixture(scope="module")
def transcript(shared: Path) -> dict[str, Any]:
    """Return the recording."""
    found: dict[str, Any] = json.loads(
        (shared / "golden" / "open-rest-transcript.json").read_text()
    )
    return found


@pytest.mark.parametrize("mode", ["stateful (-F)", "stateless (default)"])
def test_every_recorded_request_gets_the_recorded_answer(
    transcript: dict[str, Any], mode: str
) -> None:
    """Scripts written for the existing service must run on ours unchanged: paths, statuses and
    bodies, in a row.
    """
    steps = transcript[mode]
    with serving(
        make_optimizer_app(settings=COMPAT, stateful=mode.startswith("stateful"))
    ) as client:
        problems = [
            f"{i} {step['method']} {step['path']}: {wrong}"
            for i, step in enumerate(steps)
            if (wrong := replay(client, step))
        ]
    assert problems == []
    assert len(steps) >= 7


def replay(client: httpx.Client, step: dict[str, Any]) -> str:
    """Send one recorded request; return how the answer differs from the recorded one."""
    body = step["body"]
    content = body if isinstance(body, str) else None if body is None else json.dumps(body)
    answer = client.request(step["method"], step["path"], content=content)
    if answer.status_code != step["status"]:
        return f"status {answer.status_code} instead of {step['status']}: {answer.text[:200]}"
    if answer.headers.get("content-type") != step["contentType"]:
        return f"content type {answer.headers.get('content-type')} instead of {step['contentType']}"
    if "json" in (step["contentType"] or ""):
        return difference(answer.json(), step["response"])
    return (
        ""
        if answer.text == step["response"]
        else f"{answer.text!r} instead of {step['response']!r}"
    )
