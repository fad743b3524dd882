"""Stores that were broken for real: what is wrong is named, all of it, and what is right is not."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
import zarr

import isles24_zarr
from isles24_zarr.errors import NotAStoreError, StoreDamageError, UnknownNameError, UnreadableObjectError
from tests.fuzz import header_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

S, OTHER = "sub-stroke0001", "sub-stroke0002"
MASK = f"{S}/space-ncct/lvo_mask"
CTP = f"{S}/space-ncct/ctp"


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(store, tmp_path / "copy.zarr")


def shard(store: Path, array: str) -> Path:
    return next(path for path in sorted((store / array / "c").rglob("*")) if path.is_file())


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x20
    path.write_bytes(bytes(data))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_everywhere(store: Path, array: str) -> None:
    """Rewrite an array as another reader would: valid Zarr, other voxels."""
    opened = zarr.open_array(store / array, mode="r+")
    voxels = opened[...]
    voxels[0, 0, 0] += 1
    opened[...] = voxels


DAMAGE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a flipped byte": (lambda s: flip(shard(s, CTP), 1000), CTP, "cannot be read"),
    "a flipped byte of the index": (lambda s: flip(shard(s, CTP), -10), CTP, "cannot be read"),
    "a truncated shard": (lambda s: os.truncate(shard(s, CTP), 5000), CTP, "has 5,000 of"),
    "an empty shard": (lambda s: os.truncate(shard(s, CTP), 0), CTP, "has 0 of"),
    "a deleted shard": (lambda s: shard(s, CTP).unlink(), CTP, "is lost"),
    "a deleted shard of zeros": (lambda s: shard(s, MASK.replace(S, "sub-stroke0004")).unlink(), "lvo_mask", "is lost"),
    "other voxels": (lambda s: edit_everywhere(s, f"{S}/space-ncct/ncct"), "ncct", "checksum differs"),
    "a deleted array": (lambda s: shutil.rmtree(s / CTP), CTP, "zarr.json: is missing"),
    "a deleted document of an array": (lambda s: (s / CTP / "zarr.json").unlink(), CTP, "is missing"),
    "an edited document of an array": (
        lambda s: edit(s / CTP / "zarr.json", lambda d: d["attributes"].update(units="s")),
        CTP,
        "was edited",
    ),
    "a document that is no JSON": (lambda s: (s / CTP / "zarr.json").write_text("{"), CTP, "is not a Zarr document"),
    "a deleted document of a grid": (lambda s: (s / S / "space-ncct/zarr.json").unlink(), "space-ncct", "is missing"),
    "an edited grid": (
        lambda s: edit(s / S / "space-ncct/zarr.json", lambda d: d["attributes"]["affine"][0].__setitem__(0, 9.0)),
        "space-ncct",
        "was edited",
    ),
    "a deleted subject": (lambda s: (s / S / "zarr.json").unlink(), S, "was not committed, or was deleted"),
    "a subject that is gone altogether": (lambda s: shutil.rmtree(s / S), S, "the cohort table lists the subject"),
    "an edited clinical value": (
        lambda s: edit(s / S / "zarr.json", lambda d: d["attributes"].update(age=30)),
        S,
        "was edited",
    ),
    "an edited root": (
        lambda s: edit(s / "zarr.json", lambda d: d["attributes"].update(licence="MIT")),
        "zarr.json",
        "was edited",
    ),
    "a lost coordinate": (lambda s: (s / S / "space-ncct/x/c/0").unlink(), "space-ncct/x", "is lost"),
    "a damaged coordinate": (lambda s: flip(s / S / "space-ncct/x/c/0", 20), "space-ncct/x", "cannot be read"),
    "a left-over partial file": (
        lambda s: (s / CTP / "c/0.0f3a.partial").write_bytes(b"x"),
        "0f3a.partial",
        "an interrupted write",
    ),
    "an array that is not listed": (
        lambda s: shutil.copytree(s / CTP, s / S / "space-ncct/extra"),
        "space-ncct/extra",
        "not listed",
    ),
    "a subject that is not committed": (lambda s: (s / "sub-stroke9999").mkdir(), "sub-stroke9999", "not committed"),
    "a lost column of the table": (lambda s: shutil.rmtree(s / "phenotype/age"), "phenotype/age", "is missing"),
    "a lost chunk of the table": (lambda s: (s / "phenotype/age/c/0").unlink(), "phenotype/age", "is lost"),
    "another value in the table": (
        lambda s: zarr.open_array(s / "phenotype/age", mode="r+").__setitem__(0, 20.0),
        "phenotype/age",
        "its group has",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(copy: Path, client: Client, name: str) -> None:
    damage, path, words = DAMAGE[name]
    damage(copy)
    report = isles24_zarr.verify(copy, client=client, progress=False)
    assert not report.ok
    matching = [str(problem) for problem in report.problems if path in problem.path and words in str(problem)]
    assert matching, [str(problem) for problem in report.problems]
    assert all("\n" not in str(problem) for problem in report.problems)
    assert not [problem for problem in report.problems if problem.path.startswith(OTHER)]


@pytest.mark.parametrize(
    "name", [name for name, (_, _, words) in DAMAGE.items() if words not in ("cannot be read", "checksum differs")]
)
def test_fast_finds_what_reads_no_voxel(copy: Path, name: str) -> None:
    damage, path, words = DAMAGE[name]
    damage(copy)
    report = isles24_zarr.verify(copy, fast=True, progress=False)
    assert [problem for problem in report.problems if path in problem.path and words in str(problem)]
    assert report.voxel_bytes == 0


def test_one_damaged_subject_does_not_hide_another(copy: Path, client: Client) -> None:
    os.truncate(copy / S / "zarr.json", 100)
    lost = [shard(copy, f"{OTHER}/space-ncct/{name}") for name in ("cta", "ctp")]
    for path in lost:
        path.unlink()
    flip(copy / "phenotype/age/c/0", 20)
    report = isles24_zarr.verify(copy, client=client, progress=False)
    found = {problem.path for problem in report.problems}
    assert found == {f"{S}/zarr.json", "phenotype/age", *(path.relative_to(copy).as_posix() for path in lost)}
    assert len(report.problems) == 4  # each thing once


def test_all_damaged_shards_of_an_array_are_named(tmp_path: Path) -> None:
    header, voxels = (
        header_bytes(1, dtype="i2", dim=[4, 1200, 1200, 20, 8, 1, 1, 1]),
        np.zeros(1200 * 1200 * 160, "<i2"),
    )
    folder = tmp_path / f"train/raw_data/{S}/ses-01"
    folder.mkdir(parents=True)
    (folder / f"{S}_ses-01_ctp.nii.gz").write_bytes(gzip.compress(header + voxels.tobytes(), 1))
    store = tmp_path / "x.zarr"
    isles24_zarr.convert(tmp_path / "train", store, workers=1, progress=False)
    shards = sorted(path for path in (store / S / "space-ctp/ctp/c").rglob("*") if path.is_file())
    assert len(shards) > 2
    for path in (shards[0], shards[-1]):
        flip(path, 100)
    report = isles24_zarr.verify(store, workers=1, progress=False)
    assert [problem.path for problem in report.problems] == [
        path.relative_to(store).as_posix() for path in (shards[0], shards[-1])
    ]


LIES: dict[str, Callable[[bytes], bytes]] = {
    "a frame of 2^63 bytes": lambda _: b"\x28\xb5\x2f\xfd\xe0" + (2**63).to_bytes(8, "little") + b"\x01\0\0",
    "the length of an absent chunk": lambda data: data,
}


@pytest.mark.parametrize("name", LIES)
def test_lies_of_a_shard_are_told_of_and_end(copy: Path, client: Client, name: str) -> None:
    path = shard(copy, CTP)
    data = path.read_bytes()
    entries = np.frombuffer(data[-4 - 16 * 12 : -4], "<u8").reshape(12, 2).copy()
    if "absent" in name:
        entries[3, 1] = 2**64 - 1
    else:
        frame = LIES[name](b"")
        start = int(entries[3, 0])
        data = data[:start] + frame + data[start + len(frame) :]
    end = entries.tobytes()
    path.write_bytes(data[: -4 - 16 * 12] + end + google_crc32c.value(end).to_bytes(4, "little"))
    (copy / f"{OTHER}/space-cta/cta/c/0/0/0").unlink()
    report = isles24_zarr.verify(copy, client=client, progress=False)
    assert [problem.path for problem in report.problems] == [
        path.relative_to(copy).as_posix(),
        f"{OTHER}/space-cta/cta/c/0/0/0",
    ]
    with pytest.raises(StoreDamageError):
        isles24_zarr.open_scan(copy, S, chunks=None)["ctp"].load()


def test_what_is_no_file_is_told_of_and_ends(copy: Path, client: Client) -> None:
    """Pipes never answer, devices never end; a link to a file is the file."""
    places = {
        f"{S}/space-ncct/x/c/0": os.mkfifo,
        f"{S}/space-ncct/ctp/zarr.json": os.mkfifo,
        f"{S}/space-cta/cta/c/0/0/0": lambda path: path.symlink_to("/dev/zero"),
        f"{OTHER}/space-ncct/zarr.json": lambda path: path.symlink_to("/dev/zero"),
        "phenotype/age/c/0": os.mkfifo,
    }
    for place, make in places.items():
        (copy / place).unlink()
        make(copy / place)
    elsewhere = copy.parent / "annex"
    (copy / MASK / "c/0/0/0").rename(elsewhere)
    (copy / MASK / "c/0/0/0").symlink_to(elsewhere)
    report = isles24_zarr.verify(copy, client=client, progress=False)
    for place in places:
        array = place.removesuffix("/zarr.json").partition("/c/")[0]
        assert [problem for problem in report.problems if problem.path.startswith(array)], place
    assert not [problem for problem in report.problems if problem.path.startswith(MASK)]
    for subject, space in ((S, "ncct"), (S, "cta"), (OTHER, "ncct")):
        with pytest.raises(StoreDamageError):
            isles24_zarr.open_scan(copy, subject, space)
    (copy / "phenotype/zarr.json").unlink()
    os.mkfifo(copy / "phenotype/zarr.json")
    with pytest.raises(StoreDamageError, match="phenotype"):
        isles24_zarr.open_cohort(copy)


def test_what_may_not_be_read_is_told_of(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel says it; who runs the tests may read everything."""
    forbidden = {f"{copy}/{S}/zarr.json", f"{copy}/{OTHER}/space-ncct/x/c/0", f"{copy}/{OTHER}/space-ncct/zarr.json"}
    opened = os.open

    def refusing(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path) in forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    for subject in (S, OTHER):
        with pytest.raises(UnreadableObjectError, match=r"zarr\.json: cannot be read \(Permission denied\)"):
            isles24_zarr.open_scan(copy, subject)
    report = isles24_zarr.verify(copy, fast=True, progress=False)
    found = {problem.path: problem.message for problem in report.problems}
    assert found.keys() == {path.removeprefix(f"{copy}/") for path in forbidden}
    assert all("Permission denied" in message for message in found.values())


def test_names_of_the_table_lead_nowhere(copy: Path) -> None:
    table = zarr.open_array(copy / "phenotype/subject", mode="r+")
    table[0] = "../secret"
    (copy.parent / "secret").mkdir()
    (copy.parent / "secret/zarr.json").write_text(json.dumps({"attributes": {"age": "secret"}}))
    lines = [str(problem) for problem in isles24_zarr.verify(copy, fast=True, progress=False).problems]
    assert [line for line in lines if "can be no subject" in line]
    assert not [line for line in lines if "secret for" in line or "has secret" in line]


def test_a_subject_that_the_store_lacks_is_told_of_once(store: Path, release: Path, tmp_path: Path) -> None:
    other = shutil.copytree(release, tmp_path / "train")
    for section in ("raw_data", "derivatives", "phenotype"):
        shutil.copytree(other / section / S, other / section / "sub-stroke0099")
    for path in sorted(other.rglob(f"sub-stroke0099/**/{S}*")):
        path.rename(path.with_name(path.name.replace(S, "sub-stroke0099")))
    for section in ("raw_data", "derivatives", "phenotype"):
        shutil.rmtree(other / section / OTHER, ignore_errors=True)
    report = isles24_zarr.verify(store, other, fast=True, progress=False, workers=1)
    assert [(problem.path, problem.message) for problem in report.problems] == [
        (OTHER, "is in the store and not in the release"),
        ("sub-stroke0099", "is in the release and not in the store"),
    ]


def test_fast_compares_the_files_of_a_release(store: Path, release: Path, client: Client, tmp_path: Path) -> None:
    """Without a voxel: also a file of the same size, and a table of another."""
    other = shutil.copytree(release, tmp_path / "train")
    mask = other / f"derivatives/{S}/ses-02/{S}_ses-02_space-ncct_lesion-msk.nii.gz"
    flip(mask, 200)
    table = next((other / f"phenotype/{S}").rglob("*outcome*"))
    table.write_bytes(table.read_bytes() + b" ")
    report = isles24_zarr.verify(store, other, fast=True, client=client, progress=False)
    assert {problem.path: problem.message.split(";")[0] for problem in report.problems} == {
        mask.relative_to(other).as_posix(): "is not the file that was converted: its SHA-256 differs",
        table.relative_to(other).as_posix(): f"is not the table that was converted: it has {table.stat().st_size:,} "
        f"bytes, not {table.stat().st_size - 1:,}",
    }
    assert report.voxel_bytes == 0
    assert isles24_zarr.verify(store, release, fast=True, client=client, progress=False).problems == ()


def test_all_failures_are_reported(copy: Path, client: Client) -> None:
    flip(shard(copy, CTP), 1000)
    shard(copy, f"{OTHER}/space-cta/cta").unlink()
    (copy / "sub-stroke0004/zarr.json").unlink()
    report = isles24_zarr.verify(copy, client=client, progress=False)
    assert {problem.subject for problem in report.problems} >= {S, OTHER, "sub-stroke0004"}


def test_a_good_store_is_good(store: Path, release: Path, client: Client) -> None:
    report = isles24_zarr.verify(store, release, client=client, progress=False)
    assert report.problems == ()
    assert (len(report.subjects), report.arrays) == (3, 54)
    voxels = sum(array.size * np.dtype(recorded(array)["file_dtype"]).itemsize for array in image_arrays(store))
    assert report.voxel_bytes == voxels


def recorded(array: zarr.Array[Any]) -> dict[str, Any]:
    ours: Any = array.attrs["isles24_zarr"]
    return dict(ours)


def image_arrays(store: Path) -> list[zarr.Array[Any]]:
    nodes = zarr.open_group(store, mode="r", use_consolidated=False).members(max_depth=None)
    return [node for _, node in nodes if isinstance(node, zarr.Array) and "isles24_zarr" in node.attrs]


def test_one_subject_only(copy: Path, client: Client) -> None:
    flip(shard(copy, CTP), 1000)
    assert isles24_zarr.verify(copy, subjects=[OTHER], client=client, progress=False).ok
    with pytest.raises(UnknownNameError):
        isles24_zarr.verify(copy, subjects=["sub-nobody"], client=client, progress=False)


def test_against_a_release_that_changed(store: Path, release: Path, client: Client, tmp_path: Path) -> None:
    other = shutil.copytree(release, tmp_path / "train")
    folder = other / f"raw_data/{S}/ses-01"
    plain = bytearray(gzip.decompress((folder / f"{S}_ses-01_cta.nii.gz").read_bytes()))
    plain[-1] ^= 1
    (folder / f"{S}_ses-01_cta.nii.gz").write_bytes(gzip.compress(bytes(plain)))
    plain = bytearray(gzip.decompress((folder / f"{S}_ses-01_ctp.nii.gz").read_bytes()))
    plain[150] ^= 1  # the description of the header
    (folder / f"{S}_ses-01_ctp.nii.gz").write_bytes(gzip.compress(bytes(plain)))
    same = gzip.decompress((folder / f"{S}_ses-01_ncct.nii.gz").read_bytes())
    (folder / f"{S}_ses-01_ncct.nii.gz").write_bytes(gzip.compress(same, 1))
    (folder / f"perfusion-maps/{S}_ses-01_cbf.nii.gz").unlink()
    (folder / f"perfusion-maps/{S}_ses-01_cbv.nii.gz").write_bytes(b"broken")
    report = isles24_zarr.verify(store, other, client=client, progress=False)
    said = {problem.path.removeprefix(f"raw_data/{S}/ses-01/"): problem.message for problem in report.problems}
    assert "voxels are not those" in said[f"{S}_ses-01_cta.nii.gz"]
    assert "header is not the one" in said[f"{S}_ses-01_ctp.nii.gz"]
    assert "compressed anew" in said[f"{S}_ses-01_ncct.nii.gz"]
    assert "in the store and not in the release" in " ".join(
        problem.message for problem in report.problems if problem.path.endswith("cbf.nii.gz")
    )
    assert "cannot be compared" in said[f"perfusion-maps/{S}_ses-01_cbv.nii.gz"]


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError):
        isles24_zarr.verify(tmp_path, progress=False)


@pytest.mark.parametrize(
    "name", ["a deleted shard", "a deleted shard of zeros", "a truncated shard", "a lost coordinate"]
)
@pytest.mark.parametrize("chunks", ["auto", None])
def test_reads_do_not_lie(copy: Path, name: str, chunks: Any) -> None:
    DAMAGE[name][0](copy)
    subject = "sub-stroke0004" if "zeros" in name else S
    with pytest.raises(StoreDamageError, match=r"is lost|bytes"):
        isles24_zarr.open_scan(copy, subject, chunks=chunks)


@pytest.mark.parametrize(
    "keys",
    [
        ("attributes", "affine", 0, 3),
        ("attributes", "orientation"),
        ("consolidated_metadata", "metadata", "x", "attributes", "spacing"),
        ("consolidated_metadata", "metadata", "tmax", "attributes", "long_name"),
        ("consolidated_metadata", "metadata", "tmax"),
    ],
)
def test_a_document_that_was_edited_is_never_read_as_a_scan(copy: Path, keys: tuple[Any, ...]) -> None:
    """Nothing else would tell: voxels, shapes and types are right."""
    path = copy / S / "space-ncct/zarr.json"
    document = json.loads(path.read_text())
    container = document
    for key in keys[:-1]:
        container = container[key]
    if isinstance(value := container[keys[-1]], dict):
        del container[keys[-1]]
    else:
        container[keys[-1]] = value[::-1] if isinstance(value, str) else value + 1
    path.write_text(json.dumps(document))
    with pytest.raises(StoreDamageError, match="space-ncct: was edited after it was written"):
        isles24_zarr.open_scan(copy, S)
    record = isles24_zarr.open_cohort(copy).isles.examples[0]
    with pytest.raises(StoreDamageError, match="space-ncct: was edited after it was written"):
        record["tmax"]
    isles24_zarr.open_scan(copy, "sub-stroke0002")


def test_a_flipped_byte_is_never_read_as_a_voxel(copy: Path) -> None:
    size = shard(copy, CTP).stat().st_size
    wanted = isles24_zarr.open_scan(copy, S)["ctp"].values
    rng = np.random.default_rng(0)
    for position in rng.integers(0, size, 25):
        flip(shard(copy, CTP), int(position))
        with pytest.raises(StoreDamageError, match=r"ctp/c/.* has a damaged"):
            isles24_zarr.open_scan(copy, S)["ctp"].compute()
        flip(shard(copy, CTP), int(position))
    np.testing.assert_array_equal(isles24_zarr.open_scan(copy, S)["ctp"].values, wanted)
