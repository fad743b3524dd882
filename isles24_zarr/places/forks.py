"""What a forked process lacks: threads. Libraries that have some would wait for them forever, or end the process."""

from __future__ import annotations

import os
import sys
from typing import Final

from isles24_zarr.errors import ForkedProcessError

_LIBRARIES: Final = frozenset({"icechunk", "obstore", "tensorstore"})
"""Those with threads of their own; they are imported where they are used."""

_left_behind: set[str] = set()


def is_left_behind(library: str) -> bool:
    """Tell whether this process was forked from one that had imported a library, and so has none of its threads."""
    return library in _left_behind


def require_threads(library: str, where: str) -> None:
    """Make sure that a library can be used in this process.

    Parameters
    ----------
    library
        Its name.
    where
        The store, for the error.

    Raises
    ------
    ForkedProcessError
        It would wait forever.
    """
    if is_left_behind(library):
        raise ForkedProcessError(where, f"cannot be used by a process that was forked from one that had used {library}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _left_behind.update(_LIBRARIES & sys.modules.keys()))
