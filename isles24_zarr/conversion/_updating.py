"""A release that has changed: who was removed and stays so, and who is in the store and not in the release any more."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Self

from isles24_zarr.conversion.removal import finish_removals, remember, removed_subjects, take_out
from isles24_zarr.errors import Problem, RemovedSubjectError, UnknownNameError
from isles24_zarr.store import child_names
from isles24_zarr.vocabulary import SUBJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from zarr.abc.store import Store

    from isles24_zarr.release import Release, Subject


@dataclasses.dataclass(kw_only=True)
class Update:
    """How a release is brought into a store that may have more than that, or may not have all of it.

    Parameters
    ----------
    release
        All of it.
    named
        Whether subjects were asked for by name.
    prune
        Remove what the release has no more.
    readmit
        Take subjects who were removed for good.
    problems
        What is to be told.
    """

    release: Release
    named: bool
    prune: bool
    readmit: bool
    problems: list[Problem] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, release: Release, subjects: Collection[str] | None, *, prune: bool, readmit: bool) -> Self:
        """Check what is asked for. A release that could not be listed whole is no reason to remove anything.

        Raises
        ------
        UnknownNameError
            Somebody is to be readmitted, and nobody is named.
        """
        if readmit and subjects is None:
            what = "needs names: say by 'subjects' or '--subject' who is to be converted again"
            raise UnknownNameError("readmit", what)
        update = cls(release=release, named=subjects is not None, prune=prune, readmit=readmit)
        unusable = [problem for problem in release.problems if problem.severity == "error"]
        if prune and unusable:
            what = "cannot be used, or listed, and so nothing of the store is pruned; mend or delete it first"
            update.problems.append(Problem(path=unusable[0].path, message=what))
            update.prune = False
        return update

    @property
    def kept(self) -> Collection[str] | None:
        """Names of all that a store is to keep, where it is pruned of whole subjects."""
        return self.release.subjects if self.prune and not self.named else None

    def admitted(self, store: Store, chosen: Mapping[str, Subject]) -> dict[str, Subject]:
        """Leave out the subjects that were removed from a store, which may not be there yet, for good.

        Raises
        ------
        RemovedSubjectError
            One of them was named, and nobody said that it is readmitted.
        """
        removed = set() if self.readmit else chosen.keys() & removed_subjects(store)
        if removed and self.named:
            raise RemovedSubjectError(", ".join(sorted(removed)), f"was removed from {_place(store)} for good")
        self.problems += left_out(removed, _place(store))
        return {name: subject for name, subject in chosen.items() if name not in removed}

    def begun(self, store: Store, chosen: Mapping[str, Subject], confirm: Callable[[], None]) -> dict[str, Subject]:
        """Finish a removal that was stopped; look again, now that nobody else writes, who is left out."""
        finish_removals(store, confirm)
        chosen = self.admitted(store, chosen)
        if self.readmit:
            remember(store, removed_subjects(store) - chosen.keys())
        return chosen

    def pruned(self, store: Store, confirm: Callable[[], None]) -> tuple[str, ...]:
        """Remove the subjects that the release has no more and return their names; or tell that they stay."""
        if self.named:
            return ()
        present = [name for name in child_names(store, "") if SUBJECT_NAME.fullmatch(name)]
        absent = tuple(name for name in present if name not in self.release.subjects)
        if absent and self.kept is not None:
            take_out(store, absent, confirm)
            return absent
        what = "is not in the release any more, and stays in the store; --prune removes it"
        self.problems += [Problem(path=name, message=what, severity="notice", subject=name) for name in absent]
        return ()


def _place(store: Store) -> str:
    return str(store).removeprefix("file://")


def left_out(names: Collection[str], where: str) -> list[Problem]:
    """Tell that subjects were not converted, as they had been removed."""
    what = f"was removed from {where} for good, and is left out; with its name and --readmit it is converted again"
    return [Problem(path=name, message=what, severity="notice", subject=name) for name in sorted(names)]
