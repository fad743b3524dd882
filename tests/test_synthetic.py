"""The synthetic release, read back with nibabel, pandas, openpyxl and the standard library alone."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import itertools
import struct
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pandas as pd
import pytest
from scipy import ndimage, optimize, stats

import isles24_zarr
from isles24_zarr.errors import DestinationError, UnknownNameError
from isles24_zarr.synthetic._planes import Bolus
from isles24_zarr.synthetic.release import ground_truth, synthesize

SUBJECTS = ("sub-stroke0001", "sub-stroke0002", "sub-stroke0004")
REGISTERED = {
    "ses-01/{s}_ses-01_space-ncct_cta.nii.gz": np.int16,
    "ses-01/{s}_ses-01_space-ncct_ctp.nii.gz": np.int16,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_tmax.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_mtt.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_cbf.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_cbv.nii.gz": np.float32,
    "ses-02/{s}_ses-02_space-ncct_dwi.nii.gz": np.float32,
    "ses-02/{s}_ses-02_space-ncct_adc.nii.gz": np.float32,
}
MASKS = {
    "ses-01/{s}_ses-01_space-ncct_lvo-msk.nii.gz": (np.uint16, np.float32, np.uint8),
    "ses-01/{s}_ses-01_space-ncct_cow-msk.nii.gz": (np.uint8, np.uint16, np.float32),
    "ses-02/{s}_ses-02_space-ncct_lesion-msk.nii.gz": (np.uint16, np.uint16, np.uint16),
}
DUPLICATE = "derivatives/sub-stroke0002/ses-02/sub-stroke0002_ses-02_lesion-msk.nii"
ACQUIRED = {
    "ses-01/{s}_ses-01_ncct.nii.gz": np.int16,
    "ses-01/{s}_ses-01_cta.nii.gz": np.int16,
    "ses-01/{s}_ses-01_ctp.nii.gz": np.int16,
    "ses-01/perfusion-maps/{s}_ses-01_tmax.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_mtt.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_cbf.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_cbv.nii.gz": np.float32,
}
TABLES = ("ses-01/{s}_ses-01_demographic_baseline.xlsx", "ses-02/{s}_ses-02_outcome.xlsx")
DICTIONARY = "clinical_data-description.xlsx"
BASELINE_COLUMNS = [
    *("Center", "Age", "Sex", "Atrial fibrillation", "Hypertension", "Diabetes", "Hyperlipidemia", "Anticoagulation"),
    *("Lipid lowering drugs", "PAIs", "Glucose", "Leucocytes", "CRP", "INR", "Wake-up", "In-House", "Referral"),
    *("Onset to door", "Alert to door", "NIHSS at admission", "mRS at admission", "mRS premorbid", "Door to imaging"),
    *("Door to groin", "Door to first series", "Time of intervention", "Door to recanalization"),
]
OUTCOME_COLUMNS = [
    *("TICI postinterventional", "NIHSS 24h", "mRS 24h", "NIHSS discharge", "mRS discharge", "mRS 3 months"),
]
MAPS = ("tmax", "mtt", "cbf", "cbv")
BACKGROUND = {"tmax": -30, "mtt": 0, "cbf": 0, "cbv": 0}
COW_RIGHT, COW_LEFT = (2, 4, 5, 8, 11), (3, 6, 7, 9, 12)


class Release:
    """A release on disk, as nibabel and pandas see it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def image(self, subject: str, name: str) -> nib.Nifti1Image:
        """Open ``name`` (``"tmax"``: registered, ``"raw tmax"``: as acquired)."""
        *raw, suffix = name.split()
        folder = self.root / ("raw_data" if raw else "derivatives") / subject
        return nib.load(next(folder.rglob(f"*_{suffix}.nii.gz")))

    def voxels(self, subject: str, name: str) -> np.ndarray:
        return np.asarray(self.image(subject, name).dataobj)

    def stored(self, subject: str, name: str) -> tuple[np.ndarray, float, float]:
        """Return the voxels as they lie in the file, slope and intercept: nibabel hides what the header says."""
        image = self.image(subject, name)
        content = gzip.decompress(Path(image.get_filename()).read_bytes())
        voxels = np.frombuffer(content, image.get_data_dtype(), offset=352).reshape(image.shape, order="F")
        return voxels, *struct.unpack_from("<2f", content, 112)

    def table(self, subject: str, table: str) -> pd.DataFrame:
        return pd.read_excel(next((self.root / "phenotype" / subject).rglob(f"*_{table}.xlsx")))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(synthesize(tmp_path_factory.mktemp("tiny") / "train", subjects=3, scale="tiny", seed=0))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(synthesize(tmp_path_factory.mktemp("small") / "train", subjects=3, scale="small", seed=0))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(synthesize(tmp_path_factory.mktemp("cohort") / "train", subjects=18, scale="tiny", seed=1))


def all_files(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def world_of(mask: np.ndarray, image: nib.Nifti1Image) -> np.ndarray:
    return nib.affines.apply_affine(image.affine, np.argwhere(mask))


def nearest(image: nib.Nifti1Image, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest voxels to positions, and which positions lie inside the volume at all."""
    index = nib.affines.apply_affine(np.linalg.inv(image.affine), positions)
    inside = ((index > -0.5) & (index < np.array(image.shape[:3]) - 0.5)).all(axis=1)
    return np.rint(index[inside]).astype(int), inside


def volume_ml(mask: np.ndarray, image: nib.Nifti1Image) -> float:
    return float(mask.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000)


# --- layout ---


def test_members_are_those_of_the_real_release(release: Release) -> None:
    expected = {DICTIONARY}
    for subject in SUBJECTS:
        expected |= {f"derivatives/{subject}/{path.format(s=subject)}" for path in REGISTERED | MASKS}
        expected |= {f"raw_data/{subject}/{path.format(s=subject)}" for path in ACQUIRED}
        expected |= {f"phenotype/{subject}/{path.format(s=subject)}" for path in TABLES}
    assert set(all_files(release.root)) == expected | {DUPLICATE}


def test_one_lesion_mask_lies_there_twice(release: Release) -> None:
    regular = release.root / DUPLICATE.replace("_lesion", "_space-ncct_lesion").replace(".nii", ".nii.gz")
    assert (release.root / DUPLICATE).read_bytes() == gzip.decompress(regular.read_bytes())
    found = isles24_zarr.scan(release.root)
    assert [problem.path for problem in found.problems if problem.image == "lesion_mask"] == [DUPLICATE]
    assert {problem.severity for problem in found.problems} == {"notice"}


def test_returns_the_destination_even_where_it_was_an_empty_folder(tmp_path: Path) -> None:
    assert synthesize(str(tmp_path), subjects=1) == tmp_path
    assert (tmp_path / DICTIONARY).is_file()


def test_same_seed_same_bytes_whatever_the_number_of_subjects(release: Release, tmp_path: Path) -> None:
    root = synthesize(tmp_path / "again", subjects=2, scale="tiny", seed=0)
    again, first = all_files(root), all_files(release.root)
    assert again == {path: digest for path, digest in first.items() if SUBJECTS[2] not in path}


def test_another_seed_changes_everything_but_the_dictionary(release: Release, tmp_path: Path) -> None:
    first = all_files(release.root)
    other = all_files(synthesize(tmp_path / "other", subjects=1, scale="tiny", seed=7))
    assert {path for path, digest in other.items() if digest == first[path]} == {DICTIONARY}


def test_no_clock_in_any_file(release: Release) -> None:
    for path in release.root.rglob("*.nii.gz"):
        assert path.read_bytes()[4:8] == bytes(4), path
    for path in release.root.rglob("*.xlsx"):
        with zipfile.ZipFile(path) as archive:
            assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        properties = openpyxl.load_workbook(path).properties
        assert properties.created == properties.modified == dt.datetime(2024, 1, 1)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"scale": "huge"}, UnknownNameError, "huge: is not a scale, choose one of tiny, small, full"),
        ({"subjects": 0}, UnknownNameError, "0: is not a number of subjects"),
        ({"seed": -1}, UnknownNameError, "-1: is not a seed"),
    ],
)
def test_impossible_requests_write_nothing(
    tmp_path: Path, arguments: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        synthesize(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_an_occupied_destination_is_refused_and_left_alone(tmp_path: Path, occupied: str) -> None:
    (tmp_path / "file").write_text("mine")
    destination = tmp_path if occupied == "folder" else tmp_path / "file"
    with pytest.raises(DestinationError, match="choose another place"):
        synthesize(destination)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# --- headers ---


@pytest.mark.parametrize(("section", "files"), [("derivatives", REGISTERED), ("raw_data", ACQUIRED)])
def test_headers(release: Release, section: str, files: dict[str, type]) -> None:
    for subject, (path, dtype) in itertools.product(SUBJECTS, files.items()):
        content = gzip.decompress((release.root / section / subject / path.format(s=subject)).read_bytes())
        image = nib.Nifti1Image.from_bytes(content)
        assert image.get_data_dtype() == dtype
        assert image.ndim == (4 if "ctp.nii" in path else 3)
        assert len(content) == 352 + np.prod(image.shape) * image.get_data_dtype().itemsize
        assert struct.unpack_from("<i", content, 0) == (348,)
        assert struct.unpack_from("<f", content, 108) == (352.0,)
        slope, intercept = struct.unpack_from("<2f", content, 112)
        unscaled = section == "derivatives"
        assert np.isnan([slope, intercept]).all() if unscaled else (slope, intercept) == (1, 0)
        assert content[123] == 2  # millimetres, and no unit of time
        assert content[344:352] == b"n+1\0\0\0\0\0"
        if image.ndim == 3:
            assert image.header["pixdim"][4] == 0


def test_frame_times(release: Release) -> None:
    steps = {name: [float(release.image(s, name).header["pixdim"][4]) for s in SUBJECTS] for name in ("ctp", "raw ctp")}
    assert steps == {"ctp": [1, 0, 1], "raw ctp": [1, 1, pytest.approx(1.41)]}
    for subject, step in zip(SUBJECTS, steps["raw ctp"], strict=True):
        # the last frame a second of the registered series is the last one that was acquired, or just before
        last = (release.image(subject, "raw ctp").shape[3] - 1) * step
        assert last - 1 < release.image(subject, "ctp").shape[3] - 1 <= last


@pytest.mark.parametrize("path", MASKS)
def test_types_of_masks(release: Release, path: str) -> None:
    images = [nib.load(release.root / "derivatives" / subject / path.format(s=subject)) for subject in SUBJECTS]
    assert tuple(image.get_data_dtype() for image in images) == MASKS[path]


def test_masks_are_stored_in_many_ways(cohort: Release) -> None:
    """By the raw headers: 0 and 1 as they are, 0 and 65535 with a slope, fractions with a slope or in float32."""
    folders = sorted(folder.name for folder in (cohort.root / "derivatives").iterdir())[:5]
    found = {}
    for subject in folders:
        voxels, slope, intercept = cohort.stored(subject, "space-ncct_lesion-msk")
        assert (np.isnan(slope) and np.isnan(intercept)) or intercept == 0
        soft = bool((np.unique(voxels)[1:-1] > 0).any())
        found[subject] = (str(voxels.dtype), slope, soft, float(voxels.max()))
        physical = cohort.voxels(subject, "space-ncct_lesion-msk")
        assert physical.min() == 0
        assert physical.max() == pytest.approx(1, abs=1e-8)
    per_65535 = 1.5259021893143654e-05
    assert [repr(row) for row in found.values()] == [
        repr(row)
        for row in (
            ("uint16", float("nan"), False, 1.0),
            ("uint16", per_65535, False, 65535.0),
            ("uint16", per_65535, True, 65535.0),
            ("uint16", 1.0, False, 1.0),
            ("float32", float("nan"), True, 1.0),
        )
    ]


def test_labels_are_whole_numbers_of_any_type(release: Release) -> None:
    for subject, name in itertools.product(SUBJECTS, ("lvo-msk", "cow-msk")):
        voxels, slope, intercept = release.stored(subject, name)
        assert np.isnan([slope, intercept]).all() or (slope, intercept) == (1, 0)
        np.testing.assert_array_equal(voxels, np.rint(voxels))
        assert voxels.max() <= 15


@pytest.mark.parametrize("data", ["release", "small"])
def test_a_soft_mask_halved_is_the_sharp_one(data: str, request: pytest.FixtureRequest) -> None:
    """The infarct is where DWI is bright: that is sharp."""
    scale = request.getfixturevalue(data)
    soft = scale.voxels(SUBJECTS[2], "space-ncct_lesion-msk")
    sharp = scale.voxels(SUBJECTS[2], "dwi") > 500
    between = (soft > 0) & (soft < 0.999)
    assert len(np.unique(soft[between])) > 20
    assert 2 * ((soft > 0.5) & sharp).sum() / ((soft > 0.5).sum() + sharp.sum()) > 0.97
    # all of them at the rim
    assert (ndimage.binary_dilation(sharp, np.ones((3, 3, 3))) & ~ndimage.binary_erosion(sharp))[between].all()
    assert ((soft > 0) & ~sharp).sum() > 0.1 * sharp.sum()


def test_registered_volumes_lie_on_the_ncct_grid_but_for_the_last_digits(release: Release) -> None:
    for subject in SUBJECTS:
        reference = release.image(subject, "raw ncct")
        images = [nib.load(path) for path in (release.root / "derivatives" / subject).rglob("*.nii*")]
        displaced = [float(np.abs(image.affine - reference.affine).max()) for image in images]
        assert {image.shape[:3] for image in images} == {reference.shape}
        # 1e-5 mm and what float32 makes of a scanner position
        assert 0 < max(displaced) < 1e-4


def test_maps_share_the_grid_of_the_ctp_as_acquired(release: Release) -> None:
    for subject, name in itertools.product(SUBJECTS, MAPS):
        ctp, image = release.image(subject, "raw ctp"), release.image(subject, f"raw {name}")
        assert image.shape == ctp.shape[:3]
        np.testing.assert_array_equal(image.affine, ctp.affine)


def test_forms_agree_where_both_are_set(release: Release) -> None:
    codes = set()
    for path in release.root.rglob("*.nii.gz"):
        header = nib.load(path).header
        codes.add((int(header["sform_code"]), int(header["qform_code"])))
        if header["sform_code"] and header["qform_code"]:
            np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=2e-3, err_msg=str(path))
    assert codes == {(1, 2), (1, 1), (0, 1), (1, 0)}


def test_grids_are_tilted_and_run_in_different_directions(release: Release) -> None:
    directions = {}
    for subject, space in itertools.product(SUBJECTS, ("ncct", "ctp", "cta")):
        affine = release.image(subject, f"raw {space}").affine
        directions[subject, space] = "".join(nib.aff2axcodes(affine))
        if space != "cta":
            superior = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
            assert 10 <= np.degrees(np.arccos(superior[2])) <= 25
    assert {directions[subject, "ncct"] for subject in SUBJECTS} == {"LAS", "LPS"}
    assert {directions[subject, "cta"] for subject in SUBJECTS} == {"RAS", "LPS", "ASR"}
    assert len({release.image(subject, "raw ncct").shape for subject in SUBJECTS}) == 3
    third = release.image(SUBJECTS[2], "raw ncct").affine[:3, :3]
    assert (np.abs(third / np.linalg.norm(third, axis=0)) > 1e-3).all(), "no rotation about all three axes"


def test_scales_have_their_shapes(release: Release, small: Release) -> None:
    assert release.image(SUBJECTS[0], "ctp").shape == (48, 56, 12, 12)
    assert small.image(SUBJECTS[0], "ctp").shape == (128, 140, 24, 30)
    series = [small.image(subject, "raw ctp").shape for subject in SUBJECTS]
    assert series == [(64, 64, 8, 30), (64, 64, 4, 29), (58, 58, 12, 20)]
    assert small.image(SUBJECTS[0], "raw cta").shape == (128, 128, 40)


# --- the phantom ---


@pytest.mark.parametrize("subject", SUBJECTS)
def test_infarct_is_bright_on_dwi_dark_on_adc_and_hypodense(release: Release, subject: str) -> None:
    dwi, adc = release.voxels(subject, "dwi"), release.voxels(subject, "adc")
    lesion = dwi > 500
    if subject != SUBJECTS[2]:
        np.testing.assert_array_equal(release.voxels(subject, "space-ncct_lesion-msk") > 0.5, lesion)
    brain = (dwi > 200) & ~lesion
    assert np.median(adc[lesion]) < 0.7 * np.median(adc[brain])
    image = release.image(subject, "raw ncct")
    ncct = np.asarray(image.dataobj).astype(float)
    index, _ = nearest(image, world_of(lesion, image) * (-1, 1, 1))
    healthy = brain[tuple(index.T)]
    assert -10 < (ncct[lesion] - ncct[tuple(index.T)])[healthy].mean() < -2
    assert dwi[0].max() == dwi[:, :, -1].min() == 0


@pytest.mark.parametrize("subject", SUBJECTS)
def test_head_has_bone_brain_fluid_and_air(small: Release, release: Release, subject: str) -> None:
    ncct = release.voxels(subject, "raw ncct")
    assert ncct[0, 0, 0] == ncct[-1, -1, -1] == -1024
    assert ncct.min() == -1024
    image = small.image(SUBJECTS[0], "raw ncct")
    ncct = np.asarray(image.dataobj)
    points = {"ventricle": (8, 5, 22), "frontal bone": (69.5, 0, 0), "thalamus": (11, -14, 8), "air": (99, 0, 0)}
    found = {name: ncct[tuple(nearest(image, np.array([point]))[0][0])] for name, point in points.items()}
    assert -20 < found["ventricle"] < 30 < found["thalamus"] + 15 < 80
    assert found["frontal bone"] > 700
    assert found["air"] < -950


def true_affine(image: nib.Nifti1Image, subject: str) -> np.ndarray:
    """Return where the voxels of a CTP, or of a map as acquired, lie in the space of the NCCT."""
    return np.asarray(ground_truth(subjects=3)[subject].ctp_to_ncct @ image.affine)


@pytest.mark.parametrize("name", ["tmax", "cbf", "cbv"])
def test_registered_maps_are_interpolated_ones(small: Release, name: str) -> None:
    """By scipy, up to the layer of what was not computed around the volume."""
    for subject in SUBJECTS:
        raw, image = small.image(subject, f"raw {name}"), small.image(subject, name)
        to_raw = np.linalg.inv(true_affine(raw, subject)) @ image.affine
        positions = np.moveaxis(nib.affines.apply_affine(to_raw, np.moveaxis(np.indices(image.shape), 0, -1)), -1, 0)
        expected = ndimage.map_coordinates(
            np.asarray(raw.dataobj), positions, order=1, mode="grid-constant", cval=BACKGROUND[name]
        )
        # steps of 0.001 or 0.01, and the last digits of the affines
        np.testing.assert_allclose(np.asarray(image.dataobj), expected, atol=0.02)


def test_what_was_not_computed(release: Release) -> None:
    for subject, name in itertools.product(SUBJECTS, MAPS):
        background = BACKGROUND[name]
        for voxels, kind in ((release.voxels(subject, f"raw {name}"), "raw"), (release.voxels(subject, name), "")):
            assert voxels[0, 0, 0] == background
            assert 0.3 < (voxels == background).mean() < 0.9
            between = (voxels > -30) & (voxels < 0)
            assert between.any() == (name == "tmax" and kind == "")
            assert not (voxels < -30).any()


def test_maps_cover_scalp_and_neck(small: Release) -> None:
    cbf, image = small.voxels(SUBJECTS[0], "cbf"), small.image(SUBJECTS[0], "cbf")
    assert 2000 < volume_ml(cbf > 0, image) < 2600
    ncct, tmax, cbv = (small.voxels(SUBJECTS[0], name) for name in ("raw ncct", "tmax", "cbv"))
    inside = ndimage.binary_erosion(tmax > 0, iterations=2)
    tissues = {"scalp": (ncct > 18) & (ncct < 32) & (small.voxels(SUBJECTS[0], "dwi") < 160), "bone": ncct > 700}
    grey = np.median(cbf[(small.voxels(SUBJECTS[0], "dwi") > 270) & inside & (tmax < 4)])
    for name, shown in tissues.items():
        tissue = shown & inside
        assert tissue.sum() > 500, name
        assert 1 < np.median(cbf[tissue]) < 0.4 * grey
        assert 0.1 < np.median(cbv[tissue]) < 1.5
        assert 2 < np.median(tmax[tissue]) < 5


def test_mtt_is_volume_by_flow(release: Release, small: Release) -> None:
    for data, subject, where in itertools.product((release, small), SUBJECTS, ("raw ", "")):
        cbf, cbv, mtt = (data.voxels(subject, where + name) for name in ("cbf", "cbv", "mtt"))
        # a slab of four slices consists of edges, where all maps fall to 0
        inside = (cbf > 0) & (cbv > 0) & (mtt > 0) & np.isfinite(mtt)
        if where == "":
            computed = (data.voxels(subject, "tmax") > 0) & inside
            inside = computed & ndimage.binary_erosion(computed)
        residual = np.log(cbf[inside] * mtt[inside] / cbv[inside]) - np.log(60)
        assert inside.sum() > 300
        assert 0.002 < np.median(np.abs(residual)) < (0.008 if subject != SUBJECTS[1] else 0.04), (subject, where)


def test_headers_of_some_series_are_off(small: Release) -> None:
    """With what the ground truth says, the CTP shows the bone of the NCCT, and less of it without."""
    for subject in SUBJECTS:
        raw, reference = small.image(subject, "raw ctp"), small.image(subject, "raw ncct")
        rigid = ground_truth(subjects=3, scale="small")[subject].ctp_to_ncct
        np.testing.assert_allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3), atol=1e-12)
        centre = np.linalg.norm(rigid[:3, 3])
        degrees = np.degrees(np.arccos((np.trace(rigid[:3, :3]) - 1) / 2))
        if subject == SUBJECTS[0]:
            np.testing.assert_array_equal(rigid, np.eye(4))
            continue
        assert 1 < centre < 8
        assert 1 < degrees < 8
        bone = np.asarray(reference.dataobj) > 600
        series = np.asarray(raw.dataobj)[..., 0] > 600
        agreement = []
        for affine in (true_affine(raw, subject), raw.affine):
            index, _ = nearest(reference, nib.affines.apply_affine(affine, np.argwhere(series)))
            agreement.append(bone[tuple(index.T)].mean())
        assert agreement[0] > agreement[1] + 0.05


def test_no_file_tells_where_the_head_was(release: Release) -> None:
    """What is true does not depend on the number of subjects, and the same seed says the same."""
    more, fewer = ground_truth(subjects=5), ground_truth(subjects=2)
    assert list(fewer) == list(SUBJECTS[:2])
    for subject, truth in fewer.items():
        np.testing.assert_array_equal(truth.ctp_to_ncct, more[subject].ctp_to_ncct)
        image = release.image(subject, "lvo-msk")
        x = world_of(release.voxels(subject, "space-ncct_lesion-msk") > 0.5, image)[:, 0].mean()
        assert truth.side == ("right" if x > 0 else "left")
        assert truth.occluded == release.voxels(subject, "lvo-msk").any()
    with pytest.raises(UnknownNameError, match="is not a scale"):
        ground_truth(scale="huge")  # type: ignore[arg-type]


def test_a_slab_misses_part_of_a_lesion(small: Release) -> None:
    outside = {}
    for subject in SUBJECTS:
        lesion = small.voxels(subject, "space-ncct_lesion-msk") > 0.5
        outside[subject] = (small.voxels(subject, "tmax")[lesion] == -30).mean()
    assert outside[SUBJECTS[0]] < 0.02
    assert 0.1 < outside[SUBJECTS[1]] < 0.9


def test_both_grids_of_the_cta_show_the_same_world(release: Release) -> None:
    for subject in SUBJECTS:
        registered, raw = release.image(subject, "cta"), release.image(subject, "raw cta")
        bone = np.asarray(registered.dataobj) > 700
        index, _ = nearest(raw, world_of(bone, registered))
        assert np.mean(np.asarray(raw.dataobj)[tuple(index.T)] > 700) > 0.5


@pytest.mark.parametrize("subject", SUBJECTS)
def test_circle_of_willis(release: Release, subject: str) -> None:
    image = release.image(subject, "cow-msk")
    labels = np.asarray(image.dataobj)
    assert set(np.unique(labels)) <= set(range(13)) | {15}
    assert {0, 1, 4, 5, 6, 7} <= set(np.unique(labels))
    assert world_of(np.isin(labels, COW_RIGHT), image)[:, 0].min() > -5
    assert world_of(np.isin(labels, COW_LEFT), image)[:, 0].max() < 5
    arteries = np.isin(labels, (1, 4, 6))
    gain = release.voxels(subject, "cta")[arteries] - release.voxels(subject, "raw ncct")[arteries].astype(float)
    assert np.median(gain) == pytest.approx(330, abs=20)


def test_occlusion_is_dark_lies_in_an_mca_of_the_infarct_side_or_is_absent(release: Release) -> None:
    for subject in SUBJECTS[:2]:
        image = release.image(subject, "lvo-msk")
        clot = np.asarray(image.dataobj) == 1
        side = np.sign(world_of(release.voxels(subject, "space-ncct_lesion-msk") > 0.5, image)[:, 0].mean())
        assert np.sign(world_of(clot, image)[:, 0].mean()) == side
        assert set(release.voxels(subject, "cow-msk")[clot]) <= ({5} if side > 0 else {7})
        assert release.voxels(subject, "cta")[clot].max() < 130 < release.voxels(subject, "cta")[clot ^ True].max()
    assert not release.voxels(SUBJECTS[2], "lvo-msk").any()
    assert release.voxels(SUBJECTS[2], "space-ncct_lesion-msk").any()


def test_registered_ctp_is_zero_where_the_scanner_did_not_look(release: Release) -> None:
    for subject in SUBJECTS:
        registered, raw = release.image(subject, "ctp"), release.image(subject, "raw ctp")
        frames = np.asarray(registered.dataobj)
        seen = np.zeros(registered.shape[:3], dtype=bool)
        lay = nib.Nifti1Image(np.zeros(raw.shape[:3], np.uint8), true_affine(raw, subject))
        _, inside = nearest(lay, world_of(seen | True, registered))
        seen.reshape(-1)[:] = inside
        assert 0.1 < seen.mean() < 0.8
        assert not frames[~seen].any()
        assert (frames[seen] != 0).mean() > 0.95
        assert (np.diff(frames[seen].astype(int), axis=1) != 0).mean() > 0.3


KAPPA = (1 - 0.45) / (1 - 0.25) / 1.04
"""By the haematocrit of large and of small vessels and the density of brain: from contrast agent to blood."""


def fitted_maps(curve: np.ndarray, artery: np.ndarray, step: float, bolus: Bolus) -> tuple[float, float, float]:
    """Return CBF, CBV and Tmax whose model fits a curve, given that of an artery."""
    fine = np.arange(0, step * len(curve), 0.02)
    times = np.arange(len(curve)) * step

    def gamma_variate(delay: float) -> np.ndarray:
        return stats.gamma.pdf(fine, 4, loc=bolus.arrival + delay, scale=bolus.width)

    sampled = np.interp(times, fine, gamma_variate(0))
    height = (artery @ sampled) / (sampled @ sampled)
    np.testing.assert_allclose(artery, height * sampled, atol=0.03 * artery.max())

    def model(_: np.ndarray, flow: float, transit: float, delay: float, baseline: float) -> np.ndarray:
        response = np.convolve(gamma_variate(delay), np.exp(-fine / transit))[: fine.size] * 0.02
        return np.interp(times, fine, baseline + flow / 6000 * height * response)

    start, limits = (30, 5, 3, 0), ((1, 0.5, 0, -5), (150, 30, 20, 5))
    (flow, transit, delay, _), _ = optimize.curve_fit(model, times, curve, p0=start, bounds=limits)
    return KAPPA * flow, KAPPA * flow * transit / 60, delay


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_series_as_acquired_gives_the_maps(small: Release, subject: str) -> None:
    image = small.image(subject, "raw ctp")
    series, step = np.asarray(image.dataobj).astype(float), float(image.header["pixdim"][4])
    enhancement = series - series[..., :3].mean(axis=-1, keepdims=True)
    tmax, cbf, cbv = (small.voxels(subject, f"raw {name}") for name in ("tmax", "cbf", "cbv"))
    artery = enhancement[(cbf > 120) & (tmax < 2)].mean(axis=0)
    regions = {
        "grey": (tmax < 2.2) & (cbf > 45) & (cbf < 90),
        "white": (tmax < 3) & (cbf > 18) & (cbf < 32),
        "scalp": (cbf > 6) & (cbf < 10) & (tmax > 3.2) & (tmax < 4.8),
        "penumbra": (tmax > 6.5) & (tmax < 8.5) & (cbf > 20) & (cbf < 90),
    }
    bolus = ground_truth(scale="small")[subject].bolus
    for name, region in regions.items():
        found = fitted_maps(enhancement[region].mean(axis=0), artery, step, bolus)
        # noise: the penumbra has few voxels, the scalp a curve of 2 HU
        exactness = {"grey": 0.12, "white": 0.12, "penumbra": 0.2, "scalp": 0.3}[name]
        assert found[0] == pytest.approx(cbf[region].mean(), rel=exactness), name
        assert found[1] == pytest.approx(cbv[region].mean(), rel=exactness), name
        assert found[2] == pytest.approx(tmax[region].mean(), abs=step), name


def test_curves_are_what_the_maps_say(small: Release) -> None:
    """Central volume: the area under a tissue curve is that of the artery by CBV and by haematocrit; Tmax delays it."""
    subject = SUBJECTS[0]
    series, image = small.voxels(subject, "ctp").astype(float), small.image(subject, "ctp")
    maps = {name: small.voxels(subject, name) for name in ("tmax", "cbf", "cbv", "mtt")}
    enhancement = series - series[..., :4].mean(axis=-1, keepdims=True)
    seen = (series != 0).any(axis=-1)
    artery = enhancement[np.isin(small.voxels(subject, "cow-msk"), (1, 11, 12)) & seen].mean(axis=0)
    grey = (maps["tmax"] > 0.5) & (maps["tmax"] < 2.5) & (maps["cbf"] > 50) & (maps["cbf"] < 75)
    curve = enhancement[grey].mean(axis=0)
    # registered maps are interpolated: some grey voxels are white ones beside a vessel
    assert curve.sum() / artery.sum() == pytest.approx(maps["cbv"][grey].mean() / 100 / KAPPA, rel=0.12)
    assert np.median(maps["mtt"][grey]) == pytest.approx(
        60 * maps["cbv"][grey].mean() / maps["cbf"][grey].mean(), rel=0.1
    )
    assert artery.argmax() < curve.argmax()

    core = (small.voxels(subject, "space-ncct_lesion-msk") > 0.5) & (maps["tmax"] > 8)
    index, _ = nearest(image, world_of(core, image) * (-1, 1, 1))
    brain = (small.voxels(subject, "dwi") > 200) & seen
    healthy = enhancement[tuple(index[brain[tuple(index.T)]].T)].mean(axis=0)
    late = enhancement[core].mean(axis=0)
    assert late[6:12].mean() < 0.3 * healthy[6:12].mean()
    assert late.sum() < 0.7 * healthy.sum()
    assert np.argmax(late > 0.5 * late.max()) - np.argmax(healthy > 0.5 * healthy.max()) > 4


def test_core_lies_within_the_hypoperfused_territory(small: Release, release: Release) -> None:
    # the slab of the second one misses much of both
    for data, subject in ((small, SUBJECTS[0]), (release, SUBJECTS[0]), (release, SUBJECTS[2])):
        tmax, cbf = data.voxels(subject, "tmax"), data.voxels(subject, "cbf")
        late, lesion = tmax > 6, data.voxels(subject, "space-ncct_lesion-msk") > 0.5
        assert late[lesion & (tmax > 0)].mean() > 0.95
        image = data.image(subject, "tmax")
        assert volume_ml(late, image) > volume_ml(lesion, image)
        brain = data.voxels(subject, "dwi") > 200
        assert np.median(cbf[lesion & (tmax > 0)]) < 0.5 * np.median(cbf[brain & (tmax > 0) & ~late])


def test_one_mtt_map_has_non_finite_voxels(release: Release) -> None:
    for subject, name in itertools.product(SUBJECTS, ("mtt", "raw mtt")):
        voxels = release.voxels(subject, name)
        odd = subject == SUBJECTS[2]
        assert np.isnan(voxels).any() == np.isinf(voxels).any() == odd
        assert np.isfinite(voxels).mean() > 0.99


# --- tables ---


def test_tables_are_read_by_pandas(release: Release) -> None:
    for subject in SUBJECTS:
        baseline, outcome = release.table(subject, "demographic_baseline"), release.table(subject, "outcome")
        assert sorted(baseline.columns) == sorted(BASELINE_COLUMNS)
        assert list(outcome.columns) == OUTCOME_COLUMNS
        assert len(baseline) == len(outcome) == 1
        assert 0 <= baseline["NIHSS at admission"].iloc[0] <= 42
        assert not outcome.astype(str).apply(lambda column: column.str.contains("stroke")).to_numpy().any()


def test_dictionary_describes_every_column(release: Release) -> None:
    path = release.root / DICTIONARY
    table = pd.read_excel(path, sheet_name="Suppl. Tab. 1", header=2)
    assert list(table.columns) == ["Timepoint", "Parameter", "Unit", "Data type", "Description"]
    names = {"mRS 3 months", "mRS discharge", "TICI postinterventional", "Lipid lowering drugs"}
    spelt = {"MRS 3 months", "MRS discharge", "mTici postinterventional", "Statins"}
    assert set(table["Parameter"]) == ({*BASELINE_COLUMNS, *OUTCOME_COLUMNS} - names) | spelt
    assert openpyxl.load_workbook(path).worksheets[0]["A1"].value.startswith("Supplementary Table 1")


def test_cells_have_the_oddities_of_the_real_tables(cohort: Release) -> None:
    folders = sorted((cohort.root / "phenotype").iterdir())
    baseline = pd.concat([cohort.table(folder.name, "demographic_baseline") for folder in folders])
    outcome = pd.concat([cohort.table(folder.name, "outcome") for folder in folders])
    assert set(baseline["Sex"]) == {"F", "M", "m"}
    assert set(baseline["Hyperlipidemia"].dropna()) == {0, 1, 2}
    assert (baseline["Age"] % 1 > 0).any()
    assert (baseline["Age"] % 1 == 0).any()
    assert {type(value) for value in outcome["TICI postinterventional"].dropna()} == {int, str}
    durations = baseline[[name for name in BASELINE_COLUMNS if "oor" in name or name.startswith("Time")]]
    kinds = (str, dt.time, dt.timedelta, float)
    cells = durations.stack().tolist()
    assert all(isinstance(cell, kinds) for cell in cells)
    assert all(any(isinstance(cell, kind) for cell in cells) for kind in kinds)
    assert 0.2 < outcome["NIHSS 24h"].isna().mean() < 0.8
    assert baseline["Door to groin"].isna().mean() > 0.3


def test_larger_infarcts_go_with_worse_scores(cohort: Release) -> None:
    rows = []
    for subject in sorted(folder.name for folder in (cohort.root / "phenotype").iterdir()):
        image = cohort.image(subject, "space-ncct_lesion-msk")
        nihss = cohort.table(subject, "demographic_baseline")["NIHSS at admission"].iloc[0]
        mrs = cohort.table(subject, "outcome")["mRS 3 months"].iloc[0]
        rows.append((volume_ml(np.asarray(image.dataobj) > 0.5, image), nihss, mrs))
    table = pd.DataFrame(rows, columns=["volume", "nihss", "mrs"], dtype=float)
    ranks = table.rank().corr()
    assert ranks.loc["volume", "nihss"] > 0.6
    assert ranks.loc["volume", "mrs"] > 0.6
    assert table["volume"].max() > 4 * table["volume"].min() > 0
