"""Where a release lies: listing its files and opening them, through fsspec. All that reads a release does it here.

Archives without random access, 7z and tar, are listed here and read front to back by `Source.members`; what was taken
out of one is `held`, and opened like any other file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

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
from isles24_zarr.places import access_errors, filesystem_of, is_url, library_errors, local_path
from isles24_zarr.release import _sevenzip as sevenzip
from isles24_zarr.release import _tarball as tarball
from isles24_zarr.release.left_out import fitting_path
from isles24_zarr.release.names import ImageName, classified
from isles24_zarr.release.paths import SourceFile, release_from_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from isles24_zarr.nifti import MemberStream
    from isles24_zarr.release.paths import Release


_ZIP_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The others are decompressed by zipfile in pieces of any size."""

_HEADER_BLOCK_BYTES: Final = 2**16
_BLOCK_BYTES: Final = 16 * 2**20
"""What is asked of a server at a time: a header is read for itself, voxels from end to end."""
_TAR_NAMES: Final = (".tar", ".tar.gz", ".tgz")
_PACKED_NAMES: Final = (".7z", ".zip", *_TAR_NAMES)
_MOST_NAME_BYTES: Final = 1024


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
        It is an archive that can only be read from front to back, on this machine.
    held
        What was taken out of such an archive, by path: a copy of the file, its content, or why it cannot be had.
    """

    url: str
    storage_options: Mapping[str, Any]
    streamed: bool = False
    held: Mapping[str, Path | bytes | SourceError] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Source:
        """Make a source of what a caller gives: a folder, an archive, or a URL of a folder.

        Options are for URLs; a path of this machine takes none.
        """
        text = local_path(os.fspath(source))
        if not text:
            raise SourceNotFoundError(repr(text), "names no place")
        if is_url(text):
            return cls(url=text, storage_options=dict(storage_options or {}))
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
                found = root == "" or filesystem.isdir(root)
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
                    files = list(_listed_files(filesystem, root, problems))
                if isinstance(filesystem, ZipFileSystem):
                    files = list(_unambiguous(files, Counter(filesystem.zip.namelist()), problems))
            except RecursionError as error:  # fsspec walks from each member of an archive up to its top
                what = "has folders that are too deep in each other to be listed"
                raise SourceNotFoundError(self.url, what) from error
        release = release_from_files(self.url, files, problems)
        if not release.subjects:
            raise SourceNotFoundError(self.url, _nothing_found(files, problems))
        return release

    def _listed_members(self) -> tuple[list[SourceFile], list[Problem]]:
        archives = tarball if self.url.lower().endswith(_TAR_NAMES) else sevenzip
        try:
            found, problems = archives.listed_members(self.url)
        except OSError as error:
            raise SourceNotFoundError(self.url, f"cannot be opened ({error})") from error
        files = list(_unambiguous(found, Counter(file.path for file in found), problems))
        return files, problems

    def members(self, wanted: Collection[str]) -> Iterator[tuple[str, MemberStream | SourceError]]:
        """Yield members of a streamed archive in their order; those that it does not hold in full come last.

        Parameters
        ----------
        wanted
            Their names. Each must be read before the next one is asked for.
        """
        archives = tarball if self.url.lower().endswith(_TAR_NAMES) else sevenzip
        missing = set(wanted)
        try:
            for path, stream in archives.read_members(self.url, wanted) if missing else ():
                missing.discard(path)
                yield path, stream
            what = "its archive is damaged or cut off before it"
        except OSError as error:
            what = f"its archive cannot be read ({error})"
        for path in sorted(missing):
            yield path, DamagedArchiveError(path, what)

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
        held = self.held.get(file.path)
        if isinstance(held, SourceError):
            raise held
        if isinstance(held, bytes):
            yield io.BytesIO(held)
            return
        try:
            filesystem, root = (LocalFileSystem(), "") if held else filesystem_of(self.url, self.storage_options)
            path = str(held) if held else f"{root.rstrip('/')}/{file.path}" if root else file.path
            if isinstance(filesystem, ZipFileSystem) and filesystem.info(path)["compress_type"] not in _ZIP_METHODS:
                raise UnsupportedArchiveError(file.path, "is compressed by another method than deflate")
            block = {"block_size": _HEADER_BLOCK_BYTES if header else _BLOCK_BYTES}
            opened = filesystem.open(path, "rb", **(block if isinstance(filesystem, AsyncFileSystem) else {}))
        # ImportError: where a worker lacks what this process has; RuntimeError: of encrypted members of a zip file
        except library_errors(ImportError, KeyError, RuntimeError) as error:
            raise UnreadableFileError(file.path, f"cannot be opened ({error})") from error
        except zipfile.BadZipFile as error:
            raise DamagedArchiveError(file.path, f"cannot be opened ({error})") from error
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
    damage = next((problem.message.split(";")[0] for problem in problems if problem.passing), None)
    inner = next((file.path for file in files if file.path.lower().endswith(_PACKED_NAMES)), None)
    what = f"holds no image or table of a release among {len(files)} files"
    if damage:
        return f"{damage}, and {what}"
    if inner:
        return f"{what}, and an archive within, {inner}, is not looked into"
    looked_at = _two_images([file.path for file in files])
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


def _two_images(paths: list[str]) -> list[str]:
    """Return two images to show what a folder holds, of two kinds where it has them."""
    images = sorted(path for path in paths if path.lower().endswith((".nii", ".nii.gz")))
    first = images[:1]
    kind = first[0].rsplit("_", 1)[-1] if first else ""
    others = [path for path in images if path.rsplit("_", 1)[-1] != kind] or images[1:]
    return [*first, *others[:1]]


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
