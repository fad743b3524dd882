"""Raw datasets for nnU-Net, against nibabel through the affines, nnU-Net's own check, and runs that are killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

import isles24_zarr
from isles24_zarr.cli._nnunet import nnunet
from isles24_zarr.errors import (
    DestinationError,
    MaskError,
    NotFiniteError,
    OptionError,
    StoreLockedError,
    UnknownNameError,
)
from isles24_zarr.store import StorePlace
from isles24_zarr.training import Channel, nnunet_dataset
from isles24_zarr.training._nnunet_voxels import channel_dtype, channel_voxels, label_voxels
from tests.nifti_files import OBLIQUE, write
from tests.test_cli import run
from tests.test_derivatives import no_current_client

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

__all__ = ["no_current_client"]

S = "sub-stroke0001"
FILES = {
    "ncct": "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    "cta": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_cta.nii.gz",
    "ctp": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_ctp.nii.gz",
    "tmax": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_tmax.nii.gz",
    "lesion_mask": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
}
SHEARED = np.array([[-0.5, 0.2, 0.0, 100.0], [0.0, 0.5, 0.6, -90.0], [0.0, 0.1, 2.0, -60.0], [0, 0, 0, 1]])
FLIPPED = np.array([[0, 0, 3.0, -20], [-0.7, 0, 0, 30], [0, -0.8, 0, 40], [0, 0, 0, 1]])

pytestmark = pytest.mark.usefixtures("no_current_client")


@pytest.fixture
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "nnUNet_raw" / "Dataset024_ISLES"


def documents(folder: Path) -> tuple[Any, Any]:
    return tuple(json.loads((folder / name).read_text()) for name in ("dataset.json", "splits_final.json"))  # type: ignore[return-value]


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def looked_up(file: Path, at: nib.Nifti1Image, frame: int | None = None) -> np.ndarray[Any, Any]:
    """The voxels of a file where those of an image lie, by both affines, in the axes of the image."""
    source = nib.load(file)
    values = np.asanyarray(source.dataobj)
    values = values if frame is None else values[..., frame]
    indices = np.moveaxis(np.indices(at.shape), 0, -1)
    found = nib.affines.apply_affine(np.linalg.inv(source.affine) @ at.affine, indices)
    nearest = np.rint(found).astype(int)
    assert np.abs(found - nearest).max() < 1e-2
    return values[tuple(np.moveaxis(nearest, -1, 0))]


def test_voxels_are_those_of_the_files(release: Path, cohort: xr.DataTree, folder: Path) -> None:
    images = ["ncct", "cta", "tmax", "ctp[3]", "ctp[-1]"]
    report = cohort.isles.to_nnunet(folder, images, windows={"cta": (0, 90), "tmax": (0, 7.5)}, progress=False)
    assert report.ok
    assert report.written == tuple(cohort.isles.subjects)
    document, _ = documents(folder)
    limits = {1: (0, 90), 2: (0, 7.5)}
    for subject, case in document["dataset"].items():
        label = nib.load(folder / case["label"])
        for number, path in enumerate(case["images"]):
            image = nib.load(folder / path)
            name, _, frame = images[number].partition("[")
            expected = looked_up(release / FILES[name].format(subject), image, int(frame[:-1]) if frame else None)
            if number in limits:
                expected = np.clip(expected, *limits[number])
            found = np.asanyarray(image.dataobj)
            np.testing.assert_array_equal(found, expected.astype(np.float32))
            assert found.dtype == (np.float32 if name == "tmax" else np.int16)
            # one geometry: to the last bit of the header, but for the type
            np.testing.assert_array_equal(image.affine, label.affine)
            assert image.header.get_zooms() == label.header.get_zooms()
            for field in ("sform_code", "qform_code", "quatern_b", "qoffset_x", "srow_x", "pixdim", "xyzt_units"):
                np.testing.assert_array_equal(image.header[field], label.header[field])
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        expected = looked_up(release / FILES["lesion_mask"].format(subject), label) >= 0.5
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), expected)
        assert label.get_data_dtype() == np.uint8


def test_documents(cohort: xr.DataTree, folder: Path) -> None:
    spec = {"ncct": "ncct", "angio": "cta", "late": Channel(name="x", image="tmax", window=(0, 7), unit=True)}
    report = cohort.isles.to_nnunet(folder, spec, windows={"angio": "stroke"}, folds=3, seed=4, progress=False)
    document, splits = documents(folder)
    assert document["channel_names"] == {"0": "CT", "1": "CT", "2": "noNorm"}
    assert document["labels"] == {"background": 0, "infarct": 1}
    assert (document["numTraining"], document["file_ending"]) == (3, ".nii.gz")
    assert document["dataset"][S] == {
        "images": [f"imagesTr/{S}_000{number}.nii.gz" for number in range(3)],
        "label": f"labelsTr/{S}.nii.gz",
    }
    assert document["licence"] == "CC BY-NC-SA 4.0"
    own = document["isles24_zarr"]
    assert own["channels"] == [
        {"name": "ncct", "image": "ncct", "normalization": "CT"},
        {"name": "angio", "image": "cta", "window": [15, 55], "normalization": "CT"},
        {"name": "late", "image": "tmax", "window": [0, 7], "unit": True, "normalization": "noNorm"},
    ]
    assert (own["threshold"], own["space"], own["skipped"]) == (0.5, "ncct", {})
    folds = [[part.isles.subjects for part in pair] for pair in cohort.isles.folds(3, seed=4)]
    assert splits == [{"train": train, "val": validate} for train, validate in folds]
    assert report.folds == 3
    names = {problem.path: problem.message for problem in report.problems}
    assert names == {
        "labelsTr/sub-stroke0004.nii.gz": "lesion_mask holds fractions: voxels of 0.5 and more are in the label"
    }


@pytest.mark.parametrize(
    ("images", "normalization", "names"),
    [
        (["ncct", "tmax"], None, ["CT", "tmax"]),
        (["ncct", "tmax"], "zscore", ["ncct", "tmax"]),
        (["ncct", "tmax"], {"tmax": "nonorm"}, ["CT", "noNorm"]),
        ({"CT": "tmax", "b": "ctp[0]"}, {"b": "rescale_to_0_1"}, ["zscore", "rescale_to_0_1"]),
    ],
)
def test_normalization_is_the_name_of_a_channel(
    cohort: xr.DataTree, folder: Path, images: Any, normalization: Any, names: list[str]
) -> None:
    cohort.isles.to_nnunet(folder, images, normalization=normalization, subjects=S, progress=False)
    assert list(documents(folder)[0]["channel_names"].values()) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "nct"}, "'nct': is no image"),
        ({"images": "ctp"}, "name a frame"),
        ({"windows": "loser"}, "there are winner, one_unet"),
        ({"label": "mask"}, "'mask': is no image"),
        ({"labels": {"a": 1, "b": 1}}, "a whole number of its own"),
        ({"labels": {"a": -1}}, "not a: -1"),
        ({"normalization": "mri"}, "'mri': is no normalization"),
        ({"normalization": {"cta": "CT"}}, "'cta': is to be normalized, but is no channel"),
        ({"label_threshold": 0}, "label_threshold=0: is none"),
        ({"fill": float("nan")}, "fill=nan"),
        ({"folds": 2.5}, "folds=2.5"),
        ({"label": Channel(name="core", image="lesion_mask", window=(0, 1))}, "has a window"),
        ({"folds": 1}, "folds=1"),
        ({"subjects": ["sub-x"]}, "sub-x"),
        ({"space": "adc"}, "of sub-stroke0001: has no ncct, lesion_mask in space-adc"),
        ({"images": "mine/tmax"}, "pipeline 'mine': is not in"),
        ({"images": "ctp[400]"}, "has 12 frames"),
    ],
)
def test_what_cannot_be_is_refused(cohort: xr.DataTree, folder: Path, options: Any, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        nnunet_dataset(cohort, folder, **{"images": "ncct", "progress": False, **options})
    assert not (folder / "dataset.json").exists()


def test_folders_of_others_are_left_alone(cohort: xr.DataTree, store: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(DestinationError, match=r"holds 'dataset\.json', which is of no dataset that was written here"):
        cohort.isles.to_nnunet(folder, "ncct", progress=False, overwrite=True)
    assert contents(folder).keys() == {"dataset.json"}
    (folder / "dataset.json").unlink()
    cohort.isles.to_nnunet(folder, "ncct", progress=False)
    (folder / "labelsTr/other_0001.nii.gz").write_text("x")
    with pytest.raises(DestinationError, match=r"other_0001\.nii\.gz: is no file of a case"):
        cohort.isles.to_nnunet(folder, "tmax", progress=False)
    assert documents(folder)[0]["channel_names"] == {"0": "CT"}
    with pytest.raises(DestinationError, match="is in the store"):
        cohort.isles.to_nnunet(store / "nnunet", "ncct", progress=False)
    with pytest.raises(DestinationError, match="is a URL"):
        cohort.isles.to_nnunet("s3://bucket/nnunet", "ncct", progress=False)
    (folder.parent / "file").write_text("")
    with pytest.raises(DestinationError, match="cannot be written"):
        cohort.isles.to_nnunet(folder.parent / "file", "ncct", progress=False)
    with StorePlace.of(folder).locked(), pytest.raises(StoreLockedError):
        cohort.isles.to_nnunet(folder, "ncct", progress=False)


def test_what_is_the_same_is_kept_and_the_rest_made_anew(cohort: xr.DataTree, folder: Path) -> None:
    def again(images: Any = ("ncct", "tmax"), **options: Any) -> tuple[int, int]:
        report = cohort.isles.to_nnunet(folder, images, progress=False, **options)
        assert report.ok
        return len(report.written), len(report.unchanged)

    assert again() == (3, 0)
    first = contents(folder)
    stamps = {path: (folder / path).stat().st_mtime_ns for path in first if path.endswith(".nii.gz")}
    assert again() == (0, 3)
    assert {path: (folder / path).stat().st_mtime_ns for path in stamps} == stamps
    assert again(overwrite=True) == (3, 0)
    assert contents(folder) == first  # the same voxels, the same bytes
    # whatever becomes of a file: cut, changed without a trace in size, lost
    for number, spoil in enumerate((b"", None, "lost")):
        file = folder / f"imagesTr/{S}_0001.nii.gz"
        if spoil == "lost":
            file.unlink()
        else:
            data = bytearray(file.read_bytes())
            data[-20] ^= 1
            file.write_bytes(bytes(data) if number else data[:-5])
        assert again() == (1, 2)
        assert contents(folder) == first
    # other options: all of them, and no channel of the former ones is left
    assert again(windows="winner") == (3, 0)
    assert contents(folder) != first
    assert again(["ncct"]) == (3, 0)
    assert not list(folder.glob("imagesTr/*_0001.nii.gz"))
    assert again(["ncct"], subjects=[S]) == (0, 1)
    assert {path.name for path in folder.glob("*Tr/*")} == {f"{S}.nii.gz", f"{S}_0000.nii.gz"}
    assert again() == (3, 0)
    assert contents(folder) == first


def test_a_function_with_other_values_makes_other_channels(cohort: xr.DataTree, folder: Path) -> None:
    def scaled(factor: float) -> Any:
        return lambda scan: scan["ncct"] * factor

    for factor in (2.0, 3.0):
        for state in ("written", "unchanged"):
            report = cohort.isles.to_nnunet(folder, {"a": scaled(factor)}, subjects=[S], progress=False)
            assert getattr(report, state) == (S,)
            voxels = np.asarray(nib.load(folder / f"imagesTr/{S}_0000.nii.gz").dataobj)
            np.testing.assert_allclose(voxels.sum(), cohort.isles.scan(S)["ncct"].values.sum() * factor, rtol=1e-6)


def test_a_cluster_writes_the_same(cohort: xr.DataTree, folder: Path, client: Client) -> None:
    images = {"ncct": "ncct", "delay": "tmax", "warm": warm}
    cohort.isles.to_nnunet(folder, images, progress=False)
    other = folder.with_name("Dataset025_other")
    report = cohort.isles.to_nnunet(other, images, client=client, progress=False)
    assert report.ok
    ours, theirs = contents(folder), contents(other)
    del ours["dataset.json"], theirs["dataset.json"]
    assert ours == theirs
    assert cohort.isles.to_nnunet(other, images, client=client, progress=False).unchanged == report.written


def warm(scan: xr.Dataset) -> xr.DataArray:
    """Return a channel that is computed."""
    return (scan["ncct"] + 0.5) * (scan["tmax"] > 2)


CALLS: list[str] = []
"""Global: a function that holds something which changes is another one each time."""


def test_channels_that_are_computed_and_results(store: Path, tmp_path: Path, folder: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "x.zarr")
    cohort = isles24_zarr.open_cohort(copy)
    cohort.isles.derive(lambda scan: {"tmax": scan["tmax"] * 2, "core": scan["tmax"] > 4}, "mine", progress=False)
    CALLS.clear()

    def counted(scan: xr.Dataset) -> xr.DataArray:
        CALLS.append(str(scan["subject"].item()))
        return warm(scan)

    def options(**images: Any) -> dict[str, Any]:
        return {"images": {"late": "mine/tmax", **images}, "label": "mine/core", "progress": False}

    report = cohort.isles.to_nnunet(folder, **options(warm=counted), windows={"late": (0, 12)})
    assert report.ok
    assert sorted(CALLS) == cohort.isles.subjects
    document, _ = documents(folder)
    assert document["labels"] == {"background": 0, "mine/core": 1}
    assert document["channel_names"] == {"0": "late", "1": "warm"}
    for subject in cohort.isles.subjects:
        scan = cohort.isles.scan(subject)
        late, computed = (
            np.asanyarray(nib.load(folder / f"imagesTr/{subject}_000{n}.nii.gz").dataobj).T for n in (0, 1)
        )
        np.testing.assert_array_equal(late, np.clip(scan["tmax"].values * 2, 0, 12).astype(np.float32))
        np.testing.assert_array_equal(computed, warm(scan).values.astype(np.float32))
        core = np.asanyarray(nib.load(folder / f"labelsTr/{subject}.nii.gz").dataobj).T
        np.testing.assert_array_equal(core, scan["tmax"].values > 4)
    # a function of the same name with another body is another channel
    same = cohort.isles.to_nnunet(folder, **options(warm=counted), windows={"late": (0, 12)})
    assert len(same.unchanged) == 3

    def counted(scan: xr.Dataset) -> xr.DataArray:  # type: ignore[no-redef]
        return warm(scan) + 1

    assert len(cohort.isles.to_nnunet(folder, **options(warm=counted), windows={"late": (0, 12)}).written) == 3
    # results that were derived anew are written anew
    cohort.isles.derive(lambda scan: {"tmax": scan["tmax"] * 3}, "mine", overwrite=True, subjects=S, progress=False)
    assert cohort.isles.to_nnunet(folder, **options(warm=counted), windows={"late": (0, 12)}).written == (S,)


def test_functions_that_fail_are_problems_of_their_subjects(cohort: xr.DataTree, folder: Path) -> None:
    def fails(scan: xr.Dataset) -> xr.DataArray:
        if str(scan["subject"].item()) == S:
            raise ZeroDivisionError("no\nblood")
        return scan["ncct"]

    cohort.isles.to_nnunet(folder, {"a": lambda scan: scan["ncct"]}, progress=False)
    report = cohort.isles.to_nnunet(folder, {"a": fails}, progress=False)
    assert not report.ok
    assert [str(problem) for problem in report.problems if problem.severity == "error"] == [
        f"{S}: ZeroDivisionError: no blood"
    ]
    document, splits = documents(folder)
    assert document["numTraining"] == len(document["dataset"]) == 2
    assert not list(folder.glob(f"*Tr/{S}*"))
    assert all(S not in fold["train"] + fold["val"] for fold in splits)
    for function, message in [
        (lambda scan: scan["ncct"][:, 1:], "result is on another grid than the scan"),
        (lambda scan: scan["ncct"][0], "returned DataArray ('y', 'x'), no DataArray (z, y, x)"),
        (lambda _: 1, "returned int, no DataArray (z, y, x)"),
    ]:
        report = cohort.isles.to_nnunet(folder, {"a": function}, progress=False)
        errors = [str(problem) for problem in report.problems if problem.severity == "error"]
        assert len(errors) == 3
        assert all(message in error for error in errors), errors
        assert not report.written
        assert not (folder / "dataset.json").exists()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Path:
    """A store of a release that has everything that the synthetic one has not."""
    source, rng = tmp_path_factory.mktemp("odd") / "train", np.random.default_rng(0)
    for number, affine in enumerate((OBLIQUE, SHEARED, FLIPPED, OBLIQUE), start=1):
        subject, shape = f"sub-stroke000{number}", (9, 11, 5 + number)
        files = {name: source / path.format(subject) for name, path in FILES.items()}
        codes = (0, 0) if number == 4 else (1, 0)
        hounsfield = rng.integers(-1024, 3000, shape).astype("<i2")
        delays = rng.uniform(-1, 20, shape).astype("<f4")
        delays[0, :3, 0] = np.nan, np.inf, -np.inf
        label = (rng.uniform(size=shape) > 0.7).astype("u1")
        if number == 3:
            label[2, 2, 2] = 7
        write(files["ncct"], hounsfield, affine, codes=codes)
        write(files["tmax"], delays, affine, codes=codes)
        write(files["lesion_mask"], label, affine, codes=codes)
        if number != 2:  # with a slope: its values are no whole numbers
            write(files["cta"], hounsfield, affine, codes=codes, scl_slope=0.1, scl_inter=-5)
    store = source.parent / "odd.zarr"
    isles24_zarr.convert(source, store, client=client, progress=False)
    return store


def test_awkward_grids_types_and_labels(odd: Path, folder: Path) -> None:
    cohort = isles24_zarr.open_cohort(odd)
    report = cohort.isles.to_nnunet(folder, ["ncct", "tmax", "cta"], windows={"tmax": (0, 7)}, progress=False)
    assert report.skipped == {"sub-stroke0002": "has no cta"}
    (error,) = (str(problem) for problem in report.problems if problem.severity == "error")
    assert error.startswith("sub-stroke0003, lesion_mask: has voxels of 7, which are none of its labels")
    document, splits = documents(folder)
    assert list(document["dataset"]) == [S, "sub-stroke0004"]
    assert document["isles24_zarr"]["skipped"] == report.skipped
    assert {name for fold in splits for name in fold["val"]} == {S, "sub-stroke0004"}
    scaled = nib.load(folder / f"imagesTr/{S}_0002.nii.gz")
    in_file = looked_up(odd.parent / "train" / FILES["cta"].format(S), scaled)
    np.testing.assert_array_equal(scaled.dataobj, in_file.astype(np.float32))
    named = {"infarct": 1, "odd": 7, "ignore": 3}
    report = cohort.isles.to_nnunet(folder, ["ncct", "tmax"], labels=named, windows={"tmax": (0, 7)}, progress=False)
    assert report.ok
    assert len(report.written) == 4
    assert documents(folder)[0]["labels"] == {"background": 0, "infarct": 1, "odd": 2, "ignore": 3}
    notices = [str(problem) for problem in report.problems if "finite" in problem.message]
    assert notices[0] == f"imagesTr/{S}_0001.nii.gz: 1 voxels of tmax that are not finite were replaced"
    for number in (1, 2, 3):
        subject = f"sub-stroke000{number}"
        first = nib.load(folder / f"imagesTr/{subject}_0000.nii.gz")
        source = odd.parent / "train"
        np.testing.assert_array_equal(first.dataobj, looked_up(source / FILES["ncct"].format(subject), first))
        delays = looked_up(source / FILES["tmax"].format(subject), first)
        expected = np.where(np.isnan(delays), 0, np.clip(delays, 0, 7)).astype(np.float32)
        np.testing.assert_array_equal(nib.load(folder / f"imagesTr/{subject}_0001.nii.gz").dataobj, expected)
        label = np.where((found := looked_up(source / FILES["lesion_mask"].format(subject), first)) == 7, 2, found)
        np.testing.assert_array_equal(nib.load(folder / f"labelsTr/{subject}.nii.gz").dataobj, label)
    unknown = nib.load(folder / "imagesTr/sub-stroke0004_0000.nii.gz")
    assert (int(unknown.header["sform_code"]), int(unknown.header["qform_code"])) == (0, 0)
    np.testing.assert_array_equal(unknown.dataobj, nib.load(source / FILES["ncct"].format("sub-stroke0004")).dataobj)


def test_voxels_that_are_not_finite_are_never_written(odd: Path, folder: Path) -> None:
    cohort = isles24_zarr.open_cohort(odd).isles.select([S])
    report = cohort.isles.to_nnunet(folder, ["tmax"], progress=False)
    (problem,) = (str(each) for each in report.problems if each.severity == "error")
    assert problem.startswith(
        f"{S}, tmax: has voxels that are not finite, which nnU-Net refuses; give the image a window"
    )
    report = cohort.isles.to_nnunet(folder, ["tmax"], fill=-30, progress=False)
    assert report.ok
    values = np.asanyarray(nib.load(folder / f"imagesTr/{S}_0000.nii.gz").dataobj)
    assert np.count_nonzero(values == -30) == 3
    assert "3 voxels of tmax" in str(report.problems[0])


def test_labels_are_consecutive(cohort: xr.DataTree, folder: Path) -> None:
    cohort.isles.to_nnunet(folder, "ncct", "cow_mask", progress=False)
    document, _ = documents(folder)
    assert list(document["labels"].values()) == list(range(14))
    assert document["labels"]["3rd-A2"] == 13
    assert document["isles24_zarr"]["values"]["3rd-A2"] == 15
    for subject in document["dataset"]:
        written = np.asanyarray(nib.load(folder / f"labelsTr/{subject}.nii.gz").dataobj).T
        stored = cohort.isles.scan(subject)["cow_mask"].values
        np.testing.assert_array_equal(np.where(written == 13, 15, written), stored)


@pytest.mark.parametrize(
    ("dtype", "window", "options", "expected"),
    [
        ("int16", None, {}, "int16"),
        ("uint8", None, {}, "int16"),
        ("bool", None, {}, "int16"),
        ("uint16", None, {}, "uint16"),
        ("uint16", (0, 90), {}, "int16"),
        ("int32", None, {}, "int32"),
        ("int32", (-100, 70000), {}, "int32"),
        ("uint32", None, {}, "uint32"),
        ("int64", None, {}, "int32"),
        ("int64", (0, 2**40), {}, "float32"),
        ("int16", (0, 0.5), {}, "float32"),
        ("int16", (0, 90), {"unit": True}, "float32"),
        ("int16", None, {"mean_sd": (1, 2)}, "float32"),
        ("float64", (0, 90), {}, "float32"),
    ],
)
def test_types(dtype: str, window: Any, options: Any, expected: str) -> None:
    channel = Channel(name="c", image="ncct", window=window, **options)
    kind = channel_dtype(channel, np.dtype(dtype))
    assert kind == expected
    values = np.array([0, 1, 120], dtype).reshape(3, 1, 1)
    written, replaced = channel_voxels(values, channel, kind, None)
    assert (written.dtype, replaced) == (kind, 0)
    np.testing.assert_array_equal(written, channel.scaled(values))


def test_voxels_that_cannot_be_written_are_refused() -> None:
    plain = Channel(name="c", image="ncct")
    with pytest.raises(isles24_zarr.errors.VoxelTypeError, match="more than 32 bits"):
        channel_voxels(np.array([2**33]), plain, np.dtype("int32"), None)
    with pytest.raises(NotFiniteError, match="not finite"):
        channel_voxels(np.array([1e300]), plain, np.dtype("float32"), None)
    with pytest.raises(MaskError, match="voxels of 2, 9, which"):
        label_voxels(np.array([0, 1, 9, 2]), {0: 0, 1: 1, 5: 2}, "mask")
    np.testing.assert_array_equal(label_voxels(np.uint64([5, 0, 1]), {0: 0, 1: 1, 5: 2}, "mask"), [2, 0, 1])


def test_predictions_come_back(store: Path, tmp_path: Path, folder: Path) -> None:
    """As nnU-Net reads images and writes what it predicts of them."""
    reader = pytest.importorskip("nnunetv2.imageio.nibabel_reader_writer").NibabelIOWithReorient()
    copy = shutil.copytree(store, tmp_path / "x.zarr")
    cohort = isles24_zarr.open_cohort(copy)
    cohort.isles.to_nnunet(folder, ["ncct", "cta"], progress=False)
    predicted = {}
    for subject in cohort.isles.subjects:
        images, properties = reader.read_images([folder / f"imagesTr/{subject}_000{n}.nii.gz" for n in (0, 1)])
        scan = cohort.isles.scan(subject)
        for found, name in zip(images, ("ncct", "cta"), strict=True):
            np.testing.assert_array_equal(found, scan[name].values)
        np.testing.assert_allclose(properties["spacing"], scan.isles.spacing[::-1], rtol=1e-6)
        predicted[subject] = (images[0] > 20).astype(np.uint8)
        reader.write_seg(predicted[subject], str(tmp_path / f"{subject}.nii.gz"), properties)
    report = isles24_zarr.add(copy, "nnunet-24", sorted(tmp_path.glob("sub-*.nii.gz")), name="lesion_mask")
    assert report.ok, report.problems
    for subject, expected in predicted.items():
        result = isles24_zarr.open_scan(copy, subject, pipeline="nnunet-24")["lesion_mask"]
        np.testing.assert_array_equal(result.values, expected)


def test_simpleitk_reads_the_same(cohort: xr.DataTree, folder: Path) -> None:
    reader = pytest.importorskip("nnunetv2.imageio.simpleitk_reader_writer").SimpleITKIO()
    cohort.isles.to_nnunet(folder, ["tmax"], progress=False)
    for subject in cohort.isles.subjects:
        (image,), properties = reader.read_images([str(folder / f"imagesTr/{subject}_0000.nii.gz")])
        (label,), other = reader.read_seg(str(folder / f"labelsTr/{subject}.nii.gz"))
        scan = cohort.isles.scan(subject)
        np.testing.assert_array_equal(image, scan["tmax"].values.astype(np.float32))
        np.testing.assert_array_equal(label, scan["lesion_mask"].isles.labels(threshold=0.5).values)
        assert properties == other


CHECK = """
import sys
from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints as entrypoints
if __name__ == "__main__":
    sys.argv = ["nnUNetv2_extract_fingerprint", "-d", "24", "25", "-np", "1", "--verify_dataset_integrity"]
    entrypoints.extract_fingerprint_entry()
    sys.argv = ["nnUNetv2_plan_experiment", "-d", "24", "25"]
    entrypoints.plan_experiment_entry()
"""


def test_nnunet_takes_it(cohort: xr.DataTree, odd: Path, tmp_path: Path) -> None:
    """By its own check of integrity, fingerprint and plan: `ISLES24_ZARR_NNUNET` may name a Python that has it."""
    python = os.environ.get("ISLES24_ZARR_NNUNET", sys.executable)
    folders = {f"nnUNet_{name}": str(tmp_path / f"nnUNet_{name}") for name in ("raw", "preprocessed", "results")}
    for path in folders.values():
        Path(path).mkdir()
    environment = {**os.environ, **folders}
    imported = "import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"
    if subprocess.run([python, "-c", imported], check=False, capture_output=True, env=environment).returncode:
        pytest.skip("nnU-Net is not installed")
    raw, planned = Path(folders["nnUNet_raw"]), Path(folders["nnUNet_preprocessed"])
    usual = {"images": ["ncct", "tmax", "ctp[3]"]}
    tilted = {"images": ["ncct", "tmax"], "labels": {"a": 1, "b": 7}}
    parts = {"Dataset024_ISLES": (cohort, usual), "Dataset025_odd": (isles24_zarr.open_cohort(odd), tilted)}
    for name, (part, options) in parts.items():
        assert part.isles.to_nnunet(raw / name, windows="winner", folds=2, progress=False, **options).ok
    program = tmp_path / "check.py"
    program.write_text(CHECK)
    done = subprocess.run([python, str(program)], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("If you didn't see any error messages") == 2
    assert "Error" not in done.stdout
    assert "Warning" not in done.stdout
    for name in parts:
        assert (planned / name / "splits_final.json").read_bytes() == (raw / name / "splits_final.json").read_bytes()
        plan = json.loads((planned / name / "nnUNetPlans.json").read_text())
        schemes = plan["configurations"]["2d"]["normalization_schemes"]
        assert schemes[:2] == ["CTNormalization", "ZScoreNormalization"]


SLOW = """
import sys, time
import isles24_zarr
from isles24_zarr.training import _nnunet_voxels, _nnunet_cases
cohort = isles24_zarr.open_cohort(sys.argv[1])
slabs = _nnunet_voxels.volume_slabs
def slowly(image):
    for slab in slabs(image):
        time.sleep(0.03)
        yield slab
_nnunet_cases.volume_slabs = slowly
print("ready", flush=True)
windows = dict(enumerate(sys.argv)).get(3)
cohort.isles.to_nnunet(sys.argv[2], ["ncct", "tmax", "cta"], windows=windows, progress=False)
"""


def test_killed_and_run_again(cohort: xr.DataTree, store: Path, folder: Path) -> None:
    """Whenever it is killed: what dataset.json lists is whole, and the same call ends as if nothing had been."""
    reference = {}
    for windows in (None, "winner"):
        whole = folder.with_name(f"Dataset001_{windows}")
        cohort.isles.to_nnunet(whole, ["ncct", "tmax", "cta"], windows=windows, progress=False)
        reference[windows] = {path: digest for path, digest in contents(whole).items() if "dataset" not in path}

    killed = 0
    # the second time, it is a dataset of other windows that is made anew
    for windows in (None, "winner"):
        for seconds in np.linspace(0.0, 0.8, 4):
            arguments = [str(store), str(folder), *([windows] if windows else [])]
            with subprocess.Popen(
                [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
            ) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(seconds)
                killed += process.poll() is None
                os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            found = contents(folder) if folder.exists() else {}
            if "dataset.json" in found:
                listed = json.loads((folder / "dataset.json").read_text())
                window = [channel.get("window") for channel in listed["isles24_zarr"]["channels"]]
                kind = "winner" if window[1] else None
                for case in listed["dataset"].values():
                    for path in (*case["images"], case["label"]):
                        assert found[path] == reference[kind][path]
        report = cohort.isles.to_nnunet(folder, ["ncct", "tmax", "cta"], windows=windows, progress=False)
        assert report.ok
        ended = {path: digest for path, digest in contents(folder).items() if "dataset" not in path}
        assert ended == reference[windows]
    assert killed


def test_command(store: Path, tmp_path: Path, folder: Path, client: Client) -> None:
    scheduler = ("--scheduler", client.scheduler.address)  # type: ignore[union-attr]
    (tmp_path / "windows.json").write_text('{"tmax": [0, 9], "ncct": "stroke"}')
    refused = run("nnunet", store, folder, "--images", "nct")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "'nct': is no image" in refused.stderr
    done = run("nnunet", store, folder, "--images", "ncct", "tmax,cta", "--windows", tmp_path / "windows.json",
               "--label", "lesion_mask", "--folds", 3, "--normalization", "cta=zscore", *scheduler)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 cases written, 0 were there, 3 folds" in done.stdout
    assert f"nnUNet_preprocessed/{folder.name}/" in done.stdout
    document, _ = documents(folder)
    assert document["channel_names"] == {"0": "CT", "1": "tmax", "2": "cta"}
    assert [each.get("window") for each in document["isles24_zarr"]["channels"]] == [[15, 55], [0, 9], None]


def test_options_of_the_command(store: Path, folder: Path, capsys: pytest.CaptureFixture[str], client: Client) -> None:
    scheduler = client.scheduler.address  # type: ignore[union-attr]
    assert nnunet(str(store), str(folder), images=["ncct", "tmax"], windows="winner", labels=["infarct=1,ignore=2"],
                  normalization=["noNorm"], subject=[S], as_json=True, scheduler=scheduler)  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert (printed["ok"], printed["written"]) == (True, [S])
    document, _ = documents(folder)
    assert document["labels"] == {"background": 0, "infarct": 1, "ignore": 2}
    assert document["channel_names"] == {"0": "noNorm", "1": "noNorm"}
    for options, error, message in [
        ({"windows": "nobody"}, UnknownNameError, "is none of none, winner, one_unet, and no file"),
        ({"windows": __file__}, UnknownNameError, "is not JSON"),
        ({"windows": str(folder / "dataset.json")}, UnknownNameError, "is no JSON of windows"),
        ({"labels": ["infarct"]}, OptionError, "as 'infarct=1'"),
        ({"normalization": ["CT", "tmax=CT"]}, OptionError, "is for all channels"),
    ]:
        with pytest.raises(error, match=message):
            nnunet(str(store), str(folder), images=["tmax"], **options)  # type: ignore[arg-type]
