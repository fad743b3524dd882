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
from isles24_zarr.release.files import SourceFile
from isles24_zarr.vocabulary import IMAGE_OF_SUFFIX, IMAGES, REFERENCE_SPACE, SUBJECT_NAME, TABLE_OF_SESSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DICTIONARY_NAME: Final = "clinical_data-description.xlsx"
_RAW: Final = frozenset({"raw_data", "rawdata"})
_SECTIONS: Final = _RAW | {"derivatives", "phenotype"}
_SESSION: Final = re.compile(r"ses-0*([0-9]{1,4})", re.ASCII)
_IMAGE: Final = re.compile(
    r"(?P<subject>[^_]+)_(?P<session>ses-[^_]+)(_space-(?P<space>[^_]+))?_(?P<suffix>[^_.]+)\.nii(\.gz)?", re.ASCII
)
_TABLE: Final = re.compile(
    r"(?P<subject>[^_]+)_(?P<session>ses-[^_]+)_(?P<table>demographic_baseline|outcome)\.(xlsx|csv)",
    re.ASCII | re.IGNORECASE,
)
_LIKE_TABLE: Final = re.compile(r".*(?P<table>demographic_baseline|outcome).*", re.IGNORECASE)
_COMPANIONS: Final = ("._", "~$")
"""How names begin of files that macOS and Excel put beside others: attributes and locks, under the others' endings."""


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
class StrayTable(Stray):
    """A table whose name is not that of its subject's table, but like it: a copy, an older or a corrected one.

    It is never read. Which of several versions is right is not for us to guess, and the name of one that is alone says
    as little; renaming it is a decision of those who know.
    """

    subject: str
    session: int
    table: str


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
    if parts[-1].startswith(_COMPANIONS):
        return Stray(reason="is what macOS or Excel keeps beside a file")
    if start is None:
        return Stray(reason="is not below raw_data/, derivatives/ or phenotype/")
    if len(parts) - start < 4:
        return Stray(reason=f"is not below {parts[start]}/<subject>/<session>/")
    section, *folders, name = parts[start:]
    subject, session = folders[0], _SESSION.fullmatch(folders[1])
    if section == "derivatives" and not subject.startswith("sub-") and SUBJECT_NAME.fullmatch(folders[1]):
        return Stray(reason=f"is a result of the pipeline {subject}, which 'isles24-zarr add' takes")
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
    like = _LIKE_TABLE.fullmatch(name)
    if folders or like is None:
        return Stray(reason="is not a known phenotype table")
    table = like["table"].lower()
    if TABLE_OF_SESSION.get(session) != table:
        return Stray(reason=f"a table '{table}' does not belong to session {session}")
    if reason := _irregularity(name, subject=subject, session=session):
        return StrayTable(reason=reason, subject=subject, session=session, table=table)
    return TableName(subject=subject, session=session, table=table, precedence=int(name.lower().endswith(".csv")))


def _irregularity(name: str, *, subject: str, session: int) -> str | None:
    """Tell what the name of a table has against it being the one of its folder."""
    match = _TABLE.fullmatch(name)
    if match is None or not SUBJECT_NAME.fullmatch(match["subject"]):
        regular = f"{subject}_ses-{session:02d}_{TABLE_OF_SESSION[session]}"
        return f"is not named as the table of its folder, {regular}.xlsx or .csv"
    if match["subject"] != subject:
        return f"its name speaks of another subject than its folder {subject}"
    of_name = _SESSION.fullmatch(match["session"])
    if of_name is None or int(of_name[1]) != session:
        return f"its name speaks of another session than its folder, {session}"
    return None


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
    images: dict[str, dict[ImageName, list[SourceFile]]] = defaultdict(lambda: defaultdict(list))
    tables: dict[str, dict[TableName, list[SourceFile]]] = defaultdict(lambda: defaultdict(list))
    stray_tables: list[tuple[StrayTable, SourceFile]] = []
    dictionaries = []
    for file in sorted(files, key=_oddity):
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
        order = sorted(chosen, key=lambda key: (key[0] != REFERENCE_SPACE, key[0], list(IMAGES).index(key[1])))
        subjects[name_] = Subject(
            name=name_,
            images=MappingProxyType({key: chosen[key] for key in order}),
            tables=MappingProxyType(dict(_regular_tables(tables[name_], found))),
        )
    found += [_stray_table(stray, file, subjects.get(stray.subject)) for stray, file in stray_tables]
    found += [_notice(extra.path, "a second data dictionary; left out") for extra in dictionaries[1:]]
    return Release(
        source=source,
        subjects=MappingProxyType(subjects),
        dictionary=dictionaries[0] if dictionaries else None,
        problems=tuple(found),
    )


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
