"""Masks as they come: whatever a file stores, everybody sees its labels, or is told why there are none."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import isles24_zarr
from isles24_zarr.analysis import curves, masks
from isles24_zarr.analysis import statistics as analysis
from isles24_zarr.errors import MaskError, OldStoreError, SoftMaskWarning, UnknownNameError
from isles24_zarr.figures import slices as plot
from isles24_zarr.format.labels import (
    MOST_VALUES,
    MaskValues,
    labels_from_stored,
    mask_values,
    merged,
    stored_from_labels,
    values_of,
)
from isles24_zarr.format.layout import seal
from tests.nifti_files import OBLIQUE, write

if TYPE_CHECKING:
    from distributed import Client

S = "sub-stroke0001"
NCCT = f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
CTP = f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_ctp.nii.gz"
LESION = f"derivatives/{S}/ses-02/{S}_ses-02_space-ncct_lesion-msk.nii.gz"
COW = f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_cow-msk.nii.gz"
SHAPE = (20, 18, 7)
SLOPE = 1 / 65535
"""As the real masks have it, in single precision."""

_rng = np.random.default_rng(5)
INSIDE = np.zeros(SHAPE, bool)
INSIDE[5:12, 3:9, 2:5] = True
COW_LABELS = np.where(_rng.random(SHAPE) < 0.1, _rng.choice([1, 2, 5, 12, 15], SHAPE), 0)

# stored voxels, slope, labels
MASKS: dict[str, tuple[np.ndarray[Any, Any], float, np.ndarray[Any, Any]]] = {
    "as the real one": (INSIDE.astype(np.uint16) * 65535, SLOPE, INSIDE),
    "0 and 255, slope 1/255": (INSIDE.astype(np.uint8) * 255, 1 / 255, INSIDE),
    "0 and 255": (INSIDE.astype(np.uint8) * 255, 0.0, INSIDE * 255),
    "0 and 1 in 16 bits": (INSIDE.astype(np.uint16), 1.0, INSIDE),
    "0 and 1 in double precision": (INSIDE.astype(np.float64), np.nan, INSIDE),
    "0 and almost 1": (np.where(INSIDE, 0.9993, 0).astype(np.float32), 0.0, INSIDE),
    "signed": (INSIDE.astype(np.int16), 0.0, INSIDE),
    "0 and 2 with slope 0.5": (INSIDE.astype(np.int32) * 2, 0.5, INSIDE),
    "big endian": (INSIDE.astype(">u2") * np.uint16(65535), SLOPE, INSIDE),
    "empty": (np.zeros(SHAPE, np.uint16), SLOPE, np.zeros(SHAPE)),
    "full": (np.full(SHAPE, 65535, np.uint16), SLOPE, np.ones(SHAPE)),
    "labels": (COW_LABELS.astype(np.uint8), 0.0, COW_LABELS),
    "labels in single precision": (COW_LABELS.astype(np.float32), 0.0, COW_LABELS),
    "scaled labels": (COW_LABELS.astype(np.uint16) * 100, 0.01, COW_LABELS),
    "labels above 255": (COW_LABELS.astype(np.int64) * 1000, 0.0, COW_LABELS * 1000),
}
RAMP = np.where(INSIDE, np.linspace(0.1, 1, SHAPE[0])[:, None, None], 0.0)
SOFT = {
    "single precision": (RAMP.astype(np.float32), 0.0),
    "scaled": (np.rint(RAMP * 65535).astype(np.uint16), SLOPE),
    "8 bits": (np.rint(RAMP * 255).astype(np.uint8), 1 / 255),
    "one value": (np.where(INSIDE, 0.9882, 0).astype(np.float32), 0.0),
}
NAN = INSIDE.astype(np.float32)
NAN[0, 0, 0] = np.nan
OTHER = {
    "NaN": (NAN, 0.0, "not finite"),
    "infinite": (np.where(INSIDE, np.inf, 0).astype(np.float32), 0.0, "not finite"),
    "negative": (INSIDE.astype(np.int16) - 1, 0.0, "negative values, down to -1"),
    "two values for a label": (
        np.where(INSIDE, 65534, 65535).astype(np.uint16),
        SLOPE,
        "two stored values, 65534 and 65535, for the label 1",
    ),
    "beyond 1": ((RAMP * 12).astype(np.float32), 0.0, "values up to"),
}


def make_release(folder: Path, voxels: np.ndarray[Any, Any], slope: float, *, name: str = LESION) -> Path:
    write(folder / NCCT, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    write(folder / name, voxels, byte_order="<" if voxels.dtype.byteorder != ">" else ">", scl_slope=slope)
    return folder


def convert(folder: Path, client: Client, **options: Any) -> Path:
    store = folder.with_name("x.zarr")
    report = isles24_zarr.convert(folder, store, client=client, progress=False, **options)
    assert report.ok
    return store


def physical(file: Path) -> np.ndarray[Any, Any]:
    """By nibabel: (z, y, x), canonical."""
    return np.asarray(nib.as_closest_canonical(nib.load(file)).dataobj).T


def turned(voxels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The axes of `OBLIQUE` run to L, A and S: x is reversed."""
    return np.ascontiguousarray(voxels[::-1].T)


@pytest.mark.parametrize("name", MASKS)
def test_everybody_sees_the_labels(tmp_path: Path, client: Client, name: str) -> None:
    voxels, slope, labels = MASKS[name]
    file = LESION if "label" not in name else COW
    release = make_release(tmp_path / "train", voxels, slope, name=file)
    store = convert(release, client)
    image = "lesion_mask" if file == LESION else "cow_mask"
    folder = store / S / "space-ncct"
    wanted = turned(labels)
    np.testing.assert_allclose(physical(release / file), wanted, atol=1e-3)
    smallest = np.min_scalar_type(int(wanted.max()))
    plain = zarr.open_array(folder / image, mode="r")
    opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / image)}}).result()
    scans = [isles24_zarr.open_scan(store, S, chunks=chunks)[image] for chunks in ("auto", None)]
    for found in (plain[...], opened.read().result(), xr.open_zarr(folder)[image].values, *(s.values for s in scans)):
        assert found.dtype == smallest
        np.testing.assert_array_equal(found, wanted)
    assert not {"scale_factor", "add_offset", "_FillValue"} & plain.attrs.keys()
    assert plain.attrs["isles24_zarr"]["mask"]["kind"] == "labels"
    assert plain.attrs["flag_values"][:2] == [0, 1]

    millilitres = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scan in scans:
            assert scan.isles.volume() == pytest.approx(np.count_nonzero(wanted) * millilitres)
            assert scan.isles.volume(label=1) == pytest.approx((wanted == 1).sum() * millilitres)
            table = scan.isles.volumes().query("present")
            assert table["voxels"].to_dict() == {
                int(label): int((wanted == label).sum()) for label in np.unique(wanted[wanted > 0])
            }
            again = nib.as_closest_canonical(scan.isles.to_nifti())
            np.testing.assert_array_equal(np.asarray(again.dataobj).T, wanted)

    out = tmp_path / "out"
    assert isles24_zarr.export(store, out, client=client, progress=False).ok
    assert gzip.decompress((out / file).read_bytes()) == gzip.decompress((release / file).read_bytes())
    assert isles24_zarr.verify(store, release, client=client, progress=False).problems == ()
    loaded = isles24_zarr.open_cohort(store).isles.examples[0][image]
    assert (np.asarray(loaded.dataobj) == 1).sum() == (wanted == 1).sum()
    assert isles24_zarr.convert(release, store, client=client, progress=False).converted == ()


@pytest.mark.parametrize("name", SOFT)
def test_fractions_stay_and_whatever_needs_labels_says_where_it_cut(tmp_path: Path, client: Client, name: str) -> None:
    voxels, slope = SOFT[name]
    release = make_release(tmp_path / "train", voxels, slope)
    write(release / CTP, np.arange(np.prod(SHAPE) * 3, dtype=np.int16).reshape(*SHAPE, 3))
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    assert [p.severity for p in report.problems if p.path == LESION and "fractions between 0 and 1" in p.message] == [
        "notice"
    ]
    store = tmp_path / "x.zarr"
    array = zarr.open_array(store / S / "space-ncct/lesion_mask", mode="r")
    assert array.dtype == voxels.dtype
    assert "flag_values" not in array.attrs
    wanted = physical(release / LESION)
    scan = isles24_zarr.open_scan(store, S)
    np.testing.assert_allclose(scan["lesion_mask"], wanted, atol=1e-12)
    inside = wanted >= 0.5
    for threshold, part in ((None, inside), (0.3, wanted >= 0.3)):
        results = {
            "volume": lambda t=threshold: scan.isles.volume(threshold=t),
            "volumes": lambda t=threshold: scan.isles.volumes("lesion_mask", threshold=t),
            "statistics": lambda t=threshold: scan.isles.statistics("ncct", threshold=t),
            "curve": lambda t=threshold: scan.isles.time_curve("lesion_mask", threshold=t),
            "overlaps": lambda t=threshold: analysis.mask_overlaps(
                scan["lesion_mask"], {"all": scan["ncct"] >= 0}, 1.0, threshold=t
            ),
            "metrics": lambda t=threshold: scan["lesion_mask"].isles.challenge_metrics(inside, threshold=t),
            "labels": lambda t=threshold: scan["lesion_mask"].isles.labels(threshold=t),
            "montage": lambda t=threshold: scan.isles.montage(images=["ncct"], threshold=t),
            "curves": lambda t=threshold: scan.isles.plot_time_curves({"infarct": scan["lesion_mask"]}, threshold=t),
        }
        found = {}
        for key, call in results.items():
            if threshold is None:
                with pytest.warns(SoftMaskWarning, match=r"0\.5 and more"):
                    found[key] = call()
            else:
                found[key] = call()  # a warning would be an error
        cut = 0.5 if threshold is None else threshold
        millilitres = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
        assert found["volume"] == pytest.approx(part.sum() * millilitres)
        assert found["volumes"].loc[1, "voxels"] == part.sum()
        assert found["statistics"].loc["ncct", "voxels"] == part.sum()
        assert found["statistics"].loc["ncct", "mean"] == pytest.approx(scan["ncct"].values[part].mean())
        np.testing.assert_allclose(found["curve"], scan["ctp"].values[:, part].mean(axis=1))
        assert found["metrics"].dice == pytest.approx(2 * (part & inside).sum() / (part.sum() + inside.sum()))
        np.testing.assert_array_equal(found["labels"], part)
        assert found["labels"].dtype == np.uint8
        for key in ("volumes", "statistics", "overlaps"):
            assert found[key].attrs["threshold"] == cut
        assert found["curve"].attrs["threshold"] == found["labels"].attrs["threshold"] == cut
        assert found["metrics"].mask_threshold == cut
    page = isles24_zarr.open_cohort(store).isles.summary(S)
    assert [row for section in page.sections for row in section.rows if "(of 0.5 and more)" in row[-1]]
    out = tmp_path / "out"
    assert isles24_zarr.export(store, out, client=client, progress=False).ok
    assert gzip.decompress((out / LESION).read_bytes()) == gzip.decompress((release / LESION).read_bytes())


def test_a_slice_of_fractions_all_of_which_are_near_a_label(tmp_path: Path, client: Client) -> None:
    voxels = np.zeros(SHAPE, np.float32)
    voxels[1:3, 2, 0], voxels[2:5, 3, 1] = 5e-4, 0.9
    store = convert(make_release(tmp_path / "train", voxels, 0.0), client)
    mask = isles24_zarr.open_scan(store, S)["lesion_mask"]
    slices = [mask.isel(z=[k]).isles.labels(threshold=0.5) for k in range(mask.sizes["z"])]
    np.testing.assert_array_equal(xr.concat(slices, "z"), turned(voxels) >= 0.5)
    with pytest.raises(MaskError, match="two stored values"):
        (mask.isel(z=0) + 0).isles.labels(threshold=0.5)


@pytest.mark.parametrize("name", OTHER)
def test_what_has_no_labels_is_kept_reported_and_refused(tmp_path: Path, client: Client, name: str) -> None:
    voxels, slope, words = OTHER[name]
    release = make_release(tmp_path / "train", voxels, slope)
    write(release / CTP, np.arange(np.prod(SHAPE) * 3, dtype=np.int16).reshape(*SHAPE, 3))
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    (problem,) = [p for p in report.problems if p.path == LESION]
    assert words in problem.message
    assert problem.severity == "notice"
    scan = isles24_zarr.open_scan(tmp_path / "x.zarr", S)
    mask = scan["lesion_mask"]
    np.testing.assert_allclose(mask, physical(release / LESION), atol=1e-12)
    for call in (
        scan.isles.volume,
        mask.isles.labels,
        lambda: scan.isles.volumes("lesion_mask"),
        lambda: scan.isles.statistics("ncct"),
        lambda: scan.isles.time_curve("lesion_mask"),
        lambda: mask.isles.challenge_metrics(mask),
        lambda: plot.montage(scan, images=["ncct"]),
        lambda: scan.isles.plot_time_curves({"infarct": mask}),
        lambda: scan.isles.volume(threshold=0.3),
    ):
        with pytest.raises(MaskError) as error:
            call()
        assert "\n" not in str(error.value)
        assert "lesion_mask" in str(error.value) or "infarct" in str(error.value)
    page = isles24_zarr.open_cohort(tmp_path / "x.zarr").isles.summary(S)
    assert [row for section in page.sections for row in section.rows if row[-1].startswith("none: ")]
    # a second run says it again, without reading the file
    again = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    assert [p for p in again.problems if words in p.message]
    out = tmp_path / "out"
    assert isles24_zarr.export(tmp_path / "x.zarr", out, client=client, progress=False).ok
    assert gzip.decompress((out / LESION).read_bytes()) == gzip.decompress((release / LESION).read_bytes())


def test_two_zeros_are_kept_and_are_both_0(tmp_path: Path, client: Client) -> None:
    """-0.0 cannot come back from a label; as a number it is none other."""
    voxels = np.where(INSIDE, 1.0, 0.0).astype(np.float32)
    voxels[0, 0, :3] = -0.0
    release = make_release(tmp_path / "train", voxels, 0.0)
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    assert [p for p in report.problems if "two stored values, -0.0 and 0.0, for the label 0" in p.message]
    scan = isles24_zarr.open_scan(tmp_path / "x.zarr", S)
    assert scan.isles.volumes("lesion_mask").loc[1, "voxels"] == INSIDE.sum()
    assert isles24_zarr.export(tmp_path / "x.zarr", tmp_path / "out", client=client, progress=False).ok
    assert gzip.decompress((tmp_path / "out" / LESION).read_bytes()) == gzip.decompress((release / LESION).read_bytes())


def test_labels_that_nobody_knows_are_reported(tmp_path: Path, client: Client) -> None:
    release = make_release(tmp_path / "train", INSIDE.astype(np.uint8) * 7, 0.0)
    report = isles24_zarr.convert(release, tmp_path / "x.zarr", client=client, progress=False)
    assert [p.message for p in report.problems if p.path == LESION] == [
        "holds the label 7, which is none of 0 background, 1 infarct; it is kept"
    ]


def test_the_real_mask(real_data: Path, client: Client, tmp_path: Path) -> None:
    name = "sub-stroke0158"
    file = f"derivatives/{name}/ses-02/{name}_ses-02_space-ncct_lesion-msk.nii.gz"
    (tmp_path / "train" / file).parent.mkdir(parents=True)
    shutil.copy(real_data / f"{name}_ses-02_lesion-msk.nii.gz", tmp_path / "train" / file)
    store = convert(tmp_path / "train", client)
    scan = isles24_zarr.open_scan(store, name)
    assert int((scan["lesion_mask"] == 1).sum()) == 305_200
    assert scan.isles.volume(label=1) == pytest.approx(118.93, abs=0.005)
    assert scan["lesion_mask"].isles.challenge_metrics(scan["lesion_mask"]).dice == 1


def test_a_store_of_version_1_is_told_of_and_brought_up_to_date(
    store: Path, release: Path, client: Client, tmp_path: Path
) -> None:
    copy = tmp_path / "old.zarr"
    shutil.copytree(store, copy)
    for document in copy.glob("**/zarr.json"):
        found = json.loads(document.read_text())
        ours = found["attributes"].get("isles24_zarr", {})
        if document.parent == copy:
            found["attributes"]["format_version"] = 1
        if ours.pop("format_version", None) or document.parent == copy:
            ours["seal"] = seal(found)
        document.write_text(json.dumps(found, indent=2))
    voxels = {path: path.stat().st_mtime_ns for path in copy.glob("*/*/ctp/c/**/*") if path.is_file()}
    for call in (
        lambda: isles24_zarr.open_cohort(copy),
        lambda: isles24_zarr.open_scan(copy, S),
        lambda: isles24_zarr.verify(copy, client=client, progress=False),
        lambda: isles24_zarr.export(copy, tmp_path / "out", client=client, progress=False),
        lambda: isles24_zarr.convert(release, copy, subjects=[S], client=client, progress=False),
    ):
        with pytest.raises(OldStoreError, match="convert the whole release into it again"):
            call()
    report = isles24_zarr.convert(release, copy, client=client, progress=False)
    assert set(report.reasons.values()) == {"written in format version 1"}
    assert isles24_zarr.verify(copy, release, client=client, progress=False).problems == ()
    assert {path: path.stat().st_mtime_ns for path in voxels} == voxels


# --- by values ---


def make_image(values: np.ndarray[Any, Any]) -> xr.DataArray:
    coords = {
        name: xr.Variable(name, np.arange(float(size)), {"direction": np.eye(3)[axis].tolist(), "spacing": 1.0})
        for axis, (name, size) in enumerate(zip("xyz", values.shape[::-1], strict=True))
    }
    return xr.DataArray(values, coords, ("z", "y", "x"), name="mask")


def test_user_masks_of_any_type() -> None:
    inside = turned(INSIDE)
    for values in (inside, inside.astype(int), inside.astype(np.float16), inside * 1.0005, inside.astype(">f8")):
        image = make_image(values)
        assert analysis.mask_volume(image, 1000.0) == inside.sum()
        assert masks.labelled(image).dtype.kind in "bu"
        np.testing.assert_array_equal(masks.labelled(image.chunk(z=2)), inside)
    with pytest.raises(UnknownNameError, match="fractions"):
        analysis.mask_volume(make_image(inside), 1.0, threshold=0.0)
    for values in (inside.astype(complex), inside.astype(str), inside.astype("M8[s]")):
        with pytest.raises(MaskError, match="type"):
            analysis.mask_volume(make_image(values), 1.0)


def test_a_mask_without_dask_is_read_block_by_block(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of a float mask does not need all of it at once."""
    sizes = []
    original = masks.values_of
    monkeypatch.setattr("isles24_zarr.analysis.blockwise.DASK_CHUNK_BYTES", 20_000)
    monkeypatch.setattr(masks, "values_of", lambda block: sizes.append(block.size) or original(block))
    scan = isles24_zarr.open_scan(store, S, chunks=None)
    late = (scan["lesion_mask"] * 1.0).astype(np.float32)
    analysis.mask_volume(late, 1.0)
    assert len(sizes) > 1
    assert sum(sizes) == late.size


kinds = st.sampled_from(["u1", "<u2", ">u2", "<i4", "<i8", "<f2", "<f4", ">f8"])
numbers = kinds.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
        elements=hnp.from_dtype(np.dtype(dtype)) | st.sampled_from([0, 1, 2, 15]),
    )
)
slopes = st.sampled_from([None, 0.5, 1.0, -1.0, float(np.float32(1 / 65535)), float(np.float32(1 / 255))])


@given(numbers, slopes)
def test_labels_are_what_the_values_mean_and_give_the_values_back(voxels: np.ndarray, slope: float | None) -> None:
    scale = slope, None if slope is None else 0.0
    # in parts, whatever they are
    parts = [values_of(part, *scale) for part in np.array_split(voxels.ravel(), 3)]
    found = mask_values(merged(parts), *scale)
    assert MaskValues.from_json(json.loads(json.dumps(found.to_json()))) == found
    with np.errstate(invalid="ignore", over="ignore"):
        values = voxels.astype(np.longdouble if slope is None else np.float64) * (1 if slope is None else slope)
        whole = np.rint(values)
        near = bool((np.isfinite(values) & (np.abs(values - whole) <= 1e-3)).all())
        different = np.unique(np.ascontiguousarray(voxels).ravel().view(f"u{voxels.dtype.itemsize}")).size
        one_to_one = different == np.unique(whole).size
    if near and (whole >= 0).all() and one_to_one and different <= MOST_VALUES:
        assert found.kind == "labels"
        labels = labels_from_stored(voxels, found, *scale)
        assert labels.dtype == np.min_scalar_type(int(whole.max()))
        assert labels.tolist() == whole.astype(object).tolist() or np.array_equal(labels.astype(np.longdouble), whole)
        assert stored_from_labels(labels, found, voxels.dtype).tobytes() == voxels.tobytes()
    elif np.isfinite(values).all() and not near and (values >= -1e-3).all() and (values <= 1.001).all():
        assert found.kind == "soft"
    else:
        assert found.kind == "other"
        assert found.why


def test_a_label_that_the_file_did_not_have_is_damage() -> None:
    found = mask_values(values_of(np.array([0, 65535], np.uint16), SLOPE, 0.0), SLOPE, 0.0)
    with pytest.raises(ValueError, match="did not have"):
        stored_from_labels(np.array([0, 2], np.uint8), found, np.dtype(np.uint16))
    same = mask_values(values_of(np.array([0, 3], np.uint16)))
    with pytest.raises(ValueError, match="above 3"):
        stored_from_labels(np.array([0, 4], np.uint8), same, np.dtype(np.uint16))


def test_more_values_than_labels() -> None:
    many = np.arange(MOST_VALUES + 1)
    assert mask_values(values_of(many.astype(np.uint16))).kind == "labels"
    assert mask_values(values_of(many.astype(np.float32))).kind == "other"


def test_a_file_that_changes_between_two_looks_is_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its labels would be those of another file."""
    from isles24_zarr import tasks
    from isles24_zarr.conversion import _ingest as ingest
    from isles24_zarr.release.source import Source
    from isles24_zarr.store.objects import StorePlace

    release = make_release(tmp_path / "train", *MASKS["as the real one"][:2])
    monkeypatch.setattr(tasks, "advance", lambda *_: None)
    source, target = Source.of(release), StorePlace.of(tmp_path / "x.zarr")
    from isles24_zarr.conversion._planning import read_headers
    from isles24_zarr.format.layout import subject_plan

    (subject,) = source.listed().subjects.values()
    _, headers, _ = read_headers(source, [subject], progress=False)
    (plan,) = [each for each in subject_plan(subject, headers).arrays if each.image == "lesion_mask"]
    looked_at = ingest.looked_at

    def changed(*arguments: Any) -> Any:
        found = looked_at(*arguments)
        make_release(tmp_path / "train", np.roll(MASKS["as the real one"][0], 1), SLOPE)
        return found

    monkeypatch.setattr(ingest, "looked_at", changed)
    task = ingest.FileTask(source=source, target=target, plan=plan, unchanged=False)
    result = ingest.convert_file(task, "topic")
    assert not result.present
    assert result.problem
    assert "changed while it was read" in result.problem.message
    assert not (tmp_path / "x.zarr" / plan.path / "zarr.json").exists()


def test_masks_about_positions_are_not_looked_at(store: Path) -> None:
    scan = isles24_zarr.open_scan(store, S)
    centre = scan.isles.to_world([20, 20, 6])
    assert curves.region_curve(scan["ctp"], centre, radius=10).sizes["time"] == scan.sizes["time"]


def slope_of(file: Path) -> float:
    with gzip.open(file) as opened:
        slope: float = struct.unpack("<f", opened.read(116)[112:])[0]
    return slope


def test_the_test_files_are_what_they_say(tmp_path: Path) -> None:
    make_release(tmp_path, *MASKS["as the real one"][:2])
    assert slope_of(tmp_path / LESION) == np.float32(SLOPE)
    assert set(np.unique(nib.load(tmp_path / LESION).dataobj.get_unscaled()).tolist()) == {0, 65535}
    assert physical(tmp_path / LESION).max() == 0.9999999997671694
