"""Where a release lies: listing its files and opening them, through fsspec. All that reads a release does it here.

Archives without random access, 7z and tar, are listed here and read front to back by `Source.members`, a 7z archive
behind HTTP, too; what was taken out of one is `held`, and opened like any other file. Cells of Parquet files are opened
where they lie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from isles24_zarr.errors import (
    DamagedArchiveError,
    Problem,
    SourceError,
    SourceNotFoundError,
    UnreadableFileError,
    UnsafePathError,
    UnsupportedArchiveError,
)
from isles24_zarr.nifti import HashedFile
from isles24_zarr.places import access_errors, filesystem_of, is_url, library_errors, local_path, own_options
from isles24_zarr.release import _sevenzip as sevenzip
from isles24_zarr.release import _tarball as tarball
from isles24_zarr.release._footers import require_parquet, rows_of_shard
from isles24_zarr.release._hub import HUB, pinned_url
from isles24_zarr.release._listing import described_file, listed_files
from isles24_zarr.release._pages import opened_cell
from isles24_zarr.release._ranges import RemoteFile
from isles24_zarr.release._shards import files_of_shards
from isles24_zarr.release.files import Cell, SourceFile
from isles24_zarr.release.left_out import fitting_path, two_images
from isles24_zarr.release.names import ImageName, classified
from isles24_zarr.release.paths import release_from_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from isles24_zarr.nifti import MemberStream
    from isles24_zarr.release._footers import ShardRows
    from isles24_zarr.release.left_out import LeftOut
    from isles24_zarr.release.paths import Release


_ZIP_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The others are decompressed by zipfile in pieces of any size."""

_HEADER_BLOCK_BYTES: Final = 2**16
_BLOCK_BYTES: Final = 16 * 2**20
"""What is asked of a server at a time: a header is read for itself, voxels from end to end."""
_TAR_NAMES: Final = (".tar", ".tar.gz", ".tgz")
_PACKED_NAMES: Final = (".7z", ".zip", *_TAR_NAMES)
_MOST_NAME_BYTES: Final = 1024
_SHARD: Final = ".parquet"
_SHARD_THREADS: Final = 8
_OF_EVERY_DATASET: Final = frozenset({"README.md", ".gitattributes"})
"""Beside the Parquet files."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A place that holds a release, which any process can open for itself.

    Parameters
    ----------
    url
        An absolute path or an fsspec URL.
    storage_options
        For a URL, see `options`.
    streamed
        It is an archive that can only be read from front to back.
    held
        What was taken out of such an archive, by path: a copy of the file, its content, or why it cannot be had.
    remote
        The archive itself where it is behind HTTP: read by this process alone.
    """

    url: str
    storage_options: Mapping[str, Any]
    streamed: bool = False
    held: Mapping[str, Path | bytes | SourceError] = dataclasses.field(default_factory=dict)
    remote: RemoteFile | None = None

    @classmethod
    def of(cls, source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Source:
        """Make a source of what a caller gives: a folder, an archive, a Parquet file, or a URL.

        Options are for URLs; a path of this machine takes none. The URL of a dataset on the Hugging Face Hub gets the
        commit that it is at now.
        """
        text = local_path(os.fspath(source))
        if not text:
            raise SourceNotFoundError(repr(text), "names no place")
        if is_url(text):
            options = dict(storage_options or {})
            if _is_remote_archive(text):
                remote = RemoteFile(text, headers=own_options(text, options).get("headers"))
                return cls(url=remote.name, storage_options=options, streamed=True, remote=remote)
            return cls(url=pinned_url(text, options) if text.startswith(HUB) else text, storage_options=options)
        path = Path(os.path.realpath(Path(text).expanduser()))  # Path.resolve fails on loops of links
        is_packed = path.name.lower().endswith(_PACKED_NAMES) and path.is_file()
        if is_packed and path.suffix.lower() == ".zip":
            return cls(url=f"zip://::{path}", storage_options={})
        return cls(url=str(path), storage_options={}, streamed=is_packed)

    def filesystem(self) -> tuple[Any, str]:
        """Return the fsspec file system and the root of the release on it.

        Raises
        ------
        SourceNotFoundError
            There is nothing at that place, or no fsspec file system for it.
        StoreAccessError
            Its server, or the server's permission, is out of reach.
        """
        gone = FileNotFoundError if is_url(self.url) else OSError
        with access_errors(self.url):
            try:
                filesystem, root = filesystem_of(self.url, self.storage_options)
                found = root == "" or filesystem.isdir(root) or self._is_shard(filesystem, root)
            except (gone, ValueError, ImportError, zipfile.BadZipFile) as error:
                raise SourceNotFoundError(self.url, f"cannot be opened ({error})") from error
            if not found:
                what = "is not a folder" if filesystem.exists(root) else "does not exist"
                if is_url(self.url) and self.url.lower().endswith((".7z", *_TAR_NAMES)):
                    what = "is an archive that is not on this machine; copy it here first"
                raise SourceNotFoundError(self.url, what)
        return filesystem, root

    def listed(self) -> Release:
        """List the files and sort them by subject; none is opened. Images beyond the twelve are among them.

        Raises
        ------
        SourceNotFoundError
            There is nothing of a release.
        StoreAccessError
            Its server does not answer.
        """
        problems: list[Problem] = []
        if self.streamed:
            files, problems = self._listed_members()
        else:
            filesystem, root = self.filesystem()
            try:
                with access_errors(self.url):
                    if self._is_shard(filesystem, root):
                        files = [described_file(filesystem.info(root), "")]
                    else:
                        files = list(listed_files(filesystem, root, problems))
                if isinstance(filesystem, ZipFileSystem):
                    files = list(_unambiguous(files, Counter(filesystem.zip.namelist()), problems))
            except RecursionError as error:  # fsspec walks from each member of an archive up to its top
                what = "has folders that are too deep in each other to be listed"
                raise SourceNotFoundError(self.url, what) from error
        release = release_from_files(self.url, files, problems)
        if not release.subjects and not self.streamed and any(map(_is_shard_name, files)):
            others = [each for each in files if not _is_shard_name(each) and each.path not in _OF_EVERY_DATASET]
            cells, left_out = self._cells(files, problems)
            release = release_from_files(self.url, [*others, *cells], problems, left_out)
        if not release.subjects:
            raise SourceNotFoundError(self.url, _nothing_found(files, problems))
        return release

    def _is_shard(self, filesystem: Any, root: str) -> bool:
        return self.url.lower().endswith(_SHARD) and bool(filesystem.isfile(root))

    def _cells(self, files: list[SourceFile], problems: list[Problem]) -> tuple[list[SourceFile], list[LeftOut]]:
        """Return the files in cells of Parquet files and the tables that their rows stand for; and what is left out."""
        require_parquet(self.url)

        def read(shard: SourceFile) -> ShardRows | Problem:
            name = self._shard_name(shard.path)
            try:
                with self._opened_file(shard.path, name, for_cells=True) as opened:
                    return rows_of_shard(opened, shard, name=name)
            except SourceError as error:
                return Problem.from_error(error)

        def start(cell: Cell) -> bytes:
            name = self._shard_name(cell.shard)
            with self._opened_file(cell.shard, name, for_cells=True) as opened:
                return opened_cell(opened, cell, path=name, shard="it").read(2)

        shards = [file for file in files if _is_shard_name(file)]
        with ThreadPoolExecutor(_SHARD_THREADS) as threads:
            found = list(zip(shards, threads.map(read, shards), strict=True))
        problems += [each for _, each in found if isinstance(each, Problem)]
        rows = [(shard, each) for shard, each in found if not isinstance(each, Problem)]
        cells, odd, left_out = files_of_shards(rows, name=lambda shard: self._shard_name(shard.path), start=start)
        problems += odd
        return cells, left_out

    def _shard_name(self, path: str) -> str:
        return path or PurePosixPath(self.url).name

    def _listed_members(self) -> tuple[list[SourceFile], list[Problem]]:
        try:
            if self.url.lower().endswith(_TAR_NAMES):
                found, problems = tarball.listed_members(self.url)
            else:
                with self.archive() as archive:
                    found, problems = sevenzip.listed_members(archive, self.url)
        except OSError as error:
            raise SourceNotFoundError(self.url, f"cannot be opened ({error})") from error
        files = list(_unambiguous(found, Counter(file.path for file in found), problems))
        return files, problems

    @contextlib.contextmanager
    def archive(self) -> Iterator[BinaryIO]:
        """Open the 7z archive that this source is."""
        if self.remote:
            self.remote.seek(0)
            yield cast("BinaryIO", self.remote)
            return
        with Path(self.url).open("rb") as file:
            yield file

    def members(self, wanted: Collection[str]) -> Iterator[tuple[str, MemberStream | SourceError]]:
        """Yield members of a streamed archive in their order; those that it does not hold in full come last.

        Parameters
        ----------
        wanted
            Their names, as keys of how many bytes are needed of them where that is not all. Each must be read before
            the next one is asked for.
        """
        missing = set(wanted)
        try:
            for path, stream in self._streams(wanted) if missing else ():
                missing.discard(path)
                yield path, stream
            what = "its archive is damaged or cut off before it"
        except OSError as error:
            what = f"its archive cannot be read ({error})"
        for path in sorted(missing):
            yield path, DamagedArchiveError(path, what)

    def _streams(self, wanted: Collection[str]) -> Iterator[tuple[str, MemberStream]]:
        if self.url.lower().endswith(_TAR_NAMES):
            yield from tarball.read_members(self.url, wanted)
            return
        with self.archive() as archive:
            yield from sevenzip.read_members(archive, self.url, wanted)

    def only(self, path: str) -> Source:
        """Return the source for a task that reads one file, with nothing else in it."""
        held = {path: self.held[path]} if path in self.held else {}
        return dataclasses.replace(self, held=held, remote=None)

    @contextlib.contextmanager
    def opened(self, file: SourceFile, *, header: bool = False) -> Iterator[BinaryIO]:
        """Open a file of the release for reading bytes.

        Parameters
        ----------
        file
            Of the release.
        header
            Nothing but its beginning will be read.

        Raises
        ------
        UnreadableFileError, DamagedArchiveError, UnsupportedArchiveError
            The file system refuses, or the archive around the file is damaged or of an unusual kind.
        """
        held = self.held.get(file.path, file.content)
        if isinstance(held, SourceError):
            raise held
        if isinstance(held, bytes):
            yield io.BytesIO(held)
        elif isinstance(held, Cell):
            with self._opened_file(held.shard, file.path, for_cells=True) as shard:
                yield opened_cell(shard, held, path=file.path, shard=self._shard_name(held.shard))
        else:
            with self._opened_file(file.path, file.path, copy=held, header=header) as opened:
                yield opened

    @contextlib.contextmanager
    def _opened_file(
        self, path: str, name: str, *, copy: Path | None = None, header: bool = False, for_cells: bool = False
    ) -> Iterator[BinaryIO]:
        """Open a file that is there as such, or a copy of it; errors call it by a name."""
        try:
            filesystem, root = (LocalFileSystem(), "") if copy else filesystem_of(self.url, self.storage_options)
            full = str(copy) if copy else f"{root.rstrip('/')}/{path}" if root and path else root or path
            if isinstance(filesystem, ZipFileSystem) and filesystem.info(full)["compress_type"] not in _ZIP_METHODS:
                raise UnsupportedArchiveError(name, "is compressed by another method than deflate")
            block: dict[str, Any] = {}
            if isinstance(filesystem, AsyncFileSystem) or (self.url.startswith(HUB) and not copy):
                block = {"block_size": _HEADER_BLOCK_BYTES if header or for_cells else _BLOCK_BYTES}
                block |= {"cache_type": "none"} if for_cells else {}  # each read is as long as it is to be
            opened = filesystem.open(full, "rb", **block)
        # ImportError: where a worker lacks what this process has; RuntimeError: of encrypted members of a zip file
        except library_errors(ImportError, KeyError, RuntimeError) as error:
            raise UnreadableFileError(name, f"cannot be opened ({' '.join(str(error).split())})") from error
        except zipfile.BadZipFile as error:
            raise DamagedArchiveError(name, f"cannot be opened ({error})") from error
        with opened:
            yield opened

    def content(self, file: SourceFile, *, most: int) -> bytes:
        """Read a small file whole.

        Parameters
        ----------
        file
            Of the release.
        most
            Bytes to return at most; of a larger file, one more.

        Raises
        ------
        UnreadableFileError, DamagedArchiveError
            The file system refuses, or the archive around the file is damaged.
        """
        pieces = []
        with self.opened(file) as opened:
            hashed = HashedFile(opened, path=file.path)
            while hashed.consumed <= most and (piece := hashed.read()):
                pieces.append(piece)
        return b"".join(pieces)[: most + 1]


def _is_remote_archive(url: str) -> bool:
    """Tell whether a URL is that of a 7z archive behind HTTP; Zenodo's API has a word behind its name."""
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and parts.path.removesuffix("/content").lower().endswith(".7z")


def _unambiguous(files: list[SourceFile], counts: Mapping[str, int], problems: list[Problem]) -> Iterator[SourceFile]:
    """Yield members of an archive; of names that are there more than once, or too long for a file, none is used."""
    refused = set()
    for file in files:
        length = len(file.path.encode(errors="surrogateescape"))
        if length <= _MOST_NAME_BYTES and counts.get(file.path, 1) == 1:
            yield file
        elif file.path not in refused:
            refused.add(file.path)
            long = length > _MOST_NAME_BYTES
            name = f"{file.path[:80]}..." if long else file.path
            what = f"the name has {length:,} bytes" if long else f"is in the archive {counts[file.path]} times"
            problems.append(Problem.from_error(UnsafePathError(name, what)))


def _nothing_found(files: list[SourceFile], problems: list[Problem]) -> str:
    telling = (each.message.split(";")[0] for each in problems if each.passing or each.path.lower().endswith(_SHARD))
    damage = next(telling, None)
    inner = next((file.path for file in files if file.path.lower().endswith(_PACKED_NAMES)), None)
    what = f"holds no image or table of a release among {len(files)} files"
    if damage:
        return f"{damage}, and {what}"
    if inner:
        return f"{what}, and an archive within, {inner}, is not looked into"
    looked_at = two_images([file.path for file in files])
    return "; ".join([what, *(f"{path} would fit as {_fitting(path)}" for path in looked_at)])


def _fitting(path: str) -> str:
    """Return the path at which an image of another layout would fit, and what would be needed beside that."""
    try:
        name = classified(fitting := fitting_path(path))
    except UnsafePathError:
        name = None
    if not isinstance(name, ImageName):
        return "raw_data/sub-<label>/ses-01/sub-<label>_ses-01_ncct.nii.gz"
    return f"{fitting}, with --extra-images" if name.beyond else fitting


def _is_shard_name(file: SourceFile) -> bool:
    return not file.path or file.path.lower().endswith(_SHARD)
