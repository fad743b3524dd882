"""Files of a store in a folder, opened, recognized and listed without a belief in what they are.

A store is input like any other: in the place of a file there may be a pipe that never answers, a device that
never ends, a link to nowhere, or a file that may not be read. All that is read of a folder is opened here.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import platform
import stat
from typing import TYPE_CHECKING, Final

from isles24_zarr.errors import StoreDamageError, UnreadableObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_OBJECT_BYTES: Final = 64 * 2**20
"""Of a document, a coordinate or a column: far above what `convert` writes."""
_MACHINE: Final = platform.node()
_COARSE_NANOSECONDS: Final = 2 * 10**9
"""Network file systems round times, to two seconds at worst."""
NO_FILE: Final = -1
"""The size of what is listed below a path and is no regular file, as a pipe, a device or a link to a folder."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """By what a file of a store is recognized: whoever writes one renames it into place, and none is written to.

    Parameters
    ----------
    size, modified, inode
        As the file system has them, the time in nanoseconds.
    machine
        Where it was looked at. Elsewhere the same file may have another inode, and a coarser time.
    """

    size: int
    modified: int
    inode: int
    machine: str

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Make it of what the file system says."""
        return cls(size=status.st_size, modified=status.st_mtime_ns, inode=status.st_ino, machine=_MACHINE)

    def is_of(self, status: os.stat_result) -> bool:
        """Tell whether a file is still the one that was looked at."""
        if self.machine == _MACHINE:
            return (self.size, self.modified, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)
        return self.size == status.st_size and abs(self.modified - status.st_mtime_ns) < _COARSE_NANOSECONDS


def file_content(path: str) -> bytes | None:
    """Read a small file; one that is not there is ``None``.

    Raises
    ------
    StoreDamageError
        As for `opened_file`, or it is larger than any such file.
    """
    try:
        file, status = opened_file(path)
    except FileNotFoundError:
        return None
    try:
        if status.st_size > MOST_OBJECT_BYTES:
            raise StoreDamageError(path, f"has {status.st_size:,} bytes, which no such object has")
        data = os.read(file, status.st_size)
        while len(data) < status.st_size and (more := os.read(file, status.st_size - len(data))):
            data += more
    except OSError as error:
        raise UnreadableObjectError(path, f"cannot be read ({error.strerror})") from error
    finally:
        os.close(file)
    return data


def shard_status(path: str, size: int) -> os.stat_result:
    """Look at a shard without opening it.

    Raises
    ------
    StoreDamageError
        It is lost, cut short, or no file.
    UnreadableObjectError
        It may not be looked at.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - paths of pathlib take longer than to look at the files
    except (FileNotFoundError, NotADirectoryError):
        raise StoreDamageError(path, "is lost") from None
    except OSError as error:
        raise UnreadableObjectError(path, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise StoreDamageError(path, "is no file, but a folder, a pipe or a device")
    if status.st_size != size:
        raise StoreDamageError(path, f"has {status.st_size:,} of {size:,} bytes")
    return status


def opened_file(path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """Open a file of a store for reading; pipes and devices, which may never answer or never end, are refused.

    Returns
    -------
    tuple
        A descriptor, which the caller closes, and what the file system says of it.

    Raises
    ------
    FileNotFoundError
        There is no file, or can be none of such a name.
    StoreDamageError
        It is something else than a file.
    UnreadableObjectError
        It may not or cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (NotADirectoryError, ValueError) as error:  # the latter of a name with a NUL
        raise FileNotFoundError(path) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileNotFoundError(path) from error
        raise UnreadableObjectError(path, f"cannot be read ({error.strerror})") from error
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode):
        return file, status
    os.close(file)
    if stat.S_ISDIR(status.st_mode):
        raise FileNotFoundError(path)
    raise StoreDamageError(path, "is no file, but a pipe or a device")


def files_below(root: str, path: str) -> Iterator[tuple[str, int]]:
    """Yield the keys and sizes of files. Links to files are followed, as reading does, those to folders are not."""
    folders = [path]
    while folders:
        folder = folders.pop()
        for entry in folder_entries(f"{root}/{folder}"):
            key = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                folders.append(key)
                continue
            try:
                status = entry.stat()
            except OSError:  # a link that leads nowhere
                yield key, NO_FILE
                continue
            yield key, status.st_size if stat.S_ISREG(status.st_mode) else NO_FILE


def folder_entries(folder: str) -> list[os.DirEntry[str]]:
    """List what is right in a folder; nothing in one that is not there.

    Raises
    ------
    UnreadableObjectError
        It may not be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnreadableObjectError(folder, f"cannot be listed ({error.strerror})") from error
