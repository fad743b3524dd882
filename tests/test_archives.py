"""Conversion straight from archives: the same store as from the folder, or a clear word about what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import py7zr
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import isles24_zarr
from isles24_zarr import tasks
from isles24_zarr.errors import (
    DamagedArchiveError,
    Isles24Error,
    LittleRoomWarning,
    MissingExtraError,
    SourceNotFoundError,
    SpoolError,
    UnusableArchiveError,
)
from isles24_zarr.release.names import classified
from isles24_zarr.release.paths import SourceFile
from isles24_zarr.release.source import Source
from isles24_zarr.store.objects import StorePlace
from isles24_zarr.tasks import spool
from isles24_zarr.tasks.cluster import TaskLost
from tests.archive_files import directory_span, members_of, pack, tar_member, with_directory
from tests.limits import limited_process
from tests.oracle import arrays_by_source, assert_identical_stores, assert_same_image, images_below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from tests.archive_files import Members

S = "sub-stroke0001"
NCCT = f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
CTA = f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz"
CTP = f"derivatives/{S}/ses-01/{S}_ses-01_space-ncct_ctp.nii.gz"
LEFTOVERS = ".isles24-zarr-spool-*"
SECONDS = 120


def errors(found: Any) -> dict[str, str]:
    return {problem.path: problem.message for problem in found.problems if problem.severity == "error"}


def convert(archive: Path, store: Path, client: Client, **options: Any) -> Any:
    report = isles24_zarr.convert(archive, store, client=client, progress=False, **options)
    assert list(store.parent.glob(LEFTOVERS)) == []
    return report


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "isles24_zarr", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS, **options)


@pytest.fixture(scope="module")
def members(release: Path) -> Members:
    return members_of(release)


@pytest.fixture(scope="module")
def archive(members: Members, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("archive") / "train.7z", members)


@pytest.mark.parametrize(
    ("name", "kind", "order"),
    [
        ("train.7z", "default", "sorted"),
        ("TRAIN.7Z", "copy", "tables last"),
        ("train.7z", "lzma", "tables first"),
        ("train.7z", "lzma2", "reversed"),
        ("train.7z", "bzip2", "sorted"),
        ("train.tar", "", "tables last"),
        ("train.tgz", "", "reversed"),
        ("train.zip", "", "reversed"),
    ],
)
def test_the_store_is_that_of_the_folder(
    release: Path, store: Path, client: Client, tmp_path: Path, name: str, kind: str, order: str
) -> None:
    packed = pack(tmp_path / ("train.7z" if name.endswith("7Z") else name), members_of(release, order), kind=kind)
    packed = packed.rename(tmp_path / name)
    report = convert(packed, tmp_path / "x.zarr", client)
    assert report.ok
    assert len(report.converted) == 3
    assert_identical_stores(store, tmp_path / "x.zarr")
    again = convert(packed, tmp_path / "x.zarr", client)
    assert (again.converted, len(again.unchanged)) == ((), 3)
    assert isles24_zarr.verify(tmp_path / "x.zarr", packed, client=client, progress=False).ok


def test_blocks_without_what_is_wanted_are_not_read(
    members: Members, store: Path, client: Client, tmp_path: Path
) -> None:
    packed = pack(tmp_path / "train.7z", [each for each in members if S not in each[0]], kind="copy")
    before = packed.stat().st_size
    with py7zr.SevenZipFile(packed, "a", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        for name, content in members:
            if S in name:
                archive.writestr(content, name)
    data = bytearray(packed.read_bytes())
    data[32 : before // 2] = bytes(before // 2 - 32)  # within the first block
    packed.write_bytes(data)
    dictionary = errors(convert(packed, tmp_path / "x.zarr", client, subjects=[S]))
    assert set(dictionary) == {"clinical_data-description.xlsx"}
    assert_identical_stores(store / S, tmp_path / "x.zarr" / S)


def test_a_tar_made_within_the_folder(members: Members, store: Path, client: Client, tmp_path: Path) -> None:
    packed = pack(tmp_path / "train.tar", [(f"./{name}", content) for name, content in members])
    assert convert(packed, tmp_path / "x.zarr", client).ok
    assert_identical_stores(store, tmp_path / "x.zarr")


def test_an_archive_elsewhere() -> None:
    with pytest.raises(SourceNotFoundError, match=r"is an archive that is not on this machine; copy it here"):
        isles24_zarr.scan("memory://train.7z")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A task of a worker."""

    source: Source | None
    path: str


def length_or_failure(task: Reading, _: str) -> int | str:
    if task.path == CTA:
        raise MemoryError("none is left")
    assert task.source is not None
    try:
        with task.source.opened(SourceFile(path=task.path, size=0, stamp="")) as file:
            return len(file.read())
    except DamagedArchiveError as error:
        return error.what


def test_a_task_that_is_lost_is_told_of_and_keeps_its_copy_until_then(
    members: Members, archive: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MOST_MEMBERS", 2)
    place = Source.of(archive)
    tasks = {path: Reading(source=place, path=path) for path in (NCCT, CTA, CTP, "not/there")}
    sizes = dict.fromkeys(tasks, 10**6)
    done = spool.completed_arrivals(
        client,
        length_or_failure,
        spool.arrivals(place, tasks, sizes, tmp_path),
        total=1,
        title="reading",
        progress=False,
    )
    found = {task.path: result for task, result in done}
    assert found.pop("not/there") == "its archive is damaged or cut off before it"
    lost = found.pop(CTA)
    assert isinstance(lost, TaskLost)
    assert "too little memory (none is left)" in lost.why
    assert found == {path: len(content) for path, content in members if path in (NCCT, CTP)}
    assert list(tmp_path.iterdir()) == []


def test_scan_plan_and_selection(archive: Path, release: Path, client: Client, tmp_path: Path) -> None:
    of_archive, of_folder = isles24_zarr.scan(archive), isles24_zarr.scan(release)
    assert of_archive.problems == of_folder.problems
    assert [file.path for file in of_archive.images] == [file.path for file in of_folder.images]
    plans = [
        json.loads(command("convert", source, tmp_path / "x.zarr", "--dry-run", "--json").stdout)
        for source in (archive, release)
    ]
    for plan in plans:
        plan["bytes"].pop("free")  # others write to the disk, too
    assert plans[0] == plans[1]
    some = convert(archive, tmp_path / "x.zarr", client, subjects=[S], images=["ncct", "ctp"])
    assert (some.converted, some.images) == ((S,), 3)
    rest = convert(archive, tmp_path / "x.zarr", client)
    assert rest.images == 3 * 18 - 3
    assert f"new or changed: derivatives/{S}" in rest.reasons[S]


def test_the_spool_is_bounded(
    members: Members, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[int, int]] = []
    largest = max(len(content) for name, content in members if not name.endswith("xlsx"))
    room = largest // 2
    submit = spool._Spool.submit

    def measured(running: Any, arrival: Any) -> None:
        submit(running, arrival)
        sizes = [path.stat().st_size for path in arrival.copy.parent.iterdir()]
        held.append((len(sizes), sum(sizes)))

    monkeypatch.setattr(spool._Spool, "submit", measured)
    monkeypatch.setattr(spool, "MOST_BYTES", room)
    monkeypatch.setattr(spool, "MOST_MEMBERS", 5)
    assert convert(pack(tmp_path / "train.tar", members), tmp_path / "x.zarr", client).ok
    assert len(held) == 54
    assert max(count for count, _ in held) <= 5
    # one that is larger has it to itself
    assert all(size <= room or count == 1 for count, size in held)
    assert any(size > room for _, size in held)


def test_a_small_disk_is_made_do_with(
    members: Members, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def little(folder: Path) -> shutil._ntuple_diskusage:
        held.append(sum(path.stat().st_size for path in folder.iterdir()))
        return shutil._ntuple_diskusage(300_000, held[-1], max(0, 300_000 - held[-1]))

    monkeypatch.setattr(spool.shutil, "disk_usage", little)
    with pytest.warns(LittleRoomWarning):
        assert convert(pack(tmp_path / "train.tar", members), tmp_path / "x.zarr", client).ok
    assert max(held) <= 300_000
    assert_identical_stores(store, tmp_path / "x.zarr")


# --- names ---

HOSTILE = {
    "/abs.nii.gz": "absolute or leads out",
    f"../{NCCT}": "absolute or leads out",
    f"derivatives/../../{CTA}": "absolute or leads out",
    f"C:/{CTA}": "absolute or leads out",
    f"raw_data\\{S}\\x.nii.gz": "backslashes or control characters",
    f"raw_data/{S}/ses-01/{S}_ses-01_\x1b[31mcta.nii.gz": "backslashes or control characters",
    "raw_data/sub-../ses-01/sub-.._ses-01_cta.nii.gz": "is not 'sub-' and a label",
    f"raw_data/{'a' * 4096}/x.nii.gz": "the name has 4,",
    CTA: "is in the archive 2 times",
}


@pytest.mark.parametrize("name", ["train.7z", "train.tar", "train.tar.gz", "train.zip"])
def test_hostile_names_are_refused(release: Path, client: Client, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    content = (release / NCCT).read_bytes()
    # py7zr writes no backslashes
    hostile = [(each, content) for each in HOSTILE if not (name.endswith("7z") and "\\" in each)]
    packed = pack(folder / name, [*hostile, (NCCT, content), (CTA, b"the second one"), ("x/strange.txt", b"")])
    report = convert(packed, folder / "x.zarr", client)
    assert report.images == 1
    assert_same_image(release / NCCT, arrays_by_source(folder / "x.zarr")[NCCT], shift=0.05)
    assert sorted(path.name for path in tmp_path.rglob("*") if "x.zarr" not in path.parts) == ["a", "b", name]
    told = errors(report)
    assert len(told) == len(hostile)
    assert all("\x1b" not in str(problem) for problem in report.problems)
    for text in set(HOSTILE.values()):
        assert any(text in message for message in told.values()), text
    assert all(len(path) < 300 for path in told)


def test_links_and_devices_in_a_tar(release: Path, client: Client, tmp_path: Path) -> None:
    folder = f"raw_data/{S}/ses-01"
    odd = {
        f"{folder}/{S}_ses-01_cta.nii.gz": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        f"{folder}/{S}_ses-01_ctp.nii.gz": {"type": tarfile.LNKTYPE, "linkname": NCCT},
        f"{folder}/perfusion-maps/{S}_ses-01_cbf.nii.gz": {"type": tarfile.FIFOTYPE},
        f"{folder}/perfusion-maps/{S}_ses-01_cbv.nii.gz": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    }
    content = (release / NCCT).read_bytes()
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.addfile(tar_member(NCCT, size=len(content)), io.BytesIO(content))
        for name, fields in odd.items():
            archive.addfile(tar_member(name, **fields))
    report = convert(tmp_path / "train.tar", tmp_path / "x.zarr", client)
    assert report.images == 1
    assert set(errors(report)) == set(odd)
    assert all("is a link or no regular file" in message for message in errors(report).values())


def test_links_in_a_7z(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train" / Path(NCCT).parent
    folder.mkdir(parents=True)
    shutil.copy(release / NCCT, folder)
    (folder / Path(CTA).name).symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "train.7z", "w") as archive:
        archive.writeall(tmp_path / "train", "train")
    scanned = isles24_zarr.scan(tmp_path / "train.7z")
    assert set(errors(scanned)) == {f"train/{CTA}"}
    assert [file.path for file in scanned.images] == [f"train/{NCCT}"]


any_name = st.one_of(
    st.text(max_size=40),
    st.sampled_from(list(HOSTILE)),
    st.lists(st.sampled_from(["..", ".", "", "raw_data", "sub-1", "ses-01", "sub-1_ses-01_ncct.nii.gz"])).map("/".join),
).filter(lambda name: "\0" not in name and name.isprintable() and name.strip("/"))


@given(names=st.lists(any_name, min_size=1, max_size=6), suffix=st.sampled_from([".7z", ".tar", ".zip"]))
@settings(max_examples=40)
def test_only_plain_names_are_listed(names: list[str], suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    packed = pack(tmp_path_factory.mktemp("names") / f"x{suffix}", [(name, b"1") for name in names], kind="copy")
    try:
        found = Source.of(packed).listed()
    except SourceNotFoundError:
        return
    files = [*found.images, *found.tables]
    assert files
    for file in files:
        assert names.count(file.path) <= 1
        assert not file.path.startswith("/")
        assert ".." not in file.path.split("/")
        assert classified(file.path)


# --- damage ---


@pytest.mark.parametrize(
    ("name", "share"),
    [("train.tar", 0.1), ("train.tar", 0.8), ("train.tar.gz", 0.45), ("train.tar.gz", 0.999)],
)
def test_a_tar_that_is_cut_short(
    members: Members,
    release: Path,
    store: Path,
    client: Client,
    tmp_path: Path,
    name: str,
    share: float,
) -> None:
    packed = pack(tmp_path / name, members)
    data = packed.read_bytes()
    packed.write_bytes(data[: int(share * len(data))])
    report = convert(packed, tmp_path / "x.zarr", client)
    assert not report.ok
    assert "what comes before is used; fetch the archive again" in errors(report)[name]
    for path, array in arrays_by_source(tmp_path / "x.zarr").items():
        assert_same_image(release / path, array, shift=0.05)
    assert all(
        " is damaged " in told or " ends after " in told or path == name for path, told in errors(report).items()
    )
    packed.write_bytes(data)
    assert convert(packed, tmp_path / "x.zarr", client).ok
    assert_identical_stores(store, tmp_path / "x.zarr")


@pytest.mark.parametrize(("name", "kind"), [("train.7z", "copy"), ("train.7z", "lzma2"), ("train.zip", "")])
def test_damage_within_an_archive(
    members: Members, release: Path, store: Path, client: Client, tmp_path: Path, name: str, kind: str
) -> None:
    packed = pack(tmp_path / name, members, kind=kind)
    good = packed.read_bytes()
    data = bytearray(good)
    data[len(data) // 2] ^= 0x10
    packed.write_bytes(data)
    report = convert(packed, tmp_path / "x.zarr", client)
    told = errors(report)
    assert told
    assert all("archive" in message and "fetch the archive again" in message for message in told.values())
    if kind == "copy":
        assert len(told) == 1
        assert "its CRC in the archive differs" in next(iter(told.values()))
    found = arrays_by_source(tmp_path / "x.zarr")
    assert found.keys() == images_below(release).keys() - told.keys()
    for path, array in found.items():
        assert_same_image(release / path, array, shift=0.05)
    # sizes and checksums in the directory are those of the good archive
    packed.write_bytes(good)
    assert convert(packed, tmp_path / "x.zarr", client).ok
    assert_identical_stores(store, tmp_path / "x.zarr")


def read_all(path: Path) -> dict[str, bytes | Isles24Error]:
    """What can be had of the images and tables of an archive."""
    place = Source.of(path)
    release = place.listed()
    found: dict[str, bytes | Isles24Error] = {}
    for name, stream in place.members({file.path for file in (*release.images, *release.tables)}):
        if isinstance(stream, Isles24Error):
            found[name] = stream
            continue
        pieces = []
        try:
            while piece := stream.read(10_000):
                pieces.append(piece)
            found[name] = b"".join(pieces)
        except Isles24Error as error:
            found[name] = error
    return found


SMALL = [
    (NCCT, b"a" * 300),
    (CTA, np.random.default_rng(0).bytes(2000)),
    (f"phenotype/{S}/ses-02/{S}_ses-02_outcome.csv", b"1,2"),
]


@functools.cache
def small_archive(suffix: str, kind: str = "lzma2", *, encoded: bool = True) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return pack(Path(folder) / f"x{suffix}", SMALL, kind=kind, encoded=encoded).read_bytes()


share = st.floats(0, 1, exclude_max=True)


@given(
    kind=st.sampled_from(["copy", "lzma", "lzma2", "bzip2", "default"]),
    encoded=st.booleans(),
    lies=st.booleans(),
    changes=st.lists(st.tuples(share, st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.one_of(st.just(1.0), share),
)
@example(kind="copy", encoded=False, lies=True, changes=[(0.056640625, 48)], cut=1.0)  # sizes below 0
@settings(max_examples=100)
def test_any_damage_to_a_7z_is_told_of(
    kind: str,
    changes: list[tuple[float, int]],
    cut: float,
    tmp_path_factory: pytest.TempPathFactory,
    *,
    encoded: bool,
    lies: bool,
) -> None:
    content = small_archive(".7z", kind, encoded=encoded)
    start, end = directory_span(content)
    damaged = bytearray(content[start:end] if lies else content)
    for at, value in changes:
        damaged[int(at * len(damaged))] = value
    # a directory that lies, under checksums that are right, or anything, anywhere
    data = with_directory(content, bytes(damaged)) if lies else bytes(damaged[: int(cut * len(damaged))])
    packed = tmp_path_factory.getbasetemp() / "damaged.7z"
    packed.write_bytes(data)
    try:
        found = read_all(packed)
    except (SourceNotFoundError, UnusableArchiveError):
        return
    contents = {content for _, content in SMALL}
    assert all(isinstance(each, Isles24Error) or each in contents or lies for each in found.values())


@given(
    suffix=st.sampled_from([".tar", ".tar.gz"]),
    changes=st.lists(st.tuples(st.integers(0, 4999), st.integers(0, 255)), max_size=3),
    cut=st.one_of(st.just(1.0), share),
)
@settings(max_examples=100)
def test_any_damage_to_a_tar_is_no_crash(
    suffix: str, changes: list[tuple[int, int]], cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = bytearray(small_archive(".tar"))
    for at, value in changes:
        plain[at] = value
    content = bytes(plain[: int(cut * len(plain))])
    packed = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    packed.write_bytes(gzip.compress(content, 1) if suffix == ".tar.gz" else content)
    with contextlib.suppress(SourceNotFoundError):
        read_all(packed)


def encrypted(path: Path, members: Members, *, header: bool) -> Path:
    with py7zr.SevenZipFile(path, "w", password="secret", header_encryption=header) as archive:  # noqa: S106
        for name, content in members:
            archive.writestr(content, name)
    return path


def test_archives_that_cannot_be_used(members: Members, archive: Path, tmp_path: Path) -> None:
    few = [each for each in members if S in each[0]]
    plain = pack(tmp_path / "plain.7z", few, kind="lzma2", encoded=False).read_bytes()
    start, end = directory_span(plain)
    directory = plain[start:end]
    at = directory.index(b"\x21\x21\x01")  # a coder, LZMA2, with one byte of settings
    large = directory[: at + 3] + bytes([40]) + directory[at + 4 :]
    strange = directory[: at + 1] + b"\x7e" + directory[at + 2 :]
    cases = {
        "cut.7z": (archive.read_bytes()[:-100], "its directory is damaged or cut off"),
        "empty.7z": (b"", "its directory is damaged or cut off"),
        "text.7z": (b"no archive at all", "its directory is damaged or cut off"),
        "dictionary.7z": (with_directory(plain, large), "asks for 4,295 MB of memory to be decompressed"),
        "method.7z": (with_directory(plain, strange), "is compressed by method 7e, not by one of Copy"),
        "encrypted.7z": (encrypted(tmp_path / "e", few, header=False).read_bytes(), "is encrypted; unpack it"),
        "names.7z": (encrypted(tmp_path / "n", few, header=True).read_bytes(), "is encrypted"),
        "outer.7z": (
            pack(tmp_path / "o.7z", [("train.tar", b"1" * 5000)]).read_bytes(),
            "an archive within, train.tar, is not looked into",
        ),
        "text.tar": (b"no archive at all" * 100, "is damaged after its first member"),
        "empty.tar": (b"", "holds no image or table"),
        "text.tar.gz": (b"no archive at all" * 100, "is not gzip data"),
    }
    for name, (content, told) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises((UnusableArchiveError, SourceNotFoundError)) as raised:
            isles24_zarr.convert(tmp_path / name, tmp_path / "x.zarr", progress=False)
        assert told in str(raised.value), (name, str(raised.value))
        assert str(raised.value).startswith(str(tmp_path / name))
    done = command("convert", tmp_path / "encrypted.7z", tmp_path / "x.zarr")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("name", ["train.7z", "train.tar"])
def test_members_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    packed = pack(tmp_path / name, [(f"{number}", b"") for number in range(20)] + SMALL)
    monkeypatch.setattr("isles24_zarr.release._sevenzip.MOST_MEMBERS", 10)
    monkeypatch.setattr("isles24_zarr.release._tarball.MOST_MEMBERS", 10)
    with pytest.raises((UnusableArchiveError, SourceNotFoundError), match=r"has more than 10 members"):
        isles24_zarr.scan(packed)


def listed_with_memory(path: str) -> list[str]:
    try:
        release = Source.of(path).listed()
    except Isles24Error as error:
        return [str(error)]
    return [str(problem) for problem in release.problems]


@pytest.fixture(scope="module")
def limited() -> Iterator[Any]:
    with limited_process(functools.partial(listed_with_memory, "nothing.tar.gz")) as run:
        yield run


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_without_end_in_a_tar(limited: Any, tmp_path: Path, kind: bytes) -> None:
    size = 2 * 10**9
    head = tar_member("x", type=kind, size=size).tobuf(tarfile.GNU_FORMAT)
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(20):
            file.write(bytes(10**6))
    (told,) = limited(listed_with_memory, str(tmp_path / "bomb.tar.gz"))
    assert "has a header that is to hold" in told


@pytest.mark.parametrize("name", ["train.7z", "train.tar.gz"])
def test_a_bomb_is_not_copied(release: Path, client: Client, tmp_path: Path, name: str) -> None:
    """A file with far more bytes than its header accounts for, which takes no room where it is packed."""
    plain = gzip.decompress((release / CTA).read_bytes())
    bomb = plain + bytes(2 * len(plain) + 80 * 2**20)
    members = [(CTA.removesuffix(".gz"), bomb), (NCCT, (release / NCCT).read_bytes())]
    packed = pack(tmp_path / name, members)
    assert packed.stat().st_size < 10**6
    report = convert(packed, tmp_path / "x.zarr", client)
    assert report.images == 1
    assert "bytes of voxels that its header promises" in errors(report)[CTA.removesuffix(".gz")]


def test_tables_without_end(members: Members, client: Client, tmp_path: Path) -> None:
    large = [(name, bytes(70 * 2**20) if name.endswith("outcome.xlsx") else content) for name, content in members]
    report = convert(pack(tmp_path / "train.7z", large), tmp_path / "x.zarr", client, images=["ncct"])
    assert len(report.converted) == 3
    assert [path.rsplit("_", 1)[-1] for path in errors(report)] == ["outcome.xlsx"] * 3


# --- processes that end ---


def test_kill_9_and_a_plain_run_again(members: Members, store: Path, tmp_path: Path) -> None:
    packed, target = pack(tmp_path / "train.7z", members), tmp_path / "x.zarr"
    words = [sys.executable, "-m", "isles24_zarr", "convert", str(packed), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not any(target.glob("sub-*/space-*/*/zarr.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:  # on a quick machine it may have ended first
        assert list(tmp_path.glob(LEFTOVERS))
    done = command("convert", packed, target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] < 54
    assert list(tmp_path.glob(LEFTOVERS)) == []
    assert_identical_stores(store, target)
    assert isles24_zarr.verify(target, fast=True, progress=False).ok


def test_an_interrupt_leaves_no_spool(members: Members, store: Path, tmp_path: Path) -> None:
    packed, target, folder = pack(tmp_path / "train.7z", members), tmp_path / "x.zarr", tmp_path / "spool"
    words = [sys.executable, "-m", "isles24_zarr", "convert", str(packed), str(target), "--spool", str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not any(folder.glob(f"{LEFTOVERS}/*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 130)
    assert list(folder.iterdir()) == []
    assert command("convert", packed, target, "--spool", folder).returncode == 0
    assert_identical_stores(store, target)


def test_leftovers_are_told_from_spools_in_use(tmp_path: Path) -> None:
    target = StorePlace.of(tmp_path / "x.zarr")
    leftover = tmp_path / LEFTOVERS.replace("*", "of-a-killed-one")
    (leftover / "000001").mkdir(parents=True)
    with spool.opened_spool(None, target) as first:
        assert not leftover.exists()
        with spool.opened_spool(None, target) as second:
            (first / "copy").write_bytes(b"1")
            assert first != second
        assert (first / "copy").exists()
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / LEFTOVERS.replace("*", "link")).symlink_to(tmp_path / "mine")
    with spool.opened_spool(tmp_path, StorePlace.of("s3://bucket/x.zarr")):
        assert (tmp_path / "mine" / "file").exists()


def test_a_spool_that_cannot_be_written(
    archive: Path, store: Path, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot hold copies of an archive's members .*give another folder"):
        convert(archive, tmp_path / "x.zarr", client, spool=tmp_path / "file" / "below")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "opened_spool", lambda *_: contextlib.nullcontext(tmp_path / "gone"))
        with pytest.raises(SpoolError, match=r"gone: cannot be written .*No such file"):
            convert(archive, tmp_path / "x.zarr", client)
    assert convert(archive, tmp_path / "x.zarr", client).ok
    assert_identical_stores(store, tmp_path / "x.zarr")


# --- verification, and what is missing ---


def test_verify_finds_what_differs_from_the_archive(
    members: Members, store: Path, client: Client, tmp_path: Path
) -> None:
    changed = dict(members)
    plain = bytearray(gzip.decompress(changed[CTA]))
    plain[-1] ^= 1
    changed[CTA] = gzip.compress(bytes(plain))
    changed[CTP] = gzip.compress(gzip.decompress(changed[CTP]), 9)
    del changed[NCCT]
    packed = pack(tmp_path / "train.7z", changed.items())
    report = isles24_zarr.verify(store, packed, client=client, progress=False, spool=tmp_path / "spool")
    assert {problem.path: problem.message for problem in report.problems} == {
        CTA: "its voxels are not those that were converted",
        CTP: "was compressed anew; header and voxels are those that were converted",
        NCCT: "is in the store and not in the release",
    }
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_changed_archive_updates_its_store(members: Members, client: Client, tmp_path: Path) -> None:
    packed = pack(tmp_path / "train.7z", members)
    assert convert(packed, tmp_path / "x.zarr", client).ok
    changed = dict(members)
    plain = bytearray(gzip.decompress(changed[CTA]))
    plain[-1] ^= 1
    changed[CTA] = gzip.compress(bytes(plain))
    pack(packed, changed.items())
    report = convert(packed, tmp_path / "x.zarr", client)
    assert report.reasons == {S: f"new or changed: {CTA}"}
    assert np.count_nonzero(report.images) == 1
    # a damaged file takes the place of no good one
    changed[CTA] = changed[CTA][:-20]
    pack(packed, changed.items())
    report = convert(packed, tmp_path / "x.zarr", client)
    assert (report.converted, len(report.unchanged)) == ((), 3)
    assert "the subject stays as it was converted before" in errors(report)[CTA]


def test_without_py7zr(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'isles24-zarr\[archive\]'"):
        isles24_zarr.convert(archive, tmp_path / "x.zarr", progress=False)
