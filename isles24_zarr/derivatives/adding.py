"""NIfTI files of others, a second reader's masks or the predictions of a model, as results of a pipeline."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.derivatives._commit import commit_results, take_back, taken_back, writing
from isles24_zarr.derivatives._preparing import Pipeline, Prepared
from isles24_zarr.derivatives._stored import (
    check_length,
    check_names,
    earlier_record,
    next_separator,
    stored_grid,
    whole_grid,
)
from isles24_zarr.derivatives._writing import clear_places
from isles24_zarr.errors import (
    GeometryError,
    Isles24Error,
    Problem,
    SourceError,
    StoreDamageError,
    UnknownNameError,
    UnreadableFileError,
)
from isles24_zarr.format import (
    RESULT_NAME,
    ArrayPlan,
    SubjectRecord,
    added_plan,
    mask_notices,
    reference_session,
)
from isles24_zarr.geometry import Grid, canonical_grid, canonical_orientation, corner_displacement, same_grid
from isles24_zarr.nifti import VoxelStream, read_header
from isles24_zarr.release import SourceFile
from isles24_zarr.scans import ScanPlace
from isles24_zarr.store import StorePlace, is_versioned, read_document, read_root
from isles24_zarr.vocabulary import SUBJECT_NAME
from isles24_zarr.writing import looked_at, write_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

    from isles24_zarr.derivatives._commit import Writer
    from isles24_zarr.format import GridRecord
    from isles24_zarr.nifti import Header

_SUBJECT: Final = re.compile(r"(?:^|_)(sub-[0-9A-Za-z]+)(?=[_.])", re.ASCII)
_SESSION: Final = re.compile(r"_ses-([0-9]{1,4})(?=[_.])", re.ASCII)
_DESC: Final = re.compile(r"_desc-([0-9A-Za-z]+)(?=[_.])", re.ASCII)
_SUFFIX: Final = re.compile(r"_([0-9A-Za-z-]+)\.nii(?:\.gz)?$", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """What was added.

    Parameters
    ----------
    store
        Where to.
    added
        Path of the file of each array that was written, by the path of the array in the store.
    problems
        Files that could not be added, and what is odd about others.
    """

    store: str
    added: Mapping[str, str]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether all files were added."""
        return all(problem.severity != "error" for problem in self.problems)


def add(
    store: str | os.PathLike[str],
    pipeline: str,
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    subject: str | None = None,
    name: str | None = None,
    space: str | None = None,
    description: str = "",
    version: str | None = None,
    generated_by: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> AddReport:
    """Add NIfTI masks and maps of others to a store, as results of a pipeline.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    pipeline
        Whose results they are: letters, digits and hyphens.
    files
        Paths of ``.nii`` and ``.nii.gz`` files, or one of them.
    subject
        Whose all files are; by default as each file name says, ``sub-stroke0001_...``.
    name
        Of the array; by default ``desc-`` and suffix of the file name, as BIDS has them.
    space
        The grid that files must be on; by default the first that they are on, space-ncct before others.
    description, version, generated_by
        As for `save_results`.
    overwrite
        Replace results of the same names.
    storage_options
        Options for the store, where it is a URL.

    Returns
    -------
    AddReport
        A file that cannot be added is a problem of it; the others are added.

    Raises
    ------
    NotAStoreError, StoreLockedError, UnknownNameError
        There is no store, another process writes into it, or the pipeline cannot have this name.
    StoreWriteError
        Writing failed. What was committed before stays.

    Notes
    -----
    A file is on a grid where `convert` would have put an image with its header there: the same shape, and no corner
    further away than a tenth of a voxel. It is stored as images are, header and all, and is exported byte for byte.
    What is named as a mask (``mask``, ``msk``, ``seg``, ``dseg``, ``label``, ``labels``) is stored as labels where it
    is one.

    Examples
    --------
    >>> mask = "train/derivatives/sub-stroke0001/ses-02/sub-stroke0001_ses-02_space-ncct_lesion-msk.nii.gz"
    >>> report = isles24_zarr.add("isles24.zarr", "second-reader", [mask], overwrite=True)
    >>> list(report.added)
    ['derivatives/second-reader/sub-stroke0001/space-ncct/lesion_msk']
    """
    target = StorePlace.of(store, storage_options)
    read_root(target.opened(read_only=True))
    whose = Pipeline.of(pipeline, description, version, generated_by)
    problems: list[Problem] = []
    by_subject: dict[str, list[Path]] = {}
    several = [files] if isinstance(files, str | os.PathLike) else list(files)
    for file in (Path(os.fspath(each)).expanduser() for each in several):
        try:
            _check_file(file)
            by_subject.setdefault(subject or _subject_of(file), []).append(file)
        except OSError as error:
            problems.append(Problem.from_error(UnreadableFileError(file, str(error))))
        except Isles24Error as error:
            problems.append(Problem.from_error(error))
    if not by_subject and not problems:
        raise UnknownNameError("add", "was given no files")
    added: dict[str, str] = {}
    for whom, paths in by_subject.items():
        with writing(target) as writer:
            candidates = list(_candidates(writer.store, target, whom, paths, problems, name=name, space=space))
            groups = dict.fromkeys(candidate.grid_group for candidate in candidates) if writer.shared else ()
            for group in groups:
                own = [candidate for candidate in candidates if candidate.grid_group == group]
                added |= _added(writer, own, whose, problems, overwrite=overwrite)
        if not writer.shared:
            for candidate in candidates:  # a commit has all that was written before it: a file that fails has none
                with writing(target) as writer:
                    added |= _added(writer, [candidate], whose, problems, overwrite=overwrite)
    return AddReport(store=target.url, added=added, problems=tuple(problems))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Candidate:
    """A file, its name as an array, and the grid that it is on."""

    file: Path
    name: str
    header: Header
    place: ScanPlace
    grid: GridRecord

    @property
    def grid_group(self) -> str:
        return self.place.group


def _subject_of(file: Path) -> str:
    found = _SUBJECT.search(file.name)
    if found is None:
        raise UnknownNameError(file, "does not say whose it is; name it sub-..., or give the subject with '--subject'")
    return found[1]


def _name_of(file: Path) -> str:
    """Return the name of an array for a file: ``_desc-coreMask_mask`` is ``core_mask``."""
    suffix, desc = _SUFFIX.search(file.name), _DESC.search(file.name)
    parts = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", each[1]) for each in (desc, suffix) if each]
    if len(parts) == 2 and (parts[0].lower().endswith(parts[1].lower()) or parts[1] == "map"):
        parts.pop()
    name = "_".join(parts).lower().replace("-", "_")
    if not RESULT_NAME.fullmatch(name):
        raise UnknownNameError(file, "has no suffix that names an array; give a name with '--name'")
    return name


def _candidates(
    store: Store,
    target: StorePlace,
    subject: str,
    files: Iterable[Path],
    problems: list[Problem],
    *,
    name: str | None,
    space: str | None,
) -> Iterator[_Candidate]:
    """Yield files with the grid that each is on; those on none become problems."""
    taken: dict[tuple[str, str], Path] = {}
    for file in files:
        try:
            grids = _grids(store, target, subject, space)
            own_name = name or _name_of(file)
            if not RESULT_NAME.fullmatch(own_name):
                raise UnknownNameError(repr(own_name), "is no name of an array: lower-case letters, digits and _")
            check_length(own_name)
            with _opened(file) as opened:
                header = read_header(opened, path=str(file), size=file.stat().st_size)
            place, grid = _matching(file, header, grids)
            if other := taken.setdefault((place.group, own_name), file) if (place.group, own_name) in taken else None:
                raise UnknownNameError(file, f"would be {own_name} of {subject} as {other} is; give names")
            taken[place.group, own_name] = file
            yield _Candidate(file=file, name=own_name, header=header, place=place, grid=grid)
        except OSError as error:
            problems.append(Problem.from_error(UnreadableFileError(file, str(error)), subject=subject))
        except Isles24Error as error:
            problems.append(Problem.from_error(error, subject=subject))


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise UnreadableFileError(file, "is no file" if file.exists() else "does not exist")


def _opened(file: Path) -> Any:
    _check_file(file)
    return file.open("rb")


def _grids(store: Store, target: StorePlace, subject: str, space: str | None) -> list[tuple[ScanPlace, GridRecord]]:
    document = read_document(store, subject) if SUBJECT_NAME.fullmatch(subject) else None
    if document is None:
        raise UnknownNameError(subject, f"is no subject of {target.url}")
    record = SubjectRecord.from_attributes(document.get("attributes", {}), subject)
    groups = sorted(
        {group for groups in record.images.values() for group in groups}, key=lambda g: (g != "space-ncct", g)
    )
    places = [ScanPlace.of(target, subject, group) for group in groups]
    if space is not None:
        wanted = ScanPlace.of(target, subject, space)
        if wanted not in places:
            spaces = ", ".join(group.removeprefix("space-") for group in groups)
            raise UnknownNameError(
                f"{subject}, space {space!r}", f"is not in the store, which has the spaces: {spaces}"
            )
        places = [wanted]
    return [(place, stored_grid(store, place)) for place in places]


def _matching(
    file: Path, header: Header, grids: Sequence[tuple[ScanPlace, GridRecord]]
) -> tuple[ScanPlace, GridRecord]:
    """Return the grid that a file is on.

    Raises
    ------
    GeometryError
        It is on none.
    """
    in_file = Grid(shape=header.volume_shape, affine=header.affine, oriented=header.affine_source != "none")
    own = canonical_grid(in_file, canonical_orientation(header.affine))
    why = []
    for place, grid in grids:
        whole = whole_grid(grid)
        frames = grid.members["time"]["shape"][0] if "time" in grid.members else None
        if same_grid(whole, own) and header.frames in (None, frames):
            return place, grid
        what = " x ".join(map(str, whole.shape)) + " voxels"
        if whole.shape == own.shape:
            apart = corner_displacement(whole, own)
            what = (
                f"corners lie up to {apart:.3g} mm apart" if whole.oriented == own.oriented else "orientation unknown"
            )
            what = what if not same_grid(whole, own) else f"{frames or 'no'} frames"
        why.append(f"{place.group} ({what})")
    frames = f", {header.frames} frames" if header.frames else ""
    shape = " x ".join(map(str, own.shape))
    raise GeometryError(
        file, f"has {shape} voxels{frames} and is on no grid of {grids[0][0].subject}: {', '.join(why)}"
    )


def _added(
    writer: Writer, candidates: Sequence[_Candidate], pipeline: Pipeline, problems: list[Problem], *, overwrite: bool
) -> dict[str, str]:
    """Write the files of a subject that are on one grid, and commit them."""
    place, grid, store = candidates[0].place, candidates[0].grid, writer.store
    try:
        earlier = earlier_record(store, place, pipeline.name, overwrite=overwrite)
    except StoreDamageError as error:
        problems.append(Problem.from_error(error, subject=place.subject))
        return {}
    plans: dict[Path, ArrayPlan] = {}
    for candidate in candidates:
        try:
            names = [candidate.name, *(plan.image for plan in plans.values())]
            check_names(place, pipeline.name, names, grid, earlier, overwrite=overwrite)
            plan = _plan(candidate, pipeline)
            separator = next_separator(earlier, plan, versioned=is_versioned(place.target.url))
            plans[candidate.file] = dataclasses.replace(plan, separator=separator)
        except Isles24Error as error:
            problems.append(Problem.from_error(error, subject=place.subject))
    document = read_document(store, place.path)
    if not plans or document is None:
        return {}
    attributes = document["attributes"]

    def results(of: Iterable[ArrayPlan]) -> Prepared:
        return Prepared(
            place=place, pipeline=pipeline, grid_attributes=attributes, plans=tuple(of), values={}, earlier=earlier
        )

    written: dict[Path, ArrayPlan] = {}
    with taken_back(writer, pipeline.name, place.subject):
        clear_places(store, results(plans.values()))
        for file, plan in plans.items():
            try:
                written[file] = _written(store, file, plan)
                problems += mask_notices(written[file])
            except (SourceError, StoreDamageError) as error:
                problems.append(Problem.from_error(error, subject=place.subject))
        if written:
            writer.confirm()
            commit_results(store, place, pipeline, attributes, tuple(written.values()), earlier)
        if len(written) < len(plans):
            take_back(writer, pipeline.name, [place.subject])
    if written:
        writer.publish(f"{pipeline.name}: {place.subject}")
    return {plan.path: str(file) for file, plan in written.items()}


def _plan(candidate: _Candidate, pipeline: Pipeline) -> ArrayPlan:
    session = _SESSION.search(candidate.file.name)
    file = SourceFile(path=candidate.file.name, size=candidate.file.stat().st_size, stamp="")
    return added_plan(
        candidate.name,
        pipeline=pipeline.name,
        subject=candidate.place.subject,
        group=candidate.place.group,
        file=file,
        header=candidate.header,
        orientation=canonical_orientation(candidate.header.affine),
        recorded={"generated_by": list(pipeline.generated_by), "sources": {}},
        session=int(session[1]) if session else reference_session(candidate.grid.reference),
    )


def _written(store: Store, file: Path, plan: ArrayPlan) -> ArrayPlan:
    """Write a file into its array, a mask as labels if it is one; return the plan by which that was done."""
    seen = None
    if plan.is_mask:
        with _opened(file) as opened:
            plan, seen = looked_at(plan, VoxelStream(opened, path=str(file), size=plan.source.size))
    with _opened(file) as opened:
        digest = write_array(store, plan, VoxelStream(opened, path=str(file), size=plan.source.size), lambda _: None)
    if seen and seen != digest:
        raise UnreadableFileError(file, "has changed while it was read")
    return plan
