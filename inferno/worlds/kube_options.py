"""The options of the commands that talk to a Kubernetes cluster; kube.py opens what they name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferno.cli.command import Extensible
from inferno.cli.policies import POLICY_HELP, OnePolicy
from inferno.cli.runs import add_policy_options

if TYPE_CHECKING:
    from argparse import _ActionsContainer as Options

METRICS = Extensible("metrics_source", ("prometheus", "pods", "labels"))


def add_options(parser: ArgumentParser) -> None:
    """Add the options of a controller over this world."""
    world = parser.add_argument_group("a cluster (--backend kube)")
    add_cluster_options(world)
    add_metrics_options(world)
    add_acting_options(world)
    world.add_argument(
        "--capacity",
        choices=("data", "nodes"),
        default="data",
        help="how many GPUs there are: as the data files say (default), or the nodes",
    )
    world.add_argument(
        "--give-up-after",
        type=float,
        default=600.0,
        metavar="S",
        help="plan without pods that have not come after S seconds (default 600)",
    )
    world.add_argument("--policy", action=OnePolicy, default="slo", help=POLICY_HELP)
    add_policy_options(world)


def add_cluster_options(parser: Options) -> None:
    """Add the options of every command that talks to a cluster."""
    add_kubeconfig_option(parser)
    parser.add_argument(
        "--namespace",
        metavar="NAMES",
        help="these namespaces only, separated by commas ($WATCH_NAMESPACE, else all)",
    )
    add_wait_option(parser)


def add_kubeconfig_option(parser: Options) -> None:
    """Add which cluster."""
    parser.add_argument(
        "--kubeconfig",
        metavar="FILE",
        help="which cluster ($KUBECONFIG, else the pod's own or the default)",
    )


def add_wait_option(parser: Options) -> None:
    """Add how long to wait for the cluster (wait_for_cluster)."""
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="S",
        help="wait so many seconds at most for the kubeconfig and for the cluster to answer "
        "(default 0: do not wait)",
    )


def add_metrics_options(parser: Options) -> None:
    """Add the options of a command that looks at the load of a cluster."""
    parser.add_argument(
        "--metrics",
        choices=METRICS,
        help="where the load is read (default: in Prometheus if its address is known, else in "
        "the pods), or module:Name, a source of your own",
    )
    parser.add_argument(
        "--fallback",
        choices=("none", "labels"),
        help="the source of a server that nothing has ever measured: none, so it is held (default "
        "with --metrics), or its load labels (default without)",
    )
    add_prometheus_options(parser)
    parser.add_argument(
        "--window",
        metavar="S",
        help="seconds that figures are taken over ($INFERNO_METRICS_WINDOW, else 60)",
    )
    parser.add_argument(
        "--pages",
        choices=("proxy", "direct"),
        default="proxy",
        help="pods: ask them through the API server (default), or each at its own address",
    )
    add_speed_option(parser)


def add_speed_option(parser: Options) -> None:
    """Add how fast the time of the cluster passes (check_speed)."""
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="speed of the cluster, if that is a twin (default 1)",
    )


def add_prometheus_options(parser: Options) -> None:
    """Add where Prometheus is, and how it names things."""
    parser.add_argument(
        "--prometheus",
        metavar="URL",
        help="address of Prometheus ($INFERNO_PROMETHEUS_URL); a query in it is part of every "
        "request",
    )
    parser.add_argument(
        "--prometheus-headers",
        type=Path,
        metavar="FILE",
        help="further headers for Prometheus, lines of Name: value (X-Scope-OrgID: team)",
    )
    parser.add_argument(
        "--prometheus-basic-auth", type=Path, metavar="FILE", help="user:password for Prometheus"
    )
    parser.add_argument(
        "--prometheus-method",
        choices=("POST", "GET"),
        default="POST",
        help="how Prometheus is asked (default POST)",
    )
    parser.add_argument(
        "--namespace-label",
        default="namespace",
        metavar="NAME",
        help="the label of a series that names the namespace of its pod (default namespace)",
    )
    parser.add_argument(
        "--pod-label",
        default="pod",
        metavar="NAME",
        help="the label of a series that names its pod (default pod)",
    )
    parser.add_argument(
        "--metric-names",
        type=Path,
        metavar="FILE",
        help="further names of metrics by quantity (YAML; docs/kubernetes.md lists the quantities)",
    )
    parser.add_argument(
        "--matchers",
        default="",
        metavar="TEXT",
        help='Prometheus: further matchers of the query, such as cluster="east"',
    )


def add_acting_options(parser: Options) -> None:
    """Add the options of a command that changes a cluster."""
    parser.add_argument("--events", action="store_true", help="create an Event for each change")
    parser.add_argument(
        "--lease", metavar="NAMESPACE/NAME", help="act only while holding this Lease"
    )
    parser.add_argument(
        "--deletion-cost",
        action="store_true",
        help="before a reduction, tell the cluster what runs on each pod: it ends those that do "
        "least",
    )
    parser.add_argument(
        "--contest",
        action="store_true",
        help="go on where somebody else changes back what was asked for (default: step back from a "
        "server after the third time in a row, until it is quiet)",
    )
    parser.add_argument(
        "--pause-config-map",
        metavar="NAMESPACE/NAME",
        help='ask for nothing while this ConfigMap has paused: "true" ($INFERNO_PAUSE_CONFIGMAP)',
    )


def cluster_arguments(options: Namespace) -> dict[str, str | None]:
    """Return what of *options* wins over the environment, for read_settings."""
    names = {
        "kubeconfig": "kubeconfig",
        "namespaces": "namespace",
        "prometheus_url": "prometheus",
        "metrics_window_s": "window",
        "pause_config_map": "pause_config_map",
    }
    return {name: getattr(options, option, None) for name, option in names.items()}


def metrics_choices(options: Namespace) -> dict[str, Any]:
    """Return what add_metrics_options added, as arguments of Choices."""
    names = (
        *("metrics", "fallback", "matchers", "pages", "speed", "namespace_label", "pod_label"),
        *("prometheus_headers", "prometheus_basic_auth", "prometheus_method", "metric_names"),
    )
    return {name: getattr(options, name) for name in names}
