"""What is to be saved, checked against the grid that it is said to be on, as plans; nothing is computed or written."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from isles24_zarr.derivatives._stored import (
    check_length,
    check_names,
    earlier_record,
    image_records,
    next_separator,
    stored_grid,
    whole_grid,
)
from isles24_zarr.errors import GeometryError, UnknownNameError, VoxelTypeError
from isles24_zarr.format import (
    ATTRIBUTE_KEY,
    PIPELINE_NAME,
    RESULT_NAME,
    ArrayPlan,
    ArrayRecord,
    DerivativeRecord,
    GridRecord,
    reference_session,
    result_plan,
)
from isles24_zarr.geometry import same_positions, scan_grid
from isles24_zarr.store import ONLY_CHUNK, coordinate_variable, is_versioned, read_document, read_objects
from isles24_zarr.version import PACKAGE_VERSION
from isles24_zarr.vocabulary import IMAGES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from isles24_zarr.scans import ScanPlace

_TYPES: Final = {"bool": "uint8", "float16": "float32"}
"""Types that are stored as others, which hold the same values."""
_STORED: Final = frozenset(f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)) | {
    "float32",
    "float64",
}
_OF_READING: Final = frozenset(
    {"scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "dtype", "calendar", "session"}
    | {"file_orientation", ATTRIBUTE_KEY, "long_name", "units"}
)
"""Attributes of an image that are not those of what was made of it, or that are looked at by themselves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Whose results are saved.

    Parameters
    ----------
    name
        Of the pipeline.
    description
        What it is; empty where nothing is to be said.
    generated_by
        Programs, as BIDS has it: this package is the last one.
    """

    name: str
    description: str
    generated_by: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(
        cls,
        name: str,
        description: str = "",
        version: str | None = None,
        generated_by: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        function: Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """Make one of what a caller gives.

        Raises
        ------
        UnknownNameError
            The name is none, or what generated the results is not as BIDS has it.
        """
        if not isinstance(name, str) or not PIPELINE_NAME.fullmatch(name):
            what = "is no name of a pipeline: letters, digits and hyphens, and not as 'sub-' begins"
            raise UnknownNameError(repr(name), what)
        check_length(name)
        programs = [generated_by] if isinstance(generated_by, Mapping) else generated_by or [{}]
        if not isinstance(programs, list | tuple) or not all(isinstance(each, Mapping) for each in programs):
            what = "is no program as BIDS has it, nor a list of them; give {'Name': ..., 'Version': ...}"
            raise UnknownNameError("generated_by", what)
        programs = list(programs)
        programs[0] = {
            "Name": name,
            **({} if version is None else {"Version": str(version)}),
            **({"Description": description} if description else {}),
            **(function or {}),
            **programs[0],
        }
        programs.append({"Name": "isles24-zarr", "Version": PACKAGE_VERSION})
        try:
            plain = json.loads(json.dumps(programs, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UnknownNameError("generated_by", f"holds what JSON does not ({error})") from error
        if not all(isinstance(each.get("Name"), str) for each in plain):
            raise UnknownNameError("generated_by", "lacks a Name, which BIDS asks for")
        return cls(name=name, description=description, generated_by=tuple(plain))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Results that can be saved.

    Parameters
    ----------
    place, pipeline
        Of which scan, and whose.
    grid_attributes
        Of the group of images that they are made from.
    plans
        How each is stored.
    values
        Of each, by name, canonical, lazy if they are.
    earlier
        What the pipeline has of the subject.
    """

    place: ScanPlace
    pipeline: Pipeline
    grid_attributes: Mapping[str, Any]
    plans: tuple[ArrayPlan, ...]
    values: Mapping[str, Any]
    earlier: DerivativeRecord | None


def named_arrays(results: Any) -> dict[str, xr.DataArray]:
    """Return what is to be saved by name.

    Raises
    ------
    UnknownNameError, GeometryError
        An array has no name, or one that no array of a pipeline can have; or is no array of xarray.
    """
    if isinstance(results, xr.Dataset):
        results = results.data_vars
    elif isinstance(results, xr.DataArray):
        results = [results]
    if not isinstance(results, Mapping):
        if not isinstance(results, Iterable):
            raise GeometryError(type(results).__name__, "is no array of xarray, nor several of them")
        listed = list(results)
        results = {getattr(each, "name", None): each for each in listed}
        if len(results) < len(listed):
            raise UnknownNameError("arrays", "have the same name; give a mapping of names to arrays")
    if not results:
        raise UnknownNameError("arrays", "are none: there is nothing to save")
    for name, array in results.items():
        if not isinstance(name, str) or not RESULT_NAME.fullmatch(name):
            what = "is no name of an array: lower-case letters, digits and _, a letter first, and no coordinate"
            raise UnknownNameError(repr(name), f"{what}; rename it, as by .rename('core')")
        check_length(name)
        if not isinstance(array, xr.DataArray):
            what = f"is a {type(array).__name__}, which has no coordinates; give scan['ncct'].copy(data=...)"
            raise GeometryError(name, what)
    return dict(results)


def prepared(
    store: Store,
    place: ScanPlace,
    results: Any,
    pipeline: Pipeline,
    *,
    sources: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Check results, and decide how they are stored.

    Parameters
    ----------
    store, place
        Where the scan is.
    results
        As for `named_arrays`.
    pipeline
        Whose they are.
    sources
        Names of the images that they were made from, all of the grid by default.
    overwrite
        Replace what has the same names.

    Raises
    ------
    UnknownNameError, GeometryError, VoxelTypeError
        A name cannot be used, an array is not on the grid, or its type is none that is stored.
    DestinationError
        There is such a result already.
    StoreDamageError
        What the pipeline has of the subject cannot be read.
    """
    arrays = named_arrays(results)
    grid = stored_grid(store, place)
    images = image_records(grid, place)
    unknown = sorted(set(sources or ()) - images.keys())
    if unknown:
        raise UnknownNameError(", ".join(unknown), f"is no image of {place.path}, which has {', '.join(images)}")
    times = _times(store, grid, place)
    for name, array in arrays.items():
        _check_grid(name, array, grid, place, times)
    earlier = earlier_record(store, place, pipeline.name, overwrite=overwrite)
    check_names(place, pipeline.name, arrays, grid, earlier, overwrite=overwrite)
    recorded = {
        "generated_by": list(pipeline.generated_by),
        "sources": {record.path: record.checksum for name, record in images.items() if name in (sources or images)},
    }
    reference = next(iter(images.values()))
    plans = _plans(arrays, pipeline, reference, recorded, session=reference_session(grid.reference), times=times)
    versioned = is_versioned(place.target.url)
    axes = ("time", "z", "y", "x")
    return Prepared(
        place=place,
        pipeline=pipeline,
        grid_attributes=(read_document(store, place.path) or {})["attributes"],
        plans=tuple(
            dataclasses.replace(plan, separator=next_separator(earlier, plan, versioned=versioned)) for plan in plans
        ),
        values={name: array.transpose(*axes[-array.ndim :]).variable for name, array in arrays.items()},
        earlier=earlier,
    )


def _plans(
    arrays: Mapping[str, xr.DataArray],
    pipeline: Pipeline,
    reference: ArrayRecord,
    recorded: Mapping[str, Any],
    *,
    session: int,
    times: NDArray[np.float64] | None,
) -> Iterator[ArrayPlan]:
    """Decide how arrays are stored; those of one shape are cut alike, since they are computed together."""
    labels = {image.long_name for image in IMAGES.values()}
    shapes = {name: _canonical_shape(array) for name, array in arrays.items()}
    dtypes = {name: _stored_dtype(name, array) for name, array in arrays.items()}
    axis = "zyx"[2 - reference.orientation.axes.index(2)]  # which the slowest one of the file became
    step = float(times[1] - times[0]) if times is not None and times.size > 1 else None
    for name, array in arrays.items():
        shape = shapes[name]
        alike = [other for other in arrays if shapes[other] == shape]
        yield result_plan(
            name,
            pipeline=pipeline.name,
            reference=reference,
            shape=shape,
            dtype=dtypes[name],
            beside=sum(dtypes[other].itemsize for other in alike),
            unit=math.lcm(*(_block_length(arrays[other], axis) for other in alike)),
            frame_seconds=step if len(shape) == 4 else None,
            attributes={
                **_attributes(name, array, inherited=labels),
                "session": session,
                ATTRIBUTE_KEY: recorded,
            },
        )


def _times(store: Store, grid: GridRecord, place: ScanPlace) -> NDArray[np.float64] | None:
    if "time" not in grid.members:
        return None
    key = f"{place.path}/time/{ONLY_CHUNK}"
    path = f"{place.target.url}/{place.path}/time"
    values: NDArray[np.float64] = coordinate_variable(
        path, grid.members["time"], read_objects(store, [key])[key]
    ).values
    return values


def _check_grid(
    name: str, array: xr.DataArray, grid: GridRecord, place: ScanPlace, times: NDArray[np.float64] | None
) -> None:
    """Make sure that an array has a voxel for each of the grid, at its place, and a frame for each of the series."""
    if "subject" in array.coords and set(map(str, array["subject"].values.ravel())) != {place.subject}:
        raise GeometryError(name, f"is not of {place.subject}")
    if not {"z", "y", "x"} <= set(array.dims) <= {"time", "z", "y", "x"}:
        raise GeometryError(
            name, f"has the axes {', '.join(map(str, array.dims))}, not z, y and x, or time before them"
        )
    whole = whole_grid(grid)
    own = scan_grid(array)
    if own.shape != whole.shape:
        shapes = [" x ".join(map(str, each.shape)) for each in (own, whole)]
        raise GeometryError(
            name, f"has {shapes[0]} voxels, and {place.path} has {shapes[1]}: save results of whole scans"
        )
    if not same_positions(own, whole):
        raise GeometryError(name, f"is not on the grid of {place.path}: its voxels lie elsewhere")
    if "time" not in array.dims:
        return
    frames = array.coords["time"].values if "time" in array.coords else None
    if times is None or frames is None or not np.array_equal(frames, times):
        raise GeometryError(name, f"has other frames than {place.path}")


def _block_length(array: xr.DataArray, axis: str) -> int:
    """Return how many voxels are computed together along an axis."""
    return int(array.variable.chunksizes[axis][0]) if array.chunks is not None else 1


def _canonical_shape(array: xr.DataArray) -> tuple[int, ...]:
    return tuple(array.sizes[axis] for axis in ("time", "z", "y", "x")[-array.ndim :])


def _stored_dtype(name: str, array: xr.DataArray) -> np.dtype[Any]:
    dtype = np.dtype(_TYPES.get(array.dtype.name, array.dtype.name)) if array.dtype.kind in "biuf" else array.dtype
    if dtype.name not in _STORED:
        raise VoxelTypeError(name, f"has values of type {array.dtype}, which are not stored")
    return dtype


def _attributes(name: str, array: xr.DataArray, *, inherited: set[str]) -> dict[str, Any]:
    """Return the attributes of a result: its own, as far as JSON holds them.

    xarray keeps those of an image through arithmetic: a comparison of it has no units, and is not what the image was.
    """
    own = {str(key): value for key, value in array.attrs.items() if key not in _OF_READING}
    attributes = {key: _plain(value) for key, value in own.items()}
    attributes = {key: value for key, value in attributes.items() if value is not None}
    long_name, units = array.attrs.get("long_name"), array.attrs.get("units")
    is_mask = array.dtype == bool
    if not isinstance(long_name, str) or (is_mask and long_name in inherited):
        long_name = name.replace("_", " ")
    attributes |= {"long_name": long_name, "units": units if isinstance(units, str) and not is_mask else None}
    flags = attributes.get("flag_values"), attributes.get("flag_meanings")
    if is_mask:
        flags = [0, 1], f"background {name}"
    attributes = {key: value for key, value in attributes.items() if not key.startswith("flag_")}
    if isinstance(flags[0], list) and isinstance(flags[1], str) and array.dtype.kind in "biu":
        attributes |= {"flag_values": flags[0], "flag_meanings": flags[1]}
    return attributes


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, None where it has it not."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return None
