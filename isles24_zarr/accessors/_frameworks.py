"""What MONAI and TorchIO take of scans and cohorts, and what comes back from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torchio
    import xarray as xr
    from monai.data import Dataset, MetaTensor

    from isles24_zarr.training.monai_images import MonaiItems
    from isles24_zarr.training.torchio_subjects import Subjects


class ScanFrameworksAccessor:
    """A scan as MONAI and TorchIO have it."""

    _scan: Any

    def to_monai(self, images: str | Sequence[str], *, label_threshold: float | None = None) -> MetaTensor:
        """Return images of this scan, or of the part that is left of it, as a MetaTensor of MONAI.

        Parameters
        ----------
        images
            Names, which become channels; all frames of a series do.
        label_threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        monai.data.MetaTensor
            Float32 (channel, x, y, z), with the affine to RAS mm. See `training.monai_images.to_monai`.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        MissingExtraError
            MONAI is not installed.

        Examples
        --------
        >>> scan.isles.to_monai(["ncct", "tmax"]).affine  # doctest: +SKIP
        """
        from isles24_zarr.training.monai_images import to_monai

        return to_monai(self._scan, images, label_threshold=label_threshold)

    def from_monai(self, image: MetaTensor, name: str = "prediction") -> xr.DataArray:
        """Return a MetaTensor of MONAI, such as a prediction, as an image of this scan.

        Parameters
        ----------
        image
            (1, x, y, z), on the grid of the scan by its affine: with axes flipped or swapped, but not resampled.
        name
            Of the image.

        Returns
        -------
        xarray.DataArray
            (z, y, x), which `save` takes. See `training.monai_images.from_monai`.

        Raises
        ------
        OtherGridError
            It is not on the grid.

        Examples
        --------
        >>> mask = scan.isles.from_monai(prediction, "lesion").astype("uint8")  # doctest: +SKIP
        >>> scan.isles.save(mask, "my-unet")  # doctest: +SKIP
        """
        from isles24_zarr.training.monai_images import from_monai

        return from_monai(image, self._scan, name)

    def to_torchio(
        self,
        images: str | Sequence[str] | Mapping[str, str],
        label: str | Sequence[str] | Mapping[str, str] | None = None,
        *,
        label_threshold: float | None = None,
    ) -> torchio.Subject:
        """Return this scan, or the part that is left of it, as a Subject of TorchIO that reads what it is asked for.

        Parameters
        ----------
        images
            Names, each a ScalarImage; a mapping gives them other names.
        label
            The same for masks, each a LabelMap.
        label_threshold
            Fraction from which on voxels of a soft mask count.

        Returns
        -------
        torchio.Subject
            Tensors (channel, x, y, z), with the affine to RAS mm. See `training.torchio_subjects.to_torchio`.

        Raises
        ------
        UnknownNameError
            The scan has no such image.
        MissingExtraError
            TorchIO is not installed.

        Examples
        --------
        >>> scan.isles.to_torchio(["ncct", "tmax"], "lesion_mask")  # doctest: +SKIP
        """
        from isles24_zarr.training.torchio_subjects import to_torchio

        return to_torchio(self._scan, images, label, label_threshold=label_threshold)

    def from_torchio(self, image: torchio.Image, name: str = "prediction") -> xr.DataArray:
        """Return an image of TorchIO, such as a prediction, as an image of this scan.

        Parameters
        ----------
        image
            (1, x, y, z), on the grid of the scan by its affine: with axes flipped or swapped, but not resampled.
        name
            Of the image.

        Returns
        -------
        xarray.DataArray
            (z, y, x), which `save` takes. See `training.torchio_subjects.from_torchio`.

        Raises
        ------
        OtherGridError
            It is not on the grid.

        Examples
        --------
        >>> scan.isles.save(scan.isles.from_torchio(prediction, "lesion"), "my-unet")  # doctest: +SKIP
        """
        from isles24_zarr.training.torchio_subjects import from_torchio

        return from_torchio(image, self._scan, name)


class CohortFrameworksAccessor:
    """A cohort as MONAI and TorchIO have it."""

    _cohort: xr.DataTree

    def monai_items(
        self,
        images: str | Sequence[str] | Mapping[str, str | Sequence[str]],
        label: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = "lesion_mask",
        *,
        label_threshold: float | None = None,
        missing: str = "error",
        space: str = "ncct",
    ) -> MonaiItems:
        """Return one item a subject for the datasets of MONAI: dicts of paths, which its LoadImaged reads.

        Parameters
        ----------
        images
            Names, ``"ctp[12]"`` for a frame, ``"pipeline/tmax"`` for a result: channels of the key ``"image"``. A
            mapping gives images keys of their own.
        label
            The same for masks, whose key is ``"label"``; None for inference.
        label_threshold
            Fraction from which on voxels of a soft mask count.
        missing
            ``"skip"`` leaves out subjects that lack an image.
        space
            The grid, as for `scan`.

        Returns
        -------
        MonaiItems
            A sequence of dicts, whose ``loader()`` is the transform to begin with. See
            `training.monai_images.monai_items`.

        Raises
        ------
        UnknownNameError
            There is no such image, or it is missing of a subject.
        MissingExtraError
            MONAI is not installed.

        Examples
        --------
        >>> items = cohort.isles.monai_items(["ncct", "tmax"])  # doctest: +SKIP
        >>> monai.data.CacheDataset(items, items.loader())  # doctest: +SKIP
        """
        from isles24_zarr.training.monai_images import monai_items

        return monai_items(self._cohort, images, label, label_threshold=label_threshold, missing=missing, space=space)

    def monai_dataset(
        self,
        images: str | Sequence[str] | Mapping[str, str | Sequence[str]],
        label: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = "lesion_mask",
        *,
        label_threshold: float | None = None,
        missing: str = "error",
        space: str = "ncct",
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> Dataset:
        """Return a Dataset of MONAI, whose items are whole images with their affines.

        Parameters
        ----------
        images, label, label_threshold, missing, space
            As for `monai_items`.
        transform
            Called with each item.

        Returns
        -------
        monai.data.Dataset
            Each item is a dict: ``image`` and ``label``, MetaTensors (channel, x, y, z), and ``subject``. See
            `training.monai_images.monai_dataset`.

        Raises
        ------
        UnknownNameError
            There is no such image, or it is missing of a subject.
        MissingExtraError
            MONAI is not installed.

        Examples
        --------
        >>> cohort.isles.monai_dataset(["ncct", "tmax"])[0]["image"].affine  # doctest: +SKIP
        """
        from isles24_zarr.training.monai_images import monai_dataset

        return monai_dataset(
            self._cohort,
            images,
            label,
            transform=transform,
            label_threshold=label_threshold,
            missing=missing,
            space=space,
        )

    def torchio_subjects(
        self,
        images: str | Sequence[str] | Mapping[str, str],
        label: str | Sequence[str] | Mapping[str, str] | None = "lesion_mask",
        *,
        label_threshold: float | None = None,
        missing: str = "error",
        space: str = "ncct",
    ) -> Subjects:
        """Return the subjects for TorchIO, which read what they are asked for.

        Parameters
        ----------
        images
            Names, ``"ctp[12]"`` for a frame, ``"pipeline/tmax"`` for a result, each a ScalarImage of that name; a
            mapping gives them other names.
        label
            The same for masks, each a LabelMap; None for inference.
        label_threshold
            Fraction from which on voxels of a soft mask count.
        missing
            ``"skip"`` leaves out subjects that lack an image.
        space
            The grid, as for `scan`.

        Returns
        -------
        Subjects
            A list of torchio.Subject, for a SubjectsDataset. See `training.torchio_subjects.torchio_subjects`.

        Raises
        ------
        UnknownNameError
            There is no such image, or it is missing of a subject.
        MissingExtraError
            TorchIO is not installed.

        Examples
        --------
        >>> subjects = cohort.isles.torchio_subjects(["ncct", "tmax"])  # doctest: +SKIP
        >>> torchio.SubjectsDataset(subjects)[0].ncct.shape  # doctest: +SKIP
        """
        from isles24_zarr.training.torchio_subjects import torchio_subjects

        return torchio_subjects(
            self._cohort, images, label, label_threshold=label_threshold, missing=missing, space=space
        )
