"""One conversion at a time into a store behind a URL: a small object that one of them can create, and that runs out.

The lock is made by a conditional put (``If-None-Match: *``), which an object store grants to one of many. File systems
that know none are looked at before and after it is written: of two that begin in the same moment, the last one has it.
Its holder renews it; one that was killed does not, and so the lock does not outlive it for long. On the machine of the
holder it is known at once that the process is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
import socket
import threading
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.access import (
    access_errors,
    error_code,
    filesystem_of,
    library_errors,
    own_instance,
    protocols_of,
    put_by_renaming,
    writes_whole,
)
from isles24_zarr.errors import StoreLockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOCK: Final = "isles24-zarr.lock"
"""Key of the object, below the root of the store."""

LEASE_SECONDS: Final = 300.0
"""How long a lock holds that nobody renews. Clocks may differ by less: S3 itself refuses those that are far off."""

_RENEWAL_SECONDS: Final = LEASE_SECONDS / 5
_LOST_CODES: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """A process, as others on its machine can recognize it."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> _Process:
        return cls(
            host=socket.gethostname(),
            boot=_text("/proc/sys/kernel/random/boot_id"),
            namespace=_link("/proc/self/ns/pid"),
            pid=os.getpid(),
            started=_start(os.getpid()),
        )

    def is_gone(self) -> bool:
        """Tell whether it is known to have ended; of other machines nothing is known."""
        here = _Process.current()
        same = (here.host, here.boot, here.namespace) == (self.host, self.boot, self.namespace)
        return bool(same and self.boot and self.started and _start(self.pid) != self.started)


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - what it names is no path
    except OSError:
        return ""


def _start(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was; empty of one that has ended."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


class Lease:
    """A lock that was taken.

    Parameters
    ----------
    url, options
        The store, for fsspec.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url
        shared, root = filesystem_of(url, options)
        self._whole = writes_whole(shared)
        # the others know one call at a time, and the lock is renewed whatever else is going on
        self._files = shared if self._whole else own_instance(shared)
        self._calls = threading.Lock()
        self._path = f"{root.rstrip('/')}/{LOCK}"
        self._compares = "s3" in protocols_of(self._files) or getattr(self._files, "compares", False)
        self._owner = uuid.uuid4().hex
        self._since = dt.datetime.now(dt.UTC)
        self._until = self._since
        self._seen: dict[str, str] = {}
        self._lost = False

    def take(self) -> None:
        """Take the lock, from a holder that is gone if need be.

        Raises
        ------
        StoreLockedError
            Another conversion holds it.
        """
        with access_errors(self._url, writing=True):
            if self._created():
                return
            found, seen = self._read()
            if found.get("owner") == self._owner:  # the answer to our request was lost, not the request
                self._adopt(found, seen)
                return
            if found and not _has_run_out(found):
                raise StoreLockedError(self._url, _told(found))
            if not self._replaced(seen):
                raise StoreLockedError(self._url, "another conversion has just begun to write into it")

    def _created(self) -> bool:
        try:
            self._put(mode="create")
        except OSError as error:
            if not _is_lost(error):
                raise
            return False
        except (NotImplementedError, TypeError, ValueError) as error:  # a file system without conditional puts
            warnings.warn(f"{self._url} cannot be locked ({error}): run no second conversion into it", stacklevel=5)
        # where two can look at the same time and then write, the last one has it
        return self._whole or self._read()[0].get("owner") == self._owner

    def _replaced(self, seen: Mapping[str, str]) -> bool:
        """Take over a lock that has run out: where that can be said, only if it is still the one that was looked at."""
        if not self._compares:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path)
            return self._created()
        if not seen:  # it was released meanwhile
            return self._created()
        try:
            self._put(**seen)
        except OSError as error:
            if not _is_lost(error):
                raise
            return False
        return True

    def renew(self) -> None:
        """Hold the lock for longer; where it was lost, `confirm` will say so."""
        with self._calls:
            self._renew()

    def _renew(self) -> None:
        if not self._compares and self._read()[0].get("owner") != self._owner:
            self._lost = True
            return
        try:
            self._put(**self._seen)
        except OSError as error:
            if not _is_lost(error):
                raise
            found, seen = self._read()
            if found.get("owner") == self._owner:
                self._adopt(found, seen)
            else:
                self._lost = True

    def confirm(self) -> None:
        """Make sure that the lock is still held.

        Raises
        ------
        StoreLockedError
            It could not be renewed in time, and another conversion may hold it.
        """
        if self._lost or dt.datetime.now(dt.UTC) > self._until:
            raise StoreLockedError(self._url, "the lock was lost, this process was out of touch for too long")

    def release(self) -> None:
        """Give the lock back, if it is still held."""
        with access_errors(self._url, writing=True), self._calls:
            if self._read()[0].get("owner") == self._owner:
                self._files.rm_file(self._path)

    def _put(self, **conditions: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        until = now + dt.timedelta(seconds=LEASE_SECONDS)
        content = {
            "owner": self._owner,
            "process": dataclasses.asdict(_Process.current()),
            "since": self._since.isoformat(timespec="seconds"),
            "until": until.isoformat(timespec="seconds"),
        }
        put = self._files.pipe_file if self._whole else self._put_in_place
        answer = put(self._path, json.dumps(content).encode(), **conditions)
        self._until = until
        self._seen = self._version(answer)

    def _put_in_place(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        if mode == "create" and self._read()[0]:
            raise FileExistsError(path)
        put_by_renaming(self._files, path, data)

    def _adopt(self, found: Mapping[str, Any], seen: dict[str, str]) -> None:
        """Take note of what was put, although the answer to that was lost."""
        self._until, self._seen = dt.datetime.fromisoformat(found["until"]), seen

    def _read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what the lock says and its version; nothing of one that is gone or not ours."""
        try:
            seen = self._version(self._files.info(self._path))
            found = json.loads(self._files.cat_file(self._path))
        except FileNotFoundError:
            return {}, {}
        except ValueError:
            return {}, seen
        return (found if isinstance(found, dict) else {}), seen

    def _version(self, told: Any) -> dict[str, str]:
        """Return the options of a put that replaces what a file system told of, and nothing else."""
        known = told if self._compares and isinstance(told, dict) else {}
        names = {"IfMatch": "ETag", "version": "version"}  # the version is what Google Cloud compares
        return {option: str(known[name]) for option, name in names.items() if known.get(name)}


def _is_lost(error: OSError) -> bool:
    """Tell whether a put was refused because of what is there, or is no longer."""
    return isinstance(error, FileExistsError) or error_code(error) in _LOST_CODES


def _has_run_out(found: Mapping[str, Any]) -> bool:
    try:
        until = dt.datetime.fromisoformat(found["until"])
        return dt.datetime.now(dt.UTC) > until or _Process(**found["process"]).is_gone()
    except (KeyError, TypeError, ValueError):  # written by something else
        return True


def _told(found: Mapping[str, Any]) -> str:
    process = found["process"]
    return (
        f"another conversion is writing into it: process {process['pid']} on {process['host']}, "
        f"since {found['since']} (if that is gone, its lock runs out at {found['until']})"
    )


@contextlib.contextmanager
def leased(url: str, options: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Hold the store behind a URL for writing.

    Parameters
    ----------
    url, options
        For fsspec.

    Yields
    ------
    callable
        To be called before what a reader will see is written: raises `StoreLockedError` where the lock was lost.

    Raises
    ------
    StoreLockedError
        Another conversion holds it.
    """
    lease = Lease(url, options)
    lease.take()
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_RENEWAL_SECONDS):
            # what may pass is tried again; what does not, `confirm` tells
            with contextlib.suppress(*library_errors()):
                lease.renew()

    threading.Thread(target=keep, name="isles24-zarr-lease", daemon=True).start()
    try:
        yield lease.confirm
    finally:
        ended.set()
        lease.release()
