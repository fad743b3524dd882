"""Figures: what they show is read back from their pixels and artists, and compared with what went in."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import isles24_zarr
from isles24_zarr.errors import GeometryError, MissingExtraError, UnknownNameError
from isles24_zarr.figures import _style as figures
from isles24_zarr.figures import slices as plot
from isles24_zarr.figures.slices import montage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPE = (20, 48, 40)
SPACING = (4.0, 4.0, 6.0)
CYAN, MAGENTA = (0, 229, 255), (255, 79, 216)


def make_scan(
    images: dict[str, Any], *, spacing: tuple[float, float, float] = SPACING, **attributes: object
) -> xr.Dataset:
    """Return a Dataset as it comes from a store; x, y and z are 0 in the middle of the volume."""
    shape = next(iter(images.values())).shape[-3:]
    coords = {}
    for axis, (name, count, step) in enumerate(zip("xyz", shape[::-1], spacing, strict=True)):
        attrs = {"units": "mm", "direction": np.eye(3)[axis].tolist(), "spacing": step}
        coords[name] = xr.Variable(name, step * (np.arange(count) - (count - 1) / 2), attrs)
    series = [values for values in images.values() if values.ndim == 4]
    if series:
        coords["time"] = xr.Variable("time", np.arange(float(series[0].shape[0])), {"units": "s"})
    dims = ("time", "z", "y", "x")
    variables = {name: (dims[-values.ndim :], values) for name, values in images.items()}
    return xr.Dataset(variables, coords, {"subject": "sub-stroke0007", "orientation": "RAS", **attributes})


def positions(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, float, float] = SPACING) -> tuple[Any, Any, Any]:
    """Return z, y and x in mm, broadcastable to the shape."""
    z, y, x = (step * (np.arange(n) - (n - 1) / 2) for n, step in zip(shape, spacing[::-1], strict=True))
    return z[:, None, None], y[:, None], x


def numbered_slices(scale: float = 0.1) -> np.ndarray:
    """Return a map whose value tells the slice, from 1 on."""
    return np.broadcast_to(scale * np.arange(1, SHAPE[0] + 1)[:, None, None], SHAPE).astype(np.float32)


def box_mask(z: slice, y: slice = slice(20, 30), x: slice = slice(10, 18)) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint16)
    mask[z, y, x] = 1
    return mask


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def shown_slices(figure: Figure) -> list[int]:
    """Return which slices of `numbered_slices` the panels show."""
    return [round(float(axes.images[0].get_array().mean()) * 10) - 1 for axes in panels(figure)]


def pixels(figure: Figure, axes: Axes) -> np.ndarray:
    """Return what is seen of a panel, (row, column, RGB), the first row at the top."""
    if figure.stale:
        figure.canvas.draw()
    whole = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
    box = axes.get_window_extent()
    rows = slice(round(whole.shape[0] - box.y1) + 1, round(whole.shape[0] - box.y0) - 1)
    return whole[rows, round(box.x0) + 1 : round(box.x1) - 1]


def centre_of_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Return row and column, as fractions of the panel, of the middle of what has a colour."""
    found = np.argwhere(np.abs(picture - colour).sum(axis=-1) < 60)
    assert found.size, "the colour is nowhere"
    row, column = found.mean(axis=0) / picture.shape[:2]
    return float(row), float(column)


# --- geometry ---


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("image", ["ncct", "tmax"])
def test_right_is_on_the_left_and_front_at_the_top(image: str, axis: str, step: int) -> None:
    _, y, x = positions()
    bright, dark = (54, 20) if image == "ncct" else (11, 1)
    voxels = np.broadcast_to(np.where((x > 0) & (y > 0), bright, dark), SHAPE)
    scan = make_scan({image: voxels}).isel({axis: slice(None, None, step)})
    figure = montage(scan, slices=1)
    picture = pixels(figure, panels(figure)[0]).mean(axis=-1)
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    quarters = {
        "front right": picture[:rows, :columns],
        "front left": picture[:rows, columns:],
        "back right": picture[rows:, :columns],
        "back left": picture[rows:, columns:],
    }
    means = {name: quarter.mean() for name, quarter in quarters.items()}
    front_right = means.pop("front right")
    assert front_right > 2 * max(means.values())
    marks = {text.get_text(): text.get_position()[0] for text in panels(figure)[0].texts}
    assert marks.keys() == {"R", "L"}
    assert marks["R"] < 0.5 < marks["L"]


def test_sides_are_not_named_where_the_file_did_not_tell() -> None:
    figure = montage(make_scan({"ncct": np.full(SHAPE, 40)}, orientation="unknown"))
    assert not any(text.get_text() for axes in panels(figure) for text in axes.texts)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (0.5, 2.0, 5.0), (2.5, 0.8, 5.0)])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("size", [(4.0, 4.0), (6.0, 4.0)])
def test_a_ball_is_round(spacing: tuple[float, float, float], stride: int, size: tuple[float, float]) -> None:
    shape = (5, round(120 / spacing[1]), round(120 / spacing[0]))
    z, y, x = positions(shape, spacing)
    ball = x**2 + y**2 + z**2 < 40**2
    scan = make_scan({"dwi": np.where(ball, 1000.0, 1.0)}, spacing=spacing).isel(x=slice(None, None, stride))
    figure = montage(scan, slices=1)
    figure.set_size_inches(*size)
    bright = pixels(figure, panels(figure)[0]).mean(axis=-1) > 60
    bright[: bright.shape[0] // 8] = False  # where R and L are written
    height, width = (np.flatnonzero(bright.any(axis=axis)).size for axis in (1, 0))
    assert width > 150
    assert width / height == pytest.approx(1, abs=0.02 + 2 * stride * max(spacing[:2]) / 80)
    assert bright.sum() == pytest.approx(np.pi / 4 * width * height, rel=0.06)


def test_the_view_is_cropped_to_the_head_for_all_rows() -> None:
    shape, spacing = (4, 200, 160), (1.0, 1.0, 5.0)
    z, y, x = positions(shape, spacing)
    head = (x + 10) ** 2 / 40**2 + y**2 / 60**2 + 0 * z < 1
    ncct = np.where(head, 40, -1000)
    ncct[:, 5, 3] = 40  # a thread of the pillow
    unseen = np.where(np.abs(x) < 75, ncct, 0)  # registered CT is 0 where the scanner did not look
    figure = montage(make_scan({"ncct": ncct, "cta": unseen, "dwi": np.ones(shape)}, spacing=spacing))
    for axes in panels(figure):
        right, left = axes.get_xlim()
        assert 30 <= right <= 36
        assert -56 <= left <= -50
        assert axes.get_ylim() == pytest.approx((-63, 63), abs=3)


# --- slices ---


def test_slices_spread_over_the_infarct_and_hold_its_largest_part() -> None:
    mask = box_mask(slice(4, 16))
    mask[9, 10:40, 5:30] = 1
    chosen = shown_slices(montage(make_scan({"tmax": numbered_slices(), "lesion_mask": mask})))
    assert len(chosen) == 4
    assert 9 in chosen
    assert all(mask[index].any() for index in chosen)
    assert chosen == sorted(set(chosen))
    assert chosen[-1] - chosen[0] >= 7


@pytest.mark.parametrize(
    ("lesion", "expected"),
    [
        pytest.param(None, [2, 7, 12, 17], id="no mask"),
        pytest.param(slice(0, 0), [2, 7, 12, 17], id="empty mask"),
        pytest.param(slice(0, 2), [0, 1, 2, 3], id="few slices, at the edge"),
        pytest.param(slice(9, 10), [7, 8, 9, 10], id="a single slice"),
    ],
)
def test_slices_where_there_is_little_or_no_infarct(lesion: slice | None, expected: list[int]) -> None:
    images: dict[str, Any] = {"tmax": numbered_slices()}
    if lesion is not None:
        images["lesion_mask"] = box_mask(lesion)
    assert shown_slices(montage(make_scan(images))) == expected


@pytest.mark.parametrize("largest", [10, 13])
@pytest.mark.parametrize(("slices", "expected"), [(4, True), (3, True), (2, False), (1, False)])
def test_one_of_several_slices_shows_the_occlusion(slices: int, largest: int, *, expected: bool) -> None:
    masks = {"lesion_mask": box_mask(slice(10, 18)), "lvo_mask": box_mask(slice(3, 5))}
    masks["lesion_mask"][largest, 5:40, 5:30] = 1
    chosen = shown_slices(montage(make_scan({"tmax": numbered_slices(), **masks}), slices=slices))
    assert len(set(chosen)) == slices
    assert largest in chosen
    assert any(index in (3, 4) for index in chosen) == expected
    assert sum(10 <= index < 18 for index in chosen) == slices - expected


def test_no_more_slices_than_there_are() -> None:
    scan = make_scan({"tmax": numbered_slices()}).isel(z=slice(5, 8))
    assert shown_slices(montage(scan, slices=9)) == [5, 6, 7]


@given(
    lesion=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    occlusion=st.integers(-1, 39),
    wanted=st.integers(1, 12),
)
def test_chosen_slices_always_hold_what_matters(lesion: list[int], occlusion: int, wanted: int) -> None:
    area, marked = np.array(lesion), np.zeros(len(lesion), int)
    if 0 <= occlusion < marked.size:
        marked[occlusion] = 3
    chosen = plot._chosen_slices({"lesion_mask": area, "lvo_mask": marked}, area.size, wanted)
    assert len(chosen) == min(wanted, area.size)
    assert chosen == sorted(set(chosen))
    assert area[chosen].max() == area.max()
    if len(chosen) >= 3 and marked.any():
        assert marked[chosen].any()
    outside = sum(area[index] == 0 and not marked[index] for index in chosen)
    assert outside <= max(0, len(chosen) - np.count_nonzero(area))


# --- rows ---


def test_rows_are_the_usual_images_that_are_there_or_those_asked_for() -> None:
    names = ("adc", "cbv", "dwi", "mtt", "ncct", "tmax")
    scan = make_scan({name: np.full(SHAPE, 3.0) for name in names})

    def labels(figure: Figure) -> list[str]:
        known = {"NCCT", "CTA", "CTP", "Tmax", "MTT", "CBF", "CBV", "DWI", "ADC"}
        found = [text for text in figure.texts if text.get_text() in known]
        return [text.get_text() for text in sorted(found, key=lambda text: -text.get_position()[1])]

    assert labels(montage(scan)) == ["NCCT", "Tmax", "DWI", "ADC"]
    assert labels(montage(scan[["mtt", "cbv"]])) == ["MTT", "CBV"]
    asked = montage(scan, images=["cbv", "ncct", "mtt"], slices=2)
    assert labels(asked) == ["CBV", "NCCT", "MTT"]
    tops = [axes.get_position().y1 for axes in panels(asked)]
    assert tops == sorted(tops, reverse=True)
    assert len(tops) == 6
    assert len(asked.axes) == 6 + 2, "a colour bar for each map and for nothing else"


@pytest.mark.parametrize(
    ("name", "limits", "caption"),
    [
        ("ncct", (15, 55), "stroke window\nW 40  L 35 HU"),
        ("cta", (0, 600), "angio window\nW 600  L 300 HU"),
        ("ctp", (0, 80), "brain window\nW 80  L 40 HU"),
        ("tmax", (0, 12), "0 to 12 s"),
        ("mtt", (0, 16), "0 to 16 s"),
        ("cbf", (0, 80), "0 to 80\nmL/100 g/min"),
        ("cbv", (0, 8), "0 to 8\nmL/100 g"),
        ("dwi", (0, 250), "at follow-up\n0 to 250\nas released"),
        ("adc", (0, 250), "at follow-up\n0 to 250\nas released"),
    ],
)
def test_ranges_are_those_that_the_caption_states(name: str, limits: tuple[float, float], caption: str) -> None:
    voxels = np.full(SHAPE, 100.0)
    voxels[:, :8] = 2  # the noise of air, and of nothing at all
    voxels[:, 8:16] = 0
    voxels[:, 16:20] = 900
    figure = montage(make_scan({name: voxels}))
    assert {axes.images[0].get_clim() for axes in panels(figure)} == {limits}
    assert caption in texts(figure)


def test_of_a_series_the_mean_of_the_frames_in_the_caption_is_shown() -> None:
    frames = np.arange(30.0)[:, None, None, None] + np.zeros(SHAPE)
    figure = montage(make_scan({"ctp": frames + 20}))
    first, last = next(re.findall(r"mean of (\d+) to (\d+) s", text) for text in texts(figure) if "mean" in text)[0]
    assert 1 < int(last) - int(first) < 8
    for axes in panels(figure):
        np.testing.assert_allclose(axes.images[0].get_array(), (int(first) + int(last)) / 2 + 20)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_short_series(frames: int) -> None:
    series = np.arange(float(frames))[:, None, None, None] + np.full(SHAPE, 40.0)
    figure = montage(make_scan({"ctp": series}))
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), 40 + (frames - 1) / 2)


def test_a_frame_that_is_not_finite_is_not_averaged_away() -> None:
    series = np.full((3, *SHAPE), 40.0)
    series[1, :, 20:] = np.nan
    shown = panels(montage(make_scan({"ctp": series})))[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown).any(axis=1), np.arange(SHAPE[1]) >= 20)


def test_a_single_frame_is_an_image_like_any_other() -> None:
    scan = make_scan({"ctp": np.arange(3.0)[:, None, None, None] + np.full(SHAPE, 40.0)}).isel(time=2)
    figure = montage(scan)
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), 42)
    assert not any("mean" in text for text in texts(figure))


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 0.0])
def test_voxels_of_a_map_that_say_nothing_are_transparent(hole: float) -> None:
    _, _, x = positions()
    voxels = np.broadcast_to(np.where(x > 0, hole, 7.0), SHAPE)
    figure = montage(make_scan({"cbf": voxels, "ncct": np.full(SHAPE, 30)}), images=["cbf", "ncct"], slices=1)
    axes = panels(figure)[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(axes.images[0].get_array()), voxels[0] != 7)
    picture = pixels(figure, axes)
    right, left = picture[40:, : picture.shape[1] // 2 - 4], picture[40:, picture.shape[1] // 2 + 4 :]
    assert not right.any()
    assert (left.sum(axis=-1) > 100).all()


def test_slices_without_any_voxel_are_said_to_be_so() -> None:
    voxels = numbered_slices()
    voxels[10:] = 0
    figure = montage(make_scan({"tmax": voxels, "ncct": np.full(SHAPE, 30)}), images=["tmax"])
    found = ["no data" in [text.get_text() for text in axes.texts] for axes in panels(figure)]
    assert found == [False, False, True, True]


def test_absurd_maps_are_drawn_all_the_same() -> None:
    images = {"tmax": np.full(SHAPE, np.nan), "cbf": np.full(SHAPE, 1e300), "dwi": np.full(SHAPE, -np.inf)}
    figure = montage(make_scan({**images, "adc": np.zeros(SHAPE, np.uint8)}))
    assert len(panels(figure)) == 16
    figure.canvas.draw()


# --- outlines, title ---


@pytest.mark.parametrize("step", [1, -1])
def test_outlines_run_between_voxels_in_and_out(step: int) -> None:
    lesion, clot = box_mask(slice(None)), box_mask(slice(None), slice(30, 34), slice(36, 40))  # the latter at the edge
    scan = make_scan({"ncct": np.full(SHAPE, 40), "lesion_mask": lesion, "lvo_mask": clot}, spacing=(3.0, 4.0, 5.0))
    axes = panels(montage(scan.isel(x=slice(None, None, step))))[0]
    boxes = [line.get_paths()[0].get_extents() for line in axes.collections]
    corner = np.array([-3.0 * 20, -4.0 * 24])  # of the volume
    for box, (x, y) in zip(boxes, [((10, 18), (20, 30)), ((36, 40), (30, 34))], strict=True):
        np.testing.assert_allclose([box.x0, box.x1], corner[0] + 3 * np.array(x), atol=1e-9)
        np.testing.assert_allclose([box.y0, box.y1], corner[1] + 4 * np.array(y), atol=1e-9)


def test_outlines_are_seen_in_their_colours_and_named() -> None:
    lesion, clot = box_mask(slice(8, 12)), box_mask(slice(8, 12), slice(20, 24), slice(30, 34))
    scan = make_scan({"ncct": np.full(SHAPE, 40), "lesion_mask": lesion, "lvo_mask": clot})
    figure = montage(scan)
    picture = pixels(figure, panels(figure)[0])
    assert centre_of_colour(picture, CYAN)[1] > 0.55
    assert centre_of_colour(picture, MAGENTA)[1] < 0.3
    (legend,) = figure.legends
    named = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    assert named == {"final infarct": "#00e5ff", "vessel occlusion": "#ff4fd8"}


@pytest.mark.parametrize(
    ("masks", "legend"),
    [
        ({}, []),
        ({"lvo_mask": slice(5, 6)}, ["vessel occlusion"]),
        ({"lesion_mask": slice(5, 6), "lvo_mask": slice(0)}, ["final infarct"]),
        ({"lesion_mask": slice(0)}, []),
    ],
)
def test_masks_that_are_absent_or_empty(masks: dict[str, slice], legend: list[str]) -> None:
    images = {"ncct": np.full(SHAPE, 40), **{name: box_mask(z) for name, z in masks.items()}}
    figure = montage(make_scan(images))
    assert [text.get_text() for each in figure.legends for text in each.texts] == legend
    assert len([line for axes in panels(figure) for line in axes.collections]) == len(legend)


def test_title_states_subject_and_volume() -> None:
    mask = np.zeros(SHAPE)
    mask[3, 4, 5], mask[7, 8, 9:11] = 1, 2
    images = {"ncct": np.full(SHAPE, 40), "lesion_mask": mask}
    scan = make_scan(images, spacing=(10.0, 20.0, 123.0))
    assert "sub-stroke0007,  final infarct 73.8 mL" in texts(montage(scan))
    assert "sub-stroke0007" in texts(montage(scan.drop_vars("lesion_mask")))
    assert "mine" in texts(montage(scan, title="mine"))
    assert not any("sub-stroke" in text for text in texts(montage(scan, title="mine")))


# --- what it costs, what it refuses ---


class Recorded:
    """A volume or series on Dask in blocks of one slice of one frame, which tell when they are computed."""

    def __init__(self, voxels: np.ndarray) -> None:
        self.blocks: list[tuple[int, ...]] = []
        chunks = (*(1 for _ in voxels.shape[:-2]), *voxels.shape[-2:])
        self.array = da.from_array(voxels, chunks=chunks).map_blocks(self._compute, dtype=voxels.dtype)

    def _compute(self, block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            self.blocks.append(tuple(start for start, _ in block_info[0]["array-location"][:-2]))
        return block


def test_only_what_is_shown_is_loaded_and_that_once() -> None:
    volumes = {"tmax": numbered_slices(), "ncct": np.full(SHAPE, 40), "lesion_mask": box_mask(slice(6, 16))}
    volumes["ctp"] = np.full((40, *SHAPE), 40, np.int16)
    volumes["mtt"] = numbered_slices()
    recorded = {name: Recorded(voxels) for name, voxels in volumes.items()}
    # a client that other tests have started would compute in other processes
    with dask.config.set(scheduler="threads"):
        figure = montage(make_scan({name: each.array for name, each in recorded.items()}))
    chosen = shown_slices(figure)[8:12]
    assert set(recorded["tmax"].blocks) == {(index,) for index in chosen}
    assert sorted(recorded["tmax"].blocks) == sorted(recorded["ncct"].blocks)
    assert len(recorded["ncct"].blocks) == 4
    assert recorded["mtt"].blocks == []
    assert {z for _, z in recorded["ctp"].blocks} == set(chosen)
    assert len(recorded["ctp"].blocks) == len(set(recorded["ctp"].blocks)) <= 4 * 5
    # once to choose slices, and the chosen ones for the outlines
    assert len(recorded["lesion_mask"].blocks) == SHAPE[0] + 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": ["tmax"]}, "'tmax': is no image of this scan that can be shown, there are ncct"),
        ({"images": ["lesion_mask"]}, "'lesion_mask': is no image of this scan"),
        ({"images": []}, "images: name one or more to be shown"),
        ({"slices": 0}, "0: is not a number of slices"),
    ],
)
def test_impossible_requests(options: dict[str, Any], says: str) -> None:
    scan = make_scan({"ncct": np.full(SHAPE, 40), "lesion_mask": box_mask(slice(5, 8))})
    with pytest.raises(UnknownNameError, match=says):
        montage(scan, **options)


def test_scans_that_cannot_be_drawn() -> None:
    scan = make_scan({"ncct": np.full(SHAPE, 40), "lesion_mask": box_mask(slice(5, 8))})
    with pytest.raises(UnknownNameError, match="there are none"):
        montage(scan[["lesion_mask"]])
    with pytest.raises(GeometryError, match=r"ncct: has lost an axis, what is left is \(z, x\)"):
        montage(scan.isel(y=3))
    with pytest.raises(GeometryError, match="no coordinate z"):
        montage(scan.drop_vars("z"))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    figures.figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'isles24-zarr[plot]'")):
        montage(make_scan({"ncct": np.full(SHAPE, 40)}))


def test_pyplot_is_not_needed_and_matplotlib_not_before_drawing() -> None:
    code = """
import sys
from tests.test_plot import SHAPE, make_scan, montage
import numpy as np
before = "matplotlib" in sys.modules
figure = montage(make_scan({"ncct": np.full(SHAPE, 40), "tmax": np.full(SHAPE, 4)}))
figure.canvas.draw()
print(before, "matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == ["False", "True", "False"]


def test_a_notebook_shows_what_a_file_holds(tmp_path: Path) -> None:
    figure = montage(make_scan({"ncct": np.full(SHAPE, 40)}))
    figure.savefig(tmp_path / "montage.png")
    shown = np.asarray(Image.open(io.BytesIO(figure._repr_png_())))
    np.testing.assert_array_equal(shown, np.asarray(Image.open(tmp_path / "montage.png")))
    assert 1200 < shown.shape[1] < 1600
    assert not shown[0, 0, :3].any(), "the paper is not dark"


# --- scans of a store, against nibabel ---


@pytest.mark.parametrize("subject", ["sub-stroke0001", "sub-stroke0002", "sub-stroke0004"])
def test_scan_of_a_store(store: Path, release: Path, subject: str) -> None:
    mask = nib.load(next(release.glob(f"derivatives/{subject}/**/*lesion-msk.nii.gz")))
    lesion = np.asarray(mask.dataobj) > 0.5
    right = nib.affines.apply_affine(mask.affine, np.argwhere(lesion))[:, 0].mean()
    figure = montage(isles24_zarr.open_scan(store, subject), threshold=0.5)
    assert len(panels(figure)) == 7 * 4
    volume = lesion.sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    assert any(text.startswith(f"{subject},  final infarct {volume:.1f} mL") for text in texts(figure))
    # of the row of Tmax
    pictures = [pixels(figure, axes) for axes in panels(figure)[12:16]]
    sides = [centre_of_colour(picture, CYAN)[1] < 0.5 for picture in pictures if has_colour(picture, CYAN)]
    # the file's slowest axis is that of the slices; one of four may have gone to the occlusion
    assert len(sides) >= min(3, np.count_nonzero(lesion.any(axis=(0, 1))))
    assert set(sides) == {right > 0}
    late = np.sum([(picture[..., 0] > 200).sum(axis=0) for picture in pictures], axis=0)
    half = late.size // 2
    assert (late[:half].sum() > 3 * late[half:].sum()) == (right > 0)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture - colour).sum(axis=-1) < 60).any())


def test_scan_as_acquired_has_no_masks(store: Path) -> None:
    figure = montage(isles24_zarr.open_scan(store, "sub-stroke0004", "ctp"), images=["ctp", "mtt"], slices=2)
    assert len(panels(figure)) == 4
    assert "sub-stroke0004" in texts(figure)
    figure.canvas.draw()


# --- maps of the user ---


def test_a_map_of_the_user_is_a_row_with_a_bar() -> None:
    values = np.linspace(0, 50, np.prod(SHAPE)).reshape(SHAPE)
    scan = make_scan({"ncct": np.full(SHAPE, 40), "uptake_ratio": values})
    scan["uptake_ratio"].attrs["units"] = "%"
    assert montage(scan).axes[0].images  # the usual images alone by default
    assert "uptake ratio" not in texts(montage(scan))
    figure = montage(scan, ["ncct", "uptake_ratio"], slices=2)
    most = float(f"{np.percentile(values[[5, 15]], 99):.2g}")
    assert f"0 to {most:g} %" in texts(figure)
    assert any(" ".join(text.split()) == "uptake ratio" for text in texts(figure))
    shown = panels(figure)[2].images[0]
    np.testing.assert_allclose(shown.get_array(), values[5])
    assert shown.get_clim() == (0, most)
    signed = make_scan({"change": np.where(np.arange(SHAPE[2]) % 2, 3.0, -8.0) * np.ones(SHAPE)})
    shown = panels(montage(signed, "change", slices=1))[0].images[0]
    assert shown.get_clim() == (-8, 8)


def test_numbers_over_an_image_and_masks_as_outlines() -> None:
    scan = make_scan({"ncct": np.full(SHAPE, 40), "tmax": np.full(SHAPE, 4.0)})
    values = np.where(box_mask(slice(0, 20)), 9.0, np.nan)
    over = xr.DataArray(values, {axis: scan[axis] + 1e-9 for axis in "zyx"}, ("z", "y", "x"), name="my_map")
    figure = montage(scan, overlay=over, slices=1)
    ncct, tmax = panels(figure)[:2]
    assert (len(ncct.images), len(tmax.images)) == (2, 1)
    np.testing.assert_array_equal(np.ma.getmaskarray(ncct.images[1].get_array()), box_mask(slice(0, 20))[10] == 0)
    assert any("in colours: my map\n0 to 9" in text for text in texts(figure))
    assert len(panels(montage(scan, "tmax", overlay=over, slices=1))[0].images) == 2
    mask = (over > 0).rename("my_mask")
    figure = montage(scan, "ncct", overlay=mask.transpose("x", "y", "z"), slices=1)
    assert [text.get_text() for text in figure.legends[0].texts] == ["my mask"]
    row, column = centre_of_colour(pixels(figure, panels(figure)[0]), (255, 225, 77))
    assert (row, column) == (pytest.approx(0.5, abs=0.06), pytest.approx(0.66, abs=0.06))


def test_maps_that_are_not_on_the_grid() -> None:
    scan = make_scan({"ncct": np.full(SHAPE, 40)})
    with pytest.raises(GeometryError, match="mine: is not on the grid of ncct"):
        montage(scan, overlay=scan["ncct"].assign_coords(x=scan["x"] + 5).rename("mine"))
    with pytest.raises(GeometryError, match=r"mine: is no map \(z, y, x\), it has \(y, x\)"):
        montage(scan, overlay=scan["ncct"][3].rename("mine"))


# --- nothing lies on anything else ---


def drawn_texts(figure: Figure) -> list[tuple[str, Any]]:
    """Return the texts that are drawn, and their boxes by Matplotlib's renderer."""
    from unittest.mock import patch

    from matplotlib.text import Text

    drawn: dict[Any, None] = {}
    draw = Text.draw

    def noted(text: Any, *arguments: Any, **options: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn[text] = None
        draw(text, *arguments, **options)

    with patch.object(Text, "draw", noted):
        figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in drawn]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Return which texts lie on others, on pictures that they are not part of, or outside of the figure."""
    found = drawn_texts(figure)

    def meet(one: Any, other: Any) -> bool:
        return bool(
            min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
        )

    both = [
        (text, other)
        for place, (text, box) in enumerate(found)
        for other, other_box in found[place + 1 :]
        if meet(box, other_box)
    ]
    own = {text for axes in panels(figure) for text in (*(each.get_text() for each in axes.texts), axes.get_title())}
    pictures = [axes.get_window_extent() for axes in panels(figure)]
    both += [
        (text, "a picture") for text, box in found if text not in own and any(meet(box, each) for each in pictures)
    ]
    edge = figure.bbox
    return both + [
        (text, "the edge")
        for text, box in found
        if box.x0 < -1 or box.y0 < -1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1
    ]


def test_the_test_of_overlaps_sees_one() -> None:
    figure = montage(make_scan({"ncct": np.full(SHAPE, 40)}), slices=1)
    assert overlaps(figure) == []
    figure.text(0.5, 0.5, "on it")
    figure.text(0.51, 0.5, "on that")
    figure.text(0.99, 0.99, "a long one, outside")
    assert {("on it", "on that"), ("on it", "a picture"), ("a long one, outside", "the edge")} <= set(overlaps(figure))


@pytest.mark.parametrize("slices", [1, 2, 5])
@pytest.mark.parametrize("shape", [(20, 48, 40), (6, 20, 60)])
def test_nothing_of_a_montage_overlaps(slices: int, shape: tuple[int, int, int]) -> None:
    soft = np.zeros(shape)
    soft[2:5, 8:14, 10:20] = 0.75
    soft[3, 9, 12] = 0.2
    occlusion = (soft > 0.5).astype(np.uint8)
    maps = {name: np.full(shape, 4.0) for name in ("tmax", "cbf", "dwi")}
    series = np.full((6, *shape), 40.0)
    images = {"ncct": np.full(shape, 40), "ctp": series, **maps, "lesion_mask": soft, "lvo_mask": occlusion}
    scan = make_scan({**images, "a_map_with_quite_a_long_name_of_its_own": np.full(shape, -1234.5)})
    assert overlaps(montage(scan, slices=slices, threshold=0.5)) == []
    for title in ("x", "a title of many words that somebody wanted to have over one slice " * 2, "w" * 200):
        rows = ["ncct", "a_map_with_quite_a_long_name_of_its_own"]
        over = scan["tmax"].rename("another_rather_long_name_of_a_map")
        assert overlaps(montage(scan, rows, slices=slices, threshold=0.5, title=title, overlay=over)) == []


@pytest.mark.parametrize("count", [1, 2, 7])
def test_nothing_of_time_curves_overlaps(count: int) -> None:
    series = np.arange(8.0)[:, None, None, None] * np.ones(SHAPE)
    scan = make_scan({"ctp": series})
    names = [
        "infarct",
        "a region whose name goes on and on, as names of regions do, to the end of the line and beyond it",
    ]
    regions = {
        f"{names[number % 2]} {number}": xr.zeros_like(scan["ctp"][0], dtype=bool)
        | ((scan["z"] == scan["z"][2 * number]) & (abs(scan["y"]) < 30) & (abs(scan["x"]) < 30))
        for number in range(count)
    }
    for title in (None, "a title of many words that somebody wanted to have over all of it " * 4):
        figure = scan.isles.plot_time_curves(regions, title=title)
        assert overlaps(figure) == []


@pytest.mark.parametrize("count", [1, 3, 149])
def test_nothing_of_charts_overlaps(count: int) -> None:
    import pandas as pd

    from isles24_zarr.figures import agreement_plot, grid_sizes, outcome_by_volume

    rng = np.random.default_rng(count)
    table = pd.DataFrame({"core": rng.gamma(2, 20, count), "mrs_3month": rng.integers(0, 7, count).astype(float)})
    table["core_reference"] = table["core"] + rng.normal(0, 5, count)
    grids = {"x": 512.0, "y": rng.integers(512, 700, count), "z": rng.integers(20, 200, count), "spacing_x": 4.48}
    grids |= {"spacing_z": rng.choice([0.8, 2, 2.5], count), "frames": rng.integers(40, 63, count), "tilt": 10.0}
    figures_ = [outcome_by_volume(table, ["core", "core"]), grid_sizes(pd.DataFrame(grids, index=range(count)))]
    figures_ += [agreement_plot(table, "core")] if count > 1 else []
    for figure in figures_:
        assert overlaps(figure) == []
    title = figures_[1].get_suptitle()
    assert title == f"grids of {'1 subject' if count == 1 else f'{count} subjects'}, 4.48 mm in plane"


def test_nothing_of_a_page_overlaps(store: Path) -> None:
    cohort = isles24_zarr.open_cohort(store)
    table = cohort["phenotype"].to_dataset()
    long = np.array(["a centre with a name as long as an address: " * 3] * table.sizes["subject"], dtype=object)
    cohort["phenotype"] = table.assign(center=("subject", long))
    cohort["phenotype"].encoding |= isles24_zarr.open_cohort(store)["phenotype"].encoding
    for subject in cohort.isles.subjects[:2]:
        page = cohort.isles.summary(subject)
        assert overlaps(page.figure()) == []
        assert any(cell.endswith(" years") for row in page.sections[0].rows for cell in row)
    assert overlaps(cohort.isles.missingness()) == []
