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

from isles24_zarr.errors import DestinationError, UnknownNameError
from isles24_zarr.synthetic import synthesize

SUBJECTS = ("sub-stroke0001", "sub-stroke0002", "sub-stroke0004")
REGISTERED = {
    "ses-01/{s}_ses-01_space-ncct_cta.nii.gz": np.int16,
    "ses-01/{s}_ses-01_space-ncct_ctp.nii.gz": np.int16,
    "ses-01/{s}_ses-01_space-ncct_lvo-msk.nii.gz": np.uint16,
    "ses-01/{s}_ses-01_space-ncct_cow-msk.nii.gz": np.uint8,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_tmax.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_mtt.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_cbf.nii.gz": np.float32,
    "ses-01/perfusion-maps/{s}_ses-01_space-ncct_cbv.nii.gz": np.float32,
    "ses-02/{s}_ses-02_space-ncct_dwi.nii.gz": np.float32,
    "ses-02/{s}_ses-02_space-ncct_adc.nii.gz": np.float32,
    "ses-02/{s}_ses-02_space-ncct_lesion-msk.nii.gz": np.uint16,
}
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

    def table(self, subject: str, table: str) -> pd.DataFrame:
        return pd.read_excel(next((self.root / "phenotype" / subject).rglob(f"*_{table}.xlsx")))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(synthesize(tmp_path_factory.mktemp("tiny") / "train", subjects=3, scale="tiny", seed=0))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(synthesize(tmp_path_factory.mktemp("small") / "train", subjects=1, scale="small", seed=0))


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
        expected |= {f"derivatives/{subject}/{path.format(s=subject)}" for path in REGISTERED}
        expected |= {f"raw_data/{subject}/{path.format(s=subject)}" for path in ACQUIRED}
        expected |= {f"phenotype/{subject}/{path.format(s=subject)}" for path in TABLES}
    assert set(all_files(release.root)) == expected


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
        unscaled = section == "derivatives" and "cow-msk" not in path
        assert np.isnan([slope, intercept]).all() if unscaled else (slope, intercept) == (1, 0)
        assert content[123] == 2  # millimetres, and no unit of time
        assert content[344:352] == b"n+1\0\0\0\0\0"
        odd = section == "derivatives" and subject == SUBJECTS[1]
        assert image.header["pixdim"][4] == (1 if image.ndim == 4 and not odd else 0)


def test_registered_volumes_lie_on_the_ncct_grid_but_for_the_last_digits(release: Release) -> None:
    for subject in SUBJECTS:
        reference = release.image(subject, "raw ncct")
        images = [nib.load(path) for path in (release.root / "derivatives" / subject).rglob("*.nii.gz")]
        displaced = [float(np.abs(image.affine - reference.affine).max()) for image in images]
        assert {image.shape[:3] for image in images} == {reference.shape}
        # 1e-5 mm and what float32 makes of a scanner position
        assert 0 < max(displaced) < 1e-4


def test_maps_share_the_grid_of_the_ctp_as_acquired(release: Release) -> None:
    for subject, name in itertools.product(SUBJECTS, ("tmax", "mtt", "cbf", "cbv")):
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
    assert small.image(SUBJECTS[0], "raw ctp").shape == (64, 64, 8, 30)
    assert small.image(SUBJECTS[0], "raw cta").shape == (128, 128, 40)


# --- the phantom ---


@pytest.mark.parametrize("subject", SUBJECTS)
def test_infarct_is_bright_on_dwi_dark_on_adc_and_hypodense(release: Release, subject: str) -> None:
    lesion = release.voxels(subject, "lesion-msk") == 1
    assert np.unique(release.voxels(subject, "lesion-msk")).tolist() == [0, 1]
    dwi, adc = release.voxels(subject, "dwi"), release.voxels(subject, "adc")
    np.testing.assert_array_equal(dwi > 500, lesion)
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


@pytest.mark.parametrize("name", ["tmax", "cbf", "cbv"])
def test_both_grids_of_a_map_show_the_same_world(small: Release, name: str) -> None:
    registered, raw = small.image(SUBJECTS[0], name), small.image(SUBJECTS[0], f"raw {name}")
    mapped = np.asarray(registered.dataobj)
    index, inside = nearest(raw, world_of(mapped > 0, registered))
    a, b = mapped[mapped > 0][inside], np.asarray(raw.dataobj)[tuple(index.T)]
    tissue = b > 0
    typical = {"tmax": 1.0, "cbf": 6.0, "cbv": 0.5}[name]
    assert tissue.mean() > 0.85
    assert np.median(np.abs(a - b)[tissue]) < typical
    mirrored = nearest(raw, world_of(mapped > 0, registered) * (-1, 1, 1))
    c = np.asarray(raw.dataobj)[tuple(mirrored[0].T)]
    same, opposite = np.corrcoef(a[tissue], b[tissue])[0, 1], np.corrcoef(mapped[mapped > 0][mirrored[1]], c)[0, 1]
    assert same > max(0.5, opposite + 0.2)


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
        side = np.sign(world_of(release.voxels(subject, "lesion-msk") == 1, image)[:, 0].mean())
        assert np.sign(world_of(clot, image)[:, 0].mean()) == side
        assert set(release.voxels(subject, "cow-msk")[clot]) <= ({5} if side > 0 else {7})
        assert release.voxels(subject, "cta")[clot].max() < 130 < release.voxels(subject, "cta")[clot ^ True].max()
    assert not release.voxels(SUBJECTS[2], "lvo-msk").any()
    assert release.voxels(SUBJECTS[2], "lesion-msk").any()


def test_registered_ctp_is_zero_where_the_scanner_did_not_look(release: Release) -> None:
    for subject in SUBJECTS:
        registered, raw = release.image(subject, "ctp"), release.image(subject, "raw ctp")
        frames = np.asarray(registered.dataobj)
        seen = np.zeros(registered.shape[:3], dtype=bool)
        _, inside = nearest(raw, world_of(seen | True, registered))
        seen.reshape(-1)[:] = inside
        assert 0.2 < seen.mean() < 0.8
        assert not frames[~seen].any()
        assert (frames[seen] != 0).mean() > 0.95
        assert (np.diff(frames[seen].astype(int), axis=1) != 0).mean() > 0.3


def test_curves_are_what_the_maps_say(small: Release) -> None:
    """Central volume: the area under a tissue curve is CBV times that of the arterial input; Tmax delays it."""
    subject = SUBJECTS[0]
    series, image = small.voxels(subject, "ctp").astype(float), small.image(subject, "ctp")
    maps = {name: small.voxels(subject, name) for name in ("tmax", "cbf", "cbv", "mtt")}
    enhancement = series - series[..., :4].mean(axis=-1, keepdims=True)
    seen = (series != 0).any(axis=-1)
    artery = enhancement[np.isin(small.voxels(subject, "cow-msk"), (1, 11, 12)) & seen].mean(axis=0)
    grey = (maps["tmax"] < 2.5) & (maps["cbf"] > 50)
    curve = enhancement[grey].mean(axis=0)
    assert curve.sum() / artery.sum() == pytest.approx(maps["cbv"][grey].mean() / 100, rel=0.05)
    assert np.median(maps["mtt"][grey]) == pytest.approx(
        60 * maps["cbv"][grey].mean() / maps["cbf"][grey].mean(), rel=0.1
    )
    assert artery.argmax() < curve.argmax()

    core = (small.voxels(subject, "lesion-msk") == 1) & (maps["tmax"] > 8)
    index, _ = nearest(image, world_of(core, image) * (-1, 1, 1))
    healthy = enhancement[tuple(index[maps["tmax"][tuple(index.T)] > 0].T)].mean(axis=0)
    late = enhancement[core].mean(axis=0)
    assert late[:10].mean() < 0.3 * healthy[:10].mean()
    assert late.sum() < 0.7 * healthy.sum()
    assert np.argmax(late > 0.5 * late.max()) - np.argmax(healthy > 0.5 * healthy.max()) > 4


def test_core_lies_within_the_hypoperfused_territory(small: Release, release: Release) -> None:
    for data, subject in ((small, SUBJECTS[0]), (release, SUBJECTS[1]), (release, SUBJECTS[2])):
        tmax, cbf = data.voxels(subject, "tmax"), data.voxels(subject, "cbf")
        late, lesion = tmax > 6, data.voxels(subject, "lesion-msk") == 1
        assert late[lesion & (tmax > 0)].mean() > 0.95
        image = data.image(subject, "tmax")
        assert volume_ml(late, image) > volume_ml(lesion, image)
        assert np.median(cbf[lesion & (tmax > 0)]) < 0.5 * np.median(cbf[(cbf > 0) & ~late])


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
        image = cohort.image(subject, "lesion-msk")
        nihss = cohort.table(subject, "demographic_baseline")["NIHSS at admission"].iloc[0]
        mrs = cohort.table(subject, "outcome")["mRS 3 months"].iloc[0]
        rows.append((volume_ml(np.asarray(image.dataobj) == 1, image), nihss, mrs))
    table = pd.DataFrame(rows, columns=["volume", "nihss", "mrs"], dtype=float)
    ranks = table.rank().corr()
    assert ranks.loc["volume", "nihss"] > 0.6
    assert ranks.loc["volume", "mrs"] > 0.6
    assert table["volume"].max() > 4 * table["volume"].min() > 0
