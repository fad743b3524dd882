"""Subjects of a cohort, one by one, parts of it, and its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isles24_zarr.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import xarray as xr
    from numpy.typing import ArrayLike


class PartsAccessor:
    """A cohort as a container: of scans by name or number, of parts, of clinical values."""

    _cohort: xr.DataTree

    def __len__(self) -> int:
        """Return how many subjects there are."""
        return len(self._names())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the subjects."""
        return iter(self._names())

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a subject of this name."""
        return name in self._names()

    def __getitem__(self, which: str | int | slice) -> xr.Dataset | xr.DataTree:
        """Return the registered scan of a subject by its name or number; for a slice of numbers, a smaller cohort."""
        from isles24_zarr.cohorts import cohort_target, selected_cohort
        from isles24_zarr.scans import open_scan

        if isinstance(which, slice):
            names = self._names()
            kept = set(names[which])
            return selected_cohort(self._cohort, [name in kept for name in names])
        target = cohort_target(self._cohort)
        return open_scan(target.url, self._name(which), storage_options=target.storage_options)

    def _names(self) -> list[str]:
        from isles24_zarr.cohorts import subject_names

        return subject_names(self._cohort)

    def _name(self, which: str | int) -> str:
        """Return the name of a subject of this cohort, given that or its number."""
        from isles24_zarr.cohorts import selected_cohort, subject_names

        if isinstance(which, str):
            return subject_names(selected_cohort(self._cohort, [which]))[0]
        names = self._names()
        if not -len(names) <= which < len(names):
            raise UnknownNameError(which, f"is no number of a subject, the cohort has {len(names)}, counted from 0")
        return names[which]

    @property
    def table(self) -> pd.DataFrame:
        """One row a subject, one column a clinical variable.

        Numbers are float64; sex, centre and mTICI are categorical, mTICI in the order of its grades. Missing values are
        NaN, or None in other text. See `cohorts.clinical_table`.

        Examples
        --------
        >>> cohort.isles.table.index.name, len(cohort.isles.table)
        ('subject', 3)
        >>> list(cohort.isles.table["sex"].cat.categories)
        ['M', 'F']
        """
        from isles24_zarr.cohorts import clinical_table

        return clinical_table(self._cohort)

    @property
    def codebook(self) -> pd.DataFrame:
        """What each variable is, one row a variable, clinical ones and images; see `cohorts.cohort_codebook`.

        Examples
        --------
        >>> cohort.isles.codebook.loc["age", ["unit", "range"]].tolist()
        ['years', '0 to 120']
        """
        from isles24_zarr.cohorts import cohort_codebook

        return cohort_codebook(self._cohort)

    def select(self, which: str | ArrayLike) -> xr.DataTree:
        """Return a smaller cohort.

        Parameters
        ----------
        which
            A pandas query over the columns of `table`, such as ``"nihss_admission > 15 and sex == 'F'"``; or names; or
            a boolean for each subject, by name in a pandas Series or DataArray, else in order. A missing one picks
            nothing.

        Raises
        ------
        UnknownNameError
            The query cannot be evaluated, there is no such subject, or not one boolean for each.

        Examples
        --------
        >>> cohort.isles.select([True, False, True]).isles.subjects
        ['sub-stroke0001', 'sub-stroke0004']
        >>> cohort.isles.select(["sub-stroke0002"]).isles.subjects
        ['sub-stroke0002']
        """
        from isles24_zarr.cohorts import selected_cohort

        return selected_cohort(self._cohort, which)

    def train_test_split(
        self,
        test_size: float = 0.2,
        *,
        seed: int = 0,
        by: str | Sequence[str] = ("center", "mrs_3month"),
        stratify: str | Sequence[str] | None = None,
        random_state: int | None = None,
    ) -> tuple[xr.DataTree, xr.DataTree]:
        """Split at random into two cohorts that are alike in some clinical variables.

        Parameters
        ----------
        test_size
            Share of the subjects in the second part, between 0 and 1, or their number, from 1 on.
        seed
            Of the choice.
        by
            Columns of `table`, the most important first.
        stratify, random_state
            The words of scikit-learn for `by` and `seed`.

        Returns
        -------
        tuple of xarray.DataTree
            The larger part and the test part. See `cohorts.split_cohort`.

        Raises
        ------
        UnknownNameError
            There is no such column, or the cohort cannot be split in this way.

        Examples
        --------
        >>> [len(part.isles.subjects) for part in cohort.isles.train_test_split(test_size=1, seed=7)]
        [2, 1]
        """
        from isles24_zarr.cohorts import split_cohort

        columns = by if stratify is None else stratify
        return split_cohort(self._cohort, test_size, seed=seed if random_state is None else random_state, by=columns)

    def folds(
        self, k: int = 5, *, seed: int = 0, by: str | Sequence[str] = ("center", "mrs_3month")
    ) -> list[tuple[xr.DataTree, xr.DataTree]]:
        """Divide into folds that are alike in some clinical variables, for cross-validation.

        Parameters
        ----------
        k
            How many.
        seed
            Of the choice.
        by
            Columns of `table`, the most important first.

        Returns
        -------
        list of tuple of xarray.DataTree
            For each fold, the subjects to train on and those to validate with. See `cohorts.cohort_folds`.

        Raises
        ------
        UnknownNameError
            There is no such column, or there are not as many subjects.

        Examples
        --------
        >>> [len(fold.isles) for _, fold in cohort.isles.folds(3, seed=1)]
        [1, 1, 1]
        """
        from isles24_zarr.cohorts import cohort_folds

        return cohort_folds(self._cohort, k, seed=seed, by=by)
