"""What a conversion is asked for, looked up in release and store: the same for a forecast and for the work."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

from isles24_zarr.conversion._planning import (
    chosen_subjects,
    decided_jobs,
    is_outdated,
    listed_release,
    wanted_images,
)
from isles24_zarr.conversion._updating import Update
from isles24_zarr.release import Source
from isles24_zarr.store import StorePlace

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from zarr.abc.store import Store

    from isles24_zarr.conversion.resume import Job
    from isles24_zarr.errors import Problem
    from isles24_zarr.nifti import Header
    from isles24_zarr.release import Release, Subject


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be converted into which store.

    Parameters
    ----------
    source, target, release
        From where, where to, and all that is there.
    chosen
        The subjects that are asked for, but for those who were removed for good.
    wanted, in_part
        Names of images, and whether these were asked for by name.
    overwrite
        Convert what is there of them, too.
    update
        Who was removed, and who is in the store alone.
    outdated
        The store is of an older format.
    """

    source: Source
    target: StorePlace
    release: Release
    chosen: Mapping[str, Subject]
    wanted: frozenset[str]
    in_part: bool
    overwrite: bool
    update: Update
    outdated: bool

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str],
        store: str | os.PathLike[str],
        *,
        subjects: Sequence[str] | None,
        images: Sequence[str] | None,
        overwrite: bool,
        prune: bool,
        readmit: bool,
        storage_options: Mapping[str, Any] | None,
        extra_images: bool,
        strict: bool,
    ) -> Self:
        """Look it up; nothing is changed. The parameters are those of `convert`, and so are the errors."""
        origin, target = Source.of(source, storage_options), StorePlace.of(store, storage_options)
        target.opened(read_only=False)  # a place that cannot be written is refused before anything is read
        release = listed_release(origin, target, subjects=subjects, extra_images=extra_images, strict=strict)
        chosen, wanted = chosen_subjects(origin, release, subjects), wanted_images(release, images)
        update = Update.of(release, subjects, prune=prune, readmit=readmit)
        outdated = is_outdated(target, in_part=subjects is not None or images is not None)
        return cls(
            source=origin,
            target=target,
            release=release,
            chosen=update.admitted(target.opened(read_only=True), chosen),
            wanted=wanted,
            in_part=images is not None,
            overwrite=overwrite,
            update=update,
            outdated=outdated,
        )

    def jobs(
        self,
        store: Store,
        subjects: Iterable[Subject],
        headers: Mapping[str, Header] | None = None,
        problems: Iterable[Problem] = (),
    ) -> tuple[list[Job], list[str], list[Problem]]:
        """Decide what is to be done for subjects; see `decided_jobs`."""
        return decided_jobs(
            store,
            subjects,
            headers or {},
            problems,
            wanted=self.wanted,
            in_part=self.in_part,
            overwrite=self.overwrite,
            prune=self.update.prune,
        )

    def needed(self) -> list[Subject]:
        """Return the subjects whose files are looked into: of those that are there, nothing leaves an archive."""
        if not self.source.streamed:
            return list(self.chosen.values())
        found, _, _ = self.jobs(self.target.opened(read_only=True), self.chosen.values())
        return [job.subject for job in found]
