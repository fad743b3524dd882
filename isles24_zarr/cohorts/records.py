"""Records as the dataset card promises them: one mapping a subject, with images that nibabel understands.

The card is that of ``hugging-science/isles24-stroke``, whose images are those registered to the NCCT. An image of a
record is an image of nibabel: shape, axes, affine and header of the released file, and voxels that stay in the store
until they are asked for, a chunk at a time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast, overload

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.fileslice import canonical_slicers

from isles24_zarr.cohorts.opening import clinical_table, cohort_target, subject_names
from isles24_zarr.scans import image_groups, nifti_class, stored_array
from isles24_zarr.store import StorePlace, file_voxels, reading
from isles24_zarr.vocabulary import IMAGES, REFERENCE_SPACE

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from isles24_zarr.store import StoredArray

CLINICAL_KEYS: Final = ("age", "sex", "nihss_admission", "mrs_admission", "mrs_3month")
KEYS: Final = ("subject_id", *IMAGES, *CLINICAL_KEYS)
"""Of a record, in the order of the card."""

Clinical = Mapping[str, float | str | None]


class Records(Sequence["Record"]):
    """The records of a cohort, one a subject; nothing is read before an image of one is used.

    Parameters
    ----------
    target
        The store.
    clinical
        Clinical values by subject, in the order of the records.
    """

    def __init__(self, target: StorePlace, clinical: Mapping[str, Clinical]) -> None:
        self.target = target
        self._clinical = dict(clinical)
        self._subjects = list(clinical)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        """Return a record by its place, or some of them."""
        if isinstance(index, slice):
            return Records(self.target, {name: self._clinical[name] for name in self._subjects[index]})
        subject = self._subjects[operator.index(index)]
        return Record(self.target, subject, self._clinical[subject])

    def __len__(self) -> int:
        return len(self._subjects)

    def __repr__(self) -> str:
        return f"<{len(self)} records of {self.target.url}>"


class Record(Mapping[str, Any]):
    """One subject with the keys of the dataset card.

    Parameters
    ----------
    target, subject
        The store, and whom of it.
    clinical
        The clinical values.

    Notes
    -----
    ``subject_id`` and ``sex`` are text, the other clinical values float, missing ones None. Images are nibabel images
    that read what is used of them, or None where the subject has no such image that was registered to the NCCT (or, for
    ``ncct``, none). They are opened once, and what `get_fdata` caches in them lives as long as the record.
    """

    def __init__(self, target: StorePlace, subject: str, clinical: Clinical) -> None:
        self._target = target
        self._subject = subject
        self._clinical = clinical
        self._opened: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key == "subject_id":
            return self._subject
        if key in CLINICAL_KEYS:
            return self._clinical[key]
        if key not in IMAGES:
            raise KeyError(key)
        if key not in self._opened:
            path = registered_path(self._target, self._subject, key)
            self._opened[key] = None if path is None else stored_image(self._target, path)
        return self._opened[key]

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __contains__(self, key: object) -> bool:
        return key in KEYS  # the one of Mapping would open the image

    def __len__(self) -> int:
        return len(KEYS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # a copy elsewhere opens them for itself

    def __repr__(self) -> str:
        return f"<record of {self._subject} in {self._target.url}>"


def cohort_records(cohort: xr.DataTree) -> Records:
    """Return the records of a cohort, in its order."""
    table = clinical_table(cohort).reindex(columns=list(CLINICAL_KEYS))
    clinical = {
        subject: {key: _value(row[key]) for key in CLINICAL_KEYS}
        for subject, row in zip(subject_names(cohort), table.to_dict("records"), strict=True)
    }
    return Records(cohort_target(cohort), clinical)


def _value(found: Any) -> float | str | None:
    if isinstance(found, str):
        return found
    return None if found is None or math.isnan(found) else float(found)


def registered_path(target: StorePlace, subject: str, image: str) -> str | None:
    """Return the path of the array that was registered to the NCCT, None where there is none.

    One that does not share the grid of the others is in a group of its own, and is returned as well.

    Raises
    ------
    NotAStoreError, StoreVersionError, IncompleteStoreError, UnknownNameError
        There is no store, or it does not hold this subject.
    """
    space = f"space-{REFERENCE_SPACE}"
    groups = image_groups(target, subject).get(image, [])
    own = [name for name in (space, f"{space}_desc-{image}") if name in groups]
    return f"{subject}/{own[0]}/{image}" if own else None


def stored_image(target: StorePlace, path: str) -> nib.Nifti1Image | nib.Nifti2Image:
    """Return an image of a store as nibabel would load it from its file, with voxels that stay in the store.

    Parameters
    ----------
    target, path
        The store, and the array in it.

    Returns
    -------
    nibabel image
        Axes, affine, header and scaling are those of the file; but a mask whose file stores something else than its
        labels, as 65535 with a slope of 1/65535, has the labels, unscaled, so that 1 is 1. ``dataobj`` is a
        `LazyVoxels`: slices of it, and of ``slicer``, read the chunks that they touch.

    Raises
    ------
    StoreDamageError
        Part of the array is lost.
    """
    array = stored_array(target, path)
    header = array.record.header
    kind: Any = nifti_class(header)
    # nibabel does not look for voxels before they are used: there are none behind this header
    empty: Any = kind.from_bytes(header)
    dtype, scaling = empty.dataobj.dtype.newbyteorder("="), (empty.dataobj.slope, empty.dataobj.inter)
    if array.record.mask is not None and array.record.mask.stored:
        dtype, scaling = array.dtype, (1.0, 0.0)
        empty.header.set_data_dtype(dtype)
    voxels = LazyVoxels(target, path, (empty.shape, dtype, 0, *scaling), array)
    return cast("nib.Nifti1Image | nib.Nifti2Image", kind(voxels, empty.affine, empty.header))


class LazyVoxels(ArrayProxy):
    """Nibabel's array proxy, scaling and all, of voxels that lie in a store instead of a file.

    Parameters
    ----------
    target, path
        The store, and the array in it.
    spec
        Shape, element type, offset, slope and intercept of the file, as for `nibabel.arrayproxy.ArrayProxy`.
    array
        The array, where it is open already; a copy elsewhere opens it for itself.
    """

    def __init__(self, target: StorePlace, path: str, spec: tuple[Any, ...], array: StoredArray | None = None) -> None:
        super().__init__(f"{target.url}/{path}", spec, mmap=False, keep_file_open=False)  # type: ignore[no-untyped-call]
        self._target = target
        self._path = path
        self._spec = spec
        self._array = array

    def copy(self) -> LazyVoxels:
        """Return another proxy of the same voxels."""
        return LazyVoxels(self._target, self._path, self._spec)

    def reshape(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the voxels, read, in another shape."""
        return np.asarray(self).reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_array": None}  # type: ignore[no-untyped-call]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:  # type: ignore[override]
        """Return all voxels, scaled; they are read anew every time, so that all are copies."""
        return np.asarray(super().__array__(dtype))  # type: ignore[no-untyped-call]

    def _get_unscaled(self, slicer: Any) -> NDArray[Any]:
        if self._array is None:
            self._array = stored_array(self._target, self._path)
        index = canonical_slicers(slicer, self._shape)
        with reading(self._path):
            found = file_voxels(self._array, index, self._shape, self._array.record.orientation)
        # as others than NumPy take it: no axis backwards
        return np.require(found, self._dtype, ["F", "W"])
