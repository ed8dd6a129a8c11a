"""What comes in and goes out as files and bytes: manifests, kubeconfigs, the protobuf of kubectl
create.
"""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import config

from tests.twin.kube.clients import Client, managed
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.request import MEDIA_TYPE, parsed, parsed_protobuf
from twin.kube.files import read_manifests, write_kubeconfig
from twin.spec import SpecError


def dump(path: Path, *documents: Any) -> None:
    """Write YAML documents."""
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")


def body(name: str) -> Any:
    """Return a managed Deployment of infer, complete."""
    found = {"apiVersion": "apps/v1", "kind": "Deployment", **managed(name)}
    found["metadata"]["namespace"] = "serve"
    return found


# -- manifests


def test_a_directory_of_manifests_is_there_from_the_start(tmp_path: Path) -> None:
    """Namespaces first, whatever their files are called; lists and several documents in a file; no
    kustomization.
    """
    dump(
        tmp_path / "zz.yaml",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serve"}},
    )
    dump(tmp_path / "a.yaml", body("one"), None, {"kind": "List", "items": [body("two")]})
    dump(tmp_path / "b.yml", body("three"))
    dump(tmp_path / "kustomization.yaml", {"kind": "Kustomization", "resources": ["a.yaml"]})
    (tmp_path / "notes.txt").write_text("not: [a manifest", encoding="utf-8")
    manifests = read_manifests(tmp_path)
    assert [Path(source).name for source, _ in manifests] == [
        "zz.yaml",
        "a.yaml",
        "a.yaml",
        "b.yml",
    ]
    client = Client()
    client.twin.load(manifests)
    client.until(61.0)
    items = client.ask("GET", "/apis/apps/v1/namespaces/serve/deployments")["items"]
    assert [(each["metadata"]["name"], each["status"]["readyReplicas"]) for each in items] == [
        ("one", 1),
        ("three", 1),
        ("two", 1),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", r"/m\.yaml: expected YAML, found "),
        ("- a", r"/m\.yaml: expected an object, found "),
        ("a0: &a [x]\nb: *a", r"/m\.yaml: apiVersion: expected a text, found None$"),
        ("{kind: Rocket, apiVersion: v1}", r"/m\.yaml: the twin knows no 'Rocket' of 'v1'$"),
        (
            "{kind: ConfigMap, apiVersion: v1, metadata: {name: A}}",
            r"/m\.yaml: ConfigMap \"A\" is invalid: ",
        ),
        (
            "{kind: ConfigMap, apiVersion: v1, metadata: {name: a}, dataa: {}}",
            r"/m\.yaml: .*unknown field \"dataa\"",
        ),
        (
            "{kind: ConfigMap, apiVersion: v1, metadata: {name: a, namespace: gone}}",
            r"namespaces \"gone\" not found",
        ),
    ],
)
def test_a_manifest_that_is_refused_ends_the_start_with_one_line(
    tmp_path: Path, text: str, line: str
) -> None:
    """It names the file."""
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=line) as error:
        Client().twin.load(read_manifests(tmp_path))
    assert "\n" not in str(error.value)


def test_manifests_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    """A misspelt directory must not be an empty cluster."""
    with pytest.raises(
        SpecError, match="expected a directory of manifests or a manifest, found nothing"
    ):
        read_manifests(tmp_path / "gone")


def test_dates_and_yes_in_manifests_stay_what_they_are(tmp_path: Path) -> None:
    """An annotation may look like a date."""
    dump_text = (
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\ndata: {day: 2026-01-01, "
        "time: 2026-01-01T00:00:00Z}\n"
    )
    (tmp_path / "m.yaml").write_text(dump_text, encoding="utf-8")
    ((_, obj),) = read_manifests(tmp_path)
    assert obj["data"] == {"day": "2026-01-01", "time": "2026-01-01T00:00:00Z"}


# -- kubeconfig


def test_the_official_client_reads_the_kubeconfig(tmp_path: Path) -> None:
    """Host and token; nobody else may read the file."""
    path = tmp_path / "deep" / "kubeconfig"
    write_kubeconfig(path, "http://127.0.0.1:8001", token="t")
    write_kubeconfig(path, "http://127.0.0.1:8002", token="t")
    with config.new_client_from_config(config_file=str(path)) as api:
        assert api.configuration.host == "http://127.0.0.1:8002"
        assert "Bearer t" in api.configuration.api_key.values()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kubeconfig_of_another_cluster_is_not_overwritten(tmp_path: Path) -> None:
    """It may be the only one that its owner has."""
    path = tmp_path / "config"
    path.write_text("clusters: [{name: production}]", encoding="utf-8")
    with pytest.raises(SpecError, match="a kubeconfig of another cluster"):
        write_kubeconfig(path, "http://127.0.0.1:8001", token="t")
    assert "production" in path.read_text(encoding="utf-8")


# -- protobuf


def field(number: int, value: bytes | int) -> bytes:
    """Return one field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Return a number as protobuf has it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """Return a message in the envelope of Kubernetes."""
    about = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\x00" + field(1, about) + field(2, raw) + field(3, b"") + field(4, b"")


def test_a_config_map_in_protobuf_is_read() -> None:
    """kubectl create configmap sends it so."""
    metadata = (
        field(1, b"c")
        + field(2, b"")
        + field(3, b"infer")
        + field(11, field(1, b"a") + field(2, b""))
    )
    pair = field(1, b"capacity.json") + field(2, "{ä}".encode())
    raw = (
        field(1, metadata)
        + field(2, pair)
        + field(3, field(1, b"b") + field(2, b"\x00\xff"))
        + field(4, 1)
    )
    assert parsed(envelope("v1", "ConfigMap", raw), MEDIA_TYPE) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "infer", "labels": {"a": ""}},
        "data": {"capacity.json": "{ä}"},
        "binaryData": {"b": base64.b64encode(b"\x00\xff").decode()},
        "immutable": True,
    }


def test_lists_and_numbers_in_protobuf_are_read_and_unknown_fields_skipped() -> None:
    """Newer clients know more fields."""
    spec = (
        field(1, b"https://x")
        + field(1, b"y")
        + field(4, 3600)
        + field(99, b"new")
        + varint(98 << 3 | 5)
        + b"1234"
    )
    found = parsed_protobuf(envelope("authentication.k8s.io/v1", "TokenRequest", field(2, spec)))
    assert found["spec"] == {"audiences": ["https://x", "y"], "expirationSeconds": 3600}


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"k8s\x00",
        b"k8s\x00\xff",
        envelope("batch/v1", "Job", b""),
        envelope("apps/v1", "Deployment", field(2, field(99, b"new"))),
        envelope("v1", "ConfigMap", b"\x0a\x7f"),
        b"k8s\x00\x0b",
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    """400, and kinds that are not read here say what to do."""
    with pytest.raises(ApiError) as error:
        parsed_protobuf(data)
    assert error.value.code == 400


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """It answers, or it refuses."""
    with pytest.raises(ApiError):
        parsed_protobuf(envelope("v1", "Unknown", data))
    for kind in ("ConfigMap", "Deployment"):
        try:
            found = parsed_protobuf(envelope("v1", kind, data))
        except ApiError:
            continue
        assert found["kind"] == kind


def test_unknown_formats_are_415_and_yaml_is_read() -> None:
    """As a real server does; an empty body is none."""
    assert parsed(b"a: 1", "application/yaml") == {"a": 1}
    assert parsed(b" ", "text/html") is None
    with pytest.raises(ApiError) as error:
        parsed(b"<a/>", "text/html")
    assert error.value.code == 415
    for bad in (b"{", b'{"a": NaN}', b"[" * 100_000, b"\xff"):
        with pytest.raises(ApiError) as error:
            parsed(bad, "application/json")
        assert error.value.code == 400
