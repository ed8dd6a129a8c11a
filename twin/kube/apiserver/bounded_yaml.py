"""YAML whose aliases make no more of a text than a reader can hold."""

from __future__ import annotations

import re
from typing import Any

import yaml

ALIASED_MAX = 100_000  # nodes that aliases may add to those written out
# Deeper than any object of ours: the work of a scanner grows with the square of the depth.
DEPTH_MAX = 100
DIGITS_MAX = 400  # of a number, and of one in sixties (1:30:00), whose cost grows with the square


class BoundedLoader(yaml.SafeLoader):
    """Plain YAML. Half a kilobyte of aliases of aliases can stand for more than any memory: whoever
    walks through it does not return.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """Return what *node* says. Raise ConstructorError where its aliases stand for too much."""
        sizes: dict[int, int] = {}
        whole = _size(node, sizes)
        if whole - len(sizes) > ALIASED_MAX:
            raise yaml.constructor.ConstructorError(
                problem=f"expected aliases of at most {ALIASED_MAX} nodes in all, found more",
                problem_mark=node.start_mark,
            )
        return super().construct_document(node)

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Begin a list or a mapping in brackets. Raise ScannerError where it stands too deep."""
        self._look_at_depth(self.flow_level)
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        """Begin a list or a mapping in lines. Raise ScannerError where it stands too deep."""
        self._look_at_depth(len(self.indents))
        return bool(super().add_indent(column))

    def _look_at_depth(self, depth: int) -> None:
        if depth >= DEPTH_MAX:
            raise yaml.scanner.ScannerError(
                problem=f"expected lists and mappings in at most {DEPTH_MAX} others, found more",
                problem_mark=self.get_mark(),
            )

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Return the text of *node*. Raise ConstructorError for a number that is too long."""
        if node.tag in _NUMBERS and len(node.value) > DIGITS_MAX:
            raise yaml.constructor.ConstructorError(
                problem=f"expected a number of at most {DIGITS_MAX} digits, found "
                f"{len(node.value)}",
                problem_mark=node.start_mark,
            )
        text: str = super().construct_scalar(node)
        if text.isascii():
            return text
        # Escapes may name the halves of a pair of surrogates one by one: JSON takes these for one
        # character, and a half alone is none.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# YAML 1.1 takes 1e3 and 1.5e-3 for texts; everybody else, kubectl too, takes them for numbers.
BoundedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$", re.ASCII),
    list("-+.0123456789"),
)

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def load(text: str) -> Any:
    """Return what *text* says. Raise YAMLError where it is no YAML, or too much."""
    return yaml.load(text, Loader=BoundedLoader)  # noqa: S506 (a SafeLoader)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many nodes *node* stands for; *sizes* remembers those of each one written."""
    known = sizes.get(id(node))
    if known == 0:
        raise yaml.constructor.ConstructorError(
            problem="expected no alias of what it stands in", problem_mark=node.start_mark
        )
    if known is not None:
        return known
    sizes[id(node)] = 0
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]
