"""Records against nibabel on the released files, and the snippet of the dataset card."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr import errors
from isles24_zarr.cohorts.records import file_voxels
from isles24_zarr.geometry.grid import Orientation, canonical_from_file
from tests.damage import spoil_chunks
from tests.nifti_files import random_voxels, write
from tests.oracle import labels_of

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from distributed import Client

S = "sub-stroke0001"
IMAGES = ["ncct", "cta", "ctp", "tmax", "mtt", "cbf", "cbv", "dwi", "adc", "lesion_mask", "lvo_mask", "cow_mask"]
KEYS = ["subject_id", *IMAGES, "age", "sex", "nihss_admission", "mrs_admission", "mrs_3month"]
FILES = {
    "ncct": "raw_data/{0}/ses-01/{0}_ses-01_ncct.nii.gz",
    "cta": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_cta.nii.gz",
    "ctp": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_ctp.nii.gz",
    "tmax": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_tmax.nii.gz",
    "mtt": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_mtt.nii.gz",
    "cbf": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_cbf.nii.gz",
    "cbv": "derivatives/{0}/ses-01/perfusion-maps/{0}_ses-01_space-ncct_cbv.nii.gz",
    "dwi": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_dwi.nii.gz",
    "adc": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_adc.nii.gz",
    "lesion_mask": "derivatives/{0}/ses-02/{0}_ses-02_space-ncct_lesion-msk.nii.gz",
    "lvo_mask": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_lvo-msk.nii.gz",
    "cow_mask": "derivatives/{0}/ses-01/{0}_ses-01_space-ncct_cow-msk.nii.gz",
}
CUTS: list[Any] = [
    (..., 0),
    (slice(7, 2, -2), slice(None), 5),
    4,
    (slice(None, None, 3), -1, slice(2, 9)),
    (slice(3, 3),),
    (None, slice(1, 4), 2, 3),
    (slice(None, None, -1),) * 3,
]


@pytest.fixture(scope="module")
def cohort(store: Path) -> xr.DataTree:
    return isles24_zarr.open_cohort(store)


def as_labels(file: Path) -> Any:
    """The file as nibabel loads it; where that is a mask that stores something else than its labels, with these."""
    image: Any = nib.load(file)
    raw = image.dataobj.get_unscaled()
    labels = labels_of(file, raw)
    if labels is None or np.array_equal(labels, raw):
        return image
    header = image.header.copy()
    header.set_data_dtype(labels.dtype)
    header["vox_offset"] = 352  # nibabel shows 0 of a file that it has loaded
    again = io.BytesIO(header.binaryblock + bytes(4) + labels.tobytes(order="F"))
    return type(image).from_bytes(again.getvalue())


def assert_same_image(found: Any, file: Path) -> None:
    image: Any = as_labels(file)
    assert isinstance(found, type(image))
    assert found.header == image.header
    assert found.header.extensions == image.header.extensions
    assert found.shape == image.shape
    assert found.get_data_dtype() == image.get_data_dtype()
    np.testing.assert_array_equal(found.affine, image.affine)
    assert (found.dataobj.slope, found.dataobj.inter) == (image.dataobj.slope, image.dataobj.inter)
    for ours, theirs in (
        (found.dataobj, image.dataobj),
        (found.dataobj.get_unscaled(), image.dataobj.get_unscaled()),
        *((found.dataobj[cut], image.dataobj[cut]) for cut in CUTS),
    ):
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.get_fdata(dtype=np.float32), image.get_fdata(dtype=np.float32))
    assert found.slicer[2:6, :, 3:7].affine.tolist() == image.slicer[2:6, :, 3:7].affine.tolist()


def test_the_snippet_of_the_card(store: Path, release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = f"""
import isles24_zarr
ds = isles24_zarr.open_cohort({str(store)!r}).isles.examples

# Access a subject
example = ds[0]
print(example["subject_id"])      # "sub-stroke0001"
print(example["ncct"])            # Non-contrast CT array
print(example["dwi"])             # Diffusion-weighted MRI
print(example["lesion_mask"])     # Ground truth segmentation
print(example["nihss_admission"]) # Stroke severity score

ncct_data = example["ncct"].get_fdata()
lesion = example["lesion_mask"].get_fdata()
print(example["ncct"].shape, example["ncct"].affine, example["age"], example["sex"])
"""
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102 - it is ours
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == S
    assert "data shape (48, 56, 12)" in shown
    for key, data in (("ncct", names["ncct_data"]), ("lesion_mask", names["lesion"])):
        np.testing.assert_array_equal(data, as_labels(release / FILES[key].format(S)).get_fdata())
    assert names["lesion"].sum() > 0


def test_every_image_is_the_one_of_its_file(release: Path, cohort: xr.DataTree) -> None:
    for record in cohort.isles.examples:
        for name, path in FILES.items():
            assert_same_image(record[name], release / path.format(record["subject_id"]))


def test_clinical_values_are_those_of_the_tables(release: Path, cohort: xr.DataTree) -> None:
    columns = {"age": "Age", "nihss_admission": "NIHSS at admission", "mrs_admission": "mRS at admission"}
    for record in cohort.isles.examples:
        name = record["subject_id"]
        baseline = pd.read_excel(next((release / f"phenotype/{name}").rglob("*baseline.xlsx"))).iloc[0]
        outcome = pd.read_excel(next((release / f"phenotype/{name}").rglob("*outcome.xlsx"))).iloc[0]
        assert {key: record[key] for key in columns} == {key: baseline[column] for key, column in columns.items()}
        assert record["sex"] == baseline["Sex"].upper()
        assert record["mrs_3month"] == outcome["mRS 3 months"]
        assert type(record["age"]) is float


def test_records_are_a_sequence_of_mappings(cohort: xr.DataTree) -> None:
    examples = cohort.isles.examples
    assert isinstance(examples, Sequence)
    names = cohort.isles.subjects
    assert [record["subject_id"] for record in examples] == names
    assert [record["subject_id"] for record in examples[::-2]] == names[::-2]
    assert examples[-1]["subject_id"] == examples[np.int64(2)]["subject_id"] == names[-1]
    assert len(examples) == 3
    assert len(examples[1:]) == 2
    with pytest.raises(IndexError):
        examples[3]
    record = examples[0]
    assert isinstance(record, Mapping)
    assert list(record) == KEYS
    assert "ctp" in record
    assert "subject" not in record
    with pytest.raises(KeyError):
        record["t1w"]
    assert record["ncct"] is record["ncct"]
    part = cohort.isles.select("sex == 'M'")
    assert [each["subject_id"] for each in part.isles.examples] == part.isles.subjects


def test_records_travel_as_places(cohort: xr.DataTree) -> None:
    record = cohort.isles.examples[0]
    wanted = record["ctp"].get_fdata()
    for each in (record, cohort.isles.examples):
        assert len(pickle.dumps(each)) < 5_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(record))["ctp"].get_fdata(), wanted)  # noqa: S301
    proxy = pickle.loads(pickle.dumps(record["ctp"].dataobj))  # noqa: S301
    np.testing.assert_array_equal(proxy[..., 5], wanted[..., 5])
    np.testing.assert_array_equal(np.array(proxy.copy()), wanted)


def test_a_slice_reads_its_chunks_alone(store: Path, release: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    image: Any = nib.load(release / FILES["ctp"].format(S))
    # chunks are (1, 6, 56, 48): slice 2 is in the first along z
    assert spoil_chunks(copy / S / "space-ncct/ctp", but={(4, 0, 0, 0), (5, 0, 0, 0)}) == 22
    voxels = isles24_zarr.open_cohort(copy).isles.examples[0]["ctp"].dataobj
    np.testing.assert_array_equal(voxels[:, :, 2, 5], image.dataobj[:, :, 2, 5])
    np.testing.assert_array_equal(voxels[9:3:-2, 7, 5:1:-1, 4:6], image.dataobj[9:3:-2, 7, 5:1:-1, 4:6])
    with pytest.raises(errors.StoreDamageError, match="has a damaged chunk"):
        voxels[:, :, 2, 3]
    with pytest.raises(errors.StoreDamageError, match="has a damaged chunk"):
        np.asarray(voxels)


def test_opening_a_record_reads_no_voxel(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    for name in FILES:
        spoil_chunks(copy / S / "space-ncct" / name, but=())
    record = dict(isles24_zarr.open_cohort(copy).isles.examples[0])
    assert list(record) == KEYS
    assert record["ctp"].shape == (48, 56, 12, 12)


ODD = ["ncct", "cta", "ctp", "tmax", "mtt", "cbf"]


@pytest.fixture(scope="module")
def odd_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject with scaling, big-endian voxels, five axes, turned axes, a grid of its own, and much missing."""
    release = tmp_path_factory.mktemp("odd") / "train"
    affine = np.array([[0, 0, -2.0, 40], [0.5, 0, 0, -3], [0, -0.7, 0, 9], [0, 0, 0, 1]])
    for name, shape, dtype, fields in (
        ("ncct", (9, 10, 11), "<i2", {"scl_slope": 0.5, "scl_inter": -1024}),
        ("cta", (9, 10, 11), ">i2", {"byte_order": ">", "extension": b"made for a test"}),
        ("ctp", (9, 10, 11, 5, 1), "<u2", {"scl_slope": 2}),
        ("tmax", (9, 10, 11, 1), "<f4", {}),
        ("mtt", (9, 10, 13), "<f8", {}),
        ("cbf", (9, 10, 11), "<f4", {"version": 2}),
    ):
        voxels = random_voxels(shape, dtype)
        if dtype[1] == "f":
            voxels = np.nan_to_num(voxels, posinf=1, neginf=1).clip(-1e6, 1e6)
        write(release / FILES[name].format(S), voxels.astype(dtype), affine, **fields)
    return release


@pytest.fixture(scope="module")
def odd_store(odd_release: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd-store") / "odd.zarr"
    report = isles24_zarr.convert(odd_release, path, client=client, progress=False)
    assert not [problem for problem in report.problems if problem.severity == "error"]
    return path


def test_odd_images_too(odd_release: Path, odd_store: Path) -> None:
    (record,) = isles24_zarr.open_cohort(odd_store).isles.examples
    for name in ODD:
        assert_same_image(record[name], odd_release / FILES[name].format(S))
    missing = [key for key in KEYS if record[key] is None]
    assert missing == [key for key in KEYS if key not in ("subject_id", *ODD)]


@given(st.data())
def test_any_part_in_any_orientation(data: st.DataObject) -> None:
    axes = data.draw(st.permutations([0, 1, 2]))
    orientation = Orientation(axes=tuple(axes), flips=tuple(data.draw(st.booleans()) for _ in range(3)))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=3)))
    trailing = data.draw(st.sampled_from([(), (4,), (1, 4), (4, 1)]))
    file = np.arange(np.prod(shape + trailing)).reshape(shape + trailing, order="F")
    block = file.reshape(*shape, *(n for n in trailing if n > 1), order="F").T
    # a store takes steps upwards, and nothing else
    array = UpwardsOnly(canonical_from_file(block, orientation))
    index = tuple(data.draw(st.slices(n) | st.integers(0, n - 1)) for n in file.shape)
    np.testing.assert_array_equal(file_voxels(cast("Any", array), index, file.shape, orientation), file[index])


class UpwardsOnly:
    def __init__(self, voxels: Any) -> None:
        self.voxels, self.ndim, self.dtype = voxels, voxels.ndim, voxels.dtype

    def read(self, region: tuple[slice, ...]) -> Any:
        assert all(
            cut.step > 0 and 0 <= cut.start < cut.stop <= n for cut, n in zip(region, self.voxels.shape, strict=True)
        )
        return self.voxels[region]


# --- Hugging Face ---


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("datasets", minversion="4.4")
    found.disable_progress_bars()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return found


def test_a_hugging_face_dataset(datasets: Any, release: Path, cohort: xr.DataTree, tmp_path: Path) -> None:
    found = cohort.isles.to_hf_dataset(cache_dir=tmp_path)
    assert list(found.features) == KEYS
    assert all(found.features[name] == datasets.Nifti() for name in FILES)
    assert {found.features[name].dtype for name in ("age", "mrs_3month", "nihss_admission")} == {"float32"}
    assert found.features["sex"] == datasets.ClassLabel(names=["F", "M"])
    assert found.cache_files
    assert str(tmp_path) in found.cache_files[0]["filename"]
    raw = found.with_format("arrow")
    for place, record in enumerate(cohort.isles.examples):
        row = raw[place].to_pylist()[0]
        for name, path in FILES.items():
            file = release / path.format(record["subject_id"])
            assert gzip.decompress(row[name]["bytes"]) == gzip.decompress(file.read_bytes())
            assert row[name]["path"] == file.name
        assert row["age"] == np.float32(record["age"])
        assert (row["subject_id"], ["F", "M"][row["sex"]]) == (record["subject_id"], record["sex"])
    image: Any = nib.load(release / FILES["ctp"].format(S))
    np.testing.assert_array_equal(found[0]["ctp"].get_fdata(), image.get_fdata())


def test_a_dataset_that_names_files(datasets: Any, odd_release: Path, odd_store: Path, tmp_path: Path) -> None:  # noqa: ARG001
    cohort = isles24_zarr.open_cohort(odd_store)
    found = cohort.isles.to_hf_dataset(cache_dir=tmp_path / "cache", files=tmp_path / "files")
    (row,) = found
    for name in ODD:
        image: Any = nib.load(odd_release / FILES[name].format(S))
        if name != "cbf":  # the feature reads NIfTI-1
            np.testing.assert_array_equal(row[name].get_fdata(), image.get_fdata())
        written = tmp_path / "files" / FILES[name].format(S)
        assert gzip.decompress(written.read_bytes()) == gzip.decompress(
            (odd_release / FILES[name].format(S)).read_bytes()
        )
    assert row["dwi"] is None
    assert row["age"] is None
    assert row["sex"] is None
    before = {path: path.read_bytes() for path in (tmp_path / "files").rglob("*.nii*")}
    kept, *gone = before
    kept.write_bytes(b"not written again")
    for path in gone:
        path.unlink()
    cohort.isles.to_hf_dataset(cache_dir=tmp_path / "cache", files=tmp_path / "files")
    after = {path: path.read_bytes() for path in (tmp_path / "files").rglob("*.nii*")}
    assert after == before | {kept: b"not written again"}


@pytest.mark.usefixtures("datasets")
def test_a_store_converted_anew_is_not_taken_from_the_cache(
    release: Path,
    client: Client,
    tmp_path: Path,
) -> None:
    changed, path = tmp_path / "train", tmp_path / "x.zarr"
    shutil.copytree(release / "raw_data" / S, changed / "raw_data" / S)
    shape = []
    for _ in range(2):
        isles24_zarr.convert(changed, path, client=client, progress=False)
        found = isles24_zarr.open_cohort(path).isles.to_hf_dataset(cache_dir=tmp_path / "cache")
        shape.append(found[0]["ncct"].shape)
        write(changed / FILES["ncct"].format(S), random_voxels((4, 5, 6), "<i2"))
    assert shape == [(48, 56, 12), (4, 5, 6)]


def test_a_dataset_of_some_images_says_how_large_it_is(
    datasets: Any,  # noqa: ARG001
    release: Path,
    cohort: xr.DataTree,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = cohort.isles.to_hf_dataset(["ncct", "tmax"], cache_dir=tmp_path)
    assert list(found.features) == [key for key in KEYS if key not in IMAGES or key in ("ncct", "tmax")]
    (line,) = capsys.readouterr().err.splitlines()
    sizes = [
        (release / FILES[name].format(subject)).stat().st_size
        for name in ("ncct", "tmax")
        for subject in cohort.isles.subjects
    ]
    assert f"about {sum(sizes) / 1e9:.1f} GB of {len(cohort.isles.subjects)} subjects go to {tmp_path}" in line
    with pytest.raises(errors.UnknownNameError, match="'nct': is no image"):
        cohort.isles.to_hf_dataset(["nct"])


def test_a_streamed_dataset_writes_nothing(
    datasets: Any, release: Path, cohort: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    found = cohort.isles.to_hf_dataset(["ncct"], streaming=True)
    assert isinstance(found, datasets.IterableDataset)
    assert found.num_shards == len(cohort.isles.subjects)
    for row, subject in zip(found, cohort.isles.subjects, strict=True):
        file: Any = nib.load(release / FILES["ncct"].format(subject))
        np.testing.assert_array_equal(row["ncct"].get_fdata(), file.get_fdata())
        assert row["subject_id"] == subject
    loaded = [row for part in range(2) for row in found.shard(2, part)]
    assert {row["subject_id"] for row in loaded} == set(cohort.isles.subjects)
    assert {file.suffix for file in tmp_path.rglob("*")} <= {".lock"}


@pytest.mark.parametrize("how", ["array", "float", "slice"])
def test_torch_takes_arrays_as_they_are(odd_store: Path, cohort: xr.DataTree, how: str) -> None:
    torch = pytest.importorskip("torch")
    images = [
        record[name]
        for part in (cohort, isles24_zarr.open_cohort(odd_store))
        for record in part.isles.examples
        for name in IMAGES
        if record[name] is not None
    ]
    assert images
    for image in images:
        found = {
            "array": lambda image: np.asarray(image.dataobj),
            "float": lambda image: image.get_fdata(dtype=np.float32),
            "slice": lambda image: image.dataobj[::-1, ..., 0],
        }[how](image)
        assert found.flags.writeable
        assert torch.from_numpy(found).shape == found.shape


def test_without_datasets(cohort: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(errors.MissingExtraError, match=r"isles24-zarr\[hf\]"):
        cohort.isles.to_hf_dataset()
