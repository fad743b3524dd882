"""What a file of a release is by its path: `classified`, a pure function.

The layout follows BIDS
(https://bids-specification.readthedocs.io) with two liberties: raw data and derivatives lie side by side, and masks
end in ``-msk``. Releases differ in details; all known ones are read:

    [train/]{raw_data,rawdata,derivatives,phenotype}/sub-<label>/ses-<index>/[perfusion-maps/]
        sub-<label>_ses-<index>[_space-ncct]_<suffix>.{nii,nii.gz,xlsx,csv}

Images beyond the twelve have the same layout, other suffixes, sessions or spaces, and entities such as ``desc-reader2``
between them.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePosixPath
from typing import Final

from isles24_zarr.errors import UnsafePathError
from isles24_zarr.release.extra_images import acquired_space, extra_image_name
from isles24_zarr.vocabulary import IMAGE_OF_SUFFIX, IMAGES, REFERENCE_SPACE, SUBJECT_NAME, TABLE_OF_SESSION

DICTIONARY_NAME: Final = "clinical_data-description.xlsx"
_RAW: Final = frozenset({"raw_data", "rawdata"})
_SECTIONS: Final = _RAW | {"derivatives", "phenotype"}
_SESSION: Final = re.compile(r"ses-0*([0-9]{1,4})", re.ASCII)
_IMAGE: Final = re.compile(
    r"(?P<subject>[^_]+)_(?P<session>ses-[^_]+)_(?P<entities>([^_.]+_)*)(?P<suffix>[^_.]+)\.nii(\.gz)?", re.ASCII
)
_SPACE: Final = re.compile(r"[0-9A-Za-z]{1,100}", re.ASCII)
_MAPS: Final = "perfusion-maps"
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
        A name of `vocabulary.IMAGES`, or that of an image beyond them.
    precedence
        Of two files for one image the one with the smaller value is the regular one.
    beyond
        Of an image that is none of the twelve, what makes it so; empty for those.
    """

    subject: str
    session: int
    space: str
    image: str
    precedence: int = 0
    beyond: str = ""


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
    """A path that is no part of a release, why, and whether it is a result of a pipeline."""

    reason: str
    is_result: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StrayTable(Stray):
    """A table whose name is not that of its subject's table, but like it: a copy, an older or a corrected one.

    It is never read. Which of several versions is right is not for us to guess, and the name of one that is alone says
    as little; renaming it is a decision of those who know.
    """

    subject: str
    session: int
    table: str


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
        reason = f"is a result of the pipeline {subject}, which 'isles24-zarr add' takes"
        return Stray(reason=reason, is_result=True)
    if not SUBJECT_NAME.fullmatch(subject):
        raise UnsafePathError(path, f"the subject name {subject!r} is not 'sub-' and a label of letters and digits")
    if session is None:
        return Stray(reason=f"{folders[1]!r} is not 'ses-' and the number of a session")
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
    if match is None or folders not in ([], [_MAPS]):
        return Stray(reason="is not named as an image of the release")
    if match["subject"] != subject:
        return Stray(reason=f"its name speaks of another subject than its folder {subject}")
    of_name = _SESSION.fullmatch(match["session"])
    if of_name is None or int(of_name[1]) != session:
        return Stray(reason=f"its name speaks of another session than its folder, {session}")
    entities = match["entities"].split("_")[:-1]
    spaces = [entity.removeprefix("space-") for entity in entities if entity.startswith("space-")]
    others = [entity for entity in entities if not entity.startswith("space-")]
    if len(spaces) > 1 or not all(map(_SPACE.fullmatch, spaces)):
        return Stray(reason="its space is not known")
    space, suffix = next(iter(spaces), None), match["suffix"]
    registered = section == "derivatives" or space is not None
    image, beyond = IMAGE_OF_SUFFIX.get(suffix), _beyond(suffix, others, session=session, space=space)
    if image is None or beyond:
        image = extra_image_name(others, suffix, session=session, space=space)
        if image is None:
            like = "_".join([*others, suffix]).lower().replace("-", "_")
            advice = f"rename it to end in _{IMAGES[like].suffix} if it is the '{like}'" if like in IMAGES else ""
            return Stray(reason=f"{beyond}, {advice or 'and has no name that an image in a store can have'}")
        acquired = acquired_space(image, suffix, session=session, is_map=bool(folders))
    else:
        acquired = IMAGES[image].acquired_space
    irregular = (section == "derivatives") != (space is not None)
    return ImageName(
        subject=subject,
        session=session,
        space=(space or REFERENCE_SPACE).lower() if registered else acquired,
        image=image,
        precedence=2 * irregular + name.endswith(".nii"),
        beyond=beyond,
    )


def _beyond(suffix: str, entities: list[str], *, session: int, space: str | None) -> str:
    """Tell what makes an image none of the twelve; nothing of one of them."""
    image = IMAGE_OF_SUFFIX.get(suffix)
    if image is None:
        return f"{suffix!r} is not an image of the release"
    if IMAGES[image].session != session:
        return f"an image '{image}' does not belong to session {session}"
    if space not in (None, REFERENCE_SPACE):
        return f"its space {space!r} is not known"
    if entities:
        return f"is another '{image}' than that of the release, by {entities[0]!r} in its name"
    return ""
