"""Parts of a cohort: by a query, by names, at random into two or into folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from isles24_zarr.cohorts.opening import clinical_table, cohort_target, cohort_tree, subject_names
from isles24_zarr.errors import UnknownNameError
from isles24_zarr.format import PHENOTYPE
from isles24_zarr.release import selected_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


def selected_cohort(cohort: xr.DataTree, which: str | ArrayLike) -> xr.DataTree:
    """Return the part of a cohort that a query or a boolean per subject picks.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    which
        A pandas query over the columns of the clinical table; or names of subjects; or booleans: a pandas Series or
        xarray DataArray is aligned by its subjects, which may be more than the cohort has, anything else has one value
        for each subject in order. A missing boolean picks nothing.

    Returns
    -------
    xarray.DataTree
        In the order of the cohort.

    Raises
    ------
    UnknownNameError
        The query cannot be evaluated, there is no such subject, or the booleans are not one for each subject.
    """
    names = subject_names(cohort)
    if isinstance(which, str):
        frame = clinical_table(cohort)
        try:
            chosen = frame.index.isin(frame.query(which, engine="python").index)
        except (ValueError, TypeError, KeyError, SyntaxError, NameError, AttributeError) as error:
            raise UnknownNameError(repr(which), f"is no query over the columns of the table ({error})") from error
    elif _are_names(which):
        chosen = np.isin(names, selected_names(names, [str(name) for name in np.asarray(which)], of="the cohort"))
    else:
        chosen = _booleans(which, names)
    return _part(cohort, chosen)


def _are_names(which: Any) -> bool:
    """Tell whether these are names: texts, which are no booleans by their subjects."""
    values = np.asarray(which)
    return values.ndim == 1 and values.size > 0 and all(isinstance(value, str) for value in values.tolist())


def _part(cohort: xr.DataTree, chosen: NDArray[np.bool_]) -> xr.DataTree:
    table = cohort[PHENOTYPE].to_dataset().isel(subject=np.flatnonzero(chosen))
    return cohort_tree(table, cohort.attrs, cohort_target(cohort))


def _booleans(which: Any, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return one boolean for each subject, by name where the booleans have names."""
    if isinstance(which, xr.DataArray) and which.dims == ("subject",):
        which = which.to_series()
    if hasattr(which, "index") and hasattr(which, "reindex"):
        missing = sorted(set(names) - set(which.index))
        if missing or not which.index.is_unique:
            why = f"{missing[0]} is not among them" if missing else "they name a subject twice"
            raise UnknownNameError("select", f"takes one boolean for each subject, by its name: {why}")
        which = which.reindex(names)
        if str(which.dtype) == "boolean":
            which = which.fillna(value=False).astype(bool)
    chosen = np.asarray(which)
    if chosen.dtype != bool or chosen.shape != (len(names),):
        raise UnknownNameError("select", "takes one boolean for each subject, or a query")
    return chosen


def split_cohort(
    cohort: xr.DataTree,
    test_size: float = 0.2,
    *,
    seed: int = 0,
    by: str | Sequence[str] = ("center", "mrs_3month"),
) -> tuple[xr.DataTree, xr.DataTree]:
    """Split a cohort at random into two that are alike in some clinical variables.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    test_size
        Share of the subjects in the second part, between 0 and 1, or their number, from 1 on.
    seed
        Of the choice. The same subjects, values and seed give the same parts.
    by
        Columns of the clinical table, the most important first; a missing value is a value of its own.

    Returns
    -------
    tuple of xarray.DataTree
        The larger part and the test part, each in the order of the cohort; both have a subject at least.

    Raises
    ------
    UnknownNameError
        There is no such column, or the cohort cannot be split in this way.

    Notes
    -----
    Systematic sampling: subjects are sorted by these columns, in random order where all are equal, and every n-th one
    is taken from a random start (W. G. Cochran, Sampling Techniques, 3rd ed., chapter 8). Every stratum gives its share
    to within one subject, strata of one as well, and so does every value of the first column.
    """
    table = clinical_table(cohort)
    count = len(table)
    tested = max(round(test_size * count), 1) if 0 < test_size < 1 else test_size
    if not 0 < tested < count or tested != int(tested):
        raise UnknownNameError(f"test_size={test_size}", f"leaves nothing of {count} subjects for one of the parts")
    rng = np.random.default_rng(seed)
    ordered = _alike(table, by, rng)
    place = np.arange(count + 1) * int(tested) + int(rng.integers(count))
    chosen = table.index.isin(ordered[np.diff(place // count) == 1])
    return _part(cohort, ~chosen), _part(cohort, chosen)


def cohort_folds(
    cohort: xr.DataTree, k: int = 5, *, seed: int = 0, by: str | Sequence[str] = ("center", "mrs_3month")
) -> list[tuple[xr.DataTree, xr.DataTree]]:
    """Divide a cohort into folds that are alike in some clinical variables, for cross-validation.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    k
        How many folds, from 2 up to the number of subjects.
    seed, by
        As for `split_cohort`.

    Returns
    -------
    list of (xarray.DataTree, xarray.DataTree)
        For each fold, the other subjects and those of the fold: to train, and to validate. Every subject is in one
        fold; folds differ by one subject at most, and so does the share of a stratum in them.

    Raises
    ------
    UnknownNameError
        There is no such column, or there are not as many subjects.

    Notes
    -----
    As in `split_cohort`, subjects are sorted; the folds take them in turn, from a random one on.
    """
    table = clinical_table(cohort)
    if not 2 <= k <= len(table):
        raise UnknownNameError(f"k={k}", f"is no number of folds of {len(table)} subjects, give one from 2 on")
    rng = np.random.default_rng(seed)
    ordered = _alike(table, by, rng)
    turns = (np.arange(len(table)) + int(rng.integers(k))) % k
    chosen = [table.index.isin(ordered[turns == turn]) for turn in range(k)]
    return [(_part(cohort, ~fold), _part(cohort, fold)) for fold in chosen]


def _alike(table: pd.DataFrame, by: str | Sequence[str], rng: np.random.Generator) -> pd.Index:
    """Return the subjects sorted by some columns, in random order where all are equal."""
    columns = [by] if isinstance(by, str) else list(by)
    unknown = [name for name in columns if name not in table]
    if unknown:
        raise UnknownNameError(", ".join(map(repr, unknown)), "is no column of the clinical table")
    # by name first: the order in which a cohort was put together decides nothing
    shuffled = table.sort_index().iloc[rng.permutation(len(table))]
    # texts by their letters, whatever order their categories have
    texts = shuffled[columns].select_dtypes("category").columns
    shuffled = shuffled.astype(dict.fromkeys(texts, object))
    return shuffled.sort_values(columns, kind="stable").index if columns else shuffled.index
