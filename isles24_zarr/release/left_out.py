"""What of a source is not used: counted, so that nobody takes half of a release for the whole."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from isles24_zarr.errors import LeftOutError
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from isles24_zarr.errors import Problem

Kind = Literal["extra image", "image", "result", "table", "refused", "second file", "file"]
_IMAGE_ENDINGS: Final = (".nii", ".nii.gz")
_OTHER_IMAGE_ENDINGS: Final = (".nrrd", ".mha", ".mhd", ".mgz", ".img")
_TABLE_ENDINGS: Final = (".xlsx", ".xls", ".csv", ".tsv")
_COUNTED: Final[dict[Kind, tuple[str, str]]] = {
    "extra image": ("image beyond the twelve", "images beyond the twelve"),
    "image": ("image under an unknown name", "images under unknown names"),
    "result": ("result of a pipeline", "results of pipelines"),
    "table": ("table", "tables"),
    "refused": ("refused file, folder or row", "refused files, folders and rows"),
    "second file": (
        "second file for an image or table that is used",
        "second files for images and tables that are used",
    ),
    "file": ("other file", "other files"),
}
"""How many of each kind are counted, in this order."""
_MOST_NAMES: Final = 6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file of a source that is not used.

    Parameters
    ----------
    path
        Relative to the release.
    kind
        ``"extra image"``: one that can be kept under the name `image`. ``"image"``: any other one. ``"result"``: of a
        pipeline. ``"table"``: of phenotypes. ``"refused"``: a file, folder or row that cannot be looked into, or that
        could be of others, as a link out of the release. ``"second file"``: of an image or table that another file was
        used for. ``"file"``: anything else, such as a sidecar.
    subject
        Whose it is, where its path says so.
    image
        The name that it would have.
    """

    path: str
    kind: Kind
    subject: str | None = None
    image: str = ""

    @property
    def is_loss(self) -> bool:
        """Whether something that belongs to patients will not be in the store."""
        return self.kind in ("extra image", "image", "result", "table", "refused")


def left_out_path(path: str, *, is_result: bool = False) -> LeftOut:
    """Make the entry of a file that is no part of a release, by its path."""
    name, parts = path.rsplit("/", 1)[-1].lower(), PurePosixPath(path).parts
    subject = next((part for part in parts[:-1] if SUBJECT_NAME.fullmatch(part)), None)
    kind: Kind = "file"
    if name.startswith(("._", "~$")):
        kind = "file"
    elif name.endswith((*_IMAGE_ENDINGS, *_OTHER_IMAGE_ENDINGS)):
        kind = "result" if is_result else "image"
    elif name.endswith(_TABLE_ENDINGS) and "phenotype" in map(str.casefold, parts[:2]):
        kind = "table"
    return LeftOut(path=path, kind=kind, subject=subject)


def refused(problem: Problem) -> LeftOut:
    """Make the entry of what could not be listed or may not be used, of its problem."""
    parts = PurePosixPath(problem.path).parts
    subject = problem.subject or next((part for part in parts if SUBJECT_NAME.fullmatch(part)), None)
    return LeftOut(path=problem.path, kind="refused", subject=subject)


def left_out_line(left_out: Iterable[LeftOut]) -> str:
    """Count what is left out, as ``"left out: 6 images beyond the twelve (3 flair, 3 swi), 1 table"``, if anything."""
    found = list(left_out)
    counts = Counter(each.kind for each in found)
    texts = []
    for kind, (one, many) in _COUNTED.items():
        if counts[kind]:
            names = Counter(each.image for each in found if each.kind == kind and each.image)
            shown = [f"{count} {name}" for name, count in sorted(names.items())[:_MOST_NAMES]]
            more = [f"{len(names) - _MOST_NAMES} more names"] if len(names) > _MOST_NAMES else []
            which = f" ({', '.join([*shown, *more])})" if kind == "extra image" else ""
            texts.append(f"{counts[kind]:,} {one if counts[kind] == 1 else many}{which}")
    return f"left out: {', '.join(texts)}" if texts else ""


def check_nothing_left_out(source: str, left_out: Sequence[LeftOut], subjects: Collection[str] | None = None) -> None:
    """Make sure that all that belongs to patients would be in the store.

    Parameters
    ----------
    source
        Of the release, for the error.
    left_out
        Of all that it has.
    subjects
        Names of those who are to be converted; all by default.

    Raises
    ------
    LeftOutError
        An image or table is left out.
    """
    losses = [each for each in of_subjects(left_out, subjects) if each.is_loss]
    if losses:
        first = next((each for each in losses if each.kind != "extra image"), losses[0])
        what = f"{left_out_line(losses)}; among them {first.path}"
        raise LeftOutError(source, what)


def of_subjects(left_out: Iterable[LeftOut], subjects: Collection[str] | None) -> tuple[LeftOut, ...]:
    """Return what concerns some subjects, or nobody in particular; all where none are named."""
    return tuple(each for each in left_out if subjects is None or each.subject is None or each.subject in subjects)


_BIDS_SESSION: Final = re.compile(r"ses-0*([0-9]{1,4})", re.ASCII)


def fitting_path(path: str) -> str:
    """Return the path at which an image of another layout would be one of a release, as near as that can be told."""
    parts = PurePosixPath(path).parts
    labels = [label for part in parts for label in part.split("_")]
    subject = next((label for label in labels if SUBJECT_NAME.fullmatch(label)), "sub-stroke0001")
    session = next((int(match[1]) for label in labels if (match := _BIDS_SESSION.fullmatch(label))), 1)
    rest = [label for label in parts[-1].split(".")[0].split("_") if not label.startswith(("sub-", "ses-"))]
    section = "derivatives" if any(label.startswith("space-") for label in rest) else "raw_data"
    stem = "_".join([subject, f"ses-{session:02d}", *(rest or ["ncct"])])
    ending = "".join(PurePosixPath(path).suffixes[-2:]) if path.lower().endswith(_IMAGE_ENDINGS) else ".nii.gz"
    return f"{section}/{subject}/ses-{session:02d}/{stem}{ending}"


def two_images(paths: list[str]) -> list[str]:
    """Return two images to show what a folder holds, of two kinds where it has them."""
    images = sorted(path for path in paths if path.lower().endswith((".nii", ".nii.gz")))
    first = images[:1]
    kind = first[0].rsplit("_", 1)[-1] if first else ""
    others = [path for path in images if path.rsplit("_", 1)[-1] != kind] or images[1:]
    return [*first, *others[:1]]
