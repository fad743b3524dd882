"""What `convert --dry-run` prints, and what is told before a conversion begins."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from isles24_zarr.cli._rendering import (
    all_good,
    by,
    counted,
    err,
    megabytes,
    out,
    plain,
    print_json,
    print_table,
    tell_problems,
)
from isles24_zarr.errors import LittleRoomWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isles24_zarr.conversion import Forecast

_MOST_NAMES = 10


def print_forecast(told: Forecast, *, as_json: bool) -> bool:
    """Print what a conversion would do; tell whether all files are good."""
    from isles24_zarr.conversion import FIRST_TIME, estimated_bytes

    if as_json:
        keys = ("path", "shape", "dtype", "chunks", "shards", "nbytes")
        print_json(
            arrays=[
                {
                    **{key: getattr(array, key) for key in keys},
                    "source": array.source.path,
                    "estimated_bytes": estimated_bytes(array),
                }
                for array in told.arrays
            ],
            there={"subjects": told.unchanged, "arrays": told.standing, "bytes": told.stored_bytes},
            reasons=dict(told.reasons),
            to_remove={"subjects": told.gone_subjects, "arrays": told.gone_images},
            bytes={"estimated": told.estimated_bytes, "least": told.least_bytes, "free": told.free_bytes},
            left_out=[dataclasses.asdict(each) for each in told.left_out],
            problems=plain(told.problems),
        )
        return all_good(told.problems)
    gone = f"{len(told.gone_subjects)} subjects and {len(told.gone_images)} images of others"
    out().print(
        f"{told.store}: there: {len(told.unchanged)} subjects, {len(told.standing)} images, "
        f"{megabytes(told.stored_bytes)} MB; to do: {len(told.reasons)} subjects, {len(told.arrays)} images; "
        f"to remove: {gone if told.gone_subjects or told.gone_images else 'nothing'}{counted(told.left_out)}",
        soft_wrap=True,
    )
    if told.arrays:
        _print_arrays(told)
    free = "" if told.free_bytes is None else f", {megabytes(told.free_bytes)} MB free"
    out().print(
        f"{len(told.arrays)} arrays, {megabytes(sum(array.nbytes for array in told.arrays))} MB of voxels, "
        f"about {megabytes(told.estimated_bytes)} MB stored{free}",
        soft_wrap=True,
    )
    for name, reason in told.reasons.items():
        if reason != FIRST_TIME:
            out().print(f"{name} will be converted again: {reason}", soft_wrap=True)
    if names := (*told.gone_subjects, *told.gone_images):
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        out().print(
            f"in the store and not in the source: {', '.join(names[:_MOST_NAMES])}{more}; they stay until removed",
            soft_wrap=True,
        )
    if told.free_bytes is not None and told.free_bytes < told.estimated_bytes:
        what = "is too little room" if told.free_bytes < told.least_bytes else "may be too little room"
        out().print(f"{told.store}: {what}", style="yellow", soft_wrap=True)
    return tell_problems(told.problems)


def _print_arrays(told: Forecast) -> None:
    from isles24_zarr.conversion import estimated_bytes

    rows = (
        (
            array.path,
            by(array.shape),
            f"{array.dtype}, or labels" if array.is_mask else array.dtype,
            by(array.chunks),
            by(array.shards),
            megabytes(array.nbytes),
            megabytes(estimated_bytes(array)),
        )
        for array in told.arrays
    )
    print_table(("array", "shape", "type", "chunks", "shards", "MB of voxels", "MB stored, about"), rows)


@contextlib.contextmanager
def told_warnings() -> Iterator[None]:
    """Print that there may be too little room as one line on stderr, and other warnings as they are."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, LittleRoomWarning):
            err().print(f"warning: {message}", style="yellow", soft_wrap=True)
        else:
            usual(message, category, *place, **options)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
