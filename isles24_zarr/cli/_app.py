"""The application: what its commands have in common, how they end, and what is said where they are interrupted.

Results go to stdout, logs and progress to stderr. Exit codes: 0 all good; 1 finished, with the problems listed;
2 the request itself is wrong; 130 interrupted; 141 nobody reads stdout any more, as after ``| head``. To be interrupted
is how `serve` ends: with 0.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec

import typer

from isles24_zarr.cli._log import reporting
from isles24_zarr.cli._options import Log, Quiet, Verbose
from isles24_zarr.cli._rendering import NOBODY_READS, PRINTED, check_working_folder, err, out, standard_streams
from isles24_zarr.errors import RUN_AGAIN, Isles24Error, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Arguments = ParamSpec("Arguments")

_MOMENT: Final = 0.1
"""Seconds after which an interrupt that was lost is sent again."""
_NARROW: Final = 70
"""Columns of a terminal below which help in boxes cuts the names of options."""

_columns = shutil.get_terminal_size().columns
_is_narrow = _columns < _NARROW

app = typer.Typer(
    name="isles24-zarr",
    help="ISLES'24 stroke imaging as one Zarr store: list a release, convert it, look at what it holds.",
    epilog="Start with 'isles24-zarr demo': it makes a small synthetic release and does everything with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if _is_narrow else "rich",
    context_settings={"help_option_names": ["-h", "--help"], **({"terminal_width": _columns} if _is_narrow else {})},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        from isles24_zarr.version import PACKAGE_VERSION

        out().print(f"isles24-zarr {PACKAGE_VERSION}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


_INTERRUPTED: Final = f"interrupted; what was finished stays, {RUN_AGAIN}"

_DEFAULTS: Final[dict[str, Any]] = {"verbose": False, "quiet": False, "log": None}
_COMMON: Final = {"verbose": Verbose, "quiet": Quiet, "log": Log}
"""Options of all commands; those that answer at once, or run until Ctrl-C, have the first alone."""
_SHORT: Final = frozenset({"info", "serve", "view"})


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Take SIGTERM for an interrupt, and let none be lost.

    What is raised in a finalizer (``__del__``, the callback of a weak reference) goes no further: Python prints it and
    goes on. An interrupt that comes just then is sent again.
    """
    # to be ended by the system is to be interrupted: workers stop, nothing is left half done
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before, main_thread = sys.unraisablehook, threading.main_thread().ident or 0

    def lost(unraisable: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        # a little later: what is raised in here is lost as well. SIGINT may be ignored, as in the background of a shell
        timer = threading.Timer(_MOMENT, signal.pthread_kill, (main_thread, signal.SIGTERM))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = before


def command(function: Callable[Arguments, bool]) -> Callable[Arguments, None]:
    """Turn a function that tells if all is good into a command, with common options, and exit codes of this module."""

    def run(*args: Arguments.args, **options: Arguments.kwargs) -> None:
        common: dict[str, Any] = {name: options.pop(name, default) for name, default in _DEFAULTS.items()}
        verbose = bool(common["verbose"])
        try:
            check_working_folder()
            with _interruptible(), reporting(**common):
                good = function(*args, **options)
                PRINTED.info("ended, %s", "all good" if good else "with problems")
        except Isles24Error as error:
            if verbose:
                raise
            err().print(f"error: {error}", style="red", soft_wrap=True)
            raise typer.Exit(2 if isinstance(error, RequestError) else 1) from None
        except KeyboardInterrupt:
            err().print(_INTERRUPTED, soft_wrap=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise typer.Exit(NOBODY_READS) from None
        if not good:
            raise typer.Exit(1)

    functools.update_wrapper(run, function)
    own = inspect.signature(function, eval_str=True)
    more = {name: kind for name, kind in _COMMON.items() if name == "verbose" or function.__name__ not in _SHORT}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[name], annotation=kind)
        for name, kind in more.items()
    ]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {**inspect.get_annotations(function, eval_str=True), **more}
    app.command()(run)
    return run


def main() -> None:
    """Run the command line."""
    try:
        with standard_streams():
            app()
    except KeyboardInterrupt:  # before a command has begun, or after it has ended
        err().print(_INTERRUPTED, soft_wrap=True)
        sys.exit(130)
    finally:
        # what is left is to leave: nothing is to be interrupted any more, and the exit code stands
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # an interrupt that passed through exec of a string (dataclasses are made so, while modules load) has Python
        # end "python -m" by SIGINT, though it was caught; the next one that passes without clears that
        exec("pass", {})  # noqa: S102
