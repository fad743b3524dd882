"""The house: which module may import which, and what the package shows to the outside."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import isles24_zarr

PACKAGE = Path(isles24_zarr.__file__).parent

ORDER = [
    "errors",
    "forks",
    "options",
    "obstores",
    "access",
    "vocabulary",
    "grid",
    "release",
    "tables",
    "cells",
    "rows",
    "phenotype",
    "streams",
    "sevenzip",
    "tarball",
    "source",
    "header",
    "nifti",
    "chunking",
    "labels",
    "layout",
    "shards",
    "containers",
    "repository",
    "remote",
    "lease",
    "kinds",
    "documents",
    "files",
    "objects",
    "voxels",
    "store",
    "commit",
    "versions",
    "progress",
    "processes",
    "workers",
    "cluster",
    "spool",
    "ingest",
    "resume",
    "convert",
    "arrays",
    "recheck",
    "findings",
    "verify",
    "export",
    "coordinates",
    "dataset",
    "cohort",
    "blocks",
    "masks",
    "images",
    "records",
    "patches",
    "training",
    "metrics",
    "analysis",
    "perfusion",
    "curves",
    "arteries",
    "figures",
    "panels",
    "plot",
    "traces",
    "charts",
    "summary",
    "accessor",
    "phantom",
    "phantom_images",
    "synthetic_grids",
    "synthetic_tables",
    "synthetic",
    "fetch",
    "serve",
    "console",
    "cli",
]
"""Each module may import only from those above it."""


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            parts = (node.module or "").split(".")
            if parts[0] == "isles24_zarr":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("isles24_zarr.")}
    return found


def test_the_table_is_complete() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(ORDER)
    table = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (`.+`) \|", table, flags=re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == ORDER


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_one_way(module: str) -> None:
    # what the command line takes from the package itself comes from modules above it
    allowed = {*ORDER[: ORDER.index(module)], *(isles24_zarr.__all__ if module == "cli" else ())}
    assert imported_modules(PACKAGE / f"{module}.py") <= allowed


def test_the_public_surface() -> None:
    assert isles24_zarr.__all__ == [
        "convert",
        "export",
        "open_cohort",
        "open_scan",
        "scan",
        "synthesize",
        "verify",
    ]
    assert all(callable(getattr(isles24_zarr, name)) for name in isles24_zarr.__all__)


def test_importing_is_light() -> None:
    heavy = {
        "datasets", "distributed", "matplotlib", "openpyxl", "rich", "scipy.ndimage", "torch", "typer",
    }  # fmt: skip
    code = f"import sys, isles24_zarr; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
