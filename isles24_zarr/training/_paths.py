"""Images by their path within a store, which is what frameworks hand to worker processes and to caches."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.cohorts import cohort_target, subject_names
from isles24_zarr.errors import NotAStoreError, StoreDamageError, UnknownNameError
from isles24_zarr.format import DERIVATIVES, PIPELINE_NAME
from isles24_zarr.scans import open_scan
from isles24_zarr.training.opening import check_missing, cohort_channels, lacking_images
from isles24_zarr.vocabulary import SERIES_IMAGES

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import xarray as xr

_PATH: Final = re.compile(
    rf"(?P<store>.+?)/(?:{DERIVATIVES}/(?P<pipeline>{PIPELINE_NAME.pattern})/)?(?P<subject>sub-[^/]+)"
    r"/space-(?P<space>[^/]+)/(?P<name>[^/\[\]]+)(?:\[(?P<frame>-?\d+)\])?/?"
)
_ONE_SLASH: Final = re.compile(r"([a-z][a-z0-9+]+):/(?!/)")
_OF_THIS_MACHINE: Final = ("file", "icechunk")
_MISSING: Final = ("error", "skip")

Names = str | Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImagePath:
    """An image, or a frame of a series, by its path within a store.

    Parameters
    ----------
    store
        Path or URL.
    subject, space, name
        As for `open_scan`, and the name of the array.
    pipeline
        Whose result it is; None for an image of the release.
    frame
        Number of a frame, from the end where it is negative; None for a volume or a whole series.
    """

    store: str
    subject: str
    space: str
    name: str
    pipeline: str | None = None
    frame: int | None = None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> ImagePath:
        """Read a path such as ``isles24.zarr/sub-stroke0001/space-ncct/ctp[12]``.

        Raises
        ------
        UnknownNameError
            It is no such path.
        """
        found = _PATH.fullmatch(_text_of(path))
        if found is None:
            form = "isles24.zarr/sub-stroke0001/space-ncct/tmax, .../ctp[12] or .../derivatives/<pipeline>/sub-..."
            raise UnknownNameError(path, f"is no path of an image within a store; write it as {form}")
        frame: str | None = found["frame"]
        parts = {name: found[name] for name in ("store", "subject", "space", "name", "pipeline")}
        return cls(**parts, frame=None if frame is None else int(frame))

    def __str__(self) -> str:
        place = self.store if self.pipeline is None else f"{self.store}/{DERIVATIVES}/{self.pipeline}"
        return f"{place}/{self.subject}/space-{self.space}/{self._array}"

    @property
    def spelled(self) -> str:
        """The image as `channels_of` takes it."""
        return self._array if self.pipeline is None else f"{self.pipeline}/{self._array}"

    @property
    def _array(self) -> str:
        return self.name if self.frame is None else f"{self.name}[{self.frame}]"

    def opened(self, storage_options: Mapping[str, Any] | None = None) -> xr.DataArray:
        """Open the image without Dask; no voxel is read.

        Raises
        ------
        UnknownNameError
            The scan has no such image, or no such frame.
        NotAStoreError, StoreDamageError
            There is no store, or part of it is lost.
        """
        try:
            scan = open_scan(
                self.store,
                self.subject,
                self.space,
                pipeline=self.pipeline,
                chunks=None,
                storage_options=storage_options,
            )
        except (NotAStoreError, StoreDamageError):
            if self.pipeline is None:
                raise
            # the store itself may lie in a folder of derivatives
            inner = dataclasses.replace(self, store=f"{self.store}/{DERIVATIVES}/{self.pipeline}", pipeline=None)
            with contextlib.suppress(NotAStoreError, StoreDamageError):
                return inner.opened(storage_options)
            raise
        if self.name not in scan.data_vars:
            has = ", ".join(map(str, scan.data_vars))
            raise UnknownNameError(self, f"is not there, this grid has {has}")
        image = scan[self.name]
        image.encoding["source"] = str(self)
        if self.frame is None:
            return image
        frames = image.sizes.get("time", 0)
        if not -frames <= self.frame < frames:
            raise UnknownNameError(self, f"is no frame, the image has {frames or 'none'}")
        frame = image.isel(time=self.frame)
        frame.encoding = image.encoding
        return frame


def _text_of(path: str | os.PathLike[str]) -> str:
    """Return a path or URL as text, also a URL that was made a Path, which has one slash where it had more."""
    text = PurePath(path).as_posix() if not isinstance(path, str) or "://" not in path else path
    return _ONE_SLASH.sub(lambda url: f"{url[1]}://" + "/" * (url[1] in _OF_THIS_MACHINE), text, count=1)


def paths_of(
    cohort: xr.DataTree, keys: Mapping[str, Names], *, space: str, missing: str
) -> tuple[dict[str, dict[str, list[ImagePath]]], dict[str, str]]:
    """Return the paths of images of each subject by key, and who was left out, and why.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.
    keys
        Names of images by key: ``"ncct"``, ``"ctp"``, ``"ctp[12]"`` for a frame, ``"pipeline/tmax"`` for a result.
    space
        Of their grid.
    missing
        ``"skip"`` leaves out subjects that lack an image, ``"error"`` does not.

    Raises
    ------
    UnknownNameError
        There is no such image, or it is missing of a subject.
    """
    if missing not in _MISSING:
        raise UnknownNameError(f"missing={missing!r}", f"is none of {', '.join(_MISSING)}")
    target, space = cohort_target(cohort), space.removeprefix("space-")
    templates = {
        key: [_template(cohort, name, target.url, space) for name in _several(names)] for key, names in keys.items()
    }
    for key, several in templates.items():
        if not several:
            raise UnknownNameError(repr(key), "has no image")
    skipped = lacking_images(
        cohort, [(each.pipeline, each.name) for several in templates.values() for each in several], space
    )
    check_missing(skipped, missing)
    found = {
        subject: {
            key: [dataclasses.replace(each, subject=subject) for each in several] for key, several in templates.items()
        }
        for subject in subject_names(cohort)
        if subject not in skipped
    }
    if not found:
        raise UnknownNameError("the cohort", "has no subject with all of these images")
    return found, skipped


def _several(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _template(cohort: xr.DataTree, name: str, store: str, space: str) -> ImagePath:
    """Return the path of an image of nobody yet."""
    if not isinstance(name, str):
        raise UnknownNameError(repr(name), "is no name of an image; windows and functions are transforms here")
    if name in SERIES_IMAGES:
        return ImagePath(store=store, subject="", space=space, name=name)
    channel = cohort_channels(cohort, name)[0]
    return ImagePath(
        store=store, subject="", space=space, name=str(channel.image), pipeline=channel.pipeline, frame=channel.frame
    )
