"""One conversion at a time into a store in a bucket: a small object that one of them can create, and that runs out.

The lock is made by a conditional put (``If-None-Match: *``), which an object store grants to one of many; it is renewed
and taken over by another one, where the version that was seen is still there.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import StoreLockedError
from isles24_zarr.places import access_errors, filesystem_of, library_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOCK: Final = "isles24-zarr.lock"
"""Key of the object, below the root of the store."""

LEASE_SECONDS: Final = 300.0
"""How long a lock holds that nobody renews. Clocks may differ by less: S3 itself refuses those that are far off."""

_RENEWAL_SECONDS: Final = LEASE_SECONDS / 5


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
        The store, in a bucket.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url
        self._files, root = filesystem_of(url, options)
        self._path = f"{root.rstrip('/')}/{LOCK}"
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
            if self._put({}):
                return
            found, seen = self._read()
            if self._adopted(found, seen):
                return
            if found and not _has_run_out(found):
                raise StoreLockedError(self._url, _told(found))
            if not self._put(seen):
                raise StoreLockedError(self._url, "another process has just begun to write into it")

    def renew(self) -> None:
        """Hold the lock for longer; where it was lost, `confirm` will say so."""
        if not self._put(self._seen) and not self._adopted(*self._read()):
            self._lost = True

    def confirm(self) -> None:
        """Make sure that the lock is still held.

        Raises
        ------
        StoreLockedError
            It could not be renewed in time, and another process may hold it.
        """
        if self._lost or dt.datetime.now(dt.UTC) > self._until:
            raise StoreLockedError(self._url, "the lock was lost, this process was out of touch for too long")

    def release(self) -> None:
        """Give the lock back, if it is still held."""
        with access_errors(self._url, writing=True):
            if self._read()[0].get("owner") == self._owner:
                self._files.rm_file(self._path)

    def _put(self, seen: dict[str, str]) -> bool:
        """Write the lock where the version that was seen is there still, or none; tell whether that was done."""
        now = dt.datetime.now(dt.UTC)
        until = now + dt.timedelta(seconds=LEASE_SECONDS)
        content = {
            "owner": self._owner,
            "process": dataclasses.asdict(_Process.current()),
            "since": self._since.isoformat(timespec="seconds"),
            "until": until.isoformat(timespec="seconds"),
        }
        written = self._files.put_if_unchanged(self._path, json.dumps(content).encode(), seen)
        if written is None:
            return False
        self._until, self._seen = until, written
        return True

    def _adopted(self, found: Mapping[str, Any], seen: dict[str, str]) -> bool:
        """Tell whether a lock is our own after all: the answer to our request was lost, not the request."""
        if found.get("owner") != self._owner:
            return False
        self._until, self._seen = dt.datetime.fromisoformat(found["until"]), seen
        return True

    def _read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what the lock says and its version; nothing of one that is gone or not ours."""
        try:
            data, seen = self._files.content_and_version(self._path)
        except FileNotFoundError:
            return {}, {}
        try:
            found = json.loads(data)
        except ValueError:
            return {}, seen
        return (found if isinstance(found, dict) else {}), seen


def _has_run_out(found: Mapping[str, Any]) -> bool:
    try:
        until = dt.datetime.fromisoformat(found["until"])
        return dt.datetime.now(dt.UTC) > until or _Process(**found["process"]).is_gone()
    except (KeyError, TypeError, ValueError):  # written by something else
        return True


def _told(found: Mapping[str, Any]) -> str:
    process = found["process"]
    return (
        f"another process is writing into it: process {process['pid']} on {process['host']}, "
        f"since {found['since']} (if that is gone, its lock runs out at {found['until']})"
    )


@contextlib.contextmanager
def leased(url: str, options: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Hold the store behind a URL for writing.

    Parameters
    ----------
    url, options
        The store, in a bucket.

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
            # transient errors are retried; others are raised by `confirm`
            with contextlib.suppress(*library_errors()):
                lease.renew()

    threading.Thread(target=keep, name="isles24-zarr-lease", daemon=True).start()
    try:
        yield lease.confirm
    finally:
        ended.set()
        lease.release()
