"""The release from Zenodo, or files of any other record there: size and MD5 are those of the record.

pooch gives a file its place once its MD5 is right. A download of 99 GB breaks off: what has come stays in a
part file beside the wanted one, and is resumed by HTTP Range (RFC 9110), in the same run or in a later one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import (
    DestinationError,
    DownloadError,
    MissingExtraError,
    RecordError,
    SourceNotFoundError,
    UnknownNameError,
)
from isles24_zarr.places import lock_file
from isles24_zarr.release._ranges import SECONDS, ask_persistently, asked_bytes, reason_of, size_in_range
from isles24_zarr.release.paths import selected_names
from isles24_zarr.release.remote import check_parts, fetch_subjects, reading_cost, sizes_of, subject_files
from isles24_zarr.release.reports import FetchCost, FetchReport
from isles24_zarr.release.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

ZENODO: Final = "https://zenodo.org/api"
RECORD: Final = "17652035"
"""Version 7 of the ISLES'24 training data, the one in the dataset card."""

_RECORD_ID: Final = re.compile(r"(?:(?:https?://)?(?:doi\.org/)?10\.5281/zenodo\.)?([0-9]{1,12})", re.ASCII)
_NAME: Final = re.compile(r"[\w][\w.+ -]{0,200}", re.ASCII)
_MD5: Final = re.compile(r"md5:([0-9a-f]{32})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """A file of a record.

    Parameters
    ----------
    name, size, md5
        As the record has them; the digest is hexadecimal.
    url
        Where it is.
    """

    name: str
    size: int
    md5: str
    url: str


def fetch(
    destination: str | os.PathLike[str],
    *,
    record: str = RECORD,
    files: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    source: str | None = None,
    api: str = ZENODO,
    progress: bool = True,
    patience: float = 1.0,
) -> FetchReport:
    """Download the files of a Zenodo record, or some subjects out of its archive; run it again to resume.

    Parameters
    ----------
    destination
        A folder; made if need be.
    record
        Number or DOI of the record, by default that of the training data of ISLES'24.
    files
        Names to download; all by default.
    subjects
        Names of subjects, whose files alone are read out of the 7z archive of the record by ranges, and written below
        the folder under their own paths. Not of a solid archive, see `fetch_cost`.
    source
        The URL of another 7z archive for them. All its subjects by default.
    api
        Of Zenodo, or of a server that answers as it does.
    progress
        Show a progress bar on stderr, and before, what subjects cost.
    patience
        Seconds to wait after a first failure; each further one doubles them.

    Raises
    ------
    RecordError, UnknownNameError, DestinationError
        There is no such record, file or subject, or the folder cannot take it.
    UnusableArchiveError
        The archive is solid, or its server gives no parts of files.
    DownloadError
        The connection broke and would not be mended, or what came is not what the record lists.
    MissingExtraError
        The extra ``fetch`` is not installed.

    Examples
    --------
    >>> isles24_zarr.fetch("downloads")  # doctest: +SKIP
    >>> isles24_zarr.fetch("downloads", subjects=["sub-stroke0001"])  # doctest: +SKIP
    """
    if subjects is not None or source is not None:
        archive = _archive(source, record, files, api)
        if archive.remote:
            archive.remote.patience = patience
        return fetch_subjects(archive, destination, subjects, progress=progress)
    try:
        import pooch
        import requests
    except ImportError as error:
        raise MissingExtraError("fetching", "run: pip install 'isles24-zarr[fetch]'") from error
    started = time.monotonic()
    folder = Path(os.path.realpath(Path(destination).expanduser()))
    pooch.get_logger().setLevel(logging.ERROR)
    fetched: list[str] = []
    unchanged: list[str] = []
    came = 0
    with requests.Session() as session:
        chosen = _chosen_files(recorded_files(session, record, api), files, record)
        _check_folder(folder, chosen)
        for file in chosen:
            if (folder / file.name).exists():
                if not _is_there(folder / file.name, file):
                    what = "is not the file of the record; move it away or give another folder"
                    raise DestinationError(folder / file.name, what)
                unchanged.append(file.name)
                continue
            download = _Download(session, file, folder, progress=progress, patience=patience)
            try:
                pooch.retrieve(file.url, f"md5:{file.md5}", fname=file.name, path=folder, downloader=download)
            except ValueError as error:  # pooch has deleted what came
                what = "what came is damaged: its MD5 is not that of the record"
                raise DownloadError(file.url, what) from error
            except OSError as error:
                raise DestinationError(folder / file.name, f"cannot be written ({error})") from error
            fetched.append(file.name)
            came += download.came
    return FetchReport(
        destination=str(folder),
        fetched=tuple(fetched),
        unchanged=tuple(unchanged),
        nbytes=came,
        seconds=time.monotonic() - started,
    )


def fetch_cost(
    subjects: Sequence[str] | None = None, *, source: str | None = None, record: str = RECORD, api: str = ZENODO
) -> FetchCost:
    """Tell what it costs to read subjects out of an archive behind HTTP, as `fetch` and `convert` do.

    Parameters
    ----------
    subjects
        Names; all by default.
    source
        The URL of a 7z archive, by default that of the record.
    record, api
        As for `fetch`.

    Returns
    -------
    FetchCost
        Bytes and blocks. Nothing but the directory of the archive is read.

    Raises
    ------
    RecordError, UnknownNameError, SourceNotFoundError, StoreAccessError
        There is no such record, archive or subject.
    UnusableArchiveError
        The archive is solid and some subjects are asked for, or its server gives no parts of files.

    Examples
    --------
    >>> print(isles24_zarr.fetch_cost(["sub-stroke0001"]))  # doctest: +SKIP
    """
    archive = _archive(source, record, None, api)
    release = archive.listed()
    chosen = selected_names(release.subjects, subjects, of=archive.url)
    check_parts(archive, release, chosen)
    cost = reading_cost(archive, sizes_of(subject_files(release, chosen)))
    assert cost is not None  # noqa: S101 - for the type checker
    return cost


def _archive(source: str | None, record: str, names: Sequence[str] | None, api: str) -> Source:
    """Return the archive behind HTTP that subjects are read out of."""
    if source is None:
        try:
            import requests
        except ImportError as error:
            raise MissingExtraError("fetching", "run: pip install 'isles24-zarr[fetch]'") from error
        with requests.Session() as session:
            found = _chosen_files(recorded_files(session, record, api), names, record)
        urls = [file.url for file in found if file.name.lower().endswith(".7z")]
        if len(urls) != 1:
            raise RecordError(record, f"has {len(urls) or 'no'} 7z archives to read subjects out of, not one")
        source = urls[0]
    archive = Source.of(source)
    if archive.remote is None:
        raise SourceNotFoundError(source, "is not the URL of a 7z archive by HTTP, as subjects are fetched out of")
    return archive


def recorded_files(session: Any, record: str, api: str = ZENODO) -> list[RecordFile]:
    """Ask for the files of a record.

    Parameters
    ----------
    session
        Of ``requests``.
    record, api
        As for `fetch`.

    Raises
    ------
    RecordError
        There is none, or it lists no files by names that can be written.
    DownloadError
        Nobody answers.
    """
    import requests

    number = _RECORD_ID.fullmatch(record.strip())
    if number is None:
        raise RecordError(record, "is neither the number of a Zenodo record nor its DOI")
    url = f"{api.rstrip('/')}/records/{number[1]}"
    try:
        answer = session.get(url, timeout=SECONDS)
        document = answer.json() if answer.status_code == 200 else None
    except requests.exceptions.JSONDecodeError as error:
        raise RecordError(url, "is answered by something else than a record") from error
    except requests.exceptions.RequestException as error:
        raise DownloadError(url, f"no server answers ({reason_of(error)})") from error
    if document is None:
        raise RecordError(url, f"cannot be had (status {answer.status_code})")
    try:
        return [_recorded_file(each, url) for each in document["files"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(url, f"is answered by something else than a record ({error!r})") from error


def _recorded_file(entry: dict[str, Any], url: str) -> RecordFile:
    name, digest = str(entry["key"]), _MD5.fullmatch(str(entry["checksum"]))
    if not _NAME.fullmatch(name):
        raise RecordError(url, f"lists a file by the name {name!r}, which is not one to write to")
    if digest is None or int(entry["size"]) < 0:
        raise RecordError(url, f"lists no MD5 or no size of {name}")
    return RecordFile(name=name, size=int(entry["size"]), md5=digest[1], url=str(entry["links"]["self"]))


def _chosen_files(found: list[RecordFile], names: Sequence[str] | None, record: str) -> list[RecordFile]:
    known = {file.name: file for file in found}
    unknown = sorted(set(names or ()) - known.keys())
    if unknown or not known:
        raise UnknownNameError(", ".join(unknown) or "files", f"not in record {record}, which has {', '.join(known)}")
    return [known[name] for name in (names or known)]


def _check_folder(folder: Path, files: Sequence[RecordFile]) -> None:
    """Make the folder and see that there is room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DestinationError(folder, f"cannot be used ({error})") from error
    parts = [path for file in files for path in (folder / file.name, _part(folder, file))]
    there = sum(path.stat().st_size for path in parts if path.is_file())
    missing = sum(file.size for file in files) - there
    if missing > free:
        raise DestinationError(folder, f"has room for {free:,} bytes, and {missing:,} are missing")


def _is_there(path: Path, file: RecordFile) -> bool:
    import pooch

    return path.is_file() and path.stat().st_size == file.size and pooch.file_hash(str(path), alg="md5") == file.md5


def _part(folder: Path, file: RecordFile) -> Path:
    # another version of the same name begins anew
    return folder / f".{file.name}.{file.md5}.part"


class _Download:
    """What pooch calls to download a file; goes on with what an earlier call left."""

    def __init__(self, session: Any, file: RecordFile, folder: Path, *, progress: bool, patience: float) -> None:
        self._session, self._file, self._part = session, file, _part(folder, file)
        self._progress, self._patience = progress, patience
        self.came = 0

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        from isles24_zarr.progress import ProgressBar

        with (
            ProgressBar(self._file.name, total=self._file.size, in_bytes=True, shown=self._progress) as bar,
            self._locked_part() as part,
        ):
            bar.finish(part.tell())
            if part.tell() < self._file.size:
                ask = functools.partial(self._continued, url, part, bar.finish)
                ask_persistently(ask, part.tell, url, end=self._file.size, wait=self._patience)
        self._part.replace(output_file)

    @contextlib.contextmanager
    def _locked_part(self) -> Iterator[BinaryIO]:
        with self._part.open("ab") as part:
            try:
                lock_file(part.fileno())
            except BlockingIOError:
                raise DestinationError(self._part, "another process is downloading into it") from None
            except OSError as error:
                raise DestinationError(self._part, f"cannot be locked ({error})") from error
            if part.tell() > self._file.size:
                part.truncate(0)
                part.seek(0)
            yield part

    def _continued(self, url: str, part: BinaryIO, on_piece: Callable[[int], None]) -> str:
        """Ask for what is missing and append it; return why it ended early, if it did.

        Raises
        ------
        DownloadError
            The server refuses, or gives more than there should be: to ask again would not help.
        """
        begin = part.tell()

        def check(answer: Any) -> None:
            if answer.status_code == 416:
                raise DownloadError(url, f"ends after {begin:,} of the {self._file.size:,} bytes of the record")
            if answer.status_code not in {200, 206}:
                raise DownloadError(url, f"is refused (status {answer.status_code})")
            if answer.status_code == 206:
                size = size_in_range(answer, begin, url)
                if size not in {None, self._file.size}:
                    raise DownloadError(url, f"has {size:,} bytes, the record lists {self._file.size:,}")
            elif begin:  # the server does not know ranges
                part.truncate(0)
                part.seek(0)
                on_piece(-begin)

        def take(piece: bytes) -> None:
            if part.tell() + len(piece) > self._file.size:
                self._part.unlink(missing_ok=True)
                raise DownloadError(url, f"has more than the {self._file.size:,} bytes that the record lists")
            part.write(piece)
            self.came += len(piece)
            on_piece(len(piece))

        try:
            reason = asked_bytes(self._session, url, (begin, None), check=check, take=take)
        finally:
            part.flush()
        return "" if part.tell() == self._file.size else reason or "the connection ended early"
