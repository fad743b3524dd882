"""The walls of the house: which package may import which, by whose face, and what the package shows to the outside."""

from __future__ import annotations

import ast
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import isles24_zarr

ROOT = Path(isles24_zarr.__file__).parent

MAY_IMPORT = {
    "geometry": "",
    "places": "",
    "nifti": "places",
    "clinical": "",
    "release": "places nifti",
    "format": "geometry nifti release",
    "store": "geometry places nifti format",
    "writing": "geometry places nifti format store",
    "tasks": "places nifti clinical release format store",
    "analysis": "geometry format",
    "perfusion": "geometry format analysis",
    "scans": "geometry places nifti format store analysis",
    "conversion": "geometry places nifti clinical release format store writing tasks",
    "verification": "geometry places release format store tasks",
    "cohorts": "geometry nifti release format store tasks analysis perfusion scans",
    "derivatives": "geometry nifti release format store writing tasks scans conversion cohorts",
    "training": "geometry nifti format store tasks analysis perfusion scans cohorts derivatives",
    "figures": "geometry format analysis perfusion scans cohorts",
    "accessors": "geometry analysis perfusion scans cohorts derivatives training figures",
    "synthetic": "geometry nifti release",
    "serving": "store",
    "cli": "places clinical release format tasks perfusion scans conversion verification cohorts derivatives training "
    "figures synthetic serving",
}
"""Each package, and those that it may import from; all may use the modules of the root."""

EVERYWHERE = {"conventions", "errors", "vocabulary", "version", "progress"}

NEVER = [
    ("verification", "writing", "what is checked must not be made by what wrote it"),
    ("verification", "conversion", "what is checked must not be made by what wrote it"),
    ("analysis", "store", "numbers come from arrays, wherever they are from"),
    ("analysis", "tasks", "numbers come from arrays, wherever they are from"),
    ("format", "store", "the contract is pure"),
    ("geometry", "format", "geometry knows of no files"),
    ("store", "writing", "readers need no writer"),
]

OPEN_MODULES = {"training.torch_patches", "training.monai_images", "training.torchio_subjects"}
"""Not in the face of their package, as they need a library to be imported, and imported by their path."""


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, str, bool]]:
    """Module and name of each import from this package, and whether it is for types alone."""
    tree = ast.parse(path.read_text())
    typing = {id(node) for block in tree.body if isinstance(block, ast.If) for node in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if (node.module or "").split(".")[0] == "isles24_zarr":
                inside = (node.module or "").partition(".")[2]
                found += [(inside, alias.name, id(node) in typing) for alias in node.names]
        elif isinstance(node, ast.Import):  # the command line takes the face of all
            inside = {alias.name for alias in node.names if alias.name.startswith("isles24_zarr")}
            assert inside <= ({"isles24_zarr"} if path.parent.name == "cli" else set()), path
    return found


MODULES = sorted(path for path in ROOT.rglob("*.py") if path.name not in {"__main__.py"} and path.parent != ROOT)


def test_the_matrix_has_all_packages_and_no_circle() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == MAY_IMPORT.keys()
    order = list(MAY_IMPORT)
    for package, allowed in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(package) for other in allowed.split()), package
    for package, other, why in NEVER:
        assert other not in MAY_IMPORT[package].split(), why


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_through_faces_and_one_way(path: Path) -> None:
    package = package_of(path)
    for module, name, types_alone in imports(path):
        other, _, inner = module.partition(".")
        if not other:
            assert name in EVERYWHERE or (package == "cli" and name in isles24_zarr.__all__), f"{name} from the root"
        elif other in EVERYWHERE:
            assert not name.startswith("_")
        elif other != package:
            assert types_alone or other in MAY_IMPORT[package].split(), f"{package} imports {other}"
            assert not inner or module in OPEN_MODULES, f"{module} has a face"
            face = importlib.import_module(f"isles24_zarr.{other}")
            assert module in OPEN_MODULES or name in face.__all__, f"{name} is not in the face of {other}"


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_faces(package: str) -> None:
    """A face has names of its modules only, none of them private."""
    face = importlib.import_module(f"isles24_zarr.{package}")
    assert face.__doc__
    assert len(set(face.__all__)) == len(face.__all__)
    assert all(not name.startswith("_") and hasattr(face, name) for name in face.__all__)
    modules = {path.stem for path in (ROOT / package).glob("*.py")}
    assert modules.isdisjoint(face.__all__), "a name would hide a module"


def test_the_picture_is_of_the_imports() -> None:
    drawn = runpy.run_path(str(ROOT.parent / "docs" / "draw_architecture.py"))
    assert drawn["PICTURE"].read_text() == drawn["drawing"](), "python docs/draw_architecture.py"


def test_rooms_are_of_a_size_to_live_in() -> None:
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= 12
    for path in ROOT.rglob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                code = [line for line in lines[first.lineno - 1 : node.end_lineno] if line.strip()]
                assert len(code) <= 50, f"{path.name}: {node.name} has {len(code)} lines of code"


def test_the_public_surface() -> None:
    assert isles24_zarr.__all__ == [
        "AddReport",
        "ConvertReport",
        "DiffReport",
        "ExportReport",
        "FetchCost",
        "FetchReport",
        "Problem",
        "Release",
        "RemoveReport",
        "VerifyReport",
        "add",
        "convert",
        "diff",
        "errors",
        "export",
        "fetch",
        "fetch_cost",
        "open_cohort",
        "open_scan",
        "remove",
        "scan",
        "synthesize",
        "verify",
        "view",
        "vocabulary",
    ]
    for name in isles24_zarr.__all__:
        assert getattr(isles24_zarr, name).__doc__
    assert set(isles24_zarr.__all__) <= set(dir(isles24_zarr))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        isles24_zarr.nothing  # noqa: B018


def loaded(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_is_light() -> None:
    heavy = {
        "dask", "datasets", "distributed", "fsspec", "isal", "matplotlib", "nibabel", "numpy", "openpyxl", "pandas",
        "rich", "scipy", "tensorstore", "torch", "typer", "xarray", "zarr",
    }  # fmt: skip
    assert heavy.isdisjoint(loaded("import isles24_zarr"))


@pytest.mark.parametrize("package", sorted({package for package, _, _ in NEVER}))
def test_what_never_is_imported_is_not_loaded(package: str) -> None:
    never = {f"isles24_zarr.{other}": why for mine, other, why in NEVER if mine == package}
    assert never.keys().isdisjoint(loaded(f"import isles24_zarr.{package}")), never


def test_reading_imports_without_fcntl() -> None:
    """As on Windows, where there is none; Dask's cluster has a way of its own there."""
    reading = ", ".join(
        f"isles24_zarr.{name}" for name in ("analysis", "scans", "cohorts", "figures", "verification", "derivatives")
    )
    loaded(
        f"import sys; sys.modules['fcntl'] = None\nfrom isles24_zarr import open_cohort, open_scan\nimport {reading}"
    )


@pytest.mark.parametrize(
    "statements",
    [
        "import isles24_zarr, xarray",
        "import xarray, isles24_zarr",
        "import isles24_zarr, xarray.backends",
        "import isles24_zarr; isles24_zarr.open_scan; import xarray",
        # libraries ask whether it is there, and pkgutil where, without an import
        """import isles24_zarr, importlib.util
assert importlib.util.find_spec("xarray").loader.get_filename("xarray")
import xarray""",
        "import isles24_zarr, importlib; importlib.import_module('xarray.core'); import xarray",
        # a first attempt that fails, as with another package of this name in the way
        """import isles24_zarr, pathlib, sys, tempfile
sys.path.insert(0, tempfile.mkdtemp())
pathlib.Path(sys.path[0], "xarray.py").write_text("1 / 0")
try:
    import xarray
except ZeroDivisionError:
    del sys.path[0]
import xarray""",
    ],
    ids=lambda statements: statements[:60],
)
def test_accessors_are_there_whoever_imports_xarray(statements: str) -> None:
    loaded(
        f"""{statements}
for each in (xarray.Dataset, xarray.DataArray, xarray.DataTree):
    assert "CachedAccessor" in type(vars(each)["isles"]).__name__
assert xarray.Dataset().isles
assert type(xarray.__spec__.loader).__module__ == type(xarray.__loader__).__module__ == "_frozen_importlib_external"
import sys
assert not any("isles24_zarr" in type(finder).__module__ for finder in sys.meta_path)
"""
    )


def test_help_loads_nothing_that_computes() -> None:
    heavy = {"dask", "distributed", "fsspec", "numpy", "pandas", "xarray", "zarr", "asyncio"}
    modules = loaded(
        """
import contextlib, os, sys
from isles24_zarr.cli import main
sys.argv = ["isles24-zarr", "--help"]
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.suppress(SystemExit):
    main()
"""
    )
    assert "typer.rich_utils" in modules
    assert heavy.isdisjoint(modules)
