"""Images beyond the twelve of ISLES'24: how they are called in a store, and what is known of them.

The name of such an image is all that its file's name says after the subject: the session, unless it is the one that
an image of this name belongs to, then the values of its entities, then the suffix. It follows from that one file
alone, so that an image has one name in all subjects, whatever else they have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from isles24_zarr.vocabulary import (
    AS_RELEASED,
    CLINICAL,
    FOLLOW_UP_PARTS,
    IMAGE_OF_SUFFIX,
    IMAGES,
    MASK_NAME,
    REFERENCE_SPACE,
    ImageKind,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
_LABEL: Final = re.compile(r"[0-9A-Za-z]+", re.ASCII)
_SUFFIX: Final = re.compile(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)*", re.ASCII)
_SESSION_PART: Final = re.compile(r"ses(0|[1-9][0-9]{0,3})_(.+)", re.ASCII)
_LONGEST: Final = 100
_RESERVED: Final = frozenset(
    {"x", "y", "z", "i", "j", "k", "c", "time", "subject", "image", "available", "error", *CLINICAL}
)
"""Coordinates, columns of tables, and the folder of an array's shards."""
_SPACES: Final = frozenset({kind.acquired_space for kind in IMAGES.values()})


def extra_image_name(entities: Sequence[str], suffix: str, *, session: int, space: str | None) -> str | None:
    """Return the name of an image that is none of the twelve; None where it can have none.

    Parameters
    ----------
    entities
        Parts of the file's name between the session and the suffix, but for the space, as ``"desc-reader2"``.
    suffix
        The last part, as ``"T1w"`` or ``"lesion-msk"``.
    session
        Its number.
    space
        As the file's name has it, if it does.
    """
    parts = [_entity(entity) for entity in entities]
    if None in parts or not _SUFFIX.fullmatch(suffix):
        return None
    suffix = re.sub(r"(^|-)msk$", r"\1mask", suffix.lower()).replace("-", "_")
    base = "_".join([*(part for part in parts if part), suffix]).lower()
    if base in IMAGES and space and space.lower() != REFERENCE_SPACE:
        base = f"space{space.lower()}_{base}"  # one of the twelve, in another place than theirs
    if _SESSION_PART.fullmatch(base):
        return None  # it would be of that session
    name = base if _home_session(base) == session else f"ses{session}_{base}"
    return name if is_extra_name(name) else None


def _entity(text: str) -> str | None:
    """Return what an entity is in a name: ``desc-`` is left out, as what it says is the name."""
    key, dash, value = text.partition("-")
    if not _LABEL.fullmatch(key) or (dash and not _LABEL.fullmatch(value)):
        return None
    return value if key == "desc" and value[:1].isalpha() else key + value


def _home_session(name: str) -> int:
    """Return the session of an image whose name says none: as in ISLES'24, MRI and the infarct are of the second."""
    return 2 if FOLLOW_UP_PARTS.search(name) else 1


def is_extra_name(name: str) -> bool:
    """Tell whether an image beyond the twelve may have this name: it hides nothing else that a store has."""
    return (
        _NAME.fullmatch(name) is not None
        and len(name) <= _LONGEST
        and name not in _RESERVED
        and name not in IMAGES
        and name.replace("_", "") not in _SPACES
    )


def is_image_name(name: str) -> bool:
    """Tell whether an image of a store may have this name."""
    return name in IMAGES or is_extra_name(name)


def image_rank(name: str) -> tuple[int, str]:
    """Return by what images are sorted: the twelve in the order of the vocabulary, then others by name."""
    order = list(IMAGES)
    return (order.index(name), "") if name in IMAGES else (len(order), name)


def image_kind(name: str) -> ImageKind:
    """Return what is known of an image by its name: little of one beyond the twelve.

    Its units are those of the one that it is in another session or space, as ``ses2_ncct`` is an ``ncct``; of a variant
    (``rapid_tmax``) they are not known, and neither is what the labels of a mask mean.
    """
    if name in IMAGES:
        return IMAGES[name]
    match = _SESSION_PART.fullmatch(name)
    session, base = (int(match[1]), match[2]) if match else (_home_session(name), name)
    elsewhere = re.fullmatch(r"space([0-9a-z]+)_(.+)", base)
    space, base = elsewhere.groups() if elsewhere else ("", base)
    like = IMAGES.get(base)
    units = like.units if like else "1" if MASK_NAME.search(name) else AS_RELEASED
    words = [base.replace("_", " "), *([f"session {session}"] if match else []), *([f"space {space}"] if space else [])]
    return ImageKind(
        name=name,
        suffix=name,
        long_name=", ".join(words),
        units=units,
        session=session,
        acquired_space=name.replace("_", ""),
    )


def acquired_space(name: str, suffix: str, *, session: int, is_map: bool) -> str:
    """Return the space of an image beyond the twelve that was not registered.

    Parameters
    ----------
    name, suffix, session
        Of the image, the last part of its file's name, and when it was acquired.
    is_map
        It lies in the folder of perfusion maps: it has the grid of the series.
    """
    like = IMAGES.get(IMAGE_OF_SUFFIX.get("ctp" if is_map else suffix, ""))
    if like is None or like.acquired_space == REFERENCE_SPACE:
        return name.replace("_", "")
    return like.acquired_space if session == like.session else f"ses{session}{like.acquired_space}"
