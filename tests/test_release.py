"""Discovery: table-driven for the layouts that exist, property tests for all others."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr.errors import SourceNotFoundError, UnsafePathError
from isles24_zarr.release.names import DictionaryName, ImageName, Stray, StrayTable, TableName, classified
from isles24_zarr.release.paths import Release, SourceFile, release_from_files
from isles24_zarr.release.source import Source
from isles24_zarr.vocabulary import IMAGE_KINDS

if TYPE_CHECKING:
    from pathlib import Path

S = "sub-stroke0001"
MAPS = "perfusion-maps"


@pytest.mark.parametrize("top", ["train/", ""])
@pytest.mark.parametrize(
    ("path", "space", "image", "session"),
    [
        (f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz", "ncct", "ncct", 1),
        (f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz", "cta", "cta", 1),
        (f"rawdata/{S}/ses-0001/{S}_ses-0001_ctp.nii.gz", "ctp", "ctp", 1),
        (f"raw_data/{S}/ses-01/{MAPS}/{S}_ses-01_tmax.nii.gz", "ctp", "tmax", 1),
        (f"raw_data/{S}/ses-02/{S}_ses-02_dwi.nii.gz", "dwi", "dwi", 2),
        (f"rawdata/{S}/ses-0002/{S}_ses-0002_adc.nii.gz", "dwi", "adc", 2),
        (f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_ctp.nii.gz", "ncct", "ctp", 1),
        (f"derivatives/{S}/ses-01/{MAPS}/{S}_ses-01_space-ncct_cbv.nii.gz", "ncct", "cbv", 1),
        (f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_cow-msk.nii.gz", "ncct", "cow_mask", 1),
        (f"derivatives/{S}/ses-02/{S}_ses-02_space-ncct_lesion-msk.nii.gz", "ncct", "lesion_mask", 2),
        (f"derivatives/{S}/ses-02/{S}_ses-02_lesion-msk.nii.gz", "ncct", "lesion_mask", 2),
        (f"derivatives/{S}/ses-02/{S}_ses-02_lesion-msk.nii", "ncct", "lesion_mask", 2),
        (
            "derivatives/sub-strokecase0012/ses-0002/sub-strokecase0012_ses-0002_space-ncct_adc.nii.gz",
            "ncct",
            "adc",
            2,
        ),
    ],
)
def test_images(top: str, path: str, space: str, image: str, session: int) -> None:
    name = classified(top + path)
    assert isinstance(name, ImageName)
    assert (name.space, name.image, name.session) == (space, image, session)
    assert name.subject == path.split("/")[1]


@pytest.mark.parametrize(
    ("path", "table"),
    [
        (f"train/phenotype/{S}/ses-01/{S}_ses-01_demographic_baseline.xlsx", "demographic_baseline"),
        (f"phenotype/{S}/ses-02/{S}_ses-02_outcome.xlsx", "outcome"),
        (f"phenotype/{S}/ses-0002/{S}_ses-0002_outcome.csv", "outcome"),
    ],
)
def test_tables(path: str, table: str) -> None:
    name = classified(path)
    assert isinstance(name, TableName)
    assert (name.subject, name.table) == (S, table)


@pytest.mark.parametrize("path", ["train/clinical_data-description.xlsx", "clinical_data-description.xlsx"])
def test_dictionary(path: str) -> None:
    assert isinstance(classified(path), DictionaryName)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("README.md", "not below"),
        ("train/.DS_Store", "not below"),
        (f"derivatives/{S}", "not below derivatives/<subject>/<session>/"),
        (f"raw_data/{S}/visit-1/{S}_ses-01_ncct.nii.gz", "session"),
        (f"raw_data/{S}/ses-01/sub-stroke0002_ses-01_ncct.nii.gz", "another subject"),
        (f"raw_data/{S}/ses-01/{S}_ses-02_ncct.nii.gz", "another session"),
        (f"raw_data/{S}/ses-01/other/{S}_ses-01_ncct.nii.gz", "not named as an image"),
        (f"raw_data/{S}/ses-01/{S}_ses-01_ncct.json", "not named as an image"),
        (f"phenotype/{S}/ses-02/{S}_ses-02_demographic_baseline.xlsx", "does not belong to session 2"),
        (f"phenotype/{S}/ses-02/notes.txt", "not a known phenotype table"),
        (f"phenotype/{S}/ses-02/other/{S}_ses-02_outcome.xlsx", "not a known phenotype table"),
        (f"phenotype/{S}/ses-02/sub-stroke0002_ses-02_outcome.xlsx", "another subject"),
        (f"phenotype/{S}/ses-02/{S}_ses-01_outcome.xlsx", "another session"),
        (f"phenotype/{S}/ses-02/._{S}_ses-02_outcome.xlsx", "macOS or Excel"),
        (f"phenotype/{S}/ses-02/~${S}_ses-02_outcome.xlsx", "macOS or Excel"),
        (f"raw_data/{S}/ses-01/._{S}_ses-01_ncct.nii.gz", "macOS or Excel"),
    ],
)
def test_strays_say_why(path: str, reason: str) -> None:
    name = classified(path)
    assert isinstance(name, Stray)
    assert reason in name.reason


REGULAR = f"phenotype/{S}/ses-01/{S}_ses-01_demographic_baseline.xlsx"
IRREGULAR = [
    f"Copy of {S}_ses-01_demographic_baseline.xlsx",
    f"old_{S}_ses-01_demographic_baseline.xlsx",
    f"{S}_ses-01_corrected_demographic_baseline.xlsx",
    f"{S}_ses-01_demographic_baseline_corrected.xlsx",
    f"{S}_ses-01_demographic_baseline (1).csv",
    f"{S}_ses-01_demographic_baseline.xls",
    f"{S}_demographic_baseline.xlsx",
    "demographic_baseline.csv",
    "sub-stroke0002_ses-01_demographic_baseline.xlsx",
    f"{S}_ses-02_demographic_baseline.csv",
]


def listed(*paths: str) -> Release:
    return release_from_files("x", [SourceFile(path=path, size=1, stamp="") for path in paths])


@pytest.mark.parametrize("name", IRREGULAR)
def test_the_regular_table_wins_and_another_one_is_reported(name: str) -> None:
    other = f"phenotype/{S}/ses-01/{name}"
    assert isinstance(classified(other), StrayTable)
    release = listed(other, REGULAR)
    assert [file.path for file in release.tables] == [REGULAR]
    ((path, severity),) = [(problem.path, problem.severity) for problem in release.problems]
    assert (path, severity) == (other, "notice")
    assert REGULAR in release.problems[0].message


@pytest.mark.parametrize("name", IRREGULAR)
def test_an_irregular_table_is_not_used_even_where_there_is_no_other(name: str) -> None:
    other, image = f"phenotype/{S}/ses-01/{name}", f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
    release = listed(other, image, f"phenotype/{S}/ses-02/{S}_ses-02_outcome.xlsx")
    assert [file.path.rsplit("_", 1)[1] for file in release.tables] == ["outcome.xlsx"]
    ((path, severity),) = [(problem.path, problem.severity) for problem in release.problems]
    assert (path, severity) == (other, "error")
    assert "rename it" in release.problems[0].message


def test_a_csv_beside_a_workbook_is_read_after_it() -> None:
    csv = REGULAR.replace(".xlsx", ".csv")
    assert [file.path for file in listed(csv, REGULAR).tables] == [REGULAR, csv]
    assert listed(csv, REGULAR).problems == ()
    assert [file.path for file in listed(csv).tables] == [csv]


@pytest.mark.parametrize(
    "plain",
    [
        REGULAR,
        f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz",
        "clinical_data-description.xlsx",
    ],
)
@pytest.mark.parametrize("spelling", ["./{0}", ".//{0}", "{1}//{2}", "{1}/./{2}", "train/{0}", "{1}/{2}/"])
def test_the_plain_spelling_of_a_path_wins(plain: str, spelling: str) -> None:
    head, _, tail = plain.rpartition("/")
    odd = spelling.format(plain, head or ".", tail)
    assert used(listed(odd, plain)) == used(listed(plain, odd)) == [plain]
    assert [(problem.path, problem.severity) for problem in listed(odd, plain).problems] == [(odd, "notice")]
    assert (used(listed(odd)), listed(odd).problems) == ([odd], ())


def used(release: Release) -> list[str]:
    return [file.path for file in (*release.images, *release.tables, release.dictionary) if file]


@given(st.lists(st.sampled_from(["", "Copy of ", "x_"]), unique=True), st.data())
def test_order_of_tables_does_not_matter(prefixes: list[str], data: st.DataObject) -> None:
    paths = [
        f"phenotype/{S}/ses-02/{prefix}{S}_ses-02_outcome.{kind}" for prefix in prefixes for kind in ("xlsx", "csv")
    ]
    release = listed(*data.draw(st.permutations(paths)))
    assert release == listed(*paths)
    assert {file.path for file in release.tables} == {path for path in paths if f"02/{S}" in path}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        f"../raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz",
        f"raw_data/../../{S}/ses-01/{S}_ses-01_ncct.nii.gz",
        "C:/raw_data/x",
        "..\\evil",
        "raw_data/a\nb",
        "raw_data/sub-a b/ses-01/sub-a b_ses-01_ncct.nii.gz",
        "raw_data/sub-ünï/ses-01/sub-ünï_ses-01_ncct.nii.gz",
        "raw_data/stroke0001/ses-01/stroke0001_ses-01_ncct.nii.gz",
        "",
    ],
)
def test_unsafe_names_are_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        classified(path)


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["..", "/", S, "ses-01", "raw_data", "_", ".nii.gz", "\0", "é"])).map("".join)
)
def test_any_text_is_classified_or_refused(path: str) -> None:
    try:
        name = classified(path)
    except UnsafePathError:
        return
    assert isinstance(name, Stray | ImageName | TableName | DictionaryName)
    if isinstance(name, ImageName | TableName):
        # what becomes a path in a store is nothing but a plain label
        assert name.subject.isascii()
        assert name.subject.replace("-", "").isalnum()


@given(st.permutations([f"train/raw_data/{S}/ses-01/{S}_ses-01_{kind.suffix}.nii.gz" for kind in IMAGE_KINDS[:3]]))
def test_order_of_listing_does_not_matter(paths: list[str]) -> None:
    files = [SourceFile(path=path, size=1, stamp="") for path in paths]
    assert release_from_files("x", files) == release_from_files("x", sorted(files, key=lambda file: file.path))


def real_members() -> list[str]:
    """The members of the real archive by their pattern: 149 subjects and the one oddity."""
    numbers = [*range(1, 18), *range(19, 23), *range(25, 29), 30, 33, *range(36, 39), 40, 43, 45, *range(47, 50)]
    numbers += [*range(52, 56), 57, 62, 66, 68, 70, 71, *range(73, 120), *range(133, 160), *range(161, 190)]
    paths = ["train/clinical_data-description.xlsx"]
    for name in (f"sub-stroke{number:04d}" for number in numbers):
        raw, registered = f"train/raw_data/{name}", f"train/derivatives/{name}"
        paths += [f"{raw}/ses-01/{name}_ses-01_{kind}.nii.gz" for kind in ("ncct", "cta", "ctp")]
        for kind in ("tmax", "mtt", "cbf", "cbv"):
            paths.append(f"{raw}/ses-01/{MAPS}/{name}_ses-01_{kind}.nii.gz")
            paths.append(f"{registered}/ses-01/{MAPS}/{name}_ses-01_space-ncct_{kind}.nii.gz")
        for session, kinds in (
            ("ses-01", ("cta", "ctp", "lvo-msk", "cow-msk")),
            ("ses-02", ("dwi", "adc", "lesion-msk")),
        ):
            paths += [f"{registered}/{session}/{name}_{session}_space-ncct_{kind}.nii.gz" for kind in kinds]
        paths.append(f"train/phenotype/{name}/ses-01/{name}_ses-01_demographic_baseline.xlsx")
        paths.append(f"train/phenotype/{name}/ses-02/{name}_ses-02_outcome.xlsx")
    return [*paths, "train/derivatives/sub-stroke0142/ses-02/sub-stroke0142_ses-02_lesion-msk.nii"]


def test_the_real_archive() -> None:
    release = release_from_files("x", [SourceFile(path=path, size=1, stamp="") for path in real_members()])
    assert (len(release.subjects), len(release.images), len(release.tables)) == (149, 2682, 298)
    assert release.dictionary is not None
    (problem,) = release.problems
    assert problem.path.endswith("sub-stroke0142_ses-02_lesion-msk.nii")
    assert problem.severity == "notice"
    assert (
        release.subjects["sub-stroke0142"].images["ncct", "lesion_mask"].path.endswith("space-ncct_lesion-msk.nii.gz")
    )


def test_the_real_archive_as_listed(real_data: Path) -> None:
    listing = real_data.parent / "archive_members.txt"
    if not listing.exists():
        pytest.skip("no list of members beside the real volumes")
    assert sorted(listing.read_text().split()) == sorted(real_members())


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_folder_and_a_zip_hold_the_same(release: Path, tmp_path: Path, *, top: bool, as_zip: bool) -> None:
    source = release.parent if top else release
    if as_zip:
        source = shutil.make_archive(str(tmp_path / "release"), "zip", source)
    scanned = isles24_zarr.scan(source)
    assert len(scanned.subjects) == 3
    assert len(scanned.images) == 54
    assert len(scanned.tables) == 6


def test_hostile_zip_members(release: Path, tmp_path: Path) -> None:
    name = f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
    link = zipfile.ZipInfo(f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
        archive.write(release / name, name)
        archive.writestr("../evil.nii.gz", b"1")
        archive.writestr("/abs.nii.gz", b"1")
        archive.writestr(link, "/etc/passwd")
    scanned = isles24_zarr.scan(tmp_path / "hostile.zip")
    assert list(scanned.subjects[S].images) == [("ncct", "ncct")]
    assert {problem.path for problem in scanned.problems if problem.severity == "error"} == {
        "../evil.nii.gz",
        "/abs.nii.gz",
        link.filename,
    }


def test_symbolic_links_out_of_the_tree(release: Path, tmp_path: Path) -> None:
    inside = tmp_path / "train"
    shutil.copytree(release / "raw_data" / S, inside / "raw_data" / S)
    folder = inside / "raw_data" / S / "ses-01"
    (folder / f"{S}_ses-01_cta.nii.gz").rename(folder / "kept")
    (folder / f"{S}_ses-01_cta.nii.gz").symlink_to("kept")
    (folder / f"{S}_ses-01_ctp.nii.gz").unlink()
    (folder / f"{S}_ses-01_ctp.nii.gz").symlink_to(release / f"raw_data/{S}/ses-01/{S}_ses-01_ctp.nii.gz")
    (inside / "derivatives").symlink_to(release / "derivatives")
    scanned = isles24_zarr.scan(inside)
    assert ("cta", "cta") in scanned.subjects[S].images
    assert ("ctp", "ctp") not in scanned.subjects[S].images
    refused = {problem.path for problem in scanned.problems if problem.severity == "error"}
    assert refused == {"derivatives", f"raw_data/{S}/ses-01/{S}_ses-01_ctp.nii.gz"}


@pytest.mark.parametrize("name", ["missing", "empty", "file.txt", "broken.zip", "nonsense://x"])
def test_no_release_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(SourceNotFoundError) as caught:
        isles24_zarr.scan(name if "://" in name else tmp_path / name)
    assert "\n" not in str(caught.value)


def test_options_are_for_urls_only(release: Path) -> None:
    assert Source.of(release, {"anon": True}).storage_options == {}
    assert Source.of("s3://bucket/train", {"anon": True}).storage_options == {"anon": True}
