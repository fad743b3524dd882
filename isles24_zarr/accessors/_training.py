"""What networks are trained on: ``cohort.isles.torch_dataset``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr

    from isles24_zarr.training import ChannelLike
    from isles24_zarr.training.torch_patches import PatchDataset, Sample


class TrainingAccessor:
    """Patches of a cohort."""

    _cohort: xr.DataTree

    def torch_dataset(
        self,
        images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
        label: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike] | None = "lesion_mask",
        *,
        patch: Sequence[int] | None,
        stride: Sequence[int] | None = None,
        spacing: Sequence[float] | None = None,
        windows: str | Mapping[str, tuple[float, float] | str] | None = None,
        samples_per_subject: int = 8,
        lesion_fraction: float = 0.5,
        around: str | None = None,
        within: ChannelLike | None = None,
        pad_value: float = 0.0,
        label_threshold: float | None = None,
        missing: str = "error",
        space: str = "ncct",
        seed: int = 0,
        transform: Callable[[Sample], Any] | None = None,
    ) -> PatchDataset:
        """Return patches of aligned images as a map-style PyTorch Dataset.

        Parameters
        ----------
        images
            The channels: names of volumes, ``"ctp[12]"`` for a frame, ``"pipeline/name"`` for a result, functions of a
            scan, `training.Channel`; a mapping names them.
        label
            Name of the mask, or a result or function in its place; several give as many channels. None for none.
        patch
            Shape of a patch, (z, y, x) voxels; None for whole volumes.
        stride
            Steps (z, y, x) between patches that cover each volume, in place of patches that are drawn.
        spacing
            Voxel size in mm, (z, y, x), that patches are resampled to.
        windows
            Name of one of `training.WINDOW_PRESETS`, or by channel or image (lowest, highest) or the name of a CT
            window.
        within
            Draw the other patches in the ``"brain"``, or in a mask.
        samples_per_subject, lesion_fraction, around, pad_value, label_threshold, missing, space, seed, transform
            As for `training.torch_patches.torch_dataset`.

        Returns
        -------
        PatchDataset
            Each sample is a dict: ``image``, float32 (image, z, y, x); ``label``, int64 (label, z, y, x); ``subject``,
            ``origin``, ``affine``.

        Raises
        ------
        UnknownNameError
            An image, result or window does not exist, is a series, or is missing of a subject; or a number makes no
            sense.
        MissingExtraError
            PyTorch is not installed.

        Examples
        --------
        >>> data = cohort.isles.torch_dataset(["ncct", "ctp[0]"], patch=(4, 8, 8))  # doctest: +SKIP
        >>> data[0]["image"].shape  # doctest: +SKIP
        torch.Size([2, 4, 8, 8])
        """
        from isles24_zarr.training.torch_patches import torch_dataset

        return torch_dataset(
            self._cohort,
            images,
            label,
            patch=patch,
            stride=stride,
            spacing=spacing,
            windows=windows,
            samples_per_subject=samples_per_subject,
            lesion_fraction=lesion_fraction,
            around=around,
            within=within,
            pad_value=pad_value,
            label_threshold=label_threshold,
            missing=missing,
            space=space,
            seed=seed,
            transform=transform,
        )
