"""The page of `view` in a real Chromium: what it shows is compared with nibabel and numpy, and with its pixels."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest
import zarr

from isles24_zarr.format.layout import seal
from isles24_zarr.serving import write_page
from tests.browser import Viewer, running_chromium, viewing
from tests.damage import rewrite_table
from tests.oracle import arrays_by_source, scaling_of
from tests.servers import free_port, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

S = "sub-stroke0001"
PLANES = ("axial", "coronal", "sagittal")
HATCH = (255, 107, 94)
AXE = Path(__file__).parent.parent / "viewer" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def viewer(chromium: Any) -> Iterator[Viewer]:
    viewer = Viewer(chromium)
    yield viewer
    assert viewer.faults == []
    viewer.page.close()


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    with viewing(store) as url:
        yield url


@pytest.fixture(scope="module")
def files(store: Path, release: Path) -> dict[str, Path]:
    """The file that each array of a store came from, by the array's path."""
    arrays = arrays_by_source(store)
    return {array.path: release / path for path, array in arrays.items()}


@functools.lru_cache(maxsize=8)
def raw_voxels(file: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The affine of a file, and its voxels as they are stored, with an axis of frames."""
    image = nib.load(file)
    return image.affine, np.asarray(image.dataobj.get_unscaled()).reshape(*image.shape[:3], -1)


def file_value(file: Path, position: list[float], frame: int = 0) -> tuple[float, np.ndarray[Any, Any]]:
    """What nibabel finds at a position in RAS mm: the physical value, and how far off its voxel is, in voxels."""
    affine, raw = raw_voxels(file)
    place = nib.affines.apply_affine(np.linalg.inv(affine), position)
    voxel = tuple(int(i) for i in np.rint(place))
    slope, intercept = scaling_of(file)
    return float(raw[voxel][min(frame, raw.shape[3] - 1)] * slope + intercept), place - np.rint(place)


# --- values ---

CASES = [
    (subject, space, base, overlay)
    for subject in ("sub-stroke0001", "sub-stroke0002", "sub-stroke0004")
    for space, base, overlay in (
        ("ncct", "ncct", "tmax"), ("ncct", "dwi", "cbf"), ("ctp", "ctp", "mtt"), ("cta", "cta", "none"),
    )
]  # fmt: skip


@pytest.mark.parametrize(("subject", "space", "base", "overlay"), CASES)
def test_values_under_the_cursor_are_those_of_the_file(
    viewer: Viewer, url: str, files: dict[str, Path], subject: str, space: str, base: str, overlay: str
) -> None:
    wanted = [name for name in (base, overlay) if name != "none"]
    if any(f"{subject}/space-{space}/{name}" not in files for name in wanted):
        pytest.skip("this subject has no such image here")
    state = viewer.open(
        f"{url}#/{subject}?space={space}&base={base}&overlay={overlay}&frame=1&masks=lesion_mask,cow_mask"
    )
    assert (state["subject"], state["space"], state["base"], state["overlay"] or "none") == (
        subject,
        space,
        base,
        overlay,
    )
    assert state["errors"] == []
    rng = np.random.default_rng(7)
    for plane in PLANES:
        tried = (viewer.hover(plane, *rng.uniform(0.1, 0.9, 2)) for _ in range(60))
        # some are beside the picture
        hovered = list(itertools.islice((found for found in tried if found), 10))
        assert len(hovered) == 10
        for found in hovered:
            held = {base: found["value"], overlay: found["overlayValue"], **found["masks"]}
            for name, value in held.items():
                if name == "none":
                    continue
                wanted_value, off = file_value(files[f"{subject}/space-{space}/{name}"], found["position"], frame=1)
                assert np.abs(off).max() < 0.11, "the middle of a voxel, up to what grids may differ"
                if name.endswith("mask") and value == int(value):
                    wanted_value = round(wanted_value, 3)  # labels are whole numbers in a store
                assert value == pytest.approx(wanted_value, rel=1e-6, abs=1e-6), (name, found)


def test_the_synthetic_scans_are_awkward_enough(files: dict[str, Path]) -> None:
    """What the test above compares holds flipped and tilted grids, and several types."""
    images = [nib.load(file) for name, file in files.items() if "/space-ncct/" in name]
    assert any(nib.aff2axcodes(image.affine) != ("R", "A", "S") for image in images)
    assert any(np.abs(image.affine[:3, :3]).astype(bool).sum() > 3 for image in images)
    assert len({image.get_data_dtype() for image in images}) >= 3


@pytest.mark.parametrize("plane", PLANES)
def test_sides_are_radiological(viewer: Viewer, url: str, plane: str) -> None:
    viewer.open(f"{url}#/{S}")
    across = 1 if plane == "sagittal" else 0
    down = 1 if plane == "axial" else 2
    left, right = (viewer.hover(plane, at, 0.5) for at in (0.4, 0.6))
    upper, lower = (viewer.hover(plane, 0.5, at) for at in (0.4, 0.6))
    assert left
    assert right
    assert upper
    assert lower
    assert left["position"][across] > right["position"][across], "R, or A, is on the left"
    assert upper["position"][down] > lower["position"][down], "A, or S, is on top"
    marks = viewer.page.locator(f".plane-{plane} .mark").all_inner_texts()
    assert set(marks) == {"axial": set("RLAP"), "coronal": set("RLSI"), "sagittal": set("APSI")}[plane]


def test_a_click_leads_all_planes_there_and_draws_the_curve(
    viewer: Viewer, url: str, files: dict[str, Path], store: Path
) -> None:
    viewer.open(f"{url}#/{S}?overlay=none")
    for plane, at in (("axial", (0.55, 0.45)), ("sagittal", (0.45, 0.55))):
        before = viewer.state["curve"]
        hovered = viewer.hover(plane, *at)
        assert hovered
        box = viewer.box(plane)
        viewer.page.mouse.click(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
        state = viewer.until(lambda state, before=before: state["curve"] and state["curve"] != before)
        assert state["position"] == hovered["position"] == state["curvePosition"]
        file = files[f"{S}/space-ncct/ctp"]
        wanted = [file_value(file, state["position"], frame)[0] for frame in range(len(state["curve"]))]
        np.testing.assert_allclose(state["curve"], wanted, rtol=1e-6)
        times = zarr.open_array(store / S / "space-ncct" / "time", mode="r")[...]
        np.testing.assert_array_equal(state["times"], times)
    viewer.key("k")
    assert [kept["curve"] for kept in viewer.state["curves"]] == [state["curve"]]


def test_the_mean_of_a_region_is_that_of_numpy(viewer: Viewer, url: str, store: Path) -> None:
    viewer.open(f"{url}#/{S}?overlay=none&space=ctp")
    viewer.page.select_option("#curve-region", "square")
    box = viewer.box("axial")
    viewer.page.mouse.click(box["x"] + 0.52 * box["width"], box["y"] + 0.47 * box["height"])
    state = viewer.until(lambda state: state["curveMean"] and state["curvePosition"] == state["position"])
    x, y, z = state["voxel"]
    array = zarr.open_array(store / S / "space-ctp" / "ctp", mode="r")
    part = array[:, z, y - 1 : y + 2, x - 1 : x + 2].astype(float)
    scale, offset = array.attrs.get("scale_factor", 1), array.attrs.get("add_offset", 0)
    np.testing.assert_allclose(state["curveMean"], part.mean((1, 2)) * scale + offset, rtol=1e-9)


def test_an_address_with_a_position_shows_that_voxel_and_its_curve(
    viewer: Viewer, url: str, files: dict[str, Path]
) -> None:
    image = nib.load(files[f"{S}/space-ncct/ncct"])
    position = nib.affines.apply_affine(image.affine, np.array(image.shape[:3]) // 3)
    at = ",".join(f"{value:.4f}" for value in position)
    viewer.open(f"{url}#/{S}?space=ncct&base=ctp&overlay=tmax&at={at}&frame=2")
    state = viewer.until(lambda state: state["curve"])
    np.testing.assert_allclose(state["position"], position, atol=1e-3)
    assert state["value"] == pytest.approx(file_value(files[f"{S}/space-ncct/ctp"], list(position), 2)[0])
    assert state["value"] == state["curve"][2]


# --- pixels ---


def placed(viewer: Viewer, plane: str) -> np.ndarray[Any, Any]:
    """Voxels by parts of a canvas, [across, down] = m @ [right, down, 1]: fitted to what the cursor says."""
    across, down = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    rows = []
    for right in np.linspace(0.2, 0.8, 25):
        for at in np.linspace(0.2, 0.8, 25):
            found = viewer.hover(plane, right, at)
            if found:
                rows.append((right, at, 1.0, found["voxel"][across], found["voxel"][down]))
    table = np.array(rows)
    return np.linalg.lstsq(table[:, :3], table[:, 3:], rcond=None)[0].T


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_the_outline_is_where_the_mask_is(viewer: Viewer, url: str, store: Path, plane: str) -> None:
    mask = zarr.open_array(store / S / "space-ncct" / "lesion_mask", mode="r")[...] > 0
    z, y, x = (int(np.median(places)) for places in np.nonzero(mask))
    grid = zarr.open_group(store / S / "space-ncct", mode="r")
    at = ",".join(f"{v:.4f}" for v in (np.array(grid.attrs["affine"]) @ (x, y, z, 1))[:3])
    # a window far above all values: nothing but the outline has a colour
    state = viewer.open(f"{url}#/{S}?overlay=none&masks=lesion_mask&at={at}&window=30000,10")
    assert state["voxel"] == [x, y, z]
    plain = mask[z] if plane == "axial" else mask[:, y]
    picture = viewer.pixels(plane)
    red, green, blue = (picture[..., channel] for channel in range(3))
    line = (red > 150) & (green > 80) & (green < 150) & (blue > 120) & (red > green + 40)
    assert line.any()
    rows, columns = np.nonzero(line)
    to_voxel = placed(viewer, plane)
    height, width = line.shape
    h, v = to_voxel @ np.stack([(columns + 0.5) / width, (rows + 0.5) / height, np.ones(len(rows))])
    padded = np.pad(plain, 3)

    def near(inside: bool) -> np.ndarray[Any, Any]:
        spots = padded == inside
        near = np.zeros(len(h), bool)
        for dv in (-0.75, 0, 0.75):
            for dh in (-0.75, 0, 0.75):
                near |= spots[np.rint(v + dv).astype(int) + 3, np.rint(h + dh).astype(int) + 3]
        return near

    assert (near(inside=True) & near(inside=False)).mean() > 0.98, "each pixel of the line is on an edge of the mask"
    edge = plain & ~(
        np.pad(plain, 1)[:-2, 1:-1]
        & np.pad(plain, 1)[2:, 1:-1]
        & np.pad(plain, 1)[1:-1, :-2]
        & np.pad(plain, 1)[1:-1, 2:]
    )
    drawn = np.zeros_like(padded)
    for dv in (-0.6, 0, 0.6):
        for dh in (-0.6, 0, 0.6):
            drawn[np.rint(v + dv).astype(int) + 3, np.rint(h + dh).astype(int) + 3] = True
    # the crosshair covers some
    assert drawn[3:-3, 3:-3][edge].mean() > 0.9, "each edge of the mask has its line"


def test_what_was_not_computed_of_a_map_is_transparent(viewer: Viewer, url: str, store: Path) -> None:
    """With a base that is black everywhere, colours are where Tmax is above its threshold, and nowhere else."""
    viewer.open(f"{url}#/{S}?overlay=tmax&masks=&window=30000,10&opacity=1&threshold=2")
    picture = viewer.pixels("axial")
    coloured = picture.max(-1) > 60
    crosshair = (picture[..., 2] > picture[..., 0] + 15) & (picture[..., 1] > picture[..., 0])
    z = viewer.state["voxel"][2]
    tmax = zarr.open_array(store / S / "space-ncct" / "tmax", mode="r")[z]
    height, width = coloured.shape
    to_voxel = placed(viewer, "axial")
    rows, columns = np.mgrid[0:height, 0:width]
    h, v = to_voxel @ np.stack([(columns.ravel() + 0.5) / width, (rows.ravel() + 0.5) / height, np.ones(rows.size)])
    inside = (h > 0) & (h < tmax.shape[1] - 1) & (v > 0) & (v < tmax.shape[0] - 1)
    wanted = np.zeros(rows.size, bool)
    wanted[inside] = tmax[np.rint(v[inside]).astype(int), np.rint(h[inside]).astype(int)] > 2
    assert wanted.any()
    counted = ~crosshair.ravel()
    assert (wanted == coloured.ravel())[counted].mean() > 0.97


# --- damage ---


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(store, tmp_path / "isles24.zarr")


def shown_hatching(viewer: Viewer, plane: str) -> float:
    """The part of a canvas in the colour of the stripes, or nearly so."""
    picture = viewer.pixels(plane)
    return float((np.abs(picture - HATCH).max(-1) < 40).mean())


def test_a_flipped_byte_is_shown(viewer: Viewer, copy: Path) -> None:
    array = copy / S / "space-ncct" / "ncct"
    (shard,) = [file for file in (array / "c").rglob("*") if file.is_file()]
    data = bytearray(shard.read_bytes())
    document = json.loads((array / "zarr.json").read_text())
    counts = [
        n // m
        for n, m in zip(
            document["chunk_grid"]["configuration"]["chunk_shape"],
            document["codecs"][0]["configuration"]["chunk_shape"],
            strict=True,
        )
    ]
    index = np.frombuffer(bytes(data[-4 - 16 * int(np.prod(counts)) : -4]), "<u8").reshape(*counts, 2)
    offset, length = (int(value) for value in index[0, 0, 0])
    data[offset + length // 2] ^= 0xFF
    shard.write_bytes(data)
    affine = np.array(zarr.open_group(array.parent, mode="r").attrs["affine"])
    at = ",".join(f"{v:.4f}" for v in (affine @ (1, 1, 1, 1))[:3])
    with viewing(copy) as url:
        state = viewer.open(f"{url}#/{S}?overlay=none&masks=&at={at}")
        assert state["value"] is None
        (told,) = [error for error in state["errors"] if "ncct/ncct" in error]
        assert "0/0/0" in told
        assert "damaged" in told
        assert shown_hatching(viewer, "axial") > 0.005
        assert told in viewer.page.locator(".problems").inner_text()
        # others of the same array are read
        other = viewer.open(f"{url}#/{S}?overlay=none&masks=")
        assert len(counts) == 3
        assert other["value"] is not None or other["errors"]


def test_a_lost_shard_is_shown_and_never_black(viewer: Viewer, copy: Path) -> None:
    for image in ("ncct", "lvo_mask"):
        for file in (copy / S / "space-ncct" / image / "c").rglob("*"):
            if file.is_file():
                file.unlink()
    with viewing(copy) as url:
        state = viewer.open(f"{url}#/{S}?overlay=none&masks=lvo_mask")
        assert state["value"] is None
        assert state["masks"] == {"lvo_mask": None}
        for image in ("ncct", "lvo_mask"):
            assert any(f"space-ncct/{image}/c/0/0/0 is lost" in error for error in state["errors"])
        for plane in PLANES:
            assert shown_hatching(viewer, plane) > 0.02


def test_a_chunk_that_its_shard_does_not_list_is_lost(viewer: Viewer, copy: Path) -> None:
    """Other clients take it for zeros."""
    array = copy / S / "space-ncct" / "ncct"
    node = zarr.open_array(array, mode="r+")
    document = json.loads((array / "zarr.json").read_text())
    voxels = node[...]
    voxels[...] = 0
    (shard,) = [file for file in (array / "c").rglob("*") if file.is_file()]
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_array(array, mode="r+")[...] = np.where(np.arange(voxels.shape[0])[:, None, None] == 0, 1, voxels)
    document["attributes"]["isles24_zarr"]["shards"]["c/0/0/0"] = shard.stat().st_size
    (array / "zarr.json").write_text(json.dumps(document))
    subject = json.loads((copy / S / "zarr.json").read_text())
    subject["consolidated_metadata"]["metadata"]["space-ncct/ncct"]["attributes"] = document["attributes"]
    subject["attributes"]["isles24_zarr"]["seal"] = seal(subject)
    (copy / S / "zarr.json").write_text(json.dumps(subject))
    with viewing(copy) as url:
        state = viewer.open(f"{url}#/{S}?overlay=none&masks=")
        if voxels.shape[0] // 2 < document["codecs"][0]["configuration"]["chunk_shape"][0]:
            pytest.skip("the middle of this scan is in the chunk that is there")
        assert state["value"] is None
        assert any("does not list it" in error for error in state["errors"])


def test_a_server_that_ignores_ranges_is_told(viewer: Viewer, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_page(folder / "page", folder / "isles24.zarr")
    (folder / "isles24.zarr").symlink_to(store)
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with running_server(command, port=port, log=tmp_path / "log"):
        state = viewer.open(f"http://127.0.0.1:{port}/page/#/{S}?overlay=none&masks=")
        assert state["value"] is None
        assert any("ignores byte ranges" in error for error in state["errors"])
        assert shown_hatching(viewer, "axial") > 0.02


# --- the exported page ---


def test_an_exported_page_reads_a_store_of_another_site(viewer: Viewer, store: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    done = subprocess.run(
        [sys.executable, "-m", "isles24_zarr", "view", "--export", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(page / "index.html") in done.stdout
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(page)]
    with running_server(command, port=port, log=tmp_path / "log"), viewing(store) as url:
        state = viewer.open(f"http://127.0.0.1:{port}/?store={url}#/{S}")
        assert state["errors"] == []
        assert state["value"] is not None
        state = viewer.open(f"http://127.0.0.1:{port}/")
        assert any("no store" in error for error in state["errors"])


def test_a_store_of_another_format_is_refused_once(viewer: Viewer, copy: Path, tmp_path: Path) -> None:
    """Also where its subject is missing: the fixture fails for a rejection that nobody handles."""
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["format_version"] = 99
    (copy / "zarr.json").write_text(json.dumps(root))
    write_page(tmp_path / "page", copy)
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with running_server(command, port=port, log=tmp_path / "log"):
        state = viewer.open(f"http://127.0.0.1:{port}/page/#/sub-nobody")
        assert [error.partition(",")[0] for error in state["errors"]] == ["This store has format version 99"]
        viewer.page.wait_for_timeout(300)


# --- traffic ---


def test_no_request_leaves_the_host_and_the_first_slice_takes_few(viewer: Viewer, url: str) -> None:
    viewer.open(f"{url}#/{S}?overlay=none&masks=")
    assert {urlsplit(request.url).netloc for request in viewer.requests} == {urlsplit(url).netloc}
    state = viewer.until(lambda state: not state["waiting"])
    asked = [request for request in viewer.requests if "range" in request.headers]
    first = [request for request in asked if "/ncct/" in request.url]
    # its index, and all of its chunks: those of the other planes are in the same neighbourhood of so small a scan
    assert len(first) <= 4
    assert len(viewer.requests) <= 14
    assert state["requests"] == len([r for r in viewer.requests if "zarr.json" in r.url or "/c/" in r.url])
    assert 0 < state["bytes"] < 2_000_000


def test_slices_that_are_scrolled_past_are_not_read(viewer: Viewer, url: str) -> None:
    """Requests for all frames but the last are held up: they can only end by being cancelled."""
    viewer.open(f"{url}#/{S}?base=ctp&overlay=none&masks=")
    viewer.key("m")
    frames = len(viewer.state["times"])
    held: list[Any] = []
    failed: list[str] = []
    viewer.page.on("requestfailed", lambda request: failed.append(request.url))
    viewer.page.route("**/ctp/c/**", lambda route: held.append(route))  # noqa: PLW0108 - as above
    for _ in range(frames - 2):
        viewer.key(".")
        viewer.page.wait_for_timeout(50)
    viewer.until(lambda _: len(failed) == len(held) - 1)
    viewer.page.route("**/ctp/c/**", lambda route: route.continue_())
    held[-1].continue_()
    state = viewer.settled()
    assert len(failed) >= frames - 4
    assert state["frame"] == frames - 2
    assert state["value"] is not None
    assert state["errors"] == []


# --- people ---


def test_the_keyboard_alone_suffices(viewer: Viewer, url: str) -> None:
    viewer.open(url)
    page = viewer.page
    for _ in range(200):
        viewer.key("Tab")
        if page.evaluate("document.activeElement.matches('tbody a')"):
            break
    viewer.key("ArrowDown", "Enter")
    state = viewer.until(lambda state: state["subject"] and not state["loading"])
    assert state["subject"] == viewer.page.evaluate("location.hash").split("?")[0][2:]
    for _ in range(200):
        viewer.key("Tab")
        if page.evaluate("document.activeElement.dataset.plane === 'axial'"):
            break
    before = state["voxel"]
    viewer.key("PageUp", "ArrowLeft", "ArrowUp", "Enter")
    state = viewer.until(lambda state: state["curve"])
    assert state["voxel"] == [before[0] + 1, before[1] + 1, before[2] + 1]
    viewer.key("o")
    assert viewer.state["overlay"] is None
    viewer.key("o", "]")
    assert viewer.state["overlay"] == "tmax"
    assert viewer.state["threshold"] > 6
    viewer.key("1")
    assert viewer.state["window"] == [40, 80]
    viewer.key("?")
    assert page.locator("dialog[open]").count() == 1
    viewer.key("Escape")
    assert page.locator("dialog[open]").count() == 0
    viewer.key("c")
    viewer.until(lambda state: state["rows"])


def test_back_and_forward(viewer: Viewer, url: str) -> None:
    viewer.open(url)
    viewer.page.locator("tbody a").nth(1).click()
    first = viewer.until(lambda state: state["subject"] and not state["loading"])
    viewer.page.get_by_role("button", name="none").click()
    viewer.until(lambda state: state["overlay"] is None)
    viewer.page.go_back()
    viewer.until(lambda state: state["overlay"] == first["overlay"])
    viewer.page.go_back()
    viewer.until(lambda state: state["rows"])
    viewer.page.go_forward()
    viewer.until(lambda state: state["subject"] == first["subject"])


def test_masks_of_an_address_that_is_followed_are_measured(viewer: Viewer, url: str) -> None:
    viewer.open(f"{url}#/{S}?masks=")
    viewer.page.evaluate("hash => { location.hash = hash; }", f"#/{S}?masks=lesion_mask")
    viewer.until(lambda state: f"{S}/space-ncct/lesion_mask" in state["volumes"])


COUNT_LISTENERS = """
window.heard = 0;  // of what plots listen to: Playwright has listeners of its own
for (const [name, by] of [["addEventListener", 1], ["removeEventListener", -1]]) {
  const before = window[name];
  window[name] = function (...given) {
    if (given[0] === "dppxchange") window.heard += by;
    return before.apply(window, given);
  };
}
"""


def test_the_plot_of_a_subject_that_is_left_is_destroyed(viewer: Viewer, url: str) -> None:
    viewer.page.add_init_script(COUNT_LISTENERS)
    viewer.open(url)
    before = viewer.page.evaluate("heard")
    for subject in (S, S):
        viewer.page.evaluate("hash => { location.hash = hash; }", f"#/{subject}?overlay=none&masks=")
        viewer.until(lambda state, subject=subject: state["subject"] == subject and not state["loading"])
        box = viewer.box("axial")
        viewer.page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        viewer.until(lambda state: state["curve"])
        viewer.page.locator(".curve-plot canvas").wait_for()
        assert viewer.page.evaluate("heard") > before
        viewer.page.evaluate("location.hash = '#/'")
        viewer.until(lambda state: state["rows"])
        assert viewer.page.evaluate("heard") == before


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm ci in viewer/")
@pytest.mark.parametrize("address", ["#/", f"#/{S}", f"#/{S}?base=ctp&overlay=cbf&masks=cow_mask"])
def test_contrast_and_labels_pass_axe(viewer: Viewer, url: str, address: str) -> None:
    viewer.open(f"{url}{address}")
    viewer.page.evaluate(AXE.read_text())
    found = viewer.page.evaluate("axe.run()")
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]] == []


def test_hostile_names_and_values_stay_text(viewer: Viewer, copy: Path) -> None:
    rewrite_table(copy, {"center": HOSTILE})
    subject = json.loads((copy / S / "zarr.json").read_text())
    subject["attributes"]["center"] = HOSTILE
    subject["attributes"][HOSTILE] = HOSTILE
    arrays = subject["consolidated_metadata"]["metadata"]
    arrays["space-ncct/ncct"]["attributes"].update(long_name=HOSTILE, units=HOSTILE)
    arrays["space-ncct/lesion_mask"]["attributes"]["flag_meanings"] = "background " + HOSTILE.replace(" ", "\u00a0")
    # every object of JavaScript has a "constructor"
    arrays["space-ncct/constructor"] = arrays[f"space-ncct/{HOSTILE}"] = {**arrays["space-ncct/ncct"]}
    subject["attributes"]["isles24_zarr"]["seal"] = seal(subject)
    (copy / S / "zarr.json").write_text(json.dumps(subject))
    with viewing(copy) as url:
        viewer.open(url)
        assert HOSTILE in viewer.page.locator("tbody").inner_text()
        viewer.open(f"{url}#/{S}?overlay={HOSTILE}&masks=lesion_mask")
        assert HOSTILE in viewer.page.locator(".clinical").inner_text()
        assert viewer.page.get_by_role("button", name="constructor").count() == 2
        viewer.page.wait_for_timeout(300)
        assert viewer.page.locator("img, main script").count() == 0
    assert viewer.faults == []


def enlarged(store: Path, number: int) -> None:
    """Give the cohort table so many rows."""
    path = store / "phenotype" / "zarr.json"
    document = json.loads(path.read_text())
    columns = document["attributes"]["isles24_zarr"]["columns"]
    for name, values in columns.items():
        if name != "image":
            columns[name] = [values[row % len(values)] for row in range(number)]
    columns["subject"] = [f"sub-stroke{row + 1:04d}" for row in range(number)]
    columns["age"] = [None if row % 10 == 9 else 40 + row % 50 for row in range(number)]
    document["attributes"]["isles24_zarr"]["seal"] = seal(document)
    path.write_text(json.dumps(document))


def test_149_subjects_sorted_and_filtered(viewer: Viewer, copy: Path) -> None:
    enlarged(copy, 149)
    with viewing(copy) as url:
        assert len(viewer.open(url)["rows"]) == 149
        page = viewer.page
        assert page.locator("tbody tr[data-subject]").count() == 149
        # documents of the root and of the table, and the question for results of others
        assert viewer.state["requests"] == 3
        page.get_by_label("Age from").fill("80")
        ages = [40 + (int(name[-4:]) - 1) % 50 for name in viewer.state["rows"]]
        assert len(ages) == len([1 for row in range(149) if row % 10 != 9 and 40 + row % 50 >= 80])
        assert min(ages) >= 80
        page.get_by_role("button", name="Age y").click()
        ages = [40 + (int(name[-4:]) - 1) % 50 for name in viewer.state["rows"]]
        assert ages == sorted(ages)
        page.get_by_label("Age from").fill("")
        rows = viewer.state["rows"]
        assert [(int(name[-4:]) - 1) % 10 == 9 for name in rows] == [False] * 135 + [True] * 14, "missing comes last"
        page.get_by_label("Find").fill("stroke0007")
        assert viewer.state["rows"] == ["sub-stroke0007"]
        assert page.locator("tbody tr[data-subject]").count() == 1


def test_1490_subjects_are_rows_as_they_are_seen(viewer: Viewer, copy: Path) -> None:
    enlarged(copy, 1490)
    with viewing(copy) as url:
        assert len(viewer.open(url)["rows"]) == 1490
        assert viewer.page.locator("tbody tr[data-subject]").count() < 100
        viewer.page.locator("tbody a").first.focus()
        viewer.key("End")
        assert viewer.page.evaluate("document.activeElement.textContent") == "sub-stroke1490"


def with_results(store: Path, pipeline: str) -> Path:
    """Give a subject a result on the grid of its NCCT, 2 s more than Tmax, as another pipeline would have left it."""
    there = store / S / "space-ncct"
    mine = store / "derivatives" / pipeline / S / "space-ncct"
    shutil.copytree(there / "tmax", mine / "tmax")
    for name in "xyz":
        shutil.copytree(there / name, mine / name)
    shutil.copy(there / "zarr.json", mine / "zarr.json")
    subject = json.loads((store / S / "zarr.json").read_text())
    metadata = subject["consolidated_metadata"]["metadata"]
    tmax = {**metadata["space-ncct/tmax"]}
    tmax["attributes"] = {"units": "s", "long_name": "Tmax of ours", "add_offset": 2.0}
    held = {"space-ncct": metadata["space-ncct"], "space-ncct/tmax": tmax}
    document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": held}
    (mine.parent / "zarr.json").write_text(json.dumps({**document, "consolidated_metadata": consolidated}))
    listed = {**document, "attributes": {"pipelines": [pipeline, "../..", "none-of-this"]}}
    (store / "derivatives" / "zarr.json").write_text(json.dumps(listed))
    return mine


def test_results_of_others_are_offered(viewer: Viewer, copy: Path) -> None:
    with_results(copy, "ours-1")
    with viewing(copy) as url:
        state = viewer.open(f"{url}#/{S}?overlay=ours-1:tmax&base=tmax&masks=")
        assert state["errors"] == []
        assert state["overlay"] == "ours-1:tmax"
        assert state["overlayValue"] == pytest.approx(state["value"] + 2)
        assert viewer.page.get_by_role("button", name="Tmax (ours-1)").count() == 2
        # another subject has none
        state = viewer.open(f"{url}#/sub-stroke0002")
        assert state["errors"] == []


def test_a_curve_has_the_units_of_its_series(viewer: Viewer, copy: Path) -> None:
    subject = json.loads((copy / S / "zarr.json").read_text())
    subject["consolidated_metadata"]["metadata"]["space-ncct/ctp"]["attributes"]["units"] = "mmol/L"
    (copy / S / "zarr.json").write_text(json.dumps(subject))
    with viewing(copy) as url:
        viewer.open(f"{url}#/{S}?overlay=none&masks=&at=0,0,0")
        viewer.until(lambda state: state["curve"] is not None)
        said = viewer.page.locator(".curve-numbers").first.inner_text()
        assert re.fullmatch(r"baseline \S+, peak \+\S+ mmol/L at \S+ s", said)


def test_volumes_are_those_of_the_masks(viewer: Viewer, url: str, store: Path) -> None:
    viewer.open(f"{url}#/{S}?masks=lesion_mask,cow_mask")
    state = viewer.until(lambda state: len(state["volumes"]) == 2)
    for path, volumes in state["volumes"].items():
        mask = zarr.open_array(store / path, mode="r")[...]
        millilitres = (
            abs(np.linalg.det(np.array(zarr.open_group((store / path).parent, mode="r").attrs["affine"]))) / 1000
        )
        labels, counts = np.unique(mask[mask > 0], return_counts=True)
        assert volumes == {
            str(label): pytest.approx(count * millilitres) for label, count in zip(labels, counts, strict=True)
        }
    viewer.open(f"{url}#/")
    viewer.page.get_by_role("button", name="Measure infarcts").click()
    viewer.until(lambda _: viewer.page.get_by_role("button", name="Infarct volume mL").count() == 1)


def test_the_series_is_played_frame_by_frame(viewer: Viewer, url: str) -> None:
    viewer.open(f"{url}#/{S}?overlay=none&masks=")
    viewer.key("Space")
    seen = set()
    for frame in (1, 2, 3):
        state = viewer.until(lambda state, frame=frame: state["frame"] >= frame)
        seen.add(state["base"])
    assert seen == {"ctp"}
    assert state["playing"]
    viewer.key("Space")
    assert not viewer.state["playing"]


def test_windows_by_keys_and_by_dragging(viewer: Viewer, url: str) -> None:
    """As `.window` of the package has them: centre and width."""
    from isles24_zarr.vocabulary import CT_WINDOWS

    viewer.open(f"{url}#/{S}?overlay=none&masks=")
    for key, (centre, width) in enumerate(CT_WINDOWS.values(), start=1):
        viewer.key(str(key))
        assert viewer.state["window"] == [centre, width]
    viewer.key("1")
    picture = viewer.pixels("axial")
    box = viewer.box("axial")
    viewer.page.mouse.move(box["x"] + 100, box["y"] + 100)
    viewer.page.mouse.down(button="right")
    viewer.page.mouse.move(box["x"] + 160, box["y"] + 60, steps=4)
    viewer.page.mouse.up(button="right")
    centre, width = viewer.state["window"]
    assert width > 80
    assert centre > 40
    assert (viewer.pixels("axial") != picture).any()
    assert viewer.state["curve"] is None, "dragging is no click"


def test_wheel_and_zoom(viewer: Viewer, url: str) -> None:
    before = viewer.open(f"{url}#/{S}?overlay=none&masks=")["voxel"]
    viewer.hover("axial", 0.5, 0.5)
    viewer.page.mouse.wheel(0, -120)
    viewer.until(lambda state: state["voxel"] == [before[0], before[1], before[2] + 1])
    left, right = (viewer.hover("axial", at, 0.5) for at in (0.45, 0.55))
    assert left
    assert right
    viewer.page.locator("canvas[data-plane=axial]").focus()
    viewer.key("+", "+", "+", "+")
    nearer = [viewer.hover("axial", at, 0.5) for at in (0.45, 0.55)]
    assert all(nearer)
    assert nearer[0]["voxel"][0] - nearer[1]["voxel"][0] < left["voxel"][0] - right["voxel"][0]  # type: ignore[index]
    viewer.key("0")
    assert viewer.hover("axial", 0.45, 0.5) == left


def test_who_is_sent_an_address_sees_the_same_place(viewer: Viewer, url: str) -> None:
    viewer.open(f"{url}#/{S}?overlay=none&masks=")
    viewer.hover("axial", 0.4, 0.4)
    viewer.page.keyboard.down("Control")
    viewer.page.mouse.wheel(0, -400)
    viewer.page.keyboard.up("Control")
    viewer.page.locator("canvas[data-plane=sagittal]").focus()
    viewer.key("Shift+ArrowLeft", "+", "x", "m")
    seen = viewer.state
    assert seen["plane"] == "sagittal"
    assert not seen["crosshair"]
    assert seen["zoom"]["axial"]["zoom"] > 2
    viewer.key("m")
    places = {plane: viewer.hover(plane, 0.5, 0.5) for plane in ("axial", "coronal", "sagittal")}
    viewer.key("m")
    address = viewer.address(lambda url: "plane=sagittal" in url and "crosshair=none" in url and "zoom=" in url)
    viewer.page.goto("about:blank")
    viewer.page.set_viewport_size({"width": 1700, "height": 1000})
    came = viewer.open(address)
    assert (came["plane"], came["crosshair"]) == ("sagittal", False)
    assert viewer.page.locator("section.plane:visible").count() == 1
    assert came["zoom"].keys() == seen["zoom"].keys() == {"axial", "sagittal"}
    viewer.page.locator("canvas[data-plane=sagittal]").focus()
    viewer.key("m")
    assert viewer.page.locator("section.plane:visible").count() == 3
    for plane, place in places.items():
        now = viewer.hover(plane, 0.5, 0.5)
        assert place
        assert now
        np.testing.assert_allclose(now["voxel"], place["voxel"], atol=1)


def test_the_value_is_that_of_the_picture_under_the_cursor_also_when_the_picture_moves(
    viewer: Viewer, url: str
) -> None:
    viewer.open(f"{url}#/{S}?overlay=none&masks=")
    before = viewer.hover("axial", 0.42, 0.45)
    assert before
    viewer.page.mouse.wheel(0, -120)
    moved = viewer.until(lambda state: state["cursor"]["voxel"] != before["voxel"])
    assert moved["cursor"]["voxel"] == [*before["voxel"][:2], before["voxel"][2] + 1]
    told = viewer.page.locator(".readout").inner_text()
    assert f"voxel {', '.join(map(str, moved['cursor']['voxel']))}" in told
    viewer.page.locator("canvas[data-plane=axial]").focus()
    viewer.key("+", "+", "Shift+ArrowUp")
    nearer = viewer.until(lambda state: state["cursor"]["voxel"] != moved["cursor"]["voxel"])["cursor"]
    assert viewer.hover("axial", 0.42, 0.45) == nearer
    viewer.key("m")
    assert viewer.hover("axial", 0.5, 0.5)
    viewer.page.mouse.move(5, 5)
    assert viewer.until(lambda state: state["cursor"] is None)


def test_the_next_subject_is_seen_in_the_same_way(viewer: Viewer, url: str) -> None:
    state = viewer.open(f"{url}#/{S}")
    viewer.page.locator("a[data-step='1']").wait_for()
    viewer.page.locator("canvas[data-plane=coronal]").focus()
    viewer.key("o", "x", "m", "n")
    state = viewer.until(lambda state: state["subject"] not in (None, S) and not state["loading"])
    assert (state["overlay"], state["crosshair"], state["plane"]) == (None, False, "coronal")


def test_back_brings_back_what_was_seen(viewer: Viewer, url: str) -> None:
    """Curves, and what another space has not; a loop of frames ends."""
    viewer.open(f"{url}#/{S}?space=ncct")
    box = viewer.box("axial")
    viewer.page.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
    viewer.until(lambda state: state["curve"])
    viewer.key("k")
    viewer.page.mouse.wheel(0, -240)
    seen = viewer.settled()
    shown = ("space", "base", "overlay", "voxel", "volumes", "curves")
    viewer.page.locator(".choice", has_text="CTA as acquired").click()
    there = viewer.until(lambda state: state["space"] == "cta" and not state["loading"])
    assert there["overlay"] is None
    assert there["errors"] == []
    viewer.page.go_back()
    back = viewer.until(lambda state: state["space"] == "ncct" and len(state["curves"]) == 1 and not state["loading"])
    assert {name: back[name] for name in shown} == {name: seen[name] for name in shown}
    viewer.key(" ")
    viewer.until(lambda state: state["playing"] and state["base"] == "ctp")
    viewer.page.go_back()
    assert viewer.until(lambda state: state["base"] == "ncct")["playing"] is False


def test_limits_of_results_of_others_are_the_same_wherever_one_begins(viewer: Viewer, url: str) -> None:
    windows = []
    for at in ("0,0,5", "0,0,40"):
        viewer.open(f"{url}#/{S}?base=dwi&overlay=none&masks=&at={at}")
        windows.append(viewer.until(lambda state: state["window"] != [0.5, 1])["window"])
    assert windows[0] == windows[1]


def test_kept_curves_come_back_by_the_address(viewer: Viewer, url: str) -> None:
    viewer.open(f"{url}#/{S}?overlay=none&masks=")
    box = viewer.box("axial")
    for right in (0.45, 0.55):
        before = viewer.state["curve"]
        viewer.page.mouse.click(box["x"] + right * box["width"], box["y"] + 0.5 * box["height"])
        viewer.until(lambda state, before=before: state["curve"] and state["curve"] != before)
        viewer.key("k")
    kept = viewer.state["curves"]
    assert len(kept) == 2
    state = viewer.open(viewer.address(lambda url: url.count(";") == 1))
    state = viewer.until(lambda state: len(state["curves"]) == 2)
    assert [curve["curve"] for curve in state["curves"]] == [curve["curve"] for curve in kept]
    viewer.page.get_by_label("drop the curve").first.click()
    assert viewer.state["curves"] == state["curves"][1:]
    viewer.address(lambda url: url.count(";") == 0)
