"""The command that writes a raw dataset of nnU-Net."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isles24_zarr.cli._options import AsJson, Options, Scheduler, Store, Subjects, Workers
from isles24_zarr.cli._rendering import out, print_json, tell_problems
from isles24_zarr.errors import OptionError, UnknownNameError
from isles24_zarr.places import options_from_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def nnunet(
    store: Store,
    destination: Annotated[str, typer.Argument(help="The folder of the dataset, as nnUNet_raw/Dataset024_ISLES.")],
    more_images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="More channels, as in '--images ncct cta tmax'.")
    ] = None,
    *,
    images: Annotated[
        list[str],
        typer.Option(
            "--images", "--image", help="The channels, as 'ncct,tmax,ctp[12],pipeline/tmax'; may be repeated."
        ),
    ],
    label: Annotated[str, typer.Option(help="The mask, an image or 'pipeline/image'.")] = "lesion_mask",
    windows: Annotated[
        str,
        typer.Option(help="'none', 'winner', 'one_unet', or a JSON file as {\"tmax\": [0, 7]}."),
    ] = "none",
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A label of the mask, as 'infarct=1' or 'ignore=255'; may be repeated."
        ),
    ] = None,
    label_threshold: Annotated[
        float, typer.Option(help="From which fraction on voxels of a soft mask are in the label.")
    ] = 0.5,
    normalization: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CHANNEL=]SCHEME",
            help="CT, zscore, noNorm or rescale_to_0_1 of nnU-Net, for all channels or for one; may be repeated. "
            "By default CT for images in HU, zscore for others.",
        ),
    ] = None,
    fill: Annotated[
        float | None, typer.Option(help="What voxels that are not finite become; the lowest of the window by default.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Splits by patient.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits.")] = 0,
    space: Annotated[str, typer.Option(help="The grid, as 'ncct' or 'ctp'.")] = "ncct",
    subject: Subjects = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write all files anew.")] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Write a raw dataset for nnU-Net: channels in their windows, labels, splits. Run it again to resume."""
    import isles24_zarr
    from isles24_zarr.tasks import connected_client

    names = [name for text in (*images, *(more_images or ())) for name in text.split(",") if name]
    cohort = isles24_zarr.open_cohort(store, storage_options=options_from_texts(storage_option))
    with connected_client(scheduler) as client:
        report = cohort.isles.to_nnunet(
            destination,
            names,
            label,
            windows=_windows(windows),
            labels=_labels(labels),
            label_threshold=label_threshold,
            normalization=_normalization(normalization),
            fill=fill,
            folds=folds,
            seed=seed,
            space=space,
            subjects=subject,
            overwrite=overwrite,
            client=client,
            workers=workers or (None if client else os.cpu_count() or 1),
        )
    if as_json:
        print_json(ok=report.ok, **dataclasses.asdict(report))
        return bool(report.ok)
    lacking = f", {len(report.skipped)} lack an image" if report.skipped else ""
    out().print(
        f"{report.destination}: {len(report.written)} cases written, {len(report.unchanged)} were there{lacking}, "
        f"{report.folds} folds, {report.seconds:.1f} s",
        soft_wrap=True,
    )
    name = Path(report.destination).name
    if report.folds:
        what = f"when nnU-Net plans; for an older one, copy it to nnUNet_preprocessed/{name}/ before training"
        out().print(f"splits_final.json is copied {what}", soft_wrap=True)
    return tell_problems(report.problems)


def _windows(text: str) -> str | Mapping[str, Any] | None:
    """Return windows by a name, or out of a file."""
    from isles24_zarr.training import WINDOW_PRESETS

    if text == "none":
        return None
    if text in WINDOW_PRESETS:
        return text
    names = ", ".join(("none", *WINDOW_PRESETS))
    try:
        found = json.loads(Path(text).read_text())
    except OSError as error:
        why = error.strerror or error
        raise UnknownNameError(repr(text), f"is none of {names}, and no file that can be read ({why})") from error
    except ValueError as error:
        raise UnknownNameError(text, f"is not JSON ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(each, str) or _is_window(each) for each in found.values()):
        raise UnknownNameError(text, 'is no JSON of windows, as {"tmax": [0, 7], "ncct": "stroke"}')
    return found


def _is_window(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) == 2
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in found)
    )


def _labels(texts: Sequence[str] | None) -> Mapping[str, int] | None:
    if not texts:
        return None
    labels = {}
    for text in (each for listed in texts for each in listed.split(",")):
        name, _, value = text.rpartition("=")
        if not name or not value.isdecimal():
            raise OptionError(f"--labels {text}", "is not the name of a label and its value, as 'infarct=1'")
        labels[name] = int(value)
    return labels


def _normalization(texts: Sequence[str] | None) -> str | Mapping[str, str] | None:
    parts = [part.rpartition("=") for text in texts or () for part in text.split(",")]
    if len(parts) == 1 and not parts[0][0]:
        return parts[0][2]
    if unnamed := [scheme for name, _, scheme in parts if not name]:
        raise OptionError(f"--normalization {unnamed[0]}", "is for all channels, and there are others for some")
    return {name: scheme for name, _, scheme in parts} or None
