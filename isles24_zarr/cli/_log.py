"""What is said while a command runs, and where: on stderr by what the user wants, and in a log in any case."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import shlex
import sys
from typing import TYPE_CHECKING, Final

from isles24_zarr.cli._rendering import PRINTED, err, quietly
from isles24_zarr.errors import DestinationError, one_line
from isles24_zarr.progress import hidden_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PACKAGE: Final = logging.getLogger("isles24_zarr")
_HOLDS_KEYS: Final = "--storage-option"


@contextlib.contextmanager
def reporting(*, verbose: bool, quiet: bool, log: Path | None) -> Iterator[None]:
    """Say on stderr what the package logs, keep it in a file, and hide progress and notices where that is wanted.

    Parameters
    ----------
    verbose, quiet
        What goes to stderr: steps as well; or errors alone.
    log
        A file that lines are appended to, each with the time: the command, progress, steps, what is printed, and how
        it ended. None for no log.

    Raises
    ------
    DestinationError
        The log cannot be written.
    """
    level = _PACKAGE.level
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(hidden_progress())
            stack.enter_context(quietly())
        screen = _Screen(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
        # progress and what is printed are on the screen already
        screen.addFilter(lambda record: record.name not in ("isles24_zarr.progress", PRINTED.name))
        handlers: list[logging.Handler] = [screen]
        if log is not None:
            handlers.append(_log_file(log))
        for handler in handlers:
            _PACKAGE.addHandler(handler)
            stack.callback(handler.close)
            stack.callback(_PACKAGE.removeHandler, handler)
        stack.callback(_PACKAGE.setLevel, level)
        if verbose or log is not None:
            _PACKAGE.setLevel(logging.INFO)
        PRINTED.info("%s", _command_line(sys.argv[1:]))
        try:
            yield
        except BaseException as error:
            PRINTED.info("ended by %s", one_line(f"{type(error).__name__}: {error}".removesuffix(": ")))
            raise


def _log_file(path: Path) -> logging.Handler:
    try:
        handler = _File(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DestinationError(path, f"is no place for a log ({error.strerror})") from error
    handler.setFormatter(_Stamped("%(asctime)s %(message)s"))
    return handler


def _command_line(words: Sequence[str]) -> str:
    """Return the command as it was given, without what storage options hold: keys and passwords among it."""
    from isles24_zarr.version import PACKAGE_VERSION

    shown = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if before == _HOLDS_KEYS and equals:
            word = f"{name}=..."  # noqa: PLW2901 - the one word that is not shown
        elif name == _HOLDS_KEYS and equals:
            word = f"{name}={value.partition('=')[0]}=..."  # noqa: PLW2901
        shown.append(word)
    return one_line(f"isles24-zarr {shlex.join(shown)} (version {PACKAGE_VERSION})")


class _Stamped(logging.Formatter):
    """Local times with their offset from UTC, as ISO 8601 has them."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002
        return dt.datetime.fromtimestamp(record.created, dt.UTC).astimezone().isoformat(timespec="seconds")


class _File(logging.FileHandler):
    """A log; work goes on where it cannot be written any more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging calls it
        """Leave it: the disk is full, and what the work itself writes will say so."""


class _Screen(logging.Handler):
    """Prints records above a bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            err().print(self.format(record), soft_wrap=True)
        except (OSError, ValueError):
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging calls it
        """Leave it: where stderr is gone, nobody is to be told."""
