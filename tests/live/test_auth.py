"""The bearer token of the services: who is let in, and that it is shown nowhere."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loop.errors import LoopError, SpecError
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.services.auth import token_source
from loop.services.logs import set_up_logs
from loop.services.optimizer_app import make_optimizer_app
from loop.settings import Settings, read_settings
from tests.live.optimizer_served import serving

TOKEN = "k3y-of-the-house"


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    """Serve an optimizer that asks for the token."""
    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS), token=lambda: TOKEN)
    with serving(app) as client:
        yield client


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer   {TOKEN}", 200),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer \u00e9".encode(), 401),
        (None, 401),
    ],
)
def test_only_the_token_opens(
    service: httpx.Client, header: str | bytes | None, status: int
) -> None:
    """Neither a part of it, nor another scheme."""
    headers: dict[str, str | bytes] = {} if header is None else {"authorization": header}
    answer = service.get("/getAccelerators", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json() == {"message": "expected the bearer token of this service"}


def test_two_tokens_are_none(service: httpx.Client) -> None:
    """A proxy in between and we must not read two different ones of them."""
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert service.get("/getAccelerators", headers=headers).status_code == 401


def test_probes_need_none_and_the_documents_do(service: httpx.Client) -> None:
    """A kubelet has no token; all else, found or not, is closed."""
    statuses = [
        service.get(path).status_code
        for path in ("/healthz", "/readyz", "/docs", "/healthz/", "/nowhere")
    ]
    assert statuses == [200, 200, 401, 401, 401]


def test_a_body_is_not_read_before_the_token_is(service: httpx.Client) -> None:
    """Somebody unknown must not cost memory."""
    answer = service.post("/optimizeOne", content=b"x" * 100_000)
    assert (answer.status_code, answer.headers["connection"]) == (401, "close")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "expected one token, found none"),
        (b" \n", "expected one token, found none"),
        (b"two tokens", "expected one token"),
        (b"a\nb", "expected one token"),
        (b"\xff\xfe", "expected ASCII text"),
        (b"x" * 20_000, "expected one token, found none, or more than that"),
        (None, "expected a readable file, found No such file"),
    ],
)
def test_a_file_without_a_token_ends_the_start(
    tmp_path: Path, content: bytes | None, line: str
) -> None:
    """An empty secret must not open a service to all."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecError, match=line):
        token_source(Settings(service_token_path=file))


def test_the_file_is_read_again_and_wins_over_the_variable(tmp_path: Path) -> None:
    """Kubernetes replaces the content of a secret under a running pod."""
    file = tmp_path / "token"
    file.write_text("first\n")
    environ = {"INFERNO_SERVICE_TOKEN_PATH": str(file), "INFERNO_SERVICE_TOKEN": "of-the-variable"}
    source = token_source(read_settings(environ))
    assert source is not None
    assert source() == "first"
    file.write_text("second\n")
    assert source() == "second"
    file.unlink()
    with pytest.raises(LoopError, match="token file"):
        source()


def test_without_any_the_services_are_open_and_a_variable_is_enough() -> None:
    """On a laptop nobody wants a secret."""
    assert token_source(read_settings({})) is None
    source = token_source(read_settings({"INFERNO_SERVICE_TOKEN": TOKEN}))
    assert source is not None
    assert source() == TOKEN


def test_the_token_is_in_no_log_and_in_no_error(tmp_path: Path) -> None:
    """Logs are collected, and read by many."""
    told = io.StringIO()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    set_up_logs("optimizer", level=logging.DEBUG, stream=told)
    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS), token=lambda: TOKEN)
    try:
        with serving(app) as client:
            for sent in (TOKEN, f"{TOKEN}x"):
                client.get(
                    f"/getAccelerators?token={sent}", headers={"authorization": f"Bearer {sent}"}
                )
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    requests = [(one["path"], one["status"]) for one in lines if one["message"] == "request"]
    assert requests == [("/getAccelerators", 200), ("/getAccelerators", 401)]
    assert TOKEN not in told.getvalue()
    assert TOKEN not in repr(Settings(service_token=TOKEN))
