"""Manners of the command line: progress without a terminal, logs, version, completion, narrow terminals, pipes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import isles24_zarr
from isles24_zarr import errors, progress
from isles24_zarr.cli.commands import app
from isles24_zarr.progress import ProgressBar, life_sign

if TYPE_CHECKING:
    from distributed import Client

ROOT = Path(__file__).parent.parent
S = "sub-stroke0001"
COMMAND = [sys.executable, "-m", "isles24_zarr"]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d "


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip


def run_on_terminal(columns: int, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run a command whose three streams are a terminal of some width."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    import struct

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    usual = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
        env={**usual, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(slave)
    parts = []
    with contextlib.suppress(OSError):  # Linux says so where nobody writes any more
        while part := os.read(master, 65536):
            parts.append(part)
    os.close(master)
    return process.wait(timeout=300), b"".join(parts).decode().replace("\r\n", "\n")


# --- while it runs ---


def wait_until(condition: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_a_task_that_reports_nothing_gives_life_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LIFE_SIGN_SECONDS", 0.02)
    with contextlib.redirect_stderr(io.StringIO()) as piped:
        with ProgressBar("converting", total=4, in_bytes=False, shown=True) as bar:
            wait_until(lambda: piped.getvalue().count("converting: 0 %, 0 of 4") > 2, "no life sign")
            bar.finish(3)
            wait_until(
                lambda: re.search(r"converting: 75 %, 3 of 4, about \d+ s left\n", piped.getvalue()), "no progress"
            )
            bar.finish(1)
        lines = piped.getvalue().splitlines()
    assert re.fullmatch(r"converting: 100 %, 4 of 4, after \d+ s", lines[-1])
    assert not [each for each in threading.enumerate() if each.name.startswith("progress of")]


def test_life_signs_are_told_once_and_to_nobody_who_does_not_want_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="isles24_zarr"), contextlib.redirect_stderr(io.StringIO()) as piped:
        with ProgressBar("x", total=1, in_bytes=True, shown=False):
            pass
        with progress.hidden_progress(), ProgressBar("y\x1b[2J", total=0, in_bytes=False, shown=True):
            pass
    assert piped.getvalue() == ""
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["x", "y\\x1b[2J"]


def test_a_reader_that_goes_ends_no_work() -> None:
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), open(write, "w") as stream:  # noqa: PTH123 - a descriptor
        with contextlib.redirect_stderr(stream), ProgressBar("x", total=1, in_bytes=False, shown=True) as bar:
            bar.finish(1)
        assert bar._finished == 1


@pytest.mark.parametrize(
    ("done", "total", "in_bytes", "seconds", "line"),
    [
        (0, 10, False, 5, "x: 0 %, 0 of 10"),
        (1200, 30000, False, 600, "x: 4 %, 1,200 of 30,000, about 4 h 0 min left"),
        (10**9, 4 * 10**9, True, 100, "x: 25 %, 1,000.0 of 4,000.0 MB, 10.0 MB/s, about 5 min left"),
        (4, 4, False, 90, "x: 100 %, 4 of 4, after 2 min"),
        (7, 4, False, 1, "x: 100 %, 7 of 4, after 1 s"),
        (0, 0, True, 0, "x: 100 %, 0.0 of 0.0 MB, after 0 s"),
    ],
)
def test_life_sign(done: int, total: int, *, in_bytes: bool, seconds: float, line: str) -> None:
    assert life_sign("x", done, total, in_bytes=in_bytes, seconds=seconds) == line


def test_a_log_has_all_with_the_time_and_no_secrets(release: Path, tmp_path: Path, client: Client) -> None:
    log, scheduler = tmp_path / "log.txt", client.scheduler.address  # type: ignore[union-attr]
    log.write_text("before\n")
    convert = ("convert", release, tmp_path / "x.zarr", "--scheduler", scheduler, "--log", log)
    options = ("--storage-option", "key=hidden", "--storage-option=secret=hidden")
    done = run(*convert, *options, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert "notice" not in done.stdout
    assert "3 subjects converted" in done.stdout
    first, *lines = log.read_text().splitlines()
    assert first == "before"
    assert all(re.match(STAMP, line) for line in lines)
    text = log.read_text()
    assert "hidden" not in text
    assert f"isles24-zarr convert {release}" in lines[0]
    for told in (f" {S} is committed", "converting: 100 %, ", "3 subjects converted", " notice: ", " ended, all good"):
        assert told in text, told
    assert text.count("3 subjects converted") == 1
    wrong = run("scan", tmp_path / "nothing", "--log", log)
    assert wrong.returncode == 2
    assert log.read_text().startswith(text)
    assert "nothing: does not exist" in log.read_text().splitlines()[-1]


def test_a_log_that_cannot_be_is_told_before_the_work(release: Path, tmp_path: Path) -> None:
    done = run("convert", release, tmp_path / "x.zarr", "--log", tmp_path / "no" / "log.txt")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/no/log.txt: is no place for a log (No such file or directory)\n"
    assert not list(tmp_path.iterdir())


def test_verbose_says_what_is_done(release: Path, tmp_path: Path, client: Client) -> None:
    scheduler = client.scheduler.address  # type: ignore[union-attr]
    done = run("convert", release, tmp_path / "x.zarr", "--scheduler", scheduler, "--subject", S, "-v")
    assert f"{S} is committed\n" in done.stderr
    assert done.stderr.count("converting: 100 %") == 1


def test_advice_after_an_interruption_is_one() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Isles24Error)]
    resumed = [kind.advice for kind in kinds if "resume" in kind.advice]
    assert len(resumed) > 5
    assert all("run the same command again: it resumes where it stopped" in advice for advice in resumed)
    assert not [kind for kind in kinds if "the conversion again" in kind.advice or "same conversion" in kind.advice]


def test_what_was_killed_while_synthesizing_is_finished_by_the_same_command(release: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "synthesize", str(tmp_path / "train"), "--subjects", "3", "--scale", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: list(tmp_path.glob("train/raw_data/*/*/*.nii.gz")), "nothing was written")
        process.send_signal(signal.SIGKILL)
    if (tmp_path / "train" / ".unfinished").exists():  # on a quick machine it may have ended
        with pytest.raises(errors.DestinationError, match="is not empty"):
            isles24_zarr.synthesize(tmp_path / "train", subjects=2, scale="tiny")
    done = run(*command[3:])
    assert done.returncode in (0, 2), done.stderr
    files = {path.relative_to(release): path.read_bytes() for path in release.rglob("*.nii.gz")}
    assert files == {p.relative_to(tmp_path / "train"): p.read_bytes() for p in (tmp_path / "train").rglob("*.nii.gz")}
    assert not list((tmp_path / "train").glob(".*"))


# --- manners ---


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    done = run(option)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"isles24-zarr {isles24_zarr.__version__}\n", "")


def test_completion() -> None:
    program = "from isles24_zarr.cli import main; import sys; sys.argv[0] = 'isles24-zarr'; main()"
    for words, wanted in (("ver", "verify"), ("convert --dry", "--dry-run"), ("info --sto", "--storage-option")):
        line = f"isles24-zarr {words}"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "_ISLES24_ZARR_COMPLETE": "complete_bash", "COMP_WORDS": line,
                 "COMP_CWORD": str(len(line.split()) - 1)},
        )  # fmt: skip
        assert done.stdout.split() == [wanted], (words, done)
    assert "_ISLES24_ZARR_COMPLETE=complete_bash" in run_completion_script(program)


def run_completion_script(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, "--show-completion", "bash"], capture_output=True, text=True, check=False,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}, timeout=60,
    )  # fmt: skip
    return done.stdout


COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|38|4[0-7]|48|9[0-7])[;m]")


def test_no_color(store: Path) -> None:
    wrong = ("info", "/nonexistent.zarr")
    assert COLOUR.search(run_on_terminal(100, *wrong)[1])
    for arguments in (wrong, ("--help",), ("info", store), ("nonsense",)):
        assert not COLOUR.search(run_on_terminal(100, *arguments, NO_COLOR="1")[1]), arguments


def test_tables_on_narrow_terminals(release: Path, store: Path) -> None:
    for arguments in (("info", store), ("info", store, S), ("scan", release)):
        code, text = run_on_terminal(40, *arguments, NO_COLOR="1")
        assert code == 0, text
        lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
        # sentences are lines as a whole, for the terminal to wrap
        tables = [line for line in lines if not line.startswith(("notice: ", f"{release}: "))]
        assert max(map(len, tables)) <= 40
        assert "Traceback" not in text
    _, text = run_on_terminal(40, "info", store, NO_COLOR="1")
    for word in (S, "  nihss_admission: 1", "  images: 12 of 12"):
        assert word in text
    wide = run_on_terminal(100, "info", store, NO_COLOR="1")[1]
    assert re.search(rf"{S} +Center", wide)


def test_help_on_narrow_terminals_names_options_in_full() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        code, text = run_on_terminal(40, command.callback.__name__, "--help", NO_COLOR="1")
        assert code == 0
        assert "\N{HORIZONTAL ELLIPSIS}" not in text
        assert "--verbose" in text


@pytest.mark.parametrize("arguments", [("info",), ("info", "--json"), ("scan",), ("--help",), ("convert", "--help")])
def test_a_closed_pipe_has_an_exit_code_of_its_own(release: Path, store: Path, arguments: tuple[str, ...]) -> None:
    what = [] if "--help" in arguments else [release if arguments[0] == "scan" else store]
    read, write = os.pipe()
    os.close(read)  # as if it had read enough
    done = subprocess.run(
        [*COMMAND, *arguments, *map(str, what)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_json_stays_json_with_life_signs(release: Path) -> None:
    assert json.loads(run("scan", release, "--json", "-v").stdout)["subjects"]
