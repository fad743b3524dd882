"""The examples in the docstrings of the face and of ``.isles`` are right; methods are documented in full."""

from __future__ import annotations

import doctest
import inspect
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

import isles24_zarr
from isles24_zarr import accessors
from isles24_zarr.accessors import CohortAccessor, ImageAccessor, ScanAccessor

if TYPE_CHECKING:
    from pathlib import Path

KINDS = (ScanAccessor, ImageAccessor, CohortAccessor)
MEMBERS = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in KINDS
    for name, _ in inspect.getmembers(kind)
    if not name.startswith("_")
]


@pytest.fixture(scope="module")
def objects(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    copy = tmp_path_factory.mktemp("examples") / "isles24.zarr"  # in which examples save results
    shutil.copytree(store, copy)
    cohort = isles24_zarr.open_cohort(copy)
    return {"cohort": cohort, "scan": cohort.isles.scan(cohort.isles.subjects[0])}


@pytest.mark.filterwarnings("ignore::isles24_zarr.errors.PerfusionWarning")  # the series are of 10 s
@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_examples(kind: type, name: str, objects: dict[str, Any]) -> None:
    member = inspect.getattr_static(kind, name)
    documented = member.fget if isinstance(member, property) else member
    check_examples(documented.__doc__, dict(objects), f"{kind.__name__}.{name}")


def check_examples(text: str, names: dict[str, Any], what: str) -> None:
    found = doctest.DocTestParser().get_doctest(textwrap.dedent(f"    {text}"), names, what, what, 0)
    assert found.examples
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(found, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize(
    "name", ["", *(n for n in isles24_zarr.__all__ if inspect.isfunction(getattr(isles24_zarr, n)))]
)
def test_examples_of_the_face(
    name: str, release: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train").symlink_to(release)
    shutil.copytree(store, tmp_path / "isles24.zarr")
    monkeypatch.chdir(tmp_path)
    documented = getattr(isles24_zarr, name) if name else isles24_zarr
    check_examples(documented.__doc__, {"isles24_zarr": isles24_zarr}, name or "isles24_zarr")


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_signatures_tell_all(kind: type, name: str) -> None:
    """Every parameter has a name, a type and a description; nothing is passed on unseen."""
    member = inspect.getattr_static(kind, name)
    if isinstance(member, property):
        assert inspect.signature(member.fget).return_annotation
        return
    signature = inspect.signature(member)
    assert signature.return_annotation is not inspect.Signature.empty
    described = inspect.cleandoc(member.__doc__).splitlines()
    names = {each.strip() for line in described for each in line.split(",")}
    for parameter in list(signature.parameters.values())[1:]:
        assert parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name in names


def test_accessors_are_documented() -> None:
    assert set(accessors.__all__) == {kind.__name__ for kind in KINDS}


def test_bad_numbers_are_value_errors(objects: dict[str, Any]) -> None:
    """As users of xarray expect."""
    for call in (
        lambda: objects["cohort"].isles.train_test_split(test_size=-1),
        lambda: objects["scan"].isles.statistics("ncct", percentiles=[101]),
        lambda: objects["scan"].isles.arterial_inputs(count=0),
        lambda: objects["scan"].isles.montage(slices=0),
    ):
        with pytest.raises(ValueError, match=r"\S"):
            call()
