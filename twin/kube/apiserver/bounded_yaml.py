"""YAML whose aliases make no more of a text than a reader can hold."""

from __future__ import annotations

from typing import Any

import yaml

ALIASED_MAX = 100_000  # nodes that aliases may add to those written out


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
