"""The only reader of the environment: the settings of the commands of the loop, arguments before
variables.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loop.errors import SpecError

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment and the arguments say. data_path is None if neither names a data
    directory.

    namespaces are those to watch, none for all of them. period_s 0: cycles run on /invoke only. The
    bearer token of the services is in a file or, if none is named, in a variable; without either
    they ask for none. They answer for the names of allowed_hosts too and, in a cluster, for those
    of the Service service_name. log_format None: words at a terminal, else JSON.
    """

    data_path: Path | None = None
    period_s: float = 60.0
    dynamic: bool = False
    controller_host: str = "127.0.0.1"
    controller_port: int = 3300
    collector_host: str = "127.0.0.1"
    collector_port: int = 3301
    optimizer_host: str = "127.0.0.1"
    optimizer_port: int = 3302
    actuator_host: str = "127.0.0.1"
    actuator_port: int = 3303
    kubeconfig: str = ""
    namespaces: tuple[str, ...] = ()
    pause_config_map: str = ""
    prometheus_url: str = ""
    prometheus_token_path: Path | None = None
    prometheus_ca_path: Path | None = None
    prometheus_cert_path: Path | None = None
    prometheus_key_path: Path | None = None
    prometheus_proxy: str = field(default="", repr=False)  # it may have a password in it
    metrics_window_s: float = 60.0
    service_token_path: Path | None = None
    service_token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()
    service_name: str = ""
    pod_namespace: str = ""
    pod_ip: str = ""
    log_format: LogFormat | None = None
    load_interval_s: float = 60.0
    load_alpha: float = 0.5


def read_settings(
    environ: Mapping[str, str] | None = None, *, arguments: Mapping[str, str | None] | None = None
) -> Settings:
    """Return the settings: *arguments* by field name win over *environ* (the process's own when
    None), then defaults.

    An empty text and None count as not given. Raise SpecError that names the argument or the
    variable.
    """
    environ = os.environ if environ is None else environ
    arguments = arguments or {}
    unknown = arguments.keys() - SOURCES.keys()
    assert not unknown, f"no such settings: {sorted(unknown)}"
    values: dict[str, object] = {}
    for name, (variable, argument, parse) in SOURCES.items():
        for source, text in ((argument, arguments.get(name)), (variable, environ.get(variable))):
            if text is not None and text.strip():
                values[name] = _parsed(parse, text.strip(), source=source)
                break
    return Settings(**values)  # type: ignore[arg-type] # each parser returns the type of its field


def service_url(host: str, port: int) -> str:
    """Return the address of a service; an empty host is this machine, as for the existing
    components.
    """
    host = host or "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _UnexpectedError(Exception):
    """What a parser expected; its caller knows what came and from where."""


def _parsed(parse: Callable[[str], object], text: str, *, source: str) -> object:
    try:
        return parse(text)
    except _UnexpectedError as problem:
        raise SpecError(f"{source}: expected {problem}, found {text!r}") from None


def _seconds(text: str) -> float:
    return _number(text, expected="a number of seconds >= 0", low=0.0)


def _interval(text: str) -> float:
    seconds = _number(text, expected="a number of seconds > 0", low=0.0)
    if seconds == 0:
        raise _UnexpectedError("a number of seconds > 0")
    return seconds


def _pause(text: str) -> float:
    return _number(text, expected="a number of seconds >= 1", low=1.0)


def _alpha(text: str) -> float:
    return _number(text, expected="a number in [0, 1]", low=0.0, high=1.0)


def _number(text: str, *, expected: str, low: float, high: float = math.inf) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _UnexpectedError(expected) from None
    if not (math.isfinite(number) and low <= number <= high):
        raise _UnexpectedError(expected)
    return number


def _flag(text: str) -> bool:
    # The words that the existing components take.
    flags = dict.fromkeys(("true", "t", "1"), True) | dict.fromkeys(("false", "f", "0"), False)
    if text.lower() not in flags:
        raise _UnexpectedError("true or false")
    return flags[text.lower()]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise _UnexpectedError("a port, 0 to 65535")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        # A list without those that a template left empty would not be the one that was meant.
        raise _UnexpectedError("names separated by commas")
    return names


def _log_format(text: str) -> LogFormat:
    forms: dict[str, LogFormat] = {"text": "text", "json": "json"}
    if text not in forms:
        raise _UnexpectedError("text or json")
    return forms[text]


def _place(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise _UnexpectedError("NAMESPACE/NAME")
    return text


# Of every field of Settings its variable, the argument of the command that wins over it ("" if none
# does), and its parser.
SOURCES: Mapping[str, tuple[str, str, Callable[[str], object]]] = {
    "data_path": ("INFERNO_DATA_PATH", "--data", Path),
    "period_s": ("INFERNO_CONTROL_PERIOD", "PERIOD", _seconds),
    "dynamic": ("INFERNO_CONTROL_DYNAMIC", "DYNAMIC", _flag),
    "controller_host": ("CONTROLLER_HOST", "--host", str),
    "controller_port": ("CONTROLLER_PORT", "--port", _port),
    "collector_host": ("COLLECTOR_HOST", "--host", str),
    "collector_port": ("COLLECTOR_PORT", "--port", _port),
    "optimizer_host": ("INFERNO_HOST", "--host", str),
    "optimizer_port": ("INFERNO_PORT", "--port", _port),
    "actuator_host": ("ACTUATOR_HOST", "--host", str),
    "actuator_port": ("ACTUATOR_PORT", "--port", _port),
    "kubeconfig": ("KUBECONFIG", "--kubeconfig", str),
    "namespaces": ("WATCH_NAMESPACE", "--namespace", _names),
    "pause_config_map": ("INFERNO_PAUSE_CONFIGMAP", "--pause-config-map", _place),
    "prometheus_url": ("INFERNO_PROMETHEUS_URL", "--prometheus", str),
    "prometheus_token_path": ("INFERNO_PROMETHEUS_TOKEN_PATH", "", Path),
    "prometheus_ca_path": ("INFERNO_PROMETHEUS_CA_PATH", "", Path),
    "prometheus_cert_path": ("INFERNO_PROMETHEUS_CERT_PATH", "", Path),
    "prometheus_key_path": ("INFERNO_PROMETHEUS_KEY_PATH", "", Path),
    "prometheus_proxy": ("INFERNO_PROMETHEUS_PROXY", "", str),
    "metrics_window_s": ("INFERNO_METRICS_WINDOW", "--window", _interval),
    "service_token_path": ("INFERNO_SERVICE_TOKEN_PATH", "", Path),
    "service_token": ("INFERNO_SERVICE_TOKEN", "", str),
    "allowed_hosts": ("INFERNO_ALLOWED_HOSTS", "--allowed-host", _names),
    "service_name": ("INFERNO_SERVICE_NAME", "", str),
    "pod_namespace": ("POD_NAMESPACE", "", str),
    "pod_ip": ("POD_IP", "", str),
    "log_format": ("INFERNO_LOG_FORMAT", "--log-format", _log_format),
    "load_interval_s": ("INFERNO_LOAD_INTERVAL", "INTERVAL", _pause),
    "load_alpha": ("INFERNO_LOAD_ALPHA", "ALPHA", _alpha),
}
