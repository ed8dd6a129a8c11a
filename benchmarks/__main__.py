"""Run the benchmarks and print one JSON line a figure; arguments choose benchmarks by a part of
their name.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(chosen: list[str]) -> int:
    """Print the figures of every bench_*.py whose name contains one of *chosen* (all when none is
    given).
    """
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    for name in names:
        if chosen and not any(word in name for word in chosen):
            continue
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
