"""The command line as a user meets it: a process of its own, its streams and its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from isles24_zarr.cli.commands import app
from tests.damage import rewrite_table

if TYPE_CHECKING:
    from distributed import Client

ROOT = Path(__file__).parent.parent
S = "sub-stroke0001"


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isles24_zarr", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=120)


def test_scan(release: Path) -> None:
    done = run("scan", release)
    assert done.returncode == 0
    assert "3 subjects, 54 images, 6 tables, a data dictionary" in done.stdout
    assert "notice: phenotype/" not in done.stderr


def test_scan_as_json(release: Path) -> None:
    document = json.loads(run("scan", release, "--json").stdout)
    images = document["subjects"][S]["images"]
    assert len(images) == 18
    assert {"space": "ncct", "image": "ctp"}.items() <= next(i for i in images if "space-ncct_ctp" in i["path"]).items()


def test_convert_info_and_resume(release: Path, tmp_path: Path, client: Client) -> None:
    store, scheduler = tmp_path / "x.zarr", client.scheduler.address  # type: ignore[union-attr]
    plan = run("convert", release, store, "--dry-run", "--json", "--subject", S)
    assert len(json.loads(plan.stdout)["arrays"]) == 18
    assert not store.exists()
    first = run("convert", release, store, "--scheduler", scheduler, "--json", "--subject", S)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["converted"] == [S]
    second = run("convert", release, store, "--scheduler", scheduler)
    assert "2 subjects converted, 1 unchanged, 36 images written" in second.stdout
    assert S in run("info", store).stdout
    assert len(json.loads(run("info", store, "--json").stdout)["subjects"]) == 3
    arrays = json.loads(run("info", store, S, "--json").stdout)["arrays"]
    for array in arrays:
        folder = store / S / array["group"] / array["image"]
        assert array["stored_bytes"] == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    table = run("info", store, S).stdout
    assert re.search(r"space-ncct +ctp +12 x \d+ x \d+ x \d+ +int16", table)


def test_a_damaged_file_is_exit_1(release: Path, tmp_path: Path, client: Client) -> None:
    source = tmp_path / "train"
    shutil.copytree(release / "raw_data" / S, source / "raw_data" / S)
    (source / f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz").write_bytes(b"")
    assert run("scan", source).returncode == 1
    scheduler = client.scheduler.address  # type: ignore[union-attr]
    done = run("convert", source, tmp_path / "x.zarr", "--scheduler", scheduler)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz: is empty (0 bytes); ")
    shutil.copy(release / f"raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz", source / f"raw_data/{S}/ses-01")
    again = run("convert", source, tmp_path / "x.zarr", "--scheduler", scheduler)
    assert f"{S} was converted again: new or changed: raw_data/{S}/ses-01/{S}_ses-01_cta.nii.gz\n" in again.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "/nonexistent"),
        ("info", "/nonexistent.zarr"),
        ("convert", "/nonexistent", "x.zarr"),
        ("convert", "RELEASE", "x.zarr", "--subject", "sub-nobody"),
        ("convert", "RELEASE", "x.zarr", "--image", "t1w"),
        ("convert", "RELEASE", "x.zarr", "--workers", "0"),
        ("convert", "RELEASE", "x.zarr", "--scheduler", "nonsense"),
        ("convert", "RELEASE"),
        ("convert", "RELEASE", "RELEASE"),
        ("synthesize", "RELEASE"),
        ("synthesize", "x", "--scale", "huge"),
        ("scan", "RELEASE", "--nonsense"),
        ("nonsense",),
    ],
)
def test_a_wrong_request_is_exit_2_without_a_traceback(
    release: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = run(*(str(release) if word == "RELEASE" else word for word in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_verbose_shows_the_traceback() -> None:
    done = run("scan", "/nonexistent", "--verbose")
    assert "Traceback" in done.stderr
    assert "SourceNotFoundError" in done.stderr


def test_synthesize(tmp_path: Path) -> None:
    done = run("synthesize", tmp_path / "train", "--subjects", 1, "--scale", "tiny")
    assert done.stdout.strip() == str(tmp_path / "train")
    assert len(list((tmp_path / "train").rglob("*.nii.gz"))) == 18


def test_demo(tmp_path: Path) -> None:
    done = run("demo", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert re.search(r"infarct of sub-stroke0001: \d+\.\d mL", done.stdout)
    picture = Path(done.stdout.rsplit("Its images: ", 1)[1].splitlines()[0])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "4 subjects" in done.stdout


def test_a_hostile_table_does_not_steer_the_terminal(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    rewrite_table(copy, {"center": "\x1b]0;owned\x07\x1b[2J\nerror: x"})
    done = run("info", copy)
    assert done.returncode == 0, done.stderr
    assert "\\x1b]0;owned\\x07\\x1b[2J\\nerror: x" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert "\x1b" not in run("info", copy, "--json").stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a device that is always full")
def test_a_full_or_closed_stdout_is_no_traceback(store: Path) -> None:
    for end, code, told in (
        (">/dev/full", 1, "error: stdout: cannot be written"),
        (">&-", 0, ""),
        ("| head -c 1", 0, ""),
    ):
        command = ["sh", "-c", f'"$@" {end}', "sh", sys.executable, "-m", "isles24_zarr", "info", str(store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), (end, done.stderr)
        assert done.stderr.startswith(told)
        assert len(done.stderr.splitlines()) <= 1


def test_names_that_can_be_none(store: Path) -> None:
    for arguments in (("info", store, "sub-" + "a" * 5000), ("info", "a" * 5000), ("verify", "b" * 5000)):
        done = run(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_a_deleted_working_folder(store: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "isles24_zarr", "info", str(store)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: the working folder: is not there any more")


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"`{command.callback.__name__}" in readme
    assert run("--help").returncode == 0
