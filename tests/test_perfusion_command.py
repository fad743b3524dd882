"""``isles24-zarr perfusion`` and ``cohort.isles.perfusion_table``: maps of a cohort, made, kept, measured, compared."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client
from typer.testing import CliRunner

import isles24_zarr
from isles24_zarr.cli.commands import app
from tests.test_analysis import SUBJECTS

pytestmark = pytest.mark.filterwarnings("ignore::isles24_zarr.errors.PerfusionWarning")  # the series are of 10 s


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "own.zarr"))


def maps_of(scan: xr.Dataset, width: float) -> xr.Dataset:
    return scan.isles.perfusion_maps(smoothing=width)


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_maps_are_made_kept_and_compared(own: Path) -> None:
    code, text, _ = run("perfusion", own, "--json")
    assert code == 0
    found = json.loads(text)
    assert list(found["subjects"]) == SUBJECTS
    assert found["agreement"]["hypoperfusion"]["subjects"] == len(SUBJECTS)
    assert not isles24_zarr.open_cohort(own).isles.pipelines
    code, text, _ = run("perfusion", own, "--save", "maps")
    assert code == 0
    assert all(name in text for name in SUBJECTS)
    assert "limits of agreement" in text
    again = json.loads(run("perfusion", own, "--save", "maps", "--json")[1])
    for name in SUBJECTS:  # what is kept is what was computed
        assert again["subjects"][name]["core"] == found["subjects"][name]["core"]
    cohort = isles24_zarr.open_cohort(own)
    assert cohort.isles.pipelines == ["maps"]
    scan = cohort.isles.scan(SUBJECTS[0], space="ctp")
    kept = cohort.isles.scan(SUBJECTS[0], space="ctp", pipeline="maps")
    wanted = scan.isles.perfusion_maps(smoothing=(8.0, 3.0)).compute()
    for name in wanted:
        np.testing.assert_array_equal(kept[name].values, wanted[name].values)
    assert isles24_zarr.verify(own, progress=False).ok


def test_kept_maps_come_back_as_files_in_their_place(own: Path, release: Path, tmp_path: Path) -> None:
    assert run("perfusion", own, "--save", "maps", "--subject", SUBJECTS[1])[0] == 0
    isles24_zarr.export(own, tmp_path / "back", progress=False)
    files = list((tmp_path / "back").rglob("derivatives/maps/**/*.nii.gz"))
    assert len(files) == 5
    series = nib.load(next(release.rglob(f"raw_data/**/{SUBJECTS[1]}_ses-01_ctp.nii.gz")))
    cohort = isles24_zarr.open_cohort(own)
    kept = cohort.isles.scan(SUBJECTS[1], space="ctp", pipeline="maps").load()
    for file in files:
        image = nib.load(file)
        assert image.shape == series.shape[:3]
        np.testing.assert_allclose(image.affine, series.affine, atol=1e-3)
        name = next(name for name in kept if name in file.name)
        values = np.asarray(image.dataobj)
        places = np.argwhere(np.isfinite(values))[::97]
        for place, world in zip(places, nib.affines.apply_affine(image.affine, places), strict=True):
            assert values[tuple(place)] == kept[name].isles.sel_world(world).values


def test_one_subject_that_cannot_be_done_does_not_stop_the_others(own: Path) -> None:
    for shard in (own / SUBJECTS[1] / "space-ctp" / "ctp" / "c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    code, text, told = run("perfusion", own, "--save", "maps")
    assert code == 1
    assert SUBJECTS[0] in text
    assert SUBJECTS[2] in text
    assert f"error: {SUBJECTS[1]}: " in told
    assert "lost" in told
    assert sum(SUBJECTS[1] in line for line in (text + told).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--subject", "sub-nobody"], "sub-nobody"),
        (["--save", "a b"], "a b"),
        (["--space", "mars"], "mars"),
        (["--truncation", "2"], "between 0 and 1"),
        (["--smoothing", "-1"], "width"),
    ],
)
def test_requests_that_cannot_be_met(own: Path, arguments: list[str], words: str) -> None:
    code, text, told = run("perfusion", own, *arguments)
    assert code in (1, 2)
    assert words in text + told
    assert "Traceback" not in text + told


def test_the_table_of_the_released_maps(store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    table = cohort.isles.perfusion_table(progress=False)
    assert table.index.tolist() == SUBJECTS
    assert table["error"].isna().all()
    assert "hypoperfusion_dice" not in table
    for name in SUBJECTS:
        scan = cohort.isles.scan(name)
        brain = scan.isles.brain_mask().values
        slow = brain & np.isfinite(scan["tmax"].values) & (scan["tmax"].values > 6)
        ml = scan.isles.voxel_volume / 1000
        assert table.loc[name, "hypoperfusion"] == pytest.approx(slow.sum() * ml)
        assert table.loc[name, "coverage"] == pytest.approx((scan["cbf"].values[brain] != 0).mean(), abs=0.01)


def slabs(scan: xr.Dataset, nothing: float) -> xr.Dataset:
    """Return half of the released maps, and a Tmax of what is late alone."""
    maps = scan[["tmax", "cbf"]].load()
    computed = (maps > 0) & (np.arange(maps.sizes["z"]) < maps.sizes["z"] // 2)[:, None, None]
    return maps.where(computed.assign(tmax=computed["tmax"] & (maps["tmax"] > 3)), nothing)


def test_a_row_is_of_one_piece_whatever_stands_for_no_value(store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    limits = {"tmax_threshold": 4.0, "cbf_fraction": 0.7}
    table, zeros = (
        cohort.isles.perfusion_table(functools.partial(slabs, nothing=nothing), **limits, progress=False)
        for nothing in (np.nan, 0.0)
    )
    assert table["error"].isna().all()
    assert (table["core"] > 0).any()
    pd.testing.assert_frame_equal(zeros, table)
    np.testing.assert_allclose(table["hypoperfusion"] - table["core"], table["mismatch"])
    for name in SUBJECTS:
        scan = cohort.isles.scan(name).load()
        brain = scan.isles.brain_mask()
        lesions = slabs(scan, np.nan).isles.perfusion_lesions(brain=brain, **limits)
        assert table.loc[name, "core"] == lesions.core
        late = brain.values & np.isfinite(slabs(scan, np.nan)["tmax"].values) & (scan["tmax"].values > 4)
        assert table.loc[name, "hypoperfusion_reference"] == pytest.approx(late.sum() * scan.isles.voxel_volume / 1000)


def test_on_a_cluster_of_processes(own: Path, client: Client) -> None:
    cohort = isles24_zarr.open_cohort(own)
    here = cohort.isles.perfusion_table(functools.partial(maps_of, width=8.0), space="ctp", progress=False)
    there = cohort.isles.perfusion_table(
        functools.partial(maps_of, width=8.0), space="ctp", client=client, progress=False
    )
    assert here["error"].isna().all()
    assert there.drop(columns="error").equals(here.drop(columns="error"))
