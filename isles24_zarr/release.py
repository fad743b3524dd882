"""A release as a tree of paths: which subjects and files there are.

The core is `classified`, a pure function from a relative path to what the file is. The layout follows BIDS
(https://bids-specification.readthedocs.io) with two liberties: raw data and derivatives lie side by side, and masks
end in ``-msk``. Releases differ in details; all known ones are read:

    [train/]{raw_data,rawdata,derivatives,phenotype}/sub-<label>/ses-<index>/[perfusion-maps/]
        sub-<label>_ses-<index>[_space-ncct]_<suffix>.{nii,nii.gz,xlsx,csv}
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from isles24_zarr.errors import Problem, UnknownNameError, UnsafePathError
from isles24_zarr.vocabulary import IMAGE_OF_SUFFIX, IMAGES, REFERENCE_SPACE, TABLE_OF_SESSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DICTIONARY_NAME: Final = "clinical_data-description.xlsx"
_RAW: Final = frozenset({"raw_data", "rawdata"})
_SECTIONS: Final = _RAW | {"derivatives", "phenotype"}
SUBJECT_NAME: Final = re.compile(r"sub-[0-9A-Za-z]+", re.ASCII)
_SESSION: Final = re.compile(r"ses-0*([0-9]{1,4})", re.ASCII)
_IMAGE: Final = re.compile(
    r"(?P<subject>[^_]+)_(?P<session>ses-[^_]+)(_space-(?P<space>[^_]+))?_(?P<suffix>[^_.]+)\.nii(\.gz)?", re.ASCII
)
_TABLE: Final = re.compile(r".*?(?P<table>demographic_baseline|outcome)\.(xlsx|csv)", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """What the path of an image says.

    Parameters
    ----------
    subject
        As ``sub-stroke0001``.
    session
        1 at admission, 2 at follow-up.
    space
        The space of the grid: ``"ncct"`` for registered images, else where it was acquired.
    image
        A name of `vocabulary.IMAGES`.
    precedence
        Of two files for one image the one with the smaller value is the regular one.
    """

    subject: str
    session: int
    space: str
    image: str
    precedence: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableName:
    """What the path of a phenotype table says: subject, session and which table."""

    subject: str
    session: int
    table: str
    precedence: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryName:
    """The path of the release's data dictionary."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A path that is no part of a release, and why."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file of a release.

    Parameters
    ----------
    path
        Relative to the release, with forward slashes.
    size
        In bytes.
    stamp
        A token that changes when the file is replaced: a time, an ETag or a CRC, as the file system has it.
    """

    path: str
    size: int
    stamp: str


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
    """

    source: str
    subjects: Mapping[str, Subject]
    dictionary: SourceFile | None
    problems: tuple[Problem, ...]

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


def classified(path: str) -> ImageName | TableName | DictionaryName | Stray:
    """Tell what a file is by its path.

    Parameters
    ----------
    path
        Relative to the release, with forward slashes.

    Raises
    ------
    UnsafePathError
        The path is absolute, leads upwards, or has a subject whose name is no BIDS label.
    """
    parts = _safe_parts(path)
    if parts[-1] == DICTIONARY_NAME and len(parts) <= 2:
        return DictionaryName()
    start = next((index for index, part in enumerate(parts[:2]) if part in _SECTIONS), None)
    if start is None:
        return Stray(reason="is not below raw_data/, derivatives/ or phenotype/")
    if len(parts) - start < 4:
        return Stray(reason=f"is not below {parts[start]}/<subject>/<session>/")
    section, *folders, name = parts[start:]
    subject, session = folders[0], _SESSION.fullmatch(folders[1])
    if not SUBJECT_NAME.fullmatch(subject):
        raise UnsafePathError(path, f"the subject name {subject!r} is not 'sub-' and a label of letters and digits")
    if session is None:
        return Stray(reason=f"{folders[1]!r} is not the name of a session")
    if section == "phenotype":
        return _classified_table(folders[2:], name, subject=subject, session=int(session[1]))
    return _classified_image(folders[2:], name, section=section, subject=subject, session=int(session[1]))


def _safe_parts(path: str) -> tuple[str, ...]:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", path):
        raise UnsafePathError(path or "(no name)", "the name is absolute or leads out of the release")
    if "\\" in path or not path.isprintable():
        raise UnsafePathError(repr(path), "the name holds backslashes or control characters")
    return parts


def _classified_table(folders: list[str], name: str, *, subject: str, session: int) -> TableName | Stray:
    match = _TABLE.fullmatch(name)
    if folders or match is None:
        return Stray(reason="is not a known phenotype table")
    if name.startswith("sub-") and not name.startswith(f"{subject}_"):
        return Stray(reason=f"its name speaks of another subject than its folder {subject}")
    table = match["table"].lower()
    if TABLE_OF_SESSION.get(session) != table:
        return Stray(reason=f"a table '{table}' does not belong to session {session}")
    return TableName(subject=subject, session=session, table=table, precedence=int(name.lower().endswith(".csv")))


def _classified_image(folders: list[str], name: str, *, section: str, subject: str, session: int) -> ImageName | Stray:
    match = _IMAGE.fullmatch(name)
    if match is None or folders not in ([], ["perfusion-maps"]):
        return Stray(reason="is not named as an image of the release")
    if match["subject"] != subject:
        return Stray(reason=f"its name speaks of another subject than its folder {subject}")
    of_name = _SESSION.fullmatch(match["session"])
    if of_name is None or int(of_name[1]) != session:
        return Stray(reason=f"its name speaks of another session than its folder, {session}")
    image = IMAGE_OF_SUFFIX.get(match["suffix"])
    if image is None:
        return Stray(reason=f"{match['suffix']!r} is not an image of the release")
    if IMAGES[image].session != session:
        return Stray(reason=f"an image '{image}' does not belong to session {session}")
    if match["space"] not in (None, REFERENCE_SPACE):
        return Stray(reason=f"its space {match['space']!r} is not known")
    registered = section == "derivatives" or match["space"] is not None
    irregular = (section == "derivatives") != (match["space"] is not None)
    return ImageName(
        subject=subject,
        session=session,
        space=REFERENCE_SPACE if registered else IMAGES[image].acquired_space,
        image=image,
        precedence=2 * irregular + name.endswith(".nii"),
    )


def release_from_files(source: str, files: Iterable[SourceFile], problems: Iterable[Problem] = ()) -> Release:
    """Sort the files of a source by subject.

    Parameters
    ----------
    source
        Where they lie, for the record.
    files
        In any order.
    problems
        What the listing found already.

    Returns
    -------
    Release
        Of several files for one image the regular one; the others, and all strays, are among its problems.
    """
    found = list(problems)
    images: dict[str, dict[tuple[str, str], list[tuple[int, SourceFile]]]] = defaultdict(lambda: defaultdict(list))
    tables: dict[str, dict[TableName, SourceFile]] = defaultdict(dict)
    dictionaries = []
    for file in sorted(files, key=lambda file: file.path):
        try:
            match classified(file.path):
                case ImageName() as name:
                    images[name.subject][name.space, name.image].append((name.precedence, file))
                case TableName() as table:
                    tables[table.subject].setdefault(table, file)
                case DictionaryName():
                    dictionaries.append(file)
                case Stray() as stray:
                    found.append(_notice(file.path, f"{stray.reason}; left out"))
        except UnsafePathError as error:
            found.append(Problem.from_error(error))
    subjects = {}
    for name_ in sorted(images.keys() | tables.keys()):
        chosen = dict(_regular_files(images[name_], found, subject=name_))
        order = sorted(chosen, key=lambda key: (key[0] != REFERENCE_SPACE, key[0], list(IMAGES).index(key[1])))
        ordered_tables = sorted(tables[name_].items(), key=lambda item: (item[0].session, item[0].precedence))
        subjects[name_] = Subject(
            name=name_,
            images=MappingProxyType({key: chosen[key] for key in order}),
            tables=MappingProxyType(dict(ordered_tables)),
        )
    found += [_notice(extra.path, "a second data dictionary; left out") for extra in dictionaries[1:]]
    return Release(
        source=source,
        subjects=MappingProxyType(subjects),
        dictionary=dictionaries[0] if dictionaries else None,
        problems=tuple(found),
    )


def _regular_files(
    images: Mapping[tuple[str, str], list[tuple[int, SourceFile]]], found: list[Problem], *, subject: str
) -> Iterator[tuple[tuple[str, str], SourceFile]]:
    for key, candidates in images.items():
        (_, regular), *others = sorted(candidates, key=lambda candidate: (candidate[0], candidate[1].path))
        for _, other in others:
            message = f"a second file for '{key[1]}', {regular.path} is the regular one; left out"
            found.append(_notice(other.path, message, subject=subject, image=key[1]))
        yield key, regular


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
