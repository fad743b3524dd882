"""Releases of others: images beyond the twelve, what is left out, other layouts, and disks that are too small.

Voxels and places are compared with what nibabel reads of the files.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr.conversion import forecast
from isles24_zarr.conversion._room import free_bytes, least_bytes
from isles24_zarr.errors import LeftOutError, LittleRoomWarning, NoRoomError, SourceNotFoundError, UnknownNameError
from isles24_zarr.release import image_kind, is_image_name, left_out_line
from isles24_zarr.release.names import ImageName, Stray, classified
from isles24_zarr.store import StorePlace
from isles24_zarr.vocabulary import CLINICAL, IMAGES
from tests.nifti_files import OBLIQUE, random_voxels, write
from tests.oracle import arrays_by_source, assert_identical_stores, assert_same_image
from tests.test_places import mount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

S, OTHER, LAST = "sub-stroke0001", "sub-stroke0002", "sub-stroke0004"
RAW, REGISTERED = f"raw_data/{S}", f"derivatives/{S}"
SECONDS = 600


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "isles24_zarr", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)


# --- names ---


@pytest.mark.parametrize(
    ("path", "image", "space"),
    [
        (f"{RAW}/ses-02/{S}_ses-02_FLAIR.nii.gz", "flair", "flair"),
        (f"{RAW}/ses-02/{S}_ses-02_T1w.nii.gz", "t1w", "t1w"),
        (f"{RAW}/ses-01/{S}_ses-01_T1w.nii.gz", "ses1_t1w", "ses1t1w"),
        (f"{REGISTERED}/ses-02/{S}_ses-02_space-ncct_swi.nii", "swi", "ncct"),
        (f"{REGISTERED}/ses-02/{S}_ses-02_swi.nii", "swi", "ncct"),
        (f"{REGISTERED}/ses-02/{S}_ses-02_space-ncct_desc-reader2_lesion-msk.nii.gz", "reader2_lesion_mask", "ncct"),
        (f"{REGISTERED}/ses-02/{S}_ses-02_space-ncct_desc-2_lesion-msk.nii.gz", "desc2_lesion_mask", "ncct"),
        (f"{REGISTERED}/ses-02/{S}_ses-02_space-flair_wmh-msk.nii.gz", "wmh_mask", "flair"),
        (f"{RAW}/ses-01/{S}_ses-01_acq-thin_run-1_cta.nii.gz", "acqthin_run1_cta", "cta"),
        (f"{RAW}/ses-01/perfusion-maps/{S}_ses-01_ttp.nii.gz", "ttp", "ctp"),
        (f"{RAW}/ses-02/perfusion-maps/{S}_ses-02_tmax.nii.gz", "ses2_tmax", "ses2ctp"),
        (f"{RAW}/ses-02/{S}_ses-02_ncct.nii.gz", "ses2_ncct", "ses2ncct"),
        (f"{RAW}/ses-01/{S}_ses-01_dwi.nii.gz", "ses1_dwi", "ses1dwi"),
        (f"{RAW}/ses-0003/{S}_ses-0003_adc.nii.gz", "ses3_adc", "ses3dwi"),
        (f"{REGISTERED}/ses-01/{S}_ses-01_space-MNI_cta.nii.gz", "spacemni_cta", "mni"),
        (f"{RAW}/ses-01/{S}_ses-01_brain_bone.nii.gz", "brain_bone", "brainbone"),
    ],
)
def test_names_of_images_beyond_the_twelve(path: str, image: str, space: str) -> None:
    name = classified(f"train/{path}")
    assert isinstance(name, ImageName)
    assert (name.image, name.space) == (image, space)
    assert name.beyond
    assert image_kind(image).session == name.session


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        ("ses-01_NCCT", "rename it to end in _ncct if it is the 'ncct'"),
        ("ses-02_lesion-mask", "rename it to end in _lesion-msk if it is the 'lesion_mask'"),
        ("ses-02_lesion_mask", "rename it to end in _lesion-msk"),
        ("ses-01_x", "no name"),
        ("ses-01_time", "no name"),
        ("ses-01_subject", "no name"),
        ("ses-01_age", "no name"),
        ("ses-01_nihss_admission", "no name"),
        ("ses-01_c", "no name"),
        ("ses-01_3d", "no name"),
        ("ses-01_desc-ses3_foo", "no name"),
        ("ses-01_c_ta", "no name"),
        ("ses-01_tof--mra", "no name"),
        ("ses-01_space-a-b_tof", "space is not known"),
        ("ses-01_space-a_space-b_tof", "space is not known"),
        ("ses-01_" + 101 * "a", "no name"),
    ],
)
def test_names_that_would_hide_others_are_refused(suffix: str, reason: str) -> None:
    name = classified(f"{RAW}/{suffix[:6]}/{S}_{suffix}.nii.gz")
    assert isinstance(name, Stray)
    assert reason in name.reason


WORDS = st.sampled_from(["x", "time", "ncct", "lesion-msk", "lesion", "mask", "msk", "age", "ses2", "ses-2", "desc-x"])
PARTS = st.lists(WORDS | st.from_regex(r"[0-9A-Za-z-]{1,8}", fullmatch=True), min_size=1, max_size=4)


@given(PARTS, st.integers(0, 12), st.sampled_from(["raw_data", "derivatives"]), st.sampled_from(["", "_space-MNI"]))
def test_any_name_is_safe_and_tells_its_session(parts: list[str], session: int, section: str, space: str) -> None:
    file = f"{S}_ses-{session:02d}{space}_{'_'.join(parts)}.nii.gz"
    name = classified(f"{section}/{S}/ses-{session:02d}/{file}")
    if not isinstance(name, ImageName):
        return
    assert is_image_name(name.image)
    assert name.image not in {"x", "y", "z", "i", "j", "k", "time", "subject", *CLINICAL}
    assert (name.image in IMAGES) == (not name.beyond)
    assert name.image.replace("_", "").isalnum()
    assert name.space.isalnum()
    assert image_kind(name.image).session == name.session == session
    if name.beyond:
        assert section == "derivatives" or space or name.space != "ncct"


# --- a release with images of its own ---


@pytest.fixture(scope="module")
def source(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release with more images of two subjects: on grids of their own or that of the NCCT, masks of two readers."""
    folder = shutil.copytree(release, tmp_path_factory.mktemp("other") / "train")
    for number, subject in enumerate((S, OTHER)):
        raw, registered = folder / "raw_data" / subject, folder / "derivatives" / subject
        flip = np.diag([-1.0, 1, 1, 1]) if number else np.eye(4)
        flair = random_voxels((20, 24, 6), "int16", seed=number)
        write(raw / f"ses-02/{subject}_ses-02_FLAIR.nii.gz", flair, OBLIQUE @ flip, extension=b"of a reader")
        wmh = (flair > 30_000).astype(np.uint8)
        write(registered / f"ses-02/{subject}_ses-02_space-flair_wmh-msk.nii", wmh, OBLIQUE @ flip)
        write(
            raw / f"ses-01/{subject}_ses-01_T1w.nii.gz",
            random_voxels((7, 9, 5), "<f4", seed=9),
            OBLIQUE,
            byte_order=">",
        )
        ncct = nib.load(raw / f"ses-01/{subject}_ses-01_ncct.nii.gz")
        swi = random_voxels(ncct.shape, "uint16", seed=number)
        write(registered / f"ses-02/{subject}_ses-02_space-ncct_swi.nii.gz", swi, ncct.affine, scl_slope=0.5)
        marked = (swi > 40_000) * np.uint16(65535)
        name = f"ses-02/{subject}_ses-02_space-ncct_desc-reader2_lesion-msk.nii.gz"
        write(registered / name, marked, ncct.affine, scl_slope=1 / 65535)
    return folder


EXTRA = {"flair", "ses1_t1w", "swi", "wmh_mask", "reader2_lesion_mask"}


@pytest.fixture(scope="module")
def whole(source: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its store, with all that it has."""
    target = tmp_path_factory.mktemp("whole") / "x.zarr"
    report = isles24_zarr.convert(source, target, client=client, progress=False, extra_images=True, strict=True)
    assert report.ok
    assert report.images == 54 + 10
    assert {each.kind for each in report.left_out} == {"second file"}
    return target


def test_extra_images_are_what_their_files_hold(source: Path, whole: Path) -> None:
    arrays = arrays_by_source(whole)
    found = {path: array for path, array in arrays.items() if array.basename in EXTRA}
    assert len(found) == 10
    for path, array in found.items():
        # a grid has the affine of its reference; those of registered files differ by 1e-5 mm
        assert_same_image(source / path, array, shift=1e-4)
    kinds = {array.basename: dict(array.attrs) for array in found.values()}
    assert {name: each["session"] for name, each in kinds.items()} == {**dict.fromkeys(EXTRA, 2), "ses1_t1w": 1}
    assert kinds["reader2_lesion_mask"]["flag_values"] == [0, 1]
    assert "scale_factor" not in kinds["reader2_lesion_mask"]
    assert kinds["swi"]["scale_factor"] == 0.5


def test_scans_have_them(source: Path, whole: Path) -> None:
    scan = isles24_zarr.open_scan(whole, S)
    assert list(scan.data_vars)[-2:] == ["reader2_lesion_mask", "swi"]
    image = nib.load(source / f"{REGISTERED}/ses-02/{S}_ses-02_space-ncct_swi.nii.gz")
    back = scan["swi"].isles.to_nifti(like="file")
    assert np.array_equal(np.asanyarray(back.dataobj), 0.5 * image.dataobj.get_unscaled())
    marked = nib.load(source / f"{REGISTERED}/ses-02/{S}_ses-02_space-ncct_desc-reader2_lesion-msk.nii.gz")
    voxel = float(np.prod(marked.header.get_zooms()[:3]))
    wanted = np.count_nonzero(marked.dataobj.get_unscaled()) * voxel / 1000
    assert scan.isles.volume("reader2_lesion_mask") == pytest.approx(wanted, rel=1e-5)
    flair = isles24_zarr.open_scan(whole, OTHER, "flair")
    assert list(flair.data_vars) == ["flair", "wmh_mask"]
    of_file = nib.load(source / f"raw_data/{OTHER}/ses-02/{OTHER}_ses-02_FLAIR.nii.gz")
    first = flair.isles.affine @ [0, 0, 0, 1]
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(of_file.shape) - 1)
    assert np.abs(nib.affines.apply_affine(of_file.affine, corners) - first[:3]).max(axis=1).min() < 1e-4
    assert flair["wmh_mask"].dtype == np.uint8


def test_the_cohort_and_info_list_them(whole: Path) -> None:
    cohort = isles24_zarr.open_cohort(whole)
    available = cohort["phenotype"].to_dataset()["available"]
    assert list(available["image"].values) == [*IMAGES, *sorted(EXTRA)]
    for name in EXTRA:
        assert available.sel(image=name).values.tolist() == [True, True, False]
    plain = xr.open_zarr(whole / "phenotype", consolidated=True)
    assert plain["available"].equals(available)
    arrays = json.loads(run("info", whole, S, "--json").stdout)["arrays"]
    assert {(each["group"], each["image"]) for each in arrays} >= {
        ("space-flair", "flair"), ("space-flair", "wmh_mask"), ("space-ncct", "swi"),
        ("space-ncct", "reader2_lesion_mask"), ("space-ses1t1w", "ses1_t1w"),
    }  # fmt: skip


def test_pages_and_figures_have_room_for_them(whole: Path) -> None:
    pytest.importorskip("matplotlib")
    cohort = isles24_zarr.open_cohort(whole)
    summary = cohort.isles.summary(S)
    text = summary._repr_html_()
    assert "reader2 lesion mask" in text
    assert "ses1_t1w" in text


def test_verify_compares_them(source: Path, whole: Path, client: Client, tmp_path: Path) -> None:
    report = isles24_zarr.verify(whole, source, client=client, progress=False)
    assert report.problems == ()
    assert report.arrays == 64
    copy = shutil.copytree(whole, tmp_path / "x.zarr")
    shard = next(path for path in (copy / S / "space-flair/flair/c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    damaged = isles24_zarr.verify(copy, source, client=client, progress=False)
    assert {problem.path.split("/c/")[0] for problem in damaged.problems} == {f"{S}/space-flair/flair"}


def test_exported_files_are_those_that_were_converted(
    source: Path, whole: Path, client: Client, tmp_path: Path
) -> None:
    report = isles24_zarr.export(whole, tmp_path / "back", client=client, progress=False)
    assert (report.ok, report.written) == (True, 64)
    names = [
        path
        for path in arrays_by_source(whole)
        if any(word in path for word in ("FLAIR", "T1w", "swi", "wmh", "desc-"))
    ]
    assert len(names) == 10

    def content(path: Path) -> bytes:
        return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()

    for name in names:
        assert content(tmp_path / "back" / name) == content(source / name), name
    some = isles24_zarr.export(whole, tmp_path / "some", images=["flair"], client=client, progress=False)
    assert some.written == 2
    with pytest.raises(UnknownNameError, match="flai"):
        isles24_zarr.export(whole, tmp_path / "none", images=["flai"], client=client, progress=False)


def test_a_store_goes_on_to_keep_them(source: Path, whole: Path, client: Client, tmp_path: Path) -> None:
    again = isles24_zarr.convert(source, whole, client=client, progress=False)
    assert (again.converted, len(again.unchanged)) == ((), 3)
    assert {each.kind for each in again.left_out} == {"second file"}
    target = tmp_path / "x.zarr"
    first = isles24_zarr.convert(source, target, client=client, progress=False)
    assert first.images == 54
    assert not EXTRA & {path.name for path in target.rglob("*")}
    assert sum(each.kind == "extra image" for each in first.left_out) == 10
    assert isles24_zarr.verify(target, source, client=client, progress=False).problems == ()
    second = isles24_zarr.convert(source, target, client=client, progress=False, extra_images=True)
    assert (second.images, len(second.converted)) == (10, 2)
    assert_identical_stores(whole, target)
    (target / S / "zarr.json").unlink()
    third = isles24_zarr.convert(source, target, client=client, progress=False)
    assert (third.converted, third.images) == ((S,), 0)
    assert_identical_stores(whole, target)


def test_images_by_name(source: Path, client: Client, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="others need --extra-images"):
        isles24_zarr.convert(source, tmp_path / "x.zarr", images=["flair"], client=client, progress=False)
    report = isles24_zarr.convert(
        source, tmp_path / "x.zarr", images=["flair"], extra_images=True, client=client, progress=False
    )
    assert report.images == 2


# --- what is left out ---


def test_the_first_line_counts_what_is_left_out(source: Path, tmp_path: Path) -> None:
    wanted = (
        "left out: 10 images beyond the twelve (2 flair, 2 reader2_lesion_mask, 2 ses1_t1w, 2 swi, 2 wmh_mask), "
        "1 second file"
    )
    told = run("scan", source)
    assert told.returncode == 0
    assert "3 subjects, 54 images" in told.stdout.splitlines()[0]
    assert wanted in told.stdout.splitlines()[0]
    planned = run("convert", source, tmp_path / "x.zarr", "--dry-run")
    assert wanted in planned.stdout.splitlines()[0]
    done = run("convert", source, tmp_path / "x.zarr", "--workers", 1, "--subject", S)
    assert "left out: 5 images beyond the twelve" in done.stdout.splitlines()[0]
    assert "second file" not in done.stdout.splitlines()[0]


def test_strict_writes_nothing(source: Path, tmp_path: Path) -> None:
    for extra in ([], ["--dry-run"]):
        done = run("convert", source, tmp_path / "x.zarr", "--strict", *extra)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {source}: left out: 10 images beyond the twelve")
        assert "--extra-images" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "x.zarr").exists()
    assert run("scan", source, "--strict").returncode == 2
    assert run("scan", source, "--strict", "--extra-images").returncode == 0
    # those who have nothing more can be converted
    assert isles24_zarr.scan(source).left_out
    with pytest.raises(LeftOutError):
        forecast(source, tmp_path / "x.zarr", subjects=[S], strict=True)
    assert forecast(source, tmp_path / "x.zarr", subjects=[LAST], strict=True).arrays


@pytest.mark.parametrize(
    ("path", "count"),
    [
        (f"{RAW}/ses-01/anat/{S}_ses-01_ncct.nii.gz", "1 image under an unknown name"),
        (f"{RAW}/ses-baseline/{S}_ses-baseline_ncct.nii.gz", "1 image under an unknown name"),
        (f"derivatives/tool/{S}/ses-01/anat/{S}_ses-01_desc-core_mask.nii.gz", "1 result of a pipeline"),
        (f"phenotype/{S}/ses-03/{S}_ses-03_outcome.xlsx", "1 table"),
        ("more/scan.nii", "1 image under an unknown name"),
        (f"{RAW}/ses-01/{S}_ses-01_cta.nrrd", "1 image under an unknown name"),
        (f"{RAW}/ses-01/{S}_ses-01_ctp.MHA", "1 image under an unknown name"),
        (f"Phenotype/{S}/ses-01/{S}_ses-01_demographic_baseline.xlsx", "1 table"),
        (f"{RAW}/ses-01/{S}_ses-01_ncct.json", "1 other file"),
        ("README.md", "1 other file"),
    ],
)
@pytest.mark.parametrize("extra", [False, True])
def test_each_kind_is_counted(release: Path, tmp_path: Path, path: str, count: str, *, extra: bool) -> None:
    for folder in ("raw_data", "phenotype"):
        shutil.copytree(release / folder / S, tmp_path / folder / S)
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    found = isles24_zarr.scan(tmp_path, extra_images=extra)
    assert [each.path for each in found.left_out] == [path]
    assert [problem.path for problem in found.problems] == [path]
    assert left_out_line(found.left_out) == f"left out: {count}"
    if count.endswith("other file"):
        assert forecast(tmp_path, tmp_path / "x.zarr", strict=True).arrays
    else:
        with pytest.raises(LeftOutError, match=count):
            forecast(tmp_path, tmp_path / "x.zarr", strict=True, extra_images=extra)


def test_what_is_refused_is_counted(release: Path, tmp_path: Path) -> None:
    """Links out of the release, of an image and of all that a subject has."""
    for folder in ("raw_data", "phenotype"):
        shutil.copytree(release / folder / S, tmp_path / folder / S)
    assert forecast(tmp_path, tmp_path / "x.zarr", strict=True).arrays
    image = f"{REGISTERED}/ses-02/{S}_ses-02_space-ncct_dwi.nii.gz"
    (tmp_path / image).parent.mkdir(parents=True)
    (tmp_path / image).symlink_to(release / image)
    (tmp_path / f"raw_data/{OTHER}").symlink_to(release / f"raw_data/{OTHER}")
    found = isles24_zarr.scan(tmp_path).left_out
    assert [(each.path, each.kind, each.subject) for each in found] == [
        (image, "refused", S), (f"raw_data/{OTHER}", "refused", OTHER),
    ]  # fmt: skip
    assert left_out_line(found) == "left out: 2 refused files, folders and rows"
    assert forecast(tmp_path, tmp_path / "x.zarr").left_out == found
    with pytest.raises(LeftOutError, match="2 refused files"):
        forecast(tmp_path, tmp_path / "x.zarr", strict=True)
    (tmp_path / image).unlink()
    assert forecast(tmp_path, tmp_path / "x.zarr", subjects=[S], strict=True).arrays


def test_an_image_that_is_twice_in_an_archive_is_counted(release: Path, tmp_path: Path) -> None:
    paths = [f"{RAW}/ses-01/{S}_ses-01_{name}.nii.gz" for name in ("ncct", "cta", "cta")]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for path in paths:
            archive.write(release / path, path)
    found = isles24_zarr.scan(tmp_path / "two.zip").left_out
    assert [(each.path, each.kind, each.subject) for each in found] == [(paths[1], "refused", S)]


def test_a_folder_of_bids_is_refused_with_what_would_fit(tmp_path: Path) -> None:
    for name in ("T1w", "FLAIR", "T1w"):
        write(tmp_path / f"sub-01/ses-01/anat/sub-01_ses-01_{name}.nii.gz", random_voxels((3, 3, 3), "uint8"))
        write(tmp_path / f"sub-02/ses-01/anat/sub-02_ses-01_{name}.nii.gz", random_voxels((3, 3, 3), "uint8"))
    (tmp_path / "dataset_description.json").write_text("{}")
    done = run("convert", tmp_path, tmp_path / "x.zarr", "--extra-images")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for path, fitting in (
        ("sub-01/ses-01/anat/sub-01_ses-01_FLAIR.nii.gz", "raw_data/sub-01/ses-01/sub-01_ses-01_FLAIR.nii.gz"),
        ("sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz", "raw_data/sub-01/ses-01/sub-01_ses-01_T1w.nii.gz"),
    ):
        assert f"; {path} would fit as {fitting}, with --extra-images" in done.stderr
        (tmp_path / fitting).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / path, tmp_path / fitting)
    # and it does fit
    assert set(isles24_zarr.scan(tmp_path, extra_images=True).image_names) == {"ses1_flair", "ses1_t1w"}
    with pytest.raises(SourceNotFoundError, match="2 other images, which --extra-images"):
        isles24_zarr.scan(tmp_path)


@pytest.mark.parametrize(
    "name", ["x/..nii", "a b/sub-é_ses-1_x.nii", "sub-/ses-99999_.nii.gz", "sub-01/anat/sub-01_T1w.nii"]
)
def test_what_would_fit_is_told_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceNotFoundError, match="holds no image or table") as raised:
        isles24_zarr.scan(tmp_path)
    fitting = str(raised.value).split(" would fit as ")[1].split(";")[0].removesuffix(", with --extra-images")
    assert isinstance(classified(fitting.replace("<label>", "1")), ImageName)


# --- before it runs ---


def test_a_dry_run_tells_what_is_there_to_do_and_gone(source: Path, whole: Path, tmp_path: Path) -> None:
    target = shutil.copytree(whole, tmp_path / "x.zarr")
    changed = shutil.copytree(source, tmp_path / "train")
    for folder in ("raw_data", "derivatives", "phenotype"):
        shutil.rmtree(changed / folder / LAST)
    (changed / f"{RAW}/ses-01/{S}_ses-01_T1w.nii.gz").unlink()
    write(changed / f"raw_data/{OTHER}/ses-01/{OTHER}_ses-01_T2w.nii.gz", random_voxels((30, 30, 30), "int16"))
    before = sorted((path, path.stat().st_mtime_ns) for path in target.rglob("*"))
    told = json.loads(run("convert", changed, target, "--dry-run", "--json").stdout)
    assert [array["path"] for array in told["arrays"]] == [f"{OTHER}/space-ses1t2w/ses1_t2w"]
    assert told["there"]["subjects"] == [S]
    assert len(told["there"]["arrays"]) == 2 * 23
    assert told["to_remove"] == {"subjects": [LAST], "arrays": [f"{S}/space-ses1t1w/ses1_t1w"]}
    size = (changed / f"raw_data/{OTHER}/ses-01/{OTHER}_ses-01_T2w.nii.gz").stat().st_size
    assert told["bytes"]["estimated"] in (size, 30**3 * 2 // 4)
    assert told["bytes"]["free"] > 0
    assert "T2w" in told["reasons"][OTHER]
    text = run("convert", changed, target, "--dry-run").stdout
    assert "there: 1 subjects, 46 images" in text.splitlines()[0]
    assert "to do: 1 subjects, 1 images; to remove: 1 subjects and 1 images of others" in text.splitlines()[0]
    assert f"in the store and not in the source: {LAST}, {S}/space-ses1t1w/ses1_t1w" in text
    afresh = forecast(changed, target, overwrite=True)
    assert len(afresh.arrays) == 2 * 23
    assert afresh.standing == ()
    assert sorted((path, path.stat().st_mtime_ns) for path in target.rglob("*")) == before


def test_nothing_takes_less_than_the_least(source: Path, whole: Path) -> None:
    new = forecast(source, whole.parent / "new.zarr", extra_images=True)
    assert len(new.arrays) == 64
    for plan in new.arrays:
        stored = sum(path.stat().st_size for path in (whole / plan.path / "c").rglob("*") if path.is_file())
        assert 0 < least_bytes(plan) < stored, plan.path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mount(path, "size=100k")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_too_little_room_is_told_before_the_first_byte(release: Path, store: Path, client: Client, disk: Path) -> None:
    target = disk / "x.zarr"
    told = forecast(release, target)
    assert told.least_bytes > 100_000
    assert told.free_bytes is not None
    assert told.free_bytes <= 102_400
    with pytest.raises(NoRoomError, match=r"about [0-9.]+ MB are to be written, and 0\.1 MB are free") as raised:
        isles24_zarr.convert(release, target, client=client, progress=False)
    assert "at the very least" in str(raised.value)
    done = run("convert", release, target, "--workers", 1)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {target}: about ")
    assert len(done.stderr.splitlines()) == 1
    assert list(disk.iterdir()) == []
    assert "is too little room" in run("convert", release, target, "--dry-run").stdout
    # what is there already need not be written again
    resize(disk, "100m")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LittleRoomWarning)
        isles24_zarr.convert(release, target, client=client, progress=False)
    assert_identical_stores(store, target)
    filled = free_bytes(StorePlace.of(target))
    assert filled is not None
    (disk / "more").write_bytes(bytes(filled - 200_000))
    (target / S / "zarr.json").unlink()
    assert isles24_zarr.convert(release, target, client=client, progress=False).converted == (S,)
    assert_identical_stores(store, target)
    # and what is replaced makes room
    assert forecast(release, target, overwrite=True).free_bytes > 1_000_000  # type: ignore[operator]
    isles24_zarr.convert(release, target, subjects=[S], overwrite=True, client=client, progress=False)
    assert_identical_stores(store, target)


def test_room_that_may_do_is_a_warning(release: Path, client: Client, disk: Path) -> None:
    target: Any = disk / "x.zarr"
    told = forecast(release, target, subjects=[S])
    resize(disk, str(told.estimated_bytes - 40_000))
    assert told.least_bytes < told.estimated_bytes - 40_000
    assert "may be too little room" in run("convert", release, target, "--subject", S, "--dry-run").stdout
    told_by_command = run("convert", release, target, "--subject", S, "--workers", 1).stderr
    assert told_by_command.splitlines()[0].startswith(f"warning: {target}: about ")
    shutil.rmtree(target)  # what was written counts as there, and the rest may fit
    with pytest.warns(LittleRoomWarning, match="it may not do"), pytest.raises(isles24_zarr.errors.StoreWriteError):
        isles24_zarr.convert(release, target, subjects=[S], client=client, progress=False)
