"""The command line: options, exit codes and rendering; what is done is done elsewhere.

Results go to stdout, logs and progress to stderr. Exit codes: 0 all good; 1 finished, with the problems listed;
2 the request itself is wrong; 130 interrupted. To be interrupted is how `serve` ends: with 0.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, ParamSpec

import typer

from isles24_zarr.cli import _perfusion, _results, _updates
from isles24_zarr.cli._options import (
    AsJson,
    Images,
    Options,
    Prune,
    Readmit,
    Scheduler,
    Source,
    Spool,
    Store,
    Subjects,
    Verbose,
    Workers,
)
from isles24_zarr.cli._rendering import (
    check_working_folder,
    err,
    megabytes,
    out,
    print_arrays,
    print_cohort,
    print_json,
    print_plan,
    print_release,
    standard_streams,
    tell_problems,
)
from isles24_zarr.cli._serving import serve, view
from isles24_zarr.errors import Isles24Error, RequestError
from isles24_zarr.places import options_from_texts

if TYPE_CHECKING:
    from collections.abc import Callable


Arguments = ParamSpec("Arguments")

app = typer.Typer(
    name="isles24-zarr",
    help="ISLES'24 stroke imaging as one Zarr store: list a release, convert it, look at what it holds.",
    epilog="Start with 'isles24-zarr demo': it makes a small synthetic release and does everything with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED: Final = "interrupted; what was committed stays, the same command resumes"


def _command(function: Callable[Arguments, bool]) -> Callable[Arguments, None]:
    """Turn a function that tells if all is good into a command, with --verbose and the exit codes of this module."""

    def command(*args: Arguments.args, **options: Arguments.kwargs) -> None:
        verbose = options.pop("verbose", False)
        # to be ended by the system is to be interrupted: workers stop, nothing is left half done
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            check_working_folder()
            good = function(*args, **options)
        except Isles24Error as error:
            if verbose:
                raise
            err().print(f"error: {error}", style="red", soft_wrap=True)
            raise typer.Exit(2 if isinstance(error, RequestError) else 1) from None
        except KeyboardInterrupt:
            err().print(_INTERRUPTED)
            raise typer.Exit(130) from None
        if not good:
            raise typer.Exit(1)

    functools.update_wrapper(command, function)
    own = inspect.signature(function, eval_str=True)
    verbose = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    command.__signature__ = own.replace(parameters=[*own.parameters.values(), verbose])  # type: ignore[attr-defined]
    command.__annotations__ = {**inspect.get_annotations(function, eval_str=True), "verbose": Verbose}
    app.command()(command)
    return command


@_command
def scan(
    source: Source,
    *,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """List the subjects, images and tables of a release, and everything odd. Reads headers only."""
    from isles24_zarr.conversion import scan as scan_release

    release = scan_release(source, options_from_texts(storage_option))
    return print_release(release, as_json=as_json)


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    icechunk: Annotated[
        str | None,
        typer.Option(help="Commit each subject to this Icechunk repository, too: a folder or s3://bucket/prefix."),
    ] = None,
    storage_option: Options = None,
    spool: Spool = None,
    as_json: AsJson = False,
) -> bool:
    """Convert a release into a store. Run it again to resume: what was finished stays as it is."""
    options = options_from_texts(storage_option)
    if dry_run:
        from isles24_zarr.conversion import planned

        return print_plan(*planned(source, subjects=subject, images=image, storage_options=options), as_json=as_json)
    from isles24_zarr import convert as run
    from isles24_zarr.conversion import FIRST_TIME
    from isles24_zarr.tasks import connected_client

    with connected_client(scheduler) as client:
        report = run(
            source,
            store,
            subjects=subject,
            images=image,
            client=client,
            workers=workers,
            overwrite=overwrite,
            prune=prune,
            readmit=readmit,
            icechunk=icechunk,
            storage_options=options,
            spool=spool,
        )
    if as_json:
        print_json(**dataclasses.asdict(report))
        return report.ok
    out().print(
        f"{report.store}: {len(report.converted)} subjects converted, {len(report.unchanged)} unchanged, "
        f"{report.images} images written, {megabytes(report.voxel_bytes)} MB of voxels in {report.seconds:.1f} s",
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
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Show the cohort of a store, or the grids and arrays of one subject with their sizes."""
    from isles24_zarr.cohorts import open_cohort
    from isles24_zarr.derivatives import described_pipelines
    from isles24_zarr.scans import described_arrays, read_path

    options = options_from_texts(storage_option)
    reader = read_path(store, storage_options=options)
    pipelines = described_pipelines(store, subject, storage_options=options)
    listed = [dataclasses.asdict(pipeline) for pipeline in pipelines]
    if subject is None:
        cohort = open_cohort(store, storage_options=options)
        if as_json:
            table = json.loads(cohort.isles.table.reset_index().to_json(orient="records"))
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


for _function in (_perfusion.perfusion, _results.add, _results.remove, _updates.diff):
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
    api: Annotated[str | None, typer.Option(help="Another server that answers as Zenodo does.")] = None,
) -> bool:
    """Download the release from Zenodo, 99 GB. Run it again to resume where it stopped."""
    from isles24_zarr.release import RECORD, ZENODO
    from isles24_zarr.release import fetch as download

    report = download(destination, record=record or RECORD, files=file, api=api or ZENODO)
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

    release, store, picture = folder / "train", folder / "isles24.zarr", folder / "montage.png"
    if not release.exists():
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


def main() -> None:
    """Run the command line."""
    try:
        with standard_streams():
            app()
    except KeyboardInterrupt:  # before a command has begun, or after it has ended
        err().print(_INTERRUPTED)
        sys.exit(130)
    finally:
        # what is left is to leave: nothing is to be interrupted any more, and the exit code stands
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # an interrupt that passed through exec of a string (dataclasses are made so, while modules load) has Python
        # end "python -m" by SIGINT, though it was caught; the next one that passes without clears that
        exec("pass", {})  # noqa: S102
