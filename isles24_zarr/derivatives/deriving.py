"""A function of a scan, run for every subject of a cohort, and what it returned saved."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import threading
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dask.base import tokenize

from isles24_zarr.cohorts import cohort_target, subject_names
from isles24_zarr.derivatives._commit import Writer, commit_results, take_back, writing
from isles24_zarr.derivatives._preparing import Pipeline, prepared
from isles24_zarr.derivatives._stored import earlier_record, image_records, stored_grid
from isles24_zarr.derivatives._writing import write_results
from isles24_zarr.errors import Isles24Error, StoreDamageError, failure_line, one_line
from isles24_zarr.format import recorded_of
from isles24_zarr.release import selected_names
from isles24_zarr.scans import ScanPlace, open_scan
from isles24_zarr.store import is_versioned
from isles24_zarr.writing import list_subjects, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    import xarray as xr
    from distributed import Client
    from zarr.abc.store import Store

    from isles24_zarr.derivatives._preparing import Prepared
    from isles24_zarr.format import DerivativeRecord
    from isles24_zarr.store import StorePlace


_LONG: Final = 200
"""A text of more characters is no description."""
_Row = tuple[str, str | None]
"""State and error of a subject."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _SubjectTask:
    """What a worker needs to derive results of a subject."""

    place: ScanPlace
    pipeline: Pipeline
    overwrite: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Derived:
    """Results that a worker has written, to be committed; or why there are none."""

    written: Prepared | None
    error: str | None = None


def derived_subjects(
    cohort: xr.DataTree,
    function: Callable[[xr.Dataset], Any],
    pipeline: str,
    *,
    space: str = "ncct",
    subjects: Sequence[str] | str | None = None,
    description: str = "",
    version: str | None = None,
    generated_by: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    client: Client | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a function of a scan for every subject, on Dask, and save what it returns.

    Parameters
    ----------
    cohort
        As from `open_cohort`.
    function
        Called with the scan of a subject as `open_scan` gives it. Returns what `save_results` takes: a Dataset,
        DataArrays with names, or a mapping of names to DataArrays.
    pipeline
        Whose results they are.
    space
        As for `open_scan`.
    subjects
        Names; all of the cohort by default.
    description, version, generated_by
        As for `save_results`. The name of the function is kept as well, and its parameters: see Notes.
    overwrite
        Derive all anew, and replace what is there.
    client
        Where to run: by default the current Dask client, and without one the threads of this process.
    progress
        Show a bar on stderr.

    Returns
    -------
    pandas.DataFrame
        One row a subject, in the order of the cohort. ``state`` is ``"written"``, ``"kept"`` or ``"failed"``;
        ``error`` is None, or in one line what failed.

    Raises
    ------
    UnknownNameError
        There are no such subjects, or the pipeline cannot have this name.
    StoreLockedError
        Another process writes into the store.
    ClusterLostError, NoWorkersError, WorkerMismatchError
        The cluster cannot do it.

    Notes
    -----
    A subject is kept where the store has results of the pipeline on this grid that were committed, were made by the
    same function with the same parameters, version and ``generated_by``, and from the images that are there now. Where
    an image was converted anew, its results are derived anew. Parameters are what a `functools.partial` has bound,
    defaults, variables of an enclosing function, and what the object of a method holds; weights of a PyTorch module
    by their values. That the body of a function has changed, or a global that it reads, is not seen:
    give another ``version``, or ``overwrite=True``. Results of another function or version are not replaced without
    ``overwrite``.

    Subjects are what runs in parallel. Each is written region by region in its task, and committed by this process as
    it ends: a run that was killed is resumed by the same call.
    """
    import pandas as pd

    from isles24_zarr.tasks import current_client

    target, order = cohort_target(cohort), subject_names(cohort)
    wanted = set(selected_names(order, subjects, of="the cohort"))
    names = [name for name in order if name in wanted]
    whose = Pipeline.of(pipeline, description, version, generated_by, function_identity(function))
    places = [ScanPlace.of(target, name, space) for name in names]
    if is_versioned(target.url):
        rows = _derived_versions(function, places, whose, overwrite=overwrite)
    else:
        rows = _derived_tasks(function, target, places, whose, current_client(client), overwrite, progress=progress)
    index = pd.Index(names, name="subject")
    # as objects, so that none stays None
    errors = pd.Series([(error := rows[name][1]) and one_line(error) for name in names], index=index, dtype=object)
    return pd.DataFrame({"state": [rows[name][0] for name in names], "error": errors}, index=index)


def _derived_tasks(
    function: Callable[[xr.Dataset], Any],
    target: StorePlace,
    places: Sequence[ScanPlace],
    pipeline: Pipeline,
    client: Client | None,
    overwrite: bool,  # noqa: FBT001 - of a function of this module
    *,
    progress: bool,
) -> dict[str, _Row]:
    """Derive subjects in tasks, and commit each as it ends."""
    from isles24_zarr.tasks import TaskLost, completed_tasks, dask_client, threaded_tasks

    rows: dict[str, _Row] = {}
    with writing(target) as writer:
        tasks = _tasks(writer.store, places, pipeline, rows, overwrite=overwrite)

        def commit(task: _SubjectTask, derived: _Derived) -> None:
            rows[task.place.subject] = _committed(writer, task, derived)

        title = f"deriving {pipeline.name}"
        if client is None:
            lock = threading.Lock()

            def work(task: _SubjectTask) -> None:
                derived = _derived(function, task)
                with lock:
                    commit(task, derived)

            threaded_tasks(work, tasks, title=title, progress=progress)
        else:
            with dask_client(client, None, target.url):
                there = functools.partial(_derived, function)
                for task, found in completed_tasks(client, there, tasks, sizes=None, title=title, progress=progress):
                    commit(task, _Derived(written=None, error=found.why) if isinstance(found, TaskLost) else found)
        # of those only: others are as they were committed
        if failed := [name for name, (state, _) in rows.items() if state == "failed"]:
            take_back(writer, pipeline.name, failed)
    return rows


def _derived_versions(
    function: Callable[[xr.Dataset], Any], places: Sequence[ScanPlace], pipeline: Pipeline, *, overwrite: bool
) -> dict[str, _Row]:
    """Derive subjects one after the other, each a commit to an Icechunk repository."""
    rows: dict[str, _Row] = {}
    for place in places:
        with writing(place.target) as writer:
            for task in _tasks(writer.store, [place], pipeline, rows, overwrite=overwrite):
                rows[place.subject] = _committed(writer, task, _derived(function, task, store=writer.store))
    return rows


def _tasks(
    store: Store, places: Iterable[ScanPlace], pipeline: Pipeline, rows: dict[str, _Row], *, overwrite: bool
) -> list[_SubjectTask]:
    """Return a task for each subject that has not been done; rows of the others are filled in."""
    tasks = []
    for place in places:
        try:
            record = earlier_record(store, place, pipeline.name, overwrite=overwrite)
            state = "missing" if overwrite else _state(store, place, pipeline, record)
            kept = record is not None and state == "kept"
            in_place = not is_versioned(place.target.url)  # a run that was killed leaves no half of a version
            if record is not None and kept and in_place:
                tidy(store, record)
        except StoreDamageError as error:
            rows[place.subject] = "failed", str(error)
            continue
        if kept:
            if in_place:
                list_subjects(store, pipeline.name, {place.subject}, set())
            rows[place.subject] = "kept", None
        else:
            again = overwrite or state == "outdated"
            tasks.append(_SubjectTask(place=place, pipeline=pipeline, overwrite=again))
    return tasks


def _committed(writer: Writer, task: _SubjectTask, derived: _Derived) -> _Row:
    done = derived.written
    if done is None:
        return "failed", derived.error
    writer.confirm()
    commit_results(writer.store, task.place, task.pipeline, done.grid_attributes, done.plans, done.earlier)
    writer.publish(f"{task.pipeline.name}: {task.place.subject}")
    return "written", None


def _derived(
    function: Callable[[xr.Dataset], Any],
    task: _SubjectTask,
    topic: str = "",  # noqa: ARG001 - each result of a subject is one step of the bar
    store: Store | None = None,
) -> _Derived:
    """Derive and write the results of a subject, on a worker or in a thread of this process."""
    from isles24_zarr.tasks import COMPUTED_HERE

    place = task.place
    options = place.target.storage_options
    try:
        store = store or place.target.opened(read_only=False)
        with (
            COMPUTED_HERE,
            open_scan(place.target.url, place.subject, place.group, storage_options=options) as scan,
        ):
            results = prepared(store, place, function(scan), task.pipeline, overwrite=task.overwrite)
            write_results(store, results, "synchronous")
    except Exception as error:  # noqa: BLE001 - whatever one subject raises, its row says it and the others are processed
        return _Derived(written=None, error=failure_line(error))
    return _Derived(written=dataclasses.replace(results, values={}))


def _state(store: Store, place: ScanPlace, pipeline: Pipeline, record: DerivativeRecord | None) -> str:
    """Tell whether results of a subject are there: ``"kept"``, ``"outdated"``, ``"missing"``."""
    if record is None or place.group not in record.groups:
        return "missing"
    try:
        images = image_records(stored_grid(store, place), place).values()
    except Isles24Error:  # the row will say what is wrong with it
        return "missing"
    checksums = {image.path: image.checksum for image in images}
    own = [
        recorded_of(record.members[path]["attributes"]) for path in record.arrays if path.startswith(f"{place.group}/")
    ]
    # but for the last one, which is this package: a newer version of it makes no other results
    if any(found.get("generated_by", [])[:-1] != list(pipeline.generated_by[:-1]) for found in own):
        return "missing"
    return "kept" if all(found.get("sources") == checksums for found in own) else "outdated"


def function_identity(function: Any) -> dict[str, Any]:
    """Return by what a function is known again: its name, and the values it runs with besides its scan.

    Parameters
    ----------
    function
        Whatever can be called. Values are those that a `functools.partial` has bound, variables of an enclosing
        function, defaults, and what the object of a method holds; not globals, and not the body.
    """
    values: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        bound = {f"argument {number}": value for number, value in enumerate(function.args)}
        values = {**bound, **function.keywords, **values}
        function = function.func
    body = getattr(function, "__func__", function)
    if isinstance(body, FunctionType):
        given = inspect.signature(body).parameters.values()
        own = {parameter.name: parameter.default for parameter in given if parameter.default is not parameter.empty}
        own |= {name: cell for name, cell in inspect.getclosurevars(body).nonlocals.items() if cell is not body}
        values = own | values
    holder = getattr(function, "__self__", None if isinstance(body, FunctionType) else function)
    if isinstance(holder, type):
        values["class"] = holder.__qualname__
    elif hasattr(holder, "state_dict"):
        values["weights"] = holder
    elif hasattr(holder, "__dict__") and not isinstance(holder, ModuleType):
        values = vars(holder) | values
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", type(function).__qualname__)
    told = {name: _told(value) for name, value in values.items()}
    return {"Function": f"{module}.{name}", **({"Parameters": told} if told else {})}


def _told(value: Any) -> str:
    """Return a text that is another one for every other value: itself, or where that says too little, its digest."""
    # whatever holds no reference to memory is told as it is
    text = repr(value)
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        if len(text) < _LONG and ast.literal_eval(text) == value:
            return text
    if isinstance(value, (np.generic, PurePath)):
        return text
    if hasattr(value, "state_dict"):  # of a network: where its weights lie in memory says nothing
        value = {name: np.asarray(weights) for name, weights in value.state_dict().items()}
    return f"{type(value).__qualname__} {tokenize(value)}"
