"""Subjects that were removed: nothing of them may be left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isles24_zarr.errors import Problem
from isles24_zarr.format import RootRecord
from isles24_zarr.store import ZARR_JSON, is_versioned, read_document, told_versions, versions_with
from isles24_zarr.verification._findings import findings

if TYPE_CHECKING:
    from collections.abc import Collection

    from zarr.abc.store import Store

    from isles24_zarr.store import StorePlace


def removal_problems(store: Store, target: StorePlace, present: Collection[str]) -> list[Problem]:
    """Look for what is left of removed subjects: images here, as tables and pipelines are checked by their lists.

    Parameters
    ----------
    store, target
        The store, and where it is: of an Icechunk repository, its history is looked at as well.
    present
        What lies in the store.
    """
    problems: list[Problem] = []
    with findings(ZARR_JSON, problems):
        root = RootRecord.from_document(read_document(store, ""))
        if root.removing or root.state == "removing":
            what = f"says that the removal of {', '.join(root.removing)} has not finished; remove them again"
            problems.append(Problem(path=ZARR_JSON, message=what))
        problems += [
            Problem(path=f"{name}/", message="was removed for good, and is there; remove it again", subject=name)
            for name in sorted(set(present) & set(root.removed) - set(root.removing))
        ]
        names = {*root.removed, *root.removing}
        # a snapshot or a tag stays what it is: it is history itself
        if names and is_versioned(target.url) and "?tag=" not in target.url and "?snapshot=" not in target.url:
            held = versions_with(target.url, target.storage_options, names)
            problems += [Problem(path=ZARR_JSON, message=text) for text in told_versions(target.url, held)]
    return problems
