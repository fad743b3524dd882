"""The commands: options and rendering; what is done is done elsewhere. Exit codes are those of `cli._app`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from isles24_zarr.cli import _nnunet, _perfusion, _results, _updates
from isles24_zarr.cli._app import app, main
from isles24_zarr.cli._app import command as _command
from isles24_zarr.cli._forecast import print_forecast, told_warnings
from isles24_zarr.cli._options import (
    AsJson,
    ExtraImages,
    Images,
    Options,
    Prune,
    Readmit,
    Scheduler,
    Source,
    Spool,
    Store,
    Strict,
    Subjects,
    Workers,
)
from isles24_zarr.cli._rendering import (
    counted,
    megabytes,
    out,
    plain_rows,
    print_arrays,
    print_cohort,
    print_json,
    print_release,
    tell_problems,
)
from isles24_zarr.cli._serving import serve, view
from isles24_zarr.cli._tables import give_table
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.places import options_from_texts

__all__ = ["app", "main"]


@_command
def scan(
    source: Source,
    *,
    extra_images: ExtraImages = False,
    strict: Strict = False,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """List the subjects, images and tables of a release, and everything odd. Reads headers only."""
    from isles24_zarr.conversion import scan as scan_release

    release = scan_release(source, options_from_texts(storage_option), extra_images=extra_images)
    return print_release(release, strict=strict, as_json=as_json)


@_command
def convert(
    source: Source,
    store: Store,
    *,
    subject: Subjects = None,
    image: Images = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Convert again what the store holds.")] = False,
    prune: Prune = False,
    readmit: Readmit = False,
    extra_images: ExtraImages = False,
    strict: Strict = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what is there, to do and to remove, and write nothing.")
    ] = False,
    icechunk: Annotated[
        str | None,
        typer.Option(help="Commit each subject to this Icechunk repository, too: a folder or s3://bucket/prefix."),
    ] = None,
    storage_option: Options = None,
    spool: Spool = None,
    as_json: AsJson = False,
) -> bool:
    """Convert a release into a store. Run it again to resume: what was finished stays as it is."""
    asked: dict[str, Any] = {
        "subjects": subject,
        "images": image,
        "overwrite": overwrite,
        "prune": prune,
        "readmit": readmit,
        "storage_options": options_from_texts(storage_option),
        "extra_images": extra_images,
        "strict": strict,
    }
    if dry_run:
        from isles24_zarr.conversion import forecast

        return print_forecast(forecast(source, store, **asked), as_json=as_json)
    from isles24_zarr import convert as run
    from isles24_zarr.conversion import FIRST_TIME
    from isles24_zarr.tasks import connected_client

    with connected_client(scheduler) as client, told_warnings():
        report = run(source, store, client=client, workers=workers, icechunk=icechunk, spool=spool, **asked)
    if as_json:
        print_json(**dataclasses.asdict(report))
        return report.ok
    out().print(
        f"{report.store}: {len(report.converted)} subjects converted, {len(report.unchanged)} unchanged, "
        f"{report.images} images written, {megabytes(report.voxel_bytes)} MB of voxels in {report.seconds:.1f} s"
        f"{counted(report.left_out)}",
        soft_wrap=True,
    )
    if icechunk:
        out().print(f"{icechunk}: {len(report.snapshots)} subjects committed", soft_wrap=True)
    for name, reason in report.reasons.items():
        if reason != FIRST_TIME:
            out().print(f"{name} was converted again: {reason}", soft_wrap=True)
    _updates.print_update(report)
    return tell_problems(report.problems)


@_command
def info(
    store: Store,
    subject: Annotated[str | None, typer.Argument(help="Tell of the arrays of this subject.")] = None,
    *,
    csv: Annotated[bool, typer.Option("--csv", help="Print the whole clinical table as CSV.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the whole clinical table as Parquet, with its types.")
    ] = None,
    codebook: Annotated[bool, typer.Option("--codebook", help="What each variable is, instead of values.")] = False,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Show the cohort of a store, or the grids and arrays of one subject with their sizes."""
    from isles24_zarr.cohorts import open_cohort
    from isles24_zarr.derivatives import described_pipelines
    from isles24_zarr.scans import described_arrays, read_path

    options = options_from_texts(storage_option)
    if csv or parquet or codebook:
        if subject is not None:
            raise UnknownNameError(subject, "is one subject, and these are tables of all: leave it out")
        cohort = open_cohort(store, storage_options=options)
        give_table(cohort, codebook=codebook, csv=csv, parquet=parquet, as_json=as_json)
        return True
    reader = read_path(store, storage_options=options)
    pipelines = described_pipelines(store, subject, storage_options=options)
    listed = [dataclasses.asdict(pipeline) for pipeline in pipelines]
    if subject is None:
        cohort = open_cohort(store, storage_options=options)
        if as_json:
            table = plain_rows(cohort.isles.table.reset_index())
            print_json(attributes=cohort.attrs, read_by=reader, subjects=table, pipelines=listed)
        else:
            print_cohort(cohort)
            _results.print_pipelines(pipelines)
            out().print(f"read by {reader}")
        return True
    arrays = described_arrays(store, subject, storage_options=options)
    if as_json:
        described = [dataclasses.asdict(array) for array in arrays]
        print_json(subject=subject, read_by=reader, arrays=described, pipelines=listed)
        return True
    print_arrays(arrays)
    _results.print_pipelines(pipelines)
    out().print(f"read by {reader}")
    return True


@_command
def verify(
    store: Store,
    *,
    source: Annotated[str | None, typer.Option(help="Compare with this release, too.")] = None,
    subject: Subjects = None,
    fast: Annotated[bool, typer.Option("--fast", help="Presence, sizes and metadata only.")] = False,
    spool: Spool = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Read every array again and compare its checksum, to prove that the store is what was written."""
    import isles24_zarr
    from isles24_zarr.tasks import connected_client

    options = options_from_texts(storage_option)
    with connected_client(scheduler) as client:
        report = isles24_zarr.verify(
            store,
            source,
            subjects=subject,
            fast=fast,
            client=client,
            workers=workers,
            storage_options=options,
            spool=spool,
        )
    if as_json:
        print_json(ok=report.ok, **dataclasses.asdict(report))
        return report.ok
    out().print(
        f"{report.store}: {len(report.subjects)} subjects, {report.arrays} images, {megabytes(report.voxel_bytes)} MB "
        f"of voxels read in {report.seconds:.1f} s, {len(report.problems) or 'no'} problems",
        soft_wrap=True,
    )
    return tell_problems(report.problems)


@_command
def export(
    store: Store,
    destination: Annotated[str, typer.Argument(help="A folder for the NIfTI tree.")],
    *,
    subject: Subjects = None,
    image: Images = None,
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", help="Only the results of this pipeline; may be repeated.")
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    storage_option: Options = None,
) -> bool:
    """Write the NIfTI tree back: once decompressed, every file is the one that was converted."""
    import isles24_zarr
    from isles24_zarr.tasks import connected_client

    options = options_from_texts(storage_option)
    with connected_client(scheduler) as client:
        report = isles24_zarr.export(
            store,
            destination,
            subjects=subject,
            images=image,
            pipelines=pipeline,
            client=client,
            workers=workers,
            storage_options=options,
        )
    out().print(
        f"{report.destination}: {report.written} files written, {report.unchanged} were there, {report.seconds:.1f} s",
        soft_wrap=True,
    )
    return tell_problems(report.problems)


for _function in (_perfusion.perfusion, _results.add, _results.remove, _updates.diff, _nnunet.nnunet):
    _command(_function)


@_command
def fetch(
    destination: Annotated[Path, typer.Argument(help="A folder for the files; made if need be.")],
    *,
    record: Annotated[
        str | None, typer.Option(help="Number or DOI of a Zenodo record; the training data of ISLES'24 by default.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", help="Only this file of the record; may be repeated.")
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option("--subject", help="Only this subject, read out of the archive by ranges; may be repeated."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="URL of another 7z archive to read subjects out of.")] = None,
    api: Annotated[str | None, typer.Option(help="Another server that answers as Zenodo does.")] = None,
) -> bool:
    """Download the release from Zenodo, 99 GB, or some subjects of it. Run it again to resume where it stopped."""
    from isles24_zarr.release import RECORD, ZENODO
    from isles24_zarr.release import fetch as download

    report = download(
        destination, record=record or RECORD, files=file, subjects=subject, source=source, api=api or ZENODO
    )
    out().print(
        f"{report.destination}: {len(report.fetched)} files fetched, {len(report.unchanged)} were there, "
        f"{megabytes(report.nbytes)} MB in {report.seconds:.1f} s",
        soft_wrap=True,
    )
    for name in (*report.fetched, *report.unchanged):
        out().print(str(Path(report.destination) / name), soft_wrap=True)
    return True


_command(serve)
_command(view)


@_command
def synthesize(
    destination: Annotated[Path, typer.Argument(help="A new folder.")],
    *,
    subjects: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    scale: Annotated[Literal["tiny", "small", "full"], typer.Option(help="Size of the volumes.")] = "small",
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other patients.")] = 0,
) -> bool:
    """Write a synthetic release in the real layout, to try things on."""
    from isles24_zarr.synthetic import synthesize as write_release

    out().print(str(write_release(destination, subjects=subjects, scale=scale, seed=seed)), soft_wrap=True)
    return True


@_command
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to work; made if need be.")] = Path("isles24-demo"),
) -> bool:
    """Make a small synthetic release, convert it, open it, compute and plot: all in one go."""
    import isles24_zarr
    from isles24_zarr.synthetic import UNFINISHED

    release, store, picture = folder / "train", folder / "isles24.zarr", folder / "montage.png"
    if not release.exists() or (release / UNFINISHED).exists():
        out().print(f"1. A synthetic release of four patients in {release}", soft_wrap=True)
        isles24_zarr.synthesize(release, subjects=4, scale="small")
    out().print(f"2. isles24_zarr.convert({str(release)!r}, {str(store)!r})", soft_wrap=True)
    report = isles24_zarr.convert(release, store)
    out().print(f"3. cohort = isles24_zarr.open_cohort({str(store)!r})", soft_wrap=True)
    cohort = isles24_zarr.open_cohort(store)
    print_cohort(cohort)
    subject = cohort.isles.subjects[0]
    out().print(f"4. cohort.isles.scan({subject!r}).isles.volume('lesion_mask')")
    scan_ = cohort.isles.scan(subject)
    out().print(f"   infarct of {subject}: {scan_.isles.volume('lesion_mask'):.1f} mL")
    scan_.isles.montage().savefig(picture)
    out().print(f"5. Its images: {picture.absolute()}", soft_wrap=True)
    return tell_problems(report.problems)
