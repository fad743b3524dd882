"""Some subjects of an archive behind HTTP: the same store as from a local one, for the bytes that were told before."""

from __future__ import annotations

import dataclasses
import io
import json
import lzma
import pickle
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import py7zr
import pytest

import isles24_zarr
from isles24_zarr.errors import (
    DestinationError,
    DownloadError,
    Isles24Error,
    RecordError,
    SourceNotFoundError,
    SpoolError,
    StoreAccessError,
    UnknownNameError,
    UnusableArchiveError,
)
from isles24_zarr.release import _ranges
from isles24_zarr.release._ranges import RemoteFile
from isles24_zarr.release.source import Source
from tests.archive_files import directory_span, members_of, pack
from tests.oracle import assert_identical_stores
from tests.range_server import RangeServer, running_range_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client

S, OTHER = "sub-stroke0002", "sub-stroke0001"
DICTIONARY = "clinical_data-description.xlsx"
MB = 2**20


def pack_blocks(path: Path, release: Path, block_of: Callable[[str], str]) -> bytes:
    """Pack a release into a 7z archive, each file into the block of that name."""
    members = members_of(release)
    for number, block in enumerate(dict.fromkeys(block_of(name) for name, _ in members)):
        # a block is what one call of py7zr writes
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 1}]
        with py7zr.SevenZipFile(path, "a" if number else "w", filters=filters) as archive:
            for name, content in members:
                if block_of(name) == block:
                    archive.writestr(content, name)
    return path.read_bytes()


def subject_of(name: str) -> str:
    match = re.search(r"sub-stroke\d+", name)
    return match[0] if match else OTHER  # py7zr writes a wrong directory where the first block has a single file


@pytest.fixture(scope="module")
def archives(release: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archives")
    return {
        "single": pack_blocks(folder / "single.7z", release, str),
        "subjects": pack_blocks(folder / "subjects.7z", release, subject_of),
        "solid": pack_blocks(folder / "solid.7z", release, lambda _: ""),
        "stored": pack(folder / "stored.7z", members_of(release), kind="copy").read_bytes(),
    }


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with running_range_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ranges.time, "sleep", lambda _: None)


def convert(url: str, store: Path, client: Client, **options: Any) -> Any:
    report = isles24_zarr.convert(url, store, client=client, progress=False, **options)
    assert list(store.parent.glob(".isles24-zarr-spool-*")) == []
    return report


def directory_bytes(content: bytes) -> int:
    """How much of an archive is its directory, with what points there; py7zr packs it, before its second part."""
    start, end = directory_span(content)
    return 32 + end - start


# --- one subject ---


@pytest.mark.parametrize("kind", ["single", "subjects"])
def test_one_subject_costs_what_was_told_and_gives_the_same_store(
    server: RangeServer,
    archives: dict[str, bytes],
    client: Client,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    cost = isles24_zarr.fetch_cost([S], source=server.url) if server.serve(archives[kind]) else None
    assert cost is not None
    listing = server.behaviour.sent
    assert listing < 20_000 < cost.nbytes < 0.6 * len(archives[kind])
    assert (cost.files, cost.of_blocks) == {"single": (21, 62), "subjects": (21, 3)}[kind]
    assert cost.blocks == {"single": 21, "subjects": 2}[kind]
    behaviour = server.serve(archives[kind])
    report = isles24_zarr.convert(server.url, tmp_path / "x.zarr", client=client, subjects=[S])
    assert report.ok
    assert str(cost) in capsys.readouterr().err.splitlines()
    # of a block nothing is read twice, and nothing behind the last file that is wanted
    assert behaviour.sent - listing <= cost.nbytes + 2**16
    (tmp_path / "train.7z").write_bytes(archives[kind])
    convert(str(tmp_path / "train.7z"), tmp_path / "local.zarr", client, subjects=[S])
    assert_identical_stores(tmp_path / "local.zarr", tmp_path / "x.zarr")
    assert_identical_stores(store / S, tmp_path / "x.zarr" / S)
    assert json.loads((tmp_path / "x.zarr" / "zarr.json").read_text())["attributes"]["source"] == server.url


def test_all_subjects_of_a_solid_archive_and_none_of_them_alone(
    server: RangeServer, archives: dict[str, bytes], client: Client, store: Path, tmp_path: Path
) -> None:
    behaviour = server.serve(archives["solid"])
    told = r"train\.7z: is solid: all files lie in one block of 1\.\d MB .* sub-stroke0002; download it as a whole"
    with pytest.raises(UnusableArchiveError, match=told):
        convert(server.url, tmp_path / "x.zarr", client, subjects=[S])
    for call in (
        lambda: isles24_zarr.fetch_cost([S], source=server.url),
        lambda: isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=server.url, progress=False),
        lambda: isles24_zarr.verify(store, server.url, subjects=[S], client=client, progress=False),
    ):
        with pytest.raises(UnusableArchiveError, match=told):
            call()
    assert list(tmp_path.iterdir()) == []
    assert behaviour.sent < 0.2 * len(archives["solid"])
    whole = isles24_zarr.fetch_cost(source=server.url)
    assert (whole.blocks, whole.of_blocks) == (1, 1)
    assert str(whole).endswith("1.4 MB will be read; to download the whole is little more")
    assert convert(server.url, tmp_path / "x.zarr", client).ok
    assert_identical_stores(store, tmp_path / "x.zarr")


def test_one_image_costs_that_image_and_headers(
    server: RangeServer, archives: dict[str, bytes], client: Client, store: Path, tmp_path: Path
) -> None:
    behaviour = server.serve(archives["single"])
    report = convert(server.url, tmp_path / "x.zarr", client, subjects=[S], images=["ncct"])
    assert report.images == 1
    assert_identical_stores(store / S / "space-ncct" / "ncct", tmp_path / "x.zarr" / S / "space-ncct" / "ncct")
    assert behaviour.sent < 0.5 * len(archives["single"])


def test_what_an_earlier_run_wrote_is_kept_or_written_again(
    server: RangeServer, archives: dict[str, bytes], client: Client, store: Path, tmp_path: Path
) -> None:
    server.serve(archives["single"])
    target = tmp_path / "x.zarr"
    convert(server.url, target, client, subjects=[S], images=["ncct", "cta"])
    # lost, and as a killed run leaves it
    shards = [
        path for path in (target / S / "space-ncct" / "ncct").rglob("*") if path.is_file() and path.name != "zarr.json"
    ]
    shards[0].unlink()
    (target / S / "zarr.json").unlink()
    report = convert(server.url, target, client, subjects=[S], images=["lesion_mask"])
    assert report.ok
    for image in ("ncct", "cta", "lesion_mask"):
        assert_identical_stores(store / S / "space-ncct" / image, target / S / "space-ncct" / image)


def test_a_second_run_reads_no_image(
    server: RangeServer, archives: dict[str, bytes], client: Client, tmp_path: Path
) -> None:
    server.serve(archives["single"])
    convert(server.url, tmp_path / "x.zarr", client, subjects=[S])
    behaviour = server.serve(archives["single"])
    assert convert(server.url, tmp_path / "x.zarr", client, subjects=[S]).unchanged == (S,)
    assert behaviour.sent < 0.1 * len(archives["single"])
    # and what the local archive has is the same
    (tmp_path / "train.7z").write_bytes(archives["single"])
    assert len(convert(str(tmp_path / "train.7z"), tmp_path / "x.zarr", client).converted) == 2


def test_scan_plan_and_verify(
    server: RangeServer, archives: dict[str, bytes], client: Client, release: Path, store: Path, tmp_path: Path
) -> None:
    from isles24_zarr.conversion import planned

    server.serve(archives["subjects"])
    here, there = isles24_zarr.scan(release), isles24_zarr.scan(server.url)
    assert list(here.subjects) == list(there.subjects)
    assert [(each.path, each.message) for each in here.problems] == [(p.path, p.message) for p in there.problems]
    (tmp_path / "train.7z").write_bytes(archives["subjects"])
    plans = [planned(place, subjects=[S])[0] for place in (server.url, tmp_path / "train.7z")]
    assert repr(plans[0]) == repr(plans[1])
    assert isles24_zarr.verify(store, server.url, subjects=[S], client=client, progress=False).ok


def test_fetched_files_are_those_of_the_release(
    server: RangeServer, archives: dict[str, bytes], release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(archives["single"])
    words = ["fetch", str(tmp_path / "x"), "--api", f"{server.root}/api", "--subject", S]
    done = subprocess.run(
        [sys.executable, "-m", "isles24_zarr", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "21 files fetched, 0 were there" in done.stdout
    assert re.match(
        r"\S+/content: 21 files in 21 of 62 blocks: at most 0\.\d MB of 1\.\d MB will be read\n", done.stderr
    )
    expected = {path for path in release.rglob("*") if path.is_file() and (S in path.name or path.name == DICTIONARY)}
    extra = {path for path in expected if path.name == f"{S}_ses-02_lesion-msk.nii"}
    found = {path.relative_to(tmp_path / "x") for path in (tmp_path / "x").rglob("*") if path.is_file()}
    assert found == {path.relative_to(release) for path in expected - extra}
    assert all((tmp_path / "x" / path).read_bytes() == (release / path).read_bytes() for path in found)
    (tmp_path / "x" / DICTIONARY).unlink()
    again = isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=server.url)
    assert (again.fetched, len(again.unchanged)) == ((DICTIONARY,), 20)
    assert "1 file in 1 of 62 blocks" in capsys.readouterr().err
    assert again.nbytes < 20_000
    (tmp_path / "x" / DICTIONARY).write_bytes(b"mine")
    with pytest.raises(DestinationError, match=r"description\.xlsx: is not the file of the archive; move it away"):
        isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=server.url)
    assert (tmp_path / "x" / DICTIONARY).read_bytes() == b"mine"


def test_requests_that_are_wrong(server: RangeServer, archives: dict[str, bytes], tmp_path: Path) -> None:
    behaviour = server.serve(archives["single"])
    api = f"{server.root}/api"
    with pytest.raises(UnknownNameError, match="sub-stroke0099: not in"):
        isles24_zarr.fetch(tmp_path / "x", subjects=["sub-stroke0099"], api=api)
    with pytest.raises(RecordError, match="has no 7z archives to read subjects out of"):
        isles24_zarr.fetch(tmp_path / "x", subjects=[S], files=[DICTIONARY], api=api)
    for place in ("https://example.org/train.tar.gz", str(tmp_path)):
        with pytest.raises(SourceNotFoundError, match="is not the URL of a 7z archive by HTTP"):
            isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=place)
    behaviour.statuses += [404]
    with pytest.raises(StoreAccessError, match=r"train\.7z: is refused \(status 404\)"):
        isles24_zarr.scan(server.url)
    with pytest.raises(DownloadError, match=r"does not answer \(.*refused") as caught:
        isles24_zarr.scan("http://127.0.0.1:9/train.7z?signature=s1gned")
    assert "s1gned" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small(
    server: RangeServer, archives: dict[str, bytes], client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = server.serve(archives["single"])
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(SpoolError, match=r"has room for 100,000 bytes, and the files of the archive take"):
        convert(server.url, tmp_path / "x.zarr", client, subjects=[S])
    with pytest.raises(DestinationError, match=r"has room for 100,000 bytes, and [\d,]+ are missing"):
        isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=server.url, progress=False)
    assert behaviour.sent < 0.1 * len(archives["single"])


def test_secrets_are_sent_and_not_recorded(
    server: RangeServer, archives: dict[str, bytes], client: Client, tmp_path: Path
) -> None:
    server.serve(archives["single"], secret="Bearer s3cret")  # noqa: S106 - of no one
    url = f"{server.url}?signature=s1gned"
    with pytest.raises(StoreAccessError, match=r"status 401") as caught:
        isles24_zarr.scan(url)
    options = {"headers": {"Authorization": "Bearer s3cret"}}
    convert(url, tmp_path / "x.zarr", client, subjects=[S], images=["ncct"], storage_options=options)
    texts = [path.read_text() for path in (tmp_path / "x.zarr").rglob("zarr.json")]
    assert not any("s1gned" in text or "s3cret" in text for text in [*texts, str(caught.value)])


# --- servers and networks that fail ---


def test_a_connection_that_breaks_is_taken_up(
    server: RangeServer, archives: dict[str, bytes], client: Client, store: Path, tmp_path: Path
) -> None:
    # of who has not answered yet less is borne: one failure comes before the first bytes
    breaks, statuses = [10_000, 0, 100_000, 3, 0], [503, 0, 0, 429, 0, 500]
    behaviour = server.serve(archives["subjects"], breaks=breaks, statuses=statuses)
    assert convert(server.url, tmp_path / "x.zarr", client, subjects=[S]).ok
    assert_identical_stores(store / S, tmp_path / "x.zarr" / S)
    assert behaviour.breaks == behaviour.statuses == []
    # what had come was not asked for again
    asked = behaviour.asked
    assert any(begin < later < end == last for begin, end in asked for later, last in asked)


def test_a_connection_that_stays_broken_and_the_next_run(
    server: RangeServer, archives: dict[str, bytes], client: Client, store: Path, tmp_path: Path
) -> None:
    server.serve(archives["subjects"], breaks=[60_000] + [0] * 6)
    with pytest.raises(DownloadError, match=r"broke off after [\d,]+ of [\d,]+ bytes \(.*; run the same command again"):
        convert(server.url, tmp_path / "x.zarr", client, subjects=[S])
    server.serve(archives["subjects"])
    assert convert(server.url, tmp_path / "x.zarr", client, subjects=[S]).ok
    assert_identical_stores(store / S, tmp_path / "x.zarr" / S)


@pytest.mark.parametrize("ranges", [True, False])
def test_fetching_goes_on_where_it_stopped(
    server: RangeServer, archives: dict[str, bytes], tmp_path: Path, *, ranges: bool
) -> None:
    server.serve(archives["single"], tags=lambda number: {"ETag": '"two"' if number > 12 else '"one"'})
    server.behaviour.heeds_if_range = ranges
    with pytest.raises(DownloadError, match="has changed while it was read"):
        isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=server.url, progress=False)
    before = {path for path in (tmp_path / "x").rglob("*") if path.is_file()}
    assert before
    server.serve(archives["single"])
    report = isles24_zarr.fetch(tmp_path / "x", subjects=[S], source=server.url, progress=False)
    assert len(report.unchanged) == len(before)
    assert len(report.fetched) == 21 - len(before)


CHANGES: dict[str, dict[str, Any]] = {
    "ETag": {"tags": lambda number: {"ETag": '"two"' if number > 3 else '"one"'}},
    "ETag without If-Range": {
        "tags": lambda number: {"ETag": '"two"' if number > 3 else '"one"'},
        "heeds_if_range": False,
    },
    "Last-Modified": {"tags": lambda number: {"Last-Modified": f"Mon, 0{1 + (number > 3)} Jan 2024 00:00:00 GMT"}},
    "size": {
        "tags": lambda _: {},
        "range_of": lambda begin, end, size: f"bytes {begin}-{end - 1}/{size + (begin > 40)}",
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_archive_that_changes_meanwhile(
    server: RangeServer, archives: dict[str, bytes], client: Client, tmp_path: Path, change: str
) -> None:
    server.serve(archives["single"], **CHANGES[change])
    with pytest.raises(DownloadError, match=r"train\.7z: has changed while it was read"):
        convert(server.url, tmp_path / "x.zarr", client, subjects=[S])
    assert not (tmp_path / "x.zarr" / S).exists()


def test_a_weak_tag_is_no_change(server: RangeServer, archives: dict[str, bytes], tmp_path: Path) -> None:
    server.serve(archives["single"], tags=lambda number: {"ETag": 'W/"one"' if number % 2 else '"one"'})
    server.behaviour.heeds_if_range = False
    assert len(isles24_zarr.fetch(tmp_path, subjects=[S], source=server.url, progress=False).fetched) == 21


ANSWERS: dict[str, tuple[dict[str, Any], type[Isles24Error], str]] = {
    "no ranges": ({"ranges": False}, UnusableArchiveError, r"gives no parts of files .*; download it as a whole"),
    "no size": ({"range_of": lambda a, b, _: f"bytes {a}-{b - 1}/*"}, UnusableArchiveError, "does not say how long"),
    "another range": (
        {"range_of": lambda a, b, size: f"bytes {a + 1}-{b}/{size}"},
        DownloadError,
        r"answers with the range 'bytes 1-",
    ),
    "no range": ({"range_of": lambda *_: "pages 1-2"}, DownloadError, "answers with the range 'pages 1-2'"),
    "more": ({"surplus": 10}, DownloadError, "gives more bytes than were asked for"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_servers_that_answer_otherwise(
    server: RangeServer, archives: dict[str, bytes], client: Client, tmp_path: Path, answer: str
) -> None:
    options, kind, told = ANSWERS[answer]
    server.serve(archives["single"], **options)
    with pytest.raises(kind, match=told):
        convert(server.url, tmp_path / "x.zarr", client, subjects=[S])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [0, 10, 40, 0.5, 0.999])
def test_an_archive_that_is_cut_short(
    server: RangeServer, archives: dict[str, bytes], client: Client, tmp_path: Path, left: float
) -> None:
    content = archives["single"]
    server.serve(content[: int(left * len(content)) if left < 1 else int(left)])
    with pytest.raises(UnusableArchiveError, match=r"train\.7z: (its directory is damaged or cut off|is empty)"):
        convert(server.url, tmp_path / "x.zarr", client, subjects=[S])


def test_what_came_damaged_is_told_and_added_by_the_next_run(
    server: RangeServer, archives: dict[str, bytes], client: Client, store: Path, tmp_path: Path
) -> None:
    content = bytearray(archives["stored"])
    ncct = next(data for name, data in members_of_subjects(archives) if name.endswith(f"{S}_ses-01_ncct.nii.gz"))
    content[content.index(ncct) + len(ncct) // 2] ^= 1
    server.serve(bytes(content))
    with pytest.raises(
        DownloadError, match=r"_ncct\.nii\.gz is not what was compressed: its CRC in the archive differs"
    ):
        isles24_zarr.fetch(tmp_path / "x", source=server.url, progress=False)
    report = convert(server.url, tmp_path / "x.zarr", client)
    assert [problem.path for problem in report.problems if problem.severity == "error"] == [
        f"raw_data/{S}/ses-01/{S}_ses-01_ncct.nii.gz"
    ]
    server.serve(archives["stored"])
    assert convert(server.url, tmp_path / "x.zarr", client).converted == (S,)
    assert_identical_stores(store, tmp_path / "x.zarr")


def members_of_subjects(archives: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    factory = py7zr.io.BytesIOFactory(10 * MB)
    with py7zr.SevenZipFile(io.BytesIO(archives["stored"])) as archive:
        archive.extractall(factory=factory)
    yield from ((name, product.read()) for name, product in factory.products.items())


@pytest.mark.parametrize("name", ["../train/raw_data/x.nii.gz", "/etc/passwd", "raw_data/../../x", "C:/x"])
def test_hostile_names_are_not_written(server: RangeServer, release: Path, tmp_path: Path, name: str) -> None:
    packed = pack(tmp_path / "train.7z", [(name, b"evil"), *members_of(release)])
    server.serve(packed.read_bytes())
    isles24_zarr.fetch(tmp_path / "x", source=server.url, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"train.7z", "x"}
    assert all(path.read_bytes() != b"evil" for path in (tmp_path / "x").rglob("*") if path.is_file())


# --- the file itself ---


def test_any_order_of_reading(server: RangeServer) -> None:
    content = np.random.default_rng(1).bytes(700_000)
    server.serve(content)
    file, expected, rng = RemoteFile(server.url), io.BytesIO(content), np.random.default_rng(2)
    assert file.size == len(content)
    for _ in range(300):
        match rng.integers(4):
            case 0:
                offset, whence = int(rng.integers(800_000)), 0
            case 1:
                offset, whence = int(rng.integers(-1000, 1000)) + max(0, 1000 - expected.tell()), 1
            case 2:
                offset, whence = -int(rng.integers(700_000)), 2
            case _:
                file.expect(int(rng.integers(800_000)))
                offset, whence = 0, 1
        assert file.seek(offset, whence) == expected.seek(offset, whence)
        count = [-1, None, 0, 1, 100, 5000, 200_000][rng.integers(7)]
        assert file.read(count) == expected.read(count)
        assert file.tell() == expected.tell()
    assert file.came == server.behaviour.sent


def test_pieces_are_bounded(server: RangeServer) -> None:
    server.serve(bytes(60 * MB))
    file = RemoteFile(server.url)
    file.expect(50 * MB)
    assert sum(len(piece) for piece in iter(lambda: file.read(MB), b"")) == 60 * MB
    sizes = [end - begin for begin, end in server.behaviour.asked]
    # not beyond what is expected, but for what is asked for
    assert sizes == [16 * MB, 16 * MB, 16 * MB, 2 * MB, *[MB] * 10]
    file.seek(0)
    file.expect()
    file.read(10)
    assert server.behaviour.asked[-1] == (0, 2**16)
    assert len(file.read()) == 60 * MB - 10
    assert max(end - begin for begin, end in server.behaviour.asked) == 16 * MB


def test_a_busy_server_says_how_long(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(_ranges.time, "sleep", waited.append)
    server.serve(b"content", statuses=[429, 503, 503], retry_after=["7", "86400", "Fri, 31 Dec 1999 23:59:59 GMT"])
    with pytest.raises(DownloadError, match=r"does not answer \(status 503\)"):
        RemoteFile(server.url).read()
    assert waited == [7, 1, 120, 2, 0]
    server.serve(b"content", statuses=[429])
    assert RemoteFile(server.url).read() == b"content"


def test_it_travels_without_its_connection(server: RangeServer, archives: dict[str, bytes]) -> None:
    server.serve(archives["single"])
    source = Source.of(server.url)
    release = source.listed()
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - of our own
    assert copy.listed() == release
    assert source.only(DICTIONARY).remote is None
    assert dataclasses.replace(copy, remote=None) == dataclasses.replace(source, remote=None)


def test_addresses_of_archives() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in (
            "https://zenodo.org/records/17652035/files/train.7z?download=1",
            "https://zenodo.org/api/records/17652035/files/train.7z/content",
            "http://x/TRAIN.7Z",
        ):
            source = Source.of(url)
            assert source.streamed
            assert source.remote is not None
            assert source.remote.url == url
            assert "?" not in source.url
        for url in ("https://x/train.7z/", "https://x/train.zip", "s3://bucket/train.7z", "https://x/7z"):
            assert Source.of(url).remote is None
