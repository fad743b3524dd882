"""Where a release lies: listing its files and opening them, through fsspec. All that reads a release does it here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from isles24_zarr.access import access_errors, filesystem_of, is_url, library_errors
from isles24_zarr.errors import (
    CorruptFileError,
    Problem,
    SourceNotFoundError,
    UnreadableFileError,
    UnsafePathError,
    UnsupportedArchiveError,
)
from isles24_zarr.release import SourceFile, release_from_files
from isles24_zarr.streams import HashedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isles24_zarr.release import Release


_ZIP_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The others are unpacked by zipfile in pieces of any size."""

_HEADER_BLOCK_BYTES: Final = 2**16
_BLOCK_BYTES: Final = 16 * 2**20
"""What is asked of a server at a time: a header is read for itself, voxels from end to end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A place that holds a release, which any process can open for itself.

    Parameters
    ----------
    url
        An absolute path or an fsspec URL.
    storage_options
        For fsspec.
    """

    url: str
    storage_options: Mapping[str, Any]

    @classmethod
    def of(cls, source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Source:
        """Make a source of what a caller gives: a folder, a zip file, or a URL of a folder.

        Options are for URLs; a path of this machine takes none.
        """
        text = os.fspath(source)
        if not text:
            raise SourceNotFoundError(repr(text), "names no place")
        if is_url(text):
            return cls(url=text, storage_options=dict(storage_options or {}))
        path = Path(os.path.realpath(Path(text).expanduser()))  # Path.resolve fails on loops of links
        is_zip = path.suffix.lower() == ".zip" and path.is_file()
        return cls(url=f"zip://::{path}" if is_zip else str(path), storage_options={})

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
                found = root == "" or filesystem.isdir(root)
            except (gone, ValueError, ImportError, zipfile.BadZipFile) as error:
                raise SourceNotFoundError(self.url, f"cannot be opened ({error})") from error
            if not found:
                raise SourceNotFoundError(self.url, "is not a folder" if filesystem.exists(root) else "does not exist")
        return filesystem, root

    def listed(self) -> Release:
        """List the files and sort them by subject; none is opened.

        Raises
        ------
        SourceNotFoundError
            There is nothing of a release.
        StoreAccessError
            Its server does not answer.
        """
        filesystem, root = self.filesystem()
        problems: list[Problem] = []
        try:
            with access_errors(self.url):
                files = list(_listed_files(filesystem, root, problems))
        except RecursionError as error:  # fsspec walks from each member of an archive up to its top
            raise SourceNotFoundError(self.url, "has folders that are too deep in each other to be listed") from error
        release = release_from_files(self.url, files, problems)
        if not release.subjects:
            raise SourceNotFoundError(self.url, f"holds no image or table of a release among {len(files)} files")
        return release

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
        UnreadableFileError, CorruptFileError, UnsupportedArchiveError
            The file system refuses, or the archive around the file is damaged or of an unusual kind.
        """
        try:
            filesystem, root = filesystem_of(self.url, self.storage_options)
            path = f"{root.rstrip('/')}/{file.path}" if root else file.path
            if isinstance(filesystem, ZipFileSystem) and filesystem.info(path)["compress_type"] not in _ZIP_METHODS:
                raise UnsupportedArchiveError(file.path, "is packed by another method than deflate")
            block = {"block_size": _HEADER_BLOCK_BYTES if header else _BLOCK_BYTES}
            opened = filesystem.open(path, "rb", **(block if isinstance(filesystem, AsyncFileSystem) else {}))
        # ImportError: where a worker lacks what this process has; RuntimeError: of encrypted members of a zip file
        except library_errors(ImportError, KeyError, RuntimeError) as error:
            raise UnreadableFileError(file.path, f"cannot be opened ({error})") from error
        except zipfile.BadZipFile as error:
            raise CorruptFileError(file.path, f"cannot be opened ({error})") from error
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
        UnreadableFileError, CorruptFileError
            The file system refuses, or the archive around the file is damaged.
        """
        pieces = []
        with self.opened(file) as opened:
            hashed = HashedFile(opened, path=file.path)
            while hashed.consumed <= most and (piece := hashed.read()):
                pieces.append(piece)
        return b"".join(pieces)[: most + 1]


def _listed_files(filesystem: Any, root: str, problems: list[Problem]) -> Iterator[SourceFile]:
    if isinstance(filesystem, LocalFileSystem):
        yield from _listed_local_files(Path(root).resolve(), problems)
        return
    prefix = f"{root.rstrip('/')}/" if root else ""
    for path, info in filesystem.find(root, detail=True).items():
        relative = path.removeprefix(prefix)
        # the Unix mode of a zip member: its content would be the name of another file
        if info.get("external_attr", 0) >> 28 == 0xA or info.get("islink"):
            problems.append(Problem.from_error(UnsafePathError(relative, "is a symbolic link")))
            continue
        stamp = next((info[key] for key in ("ETag", "CRC", "LastModified", "mtime") if info.get(key)), "")
        yield SourceFile(path=relative, size=int(info["size"] or 0), stamp=str(stamp))


def _listed_local_files(root: Path, problems: list[Problem]) -> Iterator[SourceFile]:
    def refuse(path: Path, what: str) -> None:
        problems.append(Problem.from_error(UnsafePathError(path.relative_to(root).as_posix(), what)))

    def unlistable(error: OSError) -> None:
        path = Path(error.filename).relative_to(root).as_posix()
        problems.append(Problem.from_error(UnreadableFileError(path, f"cannot be listed ({error.strerror})")))

    for name, subfolders, files in os.walk(root, onerror=unlistable):
        folder = Path(name)
        if "zarr.json" in files:
            where = folder.relative_to(root).as_posix()
            problems.append(Problem(path=where, message="is a Zarr store; left out", severity="notice"))
            subfolders.clear()
            continue
        for subfolder in (folder / name for name in sorted(subfolders)):
            if os.path.islink(subfolder):  # noqa: PTH114 - Path.is_symlink fails on a path that is too long
                refuse(subfolder, "is a symbolic link to a folder")
        for file in (folder / name for name in sorted(files)):
            if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(root):
                refuse(file, "is a symbolic link out of the release")
            elif not file.is_file():
                refuse(file, "is no regular file")
            else:
                status = file.stat()
                relative = file.relative_to(root).as_posix()
                yield SourceFile(path=relative, size=status.st_size, stamp=str(status.st_mtime_ns))
