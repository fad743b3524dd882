"""The files of a release that lies as files on a file system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.implementations.local import LocalFileSystem

from isles24_zarr.errors import Problem, UnreadableFileError, UnsafePathError
from isles24_zarr.release.files import SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def described_file(info: Mapping[str, Any], path: str) -> SourceFile:
    """Make a file of what a file system says of it."""
    keys = ("ETag", "CRC", "blob_id", "LastModified", "mtime")
    stamp = next((info[key] for key in keys if info.get(key)), "")
    return SourceFile(path=path, size=int(info["size"] or 0), stamp=str(stamp))


def listed_files(filesystem: Any, root: str, problems: list[Problem]) -> Iterator[SourceFile]:
    """Yield the files below a folder of a file system; what is no file of its own is a problem.

    Parameters
    ----------
    filesystem, root
        Of fsspec, and where on it.
    problems
        What is found is added to them.
    """
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
        yield described_file(info, relative)


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
