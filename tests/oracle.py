"""What a store must hold, by nibabel and plain Zarr readers; nothing of the package is used here."""

from __future__ import annotations

import filecmp
import gzip
import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import zarr
from nibabel.orientations import apply_orientation, io_orientation


def images_below(release: Path) -> dict[str, Path]:
    """Return the images of a release by path, but for a second lesion mask without the space entity."""
    found = {path.relative_to(release).as_posix(): path for path in release.rglob("*.nii*")}
    suffix = "_space-ncct_lesion-msk.nii.gz"
    twice = {name.replace(suffix, "_lesion-msk.nii") for name in found if name.endswith(suffix)}
    return {name: path for name, path in found.items() if name not in twice}


def documents(store: Path) -> dict[str, Any]:
    return {path.relative_to(store).as_posix(): json.loads(path.read_text()) for path in store.rglob("zarr.json")}


def chunk_files(store: Path) -> dict[str, Path]:
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {path.relative_to(store).as_posix(): path for path in files}


def assert_identical_stores(first: Path, second: Path, *, but: tuple[str, ...] = ()) -> None:
    """The same bytes, times and the place of the source aside."""
    assert chunk_files(first).keys() == chunk_files(second).keys()
    for name, path in chunk_files(first).items():
        assert filecmp.cmp(path, second / name, shallow=False), name
    ours, theirs = documents(first), documents(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        for document in (ours[name], theirs[name]):
            if document["attributes"].pop("source", None):
                document["attributes"]["isles24_zarr"].pop("seal")
            document["attributes"].get("isles24_zarr", {}).pop("times", None)
            for key in but:
                document["attributes"].get("isles24_zarr", {}).pop(key, None)
        assert ours[name] == theirs[name], name


def arrays_by_source(store: Path) -> dict[str, zarr.Array[Any]]:
    """Every image array of a store by the path of the file it came from."""
    found = {}
    for _, node in zarr.open_group(store, mode="r", use_consolidated=False).members(max_depth=None):
        if isinstance(node, zarr.Array) and "isles24_zarr" in node.attrs:
            found[node.attrs["isles24_zarr"]["source"]["path"]] = node
    return found


def grid_of(array: zarr.Array[Any]) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Direction, and the coordinates x, y and z, of the group that an array is in."""
    group = zarr.open_group(Path(str(array.store_path).removeprefix("file://")).parent, mode="r")
    return np.array(group.attrs["direction"]), [np.asarray(group[name][:]) for name in "xyz"]


def has_orientation(image: Any) -> bool:
    return bool(image.header["sform_code"] or image.header["qform_code"])


def canonical_voxels(image: Any) -> np.ndarray[Any, Any]:
    """Raw voxels (t, z, y, x) of an image in closest canonical orientation, little endian."""
    raw = image.dataobj.get_unscaled()
    shape = raw.shape[:3] if np.prod(raw.shape[3:]) == 1 else raw.shape[:4]
    turned = raw.reshape(shape)
    if has_orientation(image):  # without one, nibabel makes up an affine
        turned = apply_orientation(turned, io_orientation(image.affine))
    return np.ascontiguousarray(turned.T.astype(turned.dtype.newbyteorder("<")))


def scaling_of(file: Path) -> tuple[float, float]:
    """Slope and intercept out of the bytes of a file: nibabel shows NaN whatever they are."""
    packed = file.name.endswith(".gz")
    with gzip.open(file) if packed else file.open("rb") as opened:
        start = opened.read(544)
    order = "<" if int.from_bytes(start[:4], "little") in (348, 540) else ">"
    layout, offset = (
        ("2f", 112) if int.from_bytes(start[:4], "little" if order == "<" else "big") == 348 else ("2d", 176)
    )
    slope, intercept = struct.unpack_from(f"{order}{layout}", start, offset)
    return (slope, intercept) if np.isfinite(slope) and slope else (1.0, 0.0)


def labels_of(file: Path, voxels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """What a mask means, in the smallest unsigned type; None for images that are none, and masks without labels."""
    if "-msk" not in file.name:
        return None
    slope, intercept = scaling_of(file)
    values = voxels.astype(np.float64) * slope + intercept
    whole = np.rint(values)
    if not (np.abs(values - whole) <= 1e-3).all() or whole.min() < 0:
        return None
    stored = np.unique(voxels.view(f"u{voxels.dtype.itemsize}"))
    if stored.size != np.unique(whole).size:
        return None
    return whole.astype(np.min_scalar_type(int(whole.max())))


def stored_voxels(file: Path) -> np.ndarray[Any, Any]:
    """What an array of a store holds of a file: its voxels, canonical; of a mask the labels."""
    raw = canonical_voxels(nib.load(file))
    labels = labels_of(file, raw)
    return raw if labels is None else labels


def assert_same_image(file: Path, array: zarr.Array[Any], *, voxels: Any = None, shift: float = 0.0) -> None:
    """Every voxel is that of the file, bit for bit, and lies where the file says, up to a shift in mm.

    Masks are labels instead. `voxels` are what another reader than zarr-python has read.
    """
    image = nib.load(file)
    stored = np.asarray(array[...] if voxels is None else voxels)
    assert stored.dtype == array.dtype
    raw = canonical_voxels(image)
    labels = labels_of(file, raw)
    wanted = raw if labels is None else labels
    assert stored.dtype == (image.get_data_dtype() if labels is None else labels.dtype).newbyteorder("=")
    assert stored.shape == wanted.shape
    assert np.ascontiguousarray(stored).tobytes() == wanted.tobytes()
    if has_orientation(image):
        raw = image.dataobj.get_unscaled()
        inverse = raw if labels is None else labels_of(file, raw)
        assert_same_places(image, array, stored, inverse.reshape(*image.shape[:3], -1), shift=shift)


def assert_same_places(
    image: Any, array: zarr.Array[Any], stored: np.ndarray[Any, Any], raw: np.ndarray[Any, Any], *, shift: float
) -> None:
    direction, coordinates = grid_of(array)
    rng = np.random.default_rng(0)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape[:3]) - 1)
    for voxel in [*corners, *(rng.integers(0, image.shape[:3]) for _ in range(20))]:
        position = nib.affines.apply_affine(image.affine, voxel)
        label = np.linalg.solve(direction, position)
        x, y, z = (int(np.argmin(abs(values - at))) for values, at in zip(coordinates, label, strict=True))
        found = direction @ [coordinates[0][x], coordinates[1][y], coordinates[2][z]]
        np.testing.assert_allclose(found, position, atol=shift + 1e-6)
        series = stored.reshape(-1, *stored.shape[-3:])[:, z, y, x]
        assert series.tobytes() == raw[tuple(voxel)].astype(raw.dtype.newbyteorder("<")).tobytes()
