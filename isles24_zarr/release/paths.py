"""A release as a tree of paths: which subjects and files there are."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from isles24_zarr.errors import Problem, SourceNotFoundError, UnknownNameError, UnsafePathError
from isles24_zarr.release.extra_images import image_rank
from isles24_zarr.release.files import SourceFile
from isles24_zarr.release.left_out import LeftOut, left_out_path, refused
from isles24_zarr.release.names import DictionaryName, ImageName, Stray, StrayTable, TableName, classified
from isles24_zarr.vocabulary import IMAGES, REFERENCE_SPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One subject's files.

    Parameters
    ----------
    name
        As ``sub-stroke0001``.
    images
        By (space, image name), in the order of the vocabulary.
    tables
        Phenotype tables by path, the regular ones of a session first.
    """

    name: str
    images: Mapping[tuple[str, str], SourceFile]
    tables: Mapping[TableName, SourceFile]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a source holds.

    Parameters
    ----------
    source
        Where it lies.
    subjects
        By name, sorted.
    dictionary
        The data dictionary, if there is one.
    problems
        Everything odd.
    left_out
        All files that are not used.
    extra_images
        Whether images beyond the twelve are among those of the subjects.
    """

    source: str
    subjects: Mapping[str, Subject]
    dictionary: SourceFile | None
    problems: tuple[Problem, ...]
    left_out: tuple[LeftOut, ...] = ()
    extra_images: bool = True

    @property
    def images(self) -> tuple[SourceFile, ...]:
        """All image files."""
        return tuple(file for subject in self.subjects.values() for file in subject.images.values())

    @property
    def tables(self) -> tuple[SourceFile, ...]:
        """All phenotype tables."""
        return tuple(file for subject in self.subjects.values() for file in subject.tables.values())

    @property
    def bytes(self) -> int:
        """Size of all image files."""
        return sum(file.size for file in self.images)

    @property
    def image_names(self) -> frozenset[str]:
        """Names of all images of its subjects."""
        return frozenset(image for subject in self.subjects.values() for _, image in subject.images)

    def without_extra_images(self) -> Release:
        """Return the release with the twelve images alone; the others are left out, each with a notice.

        Raises
        ------
        SourceNotFoundError
            Nothing remains.
        """
        subjects, left_out = {}, []
        for name, subject in self.subjects.items():
            known = {key: file for key, file in subject.images.items() if key[1] in IMAGES}
            left_out += [
                LeftOut(path=file.path, kind="extra image", subject=name, image=image)
                for (_, image), file in subject.images.items()
                if image not in IMAGES
            ]
            if known or subject.tables:
                subjects[name] = dataclasses.replace(subject, images=MappingProxyType(known))
        if self.subjects and not subjects:
            what = f"holds none of the twelve images of ISLES'24 and no table, but {len(self.images)} other images"
            raise SourceNotFoundError(self.source, f"{what}, which --extra-images (extra_images=True) keeps")
        return dataclasses.replace(
            self,
            subjects=MappingProxyType(subjects),
            problems=(*self.problems, *_extra_notices(left_out)),
            left_out=tuple(sorted([*self.left_out, *left_out], key=lambda each: each.path)),
            extra_images=False,
        )


def _extra_notices(left_out: Iterable[LeftOut]) -> Iterator[Problem]:
    """Yield one notice for all images of a name that are left out, about the first of them."""
    paths: dict[str, list[str]] = defaultdict(list)
    for each in left_out:
        paths[each.image].append(each.path)
    for image, (path, *others) in sorted(paths.items()):
        name = classified(path)
        why = name.beyond if isinstance(name, ImageName) else ""
        more = f", and so are {len(others)} more of this name" if others else ""
        message = f"{why}; left out{more}: --extra-images (extra_images=True) keeps it as '{image}'"
        yield _notice(path, message, image=image)


def release_from_files(
    source: str, files: Iterable[SourceFile], problems: Iterable[Problem] = (), left_out: Iterable[LeftOut] = ()
) -> Release:
    """Sort the files of a source by subject.

    Parameters
    ----------
    source
        Where they lie, for the record.
    files
        In any order.
    problems
        What the listing found already: whatever is an error was not listed, and is left out.
    left_out
        What the listing has left out with a notice.

    Returns
    -------
    Release
        Of several files for one image the regular one; the others, and all strays, are among its problems. Images
        beyond the twelve are among those of their subjects.
    """
    found = list(problems)
    unlisted = [*map(refused, (problem for problem in found if problem.severity == "error")), *left_out]
    images: dict[str, dict[ImageName, list[SourceFile]]] = defaultdict(lambda: defaultdict(list))
    tables: dict[str, dict[TableName, list[SourceFile]]] = defaultdict(lambda: defaultdict(list))
    stray_tables: list[tuple[StrayTable, SourceFile]] = []
    dictionaries = []
    listed = sorted(files, key=_oddity)
    for file in listed:
        try:
            match classified(file.path):
                case ImageName() as name:
                    images[name.subject][name].append(file)
                case TableName() as table:
                    tables[table.subject][table].append(file)
                case DictionaryName():
                    dictionaries.append(file)
                case StrayTable() as stray:
                    stray_tables.append((stray, file))
                case Stray() as stray:
                    found.append(_notice(file.path, f"{stray.reason}; left out"))
        except UnsafePathError as error:
            found.append(Problem.from_error(error))
    subjects = {}
    for name_ in sorted(images.keys() | tables.keys()):
        chosen = dict(_regular_images(images[name_], found, subject=name_))
        order = sorted(chosen, key=lambda key: (key[0] != REFERENCE_SPACE, key[0], image_rank(key[1])))
        subjects[name_] = Subject(
            name=name_,
            images=MappingProxyType({key: chosen[key] for key in order}),
            tables=MappingProxyType(dict(_regular_tables(tables[name_], found))),
        )
    found += [_stray_table(stray, file, subjects.get(stray.subject)) for stray, file in stray_tables]
    found += [_notice(extra.path, "a second data dictionary; left out") for extra in dictionaries[1:]]
    release = Release(
        source=source,
        subjects=MappingProxyType(subjects),
        dictionary=dictionaries[0] if dictionaries else None,
        problems=tuple(found),
    )
    return dataclasses.replace(
        release, left_out=tuple(sorted([*unlisted, *_left_out(listed, release)], key=lambda each: each.path))
    )


def _left_out(files: Iterable[SourceFile], release: Release) -> Iterator[LeftOut]:
    """Yield what is not used of all files, by path."""
    used = {file.path for file in (*release.images, *release.tables, release.dictionary) if file}
    for path in sorted({file.path for file in files} - used):
        try:
            name = classified(path)
        except UnsafePathError:
            yield left_out_path(path)
            continue
        match name:
            case StrayTable():
                tables = release.subjects[name.subject].tables if name.subject in release.subjects else ()
                others = any(each.table == name.table for each in tables)
                yield LeftOut(path=path, kind="second file" if others else "table", subject=name.subject)
            case Stray():
                yield left_out_path(path, is_result=name.is_result)
            case ImageName():  # of two images beyond the twelve that would have one name, one is lost
                yield LeftOut(path=path, kind="image" if name.beyond else "second file", subject=name.subject)
            case TableName():
                yield LeftOut(path=path, kind="second file", subject=name.subject)
            case DictionaryName():
                yield LeftOut(path=path, kind="file")


def _oddity(file: SourceFile) -> tuple[bool, int, str]:
    """Sort the regular one of several spellings of a path first: no ``./`` or ``//``, and not in capitals."""
    return file.path != str(PurePosixPath(file.path)), sum(map(str.isupper, file.path)), file.path


def _regular_images(
    images: Mapping[ImageName, list[SourceFile]], found: list[Problem], *, subject: str
) -> Iterator[tuple[tuple[str, str], SourceFile]]:
    by_key: dict[tuple[str, str], list[SourceFile]] = defaultdict(list)
    for name in sorted(images, key=lambda name: name.precedence):
        by_key[name.space, name.image] += images[name]
    for key, (regular, *others) in by_key.items():
        for other in others:
            message = f"a second file for '{key[1]}', {regular.path} is the regular one; left out"
            found.append(_notice(other.path, message, subject=subject, image=key[1]))
        yield key, regular


def _regular_tables(
    tables: Mapping[TableName, list[SourceFile]], found: list[Problem]
) -> Iterator[tuple[TableName, SourceFile]]:
    for name in sorted(tables, key=lambda name: (name.session, name.precedence)):
        regular, *others = tables[name]
        for other in others:
            message = f"a second file for '{name.table}', {regular.path} is the regular one; left out"
            found.append(_notice(other.path, message, subject=name.subject))
        yield name, regular


def _stray_table(stray: StrayTable, file: SourceFile, subject: Subject | None) -> Problem:
    """Report a table that is not used: as an error where the subject has no other one."""
    same = (path for name, path in (subject.tables.items() if subject else ()) if name.table == stray.table)
    if regular := next(same, None):
        message = f"a second file for '{stray.table}', {regular.path} is the regular one; left out"
        return _notice(file.path, message, subject=stray.subject)
    message = f"{stray.reason}; left out: rename it if it is the one to use"
    return Problem(path=file.path, message=message, subject=stray.subject)


def _notice(path: str, message: str, *, subject: str | None = None, image: str | None = None) -> Problem:
    return Problem(path=path, message=message, severity="notice", subject=subject, image=image)


def selected_names(present: Iterable[str], wanted: Iterable[str] | str | None, *, of: str) -> list[str]:
    """Return some names, sorted, or all that are present.

    Parameters
    ----------
    present, wanted
        What there is, and what of it is asked for; ``None`` for all.
    of
        Where the names are from, for the error.

    Raises
    ------
    UnknownNameError
        A name is not present, or none is asked for.
    """
    known = sorted(present)
    if wanted is None:
        return known
    wanted = {wanted} if isinstance(wanted, str) else set(wanted)
    if not wanted:
        raise UnknownNameError("an empty list of names", "asks for nothing; give None for all")
    unknown = sorted(wanted - set(known))
    if unknown:
        some = ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
        raise UnknownNameError(", ".join(unknown), f"not in {of}, which has {some or 'nothing'}")
    return sorted(wanted)
