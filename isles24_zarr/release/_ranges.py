"""Bytes over HTTP, by ranges (RFC 9110): asked for again where a connection breaks, and never those of two versions."""

from __future__ import annotations

import io
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import DownloadError, MissingExtraError, StoreAccessError, UnusableArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECONDS: Final = 60
"""Without an answer, after which a connection is given up."""
_ATTEMPTS: Final = 6
"""In a row in which nothing came."""
_FIRST_ATTEMPTS: Final = 3
"""Of a server that has not answered yet: there may be none."""
_RECEIVED_BYTES: Final = 2**16
"""When a connection breaks, up to as much of what has come is lost."""
_MOST_PATIENCE: Final = 120
"""Seconds that a busy server is given, where it asks for them."""
_LEAST_BYTES: Final = 2**16
_MOST_BYTES: Final = 16 * 2**20
"""Of a request of `RemoteFile`, and what it holds in memory."""

WHOLE: Final = (
    "download it as a whole and convert the copy, as 'isles24-zarr fetch FOLDER' does with the published release"
)


def asked_bytes(
    session: Any,
    url: str,
    span: tuple[int, int | None],
    *,
    check: Callable[[Any], None],
    take: Callable[[bytes], None],
    headers: Mapping[str, str] | None = None,
) -> str:
    """Ask once for a range of bytes; return why no more came, if that is known.

    Parameters
    ----------
    session
        Of ``requests``.
    url, span
        What to ask for; without an end, all that follows.
    check
        Is given the answer before its body is read, and raises where asking again would not help.
    take
        Is given each piece.
    headers
        Further ones.
    """
    import requests

    begin, end = span
    # compressed on the way, ranges and sizes would be those of something else
    fixed = {"Range": f"bytes={begin}-{'' if end is None else end - 1}", "Accept-Encoding": "identity"}
    try:
        with session.get(url, headers={**(headers or {}), **fixed}, stream=True, timeout=SECONDS) as answer:
            if answer.status_code in {408, 429} or answer.status_code >= 500:
                asked_for = answer.headers.get("Retry-After", "")
                time.sleep(min(int(asked_for), _MOST_PATIENCE) if re.fullmatch("[0-9]{1,9}", asked_for) else 0)
                return f"status {answer.status_code}"
            check(answer)
            for piece in answer.iter_content(_RECEIVED_BYTES):
                take(piece)
    except requests.exceptions.RequestException as error:
        return reason_of(error)
    return ""


def ask_persistently(
    ask: Callable[[], str],
    position: Callable[[], int],
    url: str,
    *,
    end: int,
    wait: float,
    attempts: int = _ATTEMPTS,
) -> None:
    """Ask until all has come: again and again while something comes, else a few times.

    Parameters
    ----------
    ask
        Returns why it ended early, or nothing.
    position, end
        How many bytes there are, and are to be.
    url
        For the error.
    wait
        Seconds after a first failure; each further one doubles them.
    attempts
        After how many in a row in which nothing came to give up.

    Raises
    ------
    DownloadError
        Nothing comes any more.
    """
    failures = 0
    while True:
        before = position()
        reason = ask()
        if not reason:
            return
        failures = 0 if position() > before else failures + 1
        if failures >= attempts:
            so_far = f"broke off after {position():,} of {end:,} bytes" if position() else "does not answer"
            raise DownloadError(url, f"{so_far} ({reason})")
        time.sleep(wait * 2**failures / 2)


def size_in_range(answer: Any, begin: int, url: str) -> int | None:
    """Return the size of the whole by the range of an answer, where it says so.

    Raises
    ------
    DownloadError
        It is another range than that from ``begin``.
    """
    given = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", given)
    if match is None or int(match[1]) != begin:
        raise DownloadError(url, f"answers with the range {given!r}, not with that from byte {begin:,}")
    return None if match[2] == "*" else int(match[2])


def reason_of(error: Exception) -> str:
    """Say in one line what a library says."""
    return (str(error) or type(error).__name__).splitlines()[0]


class RemoteFile(io.RawIOBase):
    """A file behind HTTP, opened for reading bytes anywhere; it holds one piece of it in memory.

    What is expected to be read comes in pieces of up to 16 MB.

    Parameters
    ----------
    url
        Where it is.
    headers
        Of each request, such as one of authorization.
    patience
        Seconds to wait after a first failure; each further one doubles them.

    Attributes
    ----------
    came
        Bytes that came over the network.
    on_piece
        Is told how many come.
    directory
        What a reader has learned of the file, which would have to be read again else.
    """

    on_piece: Callable[[int], None] | None = None
    directory: Any = None

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, patience: float = 1.0) -> None:
        super().__init__()
        self.url, self.patience, self.came = url, patience, 0
        # what follows is a signature, most often, and is not to be told
        self.name, _, self._query = url.partition("?")
        self._headers = dict(headers or {})
        self._session: Any = None
        self._version: dict[str, str] = {}
        self._size = -1
        self._at = 0
        self._piece, self._begin = b"", 0
        self._expected = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFile, (self.url, self._headers, self.patience)

    @property
    def size(self) -> int:
        """Length in bytes."""
        if self._size < 0:
            at, self._at = self._at, 0
            self._fetch(0)
            self._at = at
        return self._size

    def expect(self, end: int = -1) -> None:
        """Say up to where bytes will be read: beyond, no more comes than is asked for. Nothing is known of it by -1."""
        self._expected = end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (self.size if start is None else start)
        return self._at

    def read(self, count: int | None = -1) -> bytes:
        """Return bytes: as many as are asked for, or up to the end of the file.

        Raises
        ------
        DownloadError
            The connection broke and would not be mended, or the file has changed since it was first read.
        UnusableArchiveError
            The server does not give parts of files.
        StoreAccessError
            It refuses.
        """
        left = self.size - self._at
        left = left if count is None or count < 0 else min(count, left)
        pieces = []
        while left > 0:
            skipped = self._at - self._begin
            if not 0 <= skipped < len(self._piece):
                self._fetch(left)
                skipped = 0
            pieces.append(self._piece[skipped : skipped + left])
            self._at += len(pieces[-1])
            left -= len(pieces[-1])
        return b"".join(pieces)

    def _fetch(self, count: int) -> None:
        """Get the piece that begins where the file is read."""
        begin = self._at
        # beyond what is expected no more than is asked for; without that, a little more
        end = self._expected if self._expected >= 0 else begin + _LEAST_BYTES
        end = min(max(end, begin + count), begin + _MOST_BYTES)
        came = bytearray()

        def ask() -> str:
            at = begin + len(came)
            span = (at, end if self._size < 0 else min(end, self._size))
            reason = asked_bytes(
                self._opened_session(),
                self.url,
                span,
                check=lambda answer: self._check(answer, at),
                take=take,
                headers=self._all_headers(),
            )
            reason = reason.replace(f"?{self._query}", "") if self._query else reason
            return reason or ("the connection ended early" if begin + len(came) < min(end, self._size) else "")

        def take(piece: bytes) -> None:
            if begin + len(came) + len(piece) > end:
                raise DownloadError(self.name, "gives more bytes than were asked for")
            came.extend(piece)
            self.came += len(piece)
            if self.on_piece:
                self.on_piece(len(piece))

        attempts = _FIRST_ATTEMPTS if self._size < 0 else _ATTEMPTS
        ask_persistently(ask, lambda: begin + len(came), self.name, end=end, wait=self.patience, attempts=attempts)
        self._piece, self._begin = bytes(came), begin

    def _opened_session(self) -> Any:
        if self._session is None:
            try:
                import requests
            except ImportError as error:
                raise MissingExtraError(self.name, "to read it, run: pip install 'isles24-zarr[fetch]'") from error
            self._session = requests.Session()
        return self._session

    def _all_headers(self) -> dict[str, str]:
        tag = self._version.get("ETag", "")
        # weak ones must not stand there, and of a date servers may think so; `_check` compares them all
        return {**self._headers, **({"If-Range": tag} if tag.startswith('"') else {})}

    def _check(self, answer: Any, begin: int) -> None:
        """See that an answer is the range that was asked for, of the file that was there at first."""
        status, known = answer.status_code, self._size >= 0
        if status in {200, 416} and known:
            raise DownloadError(self.name, "has changed while it was read")
        if status == 416:
            raise UnusableArchiveError(self.name, "is empty")
        if status == 200:
            raise UnusableArchiveError(self.name, f"its server gives no parts of files (HTTP ranges); {WHOLE}")
        if status != 206:
            raise StoreAccessError(self.name, f"is refused (status {status})")
        size = size_in_range(answer, begin, self.name)
        if size is None or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise UnusableArchiveError(self.name, f"its server does not say how long it is; {WHOLE}")
        version = {name: answer.headers[name] for name in ("ETag", "Last-Modified") if name in answer.headers}
        changed = any(
            version.get(name, value).removeprefix("W/") != value.removeprefix("W/")
            for name, value in self._version.items()
        )
        if known and (size != self._size or changed):
            raise DownloadError(self.name, "has changed while it was read")
        self._version, self._size = self._version or version, size
