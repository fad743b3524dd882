"""The commands about results of pipelines: `add`, `remove`, and what `info` says of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from isles24_zarr.cli._options import AsJson, Options, Store
from isles24_zarr.cli._rendering import megabytes, out, print_json, print_table, tell_problems
from isles24_zarr.places import options_from_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isles24_zarr.derivatives import PipelineInfo


def add(
    store: Store,
    pipeline: Annotated[str, typer.Argument(help="Whose results they are: letters, digits and hyphens.")],
    files: Annotated[list[str], typer.Argument(help="NIfTI files, named as sub-stroke0001_..._mask.nii.gz.")],
    *,
    subject: Annotated[str | None, typer.Option(help="Whose the files are, where their names do not say it.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the array; the suffix of the file name by default.")] = None,
    space: Annotated[str | None, typer.Option(help="The grid that the files must be on, as 'ctp'.")] = None,
    description: Annotated[str, typer.Option(help="What the pipeline is.")] = "",
    version: Annotated[str | None, typer.Option(help="Of what made the files.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of the same names.")] = False,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Add NIfTI masks and maps of others to a store, as results of a pipeline beside the images."""
    import isles24_zarr

    report = isles24_zarr.add(
        store,
        pipeline,
        files,
        subject=subject,
        name=name,
        space=space,
        description=description,
        version=version,
        overwrite=overwrite,
        storage_options=options_from_texts(storage_option),
    )
    if as_json:
        print_json(**dataclasses.asdict(report))
        return report.ok
    for path, file in report.added.items():
        out().print(f"{file} is {path}", soft_wrap=True)
    return tell_problems(report.problems)


def remove(
    store: Store,
    subjects: Annotated[
        list[str] | None, typer.Argument(help="Who is taken out; with --derivative, whose results, all by default.")
    ] = None,
    *,
    derivative: Annotated[
        str | None, typer.Option(help="The pipeline whose results are taken out; images stay.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Keep no list of names: 'convert' would take the subjects in again.")
    ] = False,
    expire_history: Annotated[
        bool,
        typer.Option(
            "--expire-history", help="Of an Icechunk repository, delete the versions and tags that hold the subjects."
        ),
    ] = False,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Take subjects out of a store, everywhere, or the results of a pipeline. Run it again if it was interrupted."""
    import isles24_zarr

    report = isles24_zarr.remove(
        store,
        subjects or None,
        derivative=derivative,
        forget=forget,
        expire_history=expire_history,
        storage_options=options_from_texts(storage_option),
    )
    if as_json:
        print_json(**dataclasses.asdict(report))
        return True
    for path in report.removed:
        out().print(f"{path} was taken out", soft_wrap=True)
    if not report.removed:
        out().print("nothing was left to take out", soft_wrap=True)
    for snapshot in report.expired:
        out().print(f"{snapshot} was deleted from the history", soft_wrap=True)
    return tell_problems(report.problems)


def print_pipelines(pipelines: Sequence[PipelineInfo]) -> None:
    """Print what pipelines have; nothing where there are none."""
    if not pipelines:
        return
    rows = (
        (
            each.name,
            str(len(each.subjects)),
            ", ".join(each.arrays),
            megabytes(each.stored_bytes),
            f"{len(each.outdated)} older than their images" if each.outdated else "",
        )
        for each in pipelines
    )
    print_table(("pipeline", "subjects", "arrays", "MB", ""), rows)
