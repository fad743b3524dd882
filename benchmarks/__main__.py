"""``python -m benchmarks``: run the measurements and write them down."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.conversion import conversions


def main() -> None:
    """Measure, print a table and, on request, write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scale", choices=("tiny", "small", "full"), default="full", help="size of the volumes")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = conversions(Path(folder), scale=options.scale, workers=tuple(options.workers), repeats=options.repeats)
        rows = [dataclasses.asdict(row) for row in found]
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "conversion": rows}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("isles24-zarr", "zarr", "numcodecs", "isal", "dask", "numpy")
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[name]) for name in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
