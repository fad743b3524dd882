"""The cohort: its clinical table as a DataTree, parts of it, and work on each of its subjects."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import xarray as xr

from isles24_zarr.errors import (
    IncompleteStoreError,
    StoreDamageError,
    UnknownNameError,
    failure_line,
    one_line,
)
from isles24_zarr.format import PHENOTYPE
from isles24_zarr.release import selected_names
from isles24_zarr.scans import open_scan
from isles24_zarr.store import ZARR_JSON, StorePlace, column_table, read_root
from isles24_zarr.vocabulary import CLINICAL

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Hashable, Sequence

    import pandas as pd
    from distributed import Client

_LOCATION: Final = "isles24_zarr_store"
ERROR: Final = "error"
"""The column that says why a subject has no values."""


def open_cohort(store: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> xr.DataTree:
    """Open the cohort: the clinical table and what each subject has. No subject is touched.

    Parameters
    ----------
    store
        A folder or URL that `convert` wrote.
    storage_options
        Options for it, where it is a URL.

    Returns
    -------
    xarray.DataTree
        Its attributes are those of the store; the node ``phenotype`` holds every clinical variable over ``subject``,
        and ``available`` over (subject, image). See ``.isles`` for what can be done with it.

    Raises
    ------
    NotAStoreError, StoreVersionError, IncompleteStoreError
        There is no store, or it cannot be read by this version, or its conversion was interrupted.

    Examples
    --------
    >>> cohort = isles24_zarr.open_cohort("isles24.zarr")
    >>> cohort["phenotype"].sizes["subject"]
    3
    """
    target = StorePlace.of(store, storage_options)
    opened = target.opened(read_only=True)
    root = read_root(opened)
    if root.licence is None:
        raise StoreDamageError(f"{target.url}/{ZARR_JSON}", "lacks the licence of the data")
    table = column_table(opened, PHENOTYPE)
    if table is None:
        raise IncompleteStoreError(target.url, "its conversion has not finished, there is no cohort table yet")
    return cohort_tree(table, root.attributes, target)


def cohort_tree(table: xr.Dataset, attributes: Mapping[Any, Any], target: StorePlace) -> xr.DataTree:
    """Make the tree of `open_cohort` of its parts."""
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attributes)), f"/{PHENOTYPE}": table})
    tree[PHENOTYPE].encoding[_LOCATION] = target
    return tree


def cohort_target(cohort: xr.DataTree) -> StorePlace:
    """Return where a cohort was opened from.

    Raises
    ------
    UnknownNameError
        The tree was not opened by `open_cohort`, or an operation has dropped where it came from.
    """
    target = cohort[PHENOTYPE].encoding.get(_LOCATION) if PHENOTYPE in cohort.children else None
    if not isinstance(target, StorePlace):
        raise UnknownNameError("cohort", "does not know its store any more; open it again with open_cohort(store)")
    return target


def subject_names(cohort: xr.DataTree) -> list[str]:
    """Return the names of a cohort's subjects."""
    return [str(name) for name in cohort[PHENOTYPE].to_dataset()["subject"].values]


def clinical_table(cohort: xr.DataTree) -> pd.DataFrame:
    """Return the clinical variables of a cohort, one row a subject.

    Parameters
    ----------
    cohort
        As from `open_cohort`.

    Returns
    -------
    pandas.DataFrame
        Numbers are float64. Categories are categorical: of a scale (mTICI) all of its grades in order, of centres those
        of this cohort. Other text is object. What is missing is NaN, and None in other text.
    """
    table = cohort[PHENOTYPE].to_dataset()
    columns = {str(name) for name, variable in table.data_vars.items() if variable.dims == ("subject",)}
    variables = [*(name for name in CLINICAL if name in columns), *sorted(columns - CLINICAL.keys())]
    frame = table[variables].to_dataframe().astype({name: object for name in variables if _is_text(table[name])})
    frame = frame.replace({"": None})
    categories = {name: CLINICAL[name].categories for name in variables if _is_category(name)}
    return frame.astype({name: _category_type(frame[name], known) for name, known in categories.items()})


def _is_category(name: str) -> bool:
    return name in CLINICAL and CLINICAL[name].kind == "category"


def _category_type(column: pd.Series[Any], known: Sequence[str]) -> pd.CategoricalDtype:
    """Return the type of a column of texts: the known ones first; others that a store holds are not lost."""
    import pandas as pd

    others = sorted({str(text) for text in column.dropna()} - set(known))
    # grades ascend; sexes and centres have no order
    return pd.CategoricalDtype([*known, *others], ordered=len(known) > 2 and not others)


def _is_text(variable: xr.DataArray) -> bool:
    return variable.dtype.kind not in "biuf"


def available_images(cohort: xr.DataTree) -> pd.DataFrame:
    """Return which images each subject has in any space, one row a subject, one boolean column an image."""
    available = cohort[PHENOTYPE].to_dataset()["available"]
    return cast("pd.DataFrame", available.transpose("subject", "image").to_pandas())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _SubjectTask:
    """What a worker needs to open a scan for itself."""

    target: StorePlace
    subject: str
    space: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What a function gave for a subject, or why it gave nothing."""

    subject: str
    values: Mapping[str, Any]
    error: str | None = None


def mapped_subjects(
    cohort: xr.DataTree,
    function: Callable[[xr.Dataset], Any],
    *,
    subjects: Sequence[str] | str | None = None,
    space: str = "ncct",
    client: Client | None = None,
    with_table: bool = False,
    progress: bool = True,
    title: str | None = None,
) -> pd.DataFrame:
    """Run a function of a scan once for every subject, on Dask.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    function
        Called with the scan of a subject as `open_scan` gives it. Returns a mapping or a pandas Series, whose keys
        become columns, the same as a dataclass or a DataFrame of one row, or a single value, whose column is named
        after the function (``"value"`` for a lambda). Values are numbers, text, dates or None, or lazy ones of no
        dimension; all else is refused: a table is no place for voxels, nor for mappings and lists.
    subjects
        Names; all of the cohort by default.
    space
        As for `open_scan`.
    client
        Where to run: by default the current Dask client, and without one the threads of this process.
    with_table
        Put the columns of the clinical table before those of the function; where both have a name, that of the
        clinical one is followed by ``_clinical``.
    progress
        Show a bar on stderr.
    title
        Of the bar; by default it names the function.

    Returns
    -------
    pandas.DataFrame
        One row a subject, in the order of the cohort, with the columns of the function in the order in which they
        first occur. The last one is ``error``: None, or in one line why this subject has no values (NaN): what the
        function raised, that there is no such space, that its worker died. It is there in any case, so that
        ``result[result["error"].isna()]`` always works.

    Raises
    ------
    UnknownNameError
        There are no such subjects.
    ClusterLostError
        The scheduler has gone.
    NoWorkersError, WorkerMismatchError
        The cluster has no worker, or one that lacks this package or has another version of it.

    Notes
    -----
    Tasks carry names and places; each opens its scan for itself. What the function computes of it is computed in the
    task's own thread, one Dask chunk after the other: subjects are what runs in parallel. To see where a function
    failed, call it with ``cohort.isles.scan(subject)``.
    """
    from isles24_zarr.tasks import TaskLost, ordered_results

    target, order = cohort_target(cohort), subject_names(cohort)
    chosen = order
    if subjects is not None:
        wanted = set(selected_names(order, subjects, of="the cohort"))
        chosen = [name for name in order if name in wanted]
    tasks = [_SubjectTask(target=target, subject=name, space=space) for name in chosen]
    results = ordered_results(
        functools.partial(_subject_row, function),
        tasks,
        client=client,
        store=target.url,
        title=title or f"mapping {_name_of(function)}",
        progress=progress,
    )
    rows = [
        _Row(subject=name, values={}, error=one_line(row.why)) if isinstance(row, TaskLost) else row
        for name, row in zip(chosen, results, strict=True)
    ]
    table = clinical_table(cohort).loc[chosen]
    frame = _frame_of_rows(rows, table.index)
    both = table.columns.intersection(frame.columns)
    return table.rename(columns={name: f"{name}_clinical" for name in both}).join(frame) if with_table else frame


def _subject_row(function: Callable[[xr.Dataset], Any], task: _SubjectTask, topic: str = "") -> _Row:  # noqa: ARG001
    from isles24_zarr.tasks import COMPUTED_HERE

    options = task.target.storage_options
    try:
        with COMPUTED_HERE, open_scan(task.target.url, task.subject, task.space, storage_options=options) as scan:
            return _Row(subject=task.subject, values=_columns(function(scan), _name_of(function)))
    except Exception as error:  # noqa: BLE001 - whatever one subject raises, its row says it and the others are processed
        return _Row(subject=task.subject, values={}, error=failure_line(error))


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "value")
    return "value" if name == "<lambda>" else str(name)


def _columns(result: Any, name: str) -> dict[str, Any]:
    """Return what a function gave as values by column."""
    import pandas as pd

    if isinstance(result, xr.Dataset):
        result = dict(result.data_vars)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, pd.DataFrame):
        if len(result) != 1:
            raise TypeError(f"a table of {len(result)} rows is not one row of another; return values by column")
        result = {key: column.iloc[0] for key, column in result.items()}
    if not isinstance(result, Mapping):
        # a Series knows its keys, like a mapping
        result = result.to_dict() if isinstance(result, pd.Series) else {name: result}
    columns = {str(key): _plain(value, key) for key, value in result.items()}
    if ERROR in columns:
        raise ValueError(f"the column {ERROR!r} says what failed, give yours another name")
    return columns


def _plain(value: Any, key: Hashable) -> Any:
    """Return a value of no dimension, computed if need be, as Python has it."""
    import pandas as pd

    if isinstance(getattr(value, "ndim", None), int):
        if value.ndim:
            raise TypeError(f"{key!r} is an array of shape {tuple(value.shape)}, not a single value")
        single = np.asarray(value)
        # as Python has them, dates of nanoseconds would be whole numbers
        value = pd.Series(single[()]).iloc[0] if single.dtype.kind in "mM" else single.item()
    if not pd.api.types.is_scalar(value):
        raise TypeError(f"{key!r} is a {type(value).__name__}, not a number, text or date; return those by column")
    return value


def _frame_of_rows(rows: Sequence[_Row], index: pd.Index[Any]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([dict(row.values) for row in rows], index=index)
    frame[ERROR] = pd.Series([row.error and one_line(row.error) for row in rows], index=index, dtype=object)
    return frame
