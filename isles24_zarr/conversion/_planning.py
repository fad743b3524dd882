"""What there is to convert: headers, plans, and what is odd about them. Reads headers, no voxels."""

from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr import vocabulary
from isles24_zarr.conversion.resume import Job, decided_job, only_images, previous_run
from isles24_zarr.errors import DestinationError, NotAStoreError, OldStoreError, Problem, SourceError
from isles24_zarr.format import RootRecord, SubjectPlan, subject_plan
from isles24_zarr.nifti import Header, read_header
from isles24_zarr.release import Source, check_nothing_left_out, check_parts, selected_names
from isles24_zarr.store import child_names, read_document, read_root

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from zarr.abc.store import Store

    from isles24_zarr.release import Release, SourceFile, Subject
    from isles24_zarr.store import StorePlace

_HEADER_THREADS: Final = 8


def scan(
    source: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None, *, extra_images: bool = False
) -> Release:
    """List a release: its subjects, images, tables and everything odd. Reads headers, no voxels.

    Parameters
    ----------
    source
        A folder, an archive (zip, tar, 7z), Parquet files as on the Hugging Face Hub, or any fsspec URL (``hf://``).
    storage_options
        Options for it, where it is a URL.
    extra_images
        List images beyond the twelve, too, under the names that `convert` keeps them by.

    Returns
    -------
    Release
        With the problems of paths, headers and grids. ``left_out`` has all files that are not used.

    Raises
    ------
    SourceNotFoundError
        There is no release.

    Examples
    --------
    >>> release = isles24_zarr.scan("train")
    >>> list(release.subjects)
    ['sub-stroke0001', 'sub-stroke0002', 'sub-stroke0004']
    """
    place = Source.of(source, storage_options)
    release = place.listed()
    if not extra_images:
        release = release.without_extra_images()
    _, headers, problems = read_headers(place, release.subjects.values(), progress=sys.stderr.isatty())
    for subject in release.subjects.values():
        problems += subject_plan(subject, headers).problems
    return dataclasses.replace(release, problems=(*release.problems, *problems))


def planned(
    source: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[list[SubjectPlan], list[Problem]]:
    """Return what `convert` would write into a new store, given the same arguments, and what is odd."""
    place = Source.of(source, storage_options)
    release = place.listed().without_extra_images()
    chosen, wanted = chosen_subjects(place, release, subjects), wanted_images(release, images)
    _, headers, problems = read_headers(place, chosen.values(), progress=sys.stderr.isatty())
    plans = [only_images(subject_plan(subject, headers), wanted) for subject in chosen.values()]
    problems += [problem for plan in plans for problem in plan.problems]
    return plans, [*release.problems, *(problem for problem in problems if problem.image in wanted)]


def listed_release(
    source: Source, target: StorePlace, *, subjects: Sequence[str] | None, extra_images: bool, strict: bool
) -> Release:
    """List what is to be converted into a store.

    Parameters
    ----------
    source, target
        From where to where. A store that keeps images beyond the twelve goes on to do so.
    subjects
        Names of those that are wanted.
    extra_images
        Keep images beyond the twelve.
    strict
        Nothing of the subjects may be left out.

    Raises
    ------
    LeftOutError
        Something would be.
    SourceNotFoundError
        There is no release.
    """
    release = source.listed()
    root = RootRecord.from_document(read_document(target.opened(read_only=True), ""))
    if not (extra_images or root.extra_images):
        release = release.without_extra_images()
    if strict:
        check_nothing_left_out(release.source, release.left_out, subjects)
    return release


def is_outdated(target: StorePlace, *, in_part: bool) -> bool:
    """Make sure that the target is ours, or nothing yet; tell whether it is of an older version.

    Raises
    ------
    DestinationError, NotAStoreError, StoreVersionError
        It is something else.
    OldStoreError
        It is of an older version and, as the conversion is of a part, would not become one of this version.
    """
    target.opened(read_only=False)
    store = target.opened(read_only=True)
    try:
        read_root(store)
    except OldStoreError:
        if in_part:
            raise
        return True
    except NotAStoreError:
        if child_names(store, "") or read_document(store, "") is not None:
            raise DestinationError(
                target.url, "is neither empty nor an isles24-zarr store; give a new folder to convert into"
            ) from None
    return False


def voxel_files(source: Source, target: StorePlace, subjects: Iterable[Subject], wanted: frozenset[str]) -> set[str]:
    """Return the paths of all images whose voxels may be read of an archive behind HTTP; none of other sources.

    Beside those that are wanted, these are the images that an earlier run has written: they are compared or replaced.
    """
    if not source.remote:
        return set()
    store, paths = target.opened(read_only=True), set()
    for subject in subjects:
        images = wanted | previous_run(store, subject.name).images
        paths |= {file.path for (_, image), file in subject.images.items() if image in images}
    return paths


def decided_jobs(
    store: Store,
    subjects: Iterable[Subject],
    headers: Mapping[str, Header],
    problems: Iterable[Problem],
    *,
    wanted: frozenset[str],
    in_part: bool,
    overwrite: bool,
    prune: bool,
) -> tuple[list[Job], list[str], list[Problem]]:
    """Decide what is to be done for each subject.

    Parameters
    ----------
    store
        What is there.
    subjects, headers, problems
        Those of the release that were chosen, and what their files say or why they cannot be used.
    wanted, in_part
        Names of images, and whether these were asked for by name.
    overwrite
        As if nothing were there of them.
    prune
        Without the files that are not in the release any more.

    Returns
    -------
    tuple
        What there is to do, names of subjects that are left as they were committed, and what is to be told of all with
        nothing to do: of these, and of those without a commit that cannot be converted.
    """
    unreadable = {problem.path: problem for problem in problems}
    jobs, left, told = [], [], []
    for subject in subjects:
        earlier, afresh = previous_run(store, subject.name), frozenset[str]()
        if overwrite:
            present = earlier.images | {image for _, image in subject.images}
            # one that no subject of the release has any more is none that could be wanted
            afresh = present & wanted if in_part else present
            earlier = earlier.without(afresh)
        job, found = decided_job(
            subject, headers, unreadable, wanted=wanted, earlier=earlier, afresh=afresh, prune=prune
        )
        told += found
        if job:
            jobs.append(job)
        elif earlier.record:
            left.append(subject.name)
    return jobs, left, told


def read_headers(
    source: Source,
    subjects: Iterable[Subject],
    dictionary: SourceFile | None = None,
    kept: Collection[str] = (),
    folder: Path | None = None,
    *,
    progress: bool,
) -> tuple[Source, dict[str, Header], list[Problem]]:
    """Read the headers of all images by path; a file without a usable one becomes a problem.

    Parameters
    ----------
    source, subjects, dictionary
        The release, and whose files are wanted.
    kept, folder
        Paths of images to copy out of an archive behind HTTP, which is read once, and where to.
    progress
        Show how far it is, where that takes time.

    Returns
    -------
    tuple
        The source, with what was taken out of an archive on the way; headers; problems.
    """
    if source.streamed:
        from isles24_zarr.tasks import read_ahead

        folder = folder if source.remote else None
        return read_ahead(source, subjects, dictionary, progress=progress, kept=kept, folder=folder)

    def read(item: tuple[str, str, SourceFile]) -> Header | Problem:
        subject, image, file = item
        try:
            with source.opened(file, header=True) as opened:
                return read_header(opened, path=file.path, size=file.size)
        except SourceError as error:
            return Problem.from_error(error, subject=subject, image=image)

    items = [(subject.name, image, file) for subject in subjects for (_, image), file in subject.images.items()]
    with ThreadPoolExecutor(_HEADER_THREADS) as threads:
        found = list(zip(items, threads.map(read, items), strict=True))
    headers = {file.path: result for (_, _, file), result in found if isinstance(result, Header)}
    return source, headers, [result for _, result in found if isinstance(result, Problem)]


def wanted_images(release: Release, images: Sequence[str] | None) -> frozenset[str]:
    of = "the images of a release" if release.extra_images else "the images of a release (others need --extra-images)"
    return frozenset(selected_names({*vocabulary.IMAGES, *release.image_names}, images, of=of))


def chosen_subjects(source: Source, release: Release, names: Sequence[str] | None) -> dict[str, Subject]:
    chosen = selected_names(release.subjects, names, of=release.source)
    check_parts(source, release, chosen)
    return {name: release.subjects[name] for name in chosen}
