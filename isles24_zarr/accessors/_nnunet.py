"""A cohort as a raw dataset of nnU-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isles24_zarr.conventions import SOFT_MASK_THRESHOLD

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from distributed import Client

    from isles24_zarr.training import ChannelLike, NnunetReport


class NnunetAccessor:
    """What nnU-Net takes."""

    _cohort: xr.DataTree

    def to_nnunet(
        self,
        destination: str | os.PathLike[str],
        images: ChannelLike | Sequence[ChannelLike] | Mapping[str, ChannelLike],
        label: ChannelLike = "lesion_mask",
        *,
        windows: str | Mapping[str, tuple[float, float] | str] | None = None,
        labels: Mapping[str, int] | None = None,
        label_threshold: float = SOFT_MASK_THRESHOLD,
        normalization: str | Mapping[str, str] | None = None,
        fill: float | None = None,
        folds: int = 5,
        seed: int = 0,
        space: str = "ncct",
        subjects: Sequence[str] | str | None = None,
        overwrite: bool = False,
        client: Client | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> NnunetReport:
        """Write a raw dataset that nnU-Net takes as it is, resuming what an earlier run wrote.

        Parameters
        ----------
        destination
            The folder of the dataset, as ``"nnUNet_raw/Dataset024_ISLES"``; ``dataset.json`` will lie in it.
        images
            The channels: names, as ``"ncct"``, ``"ctp[12]"`` for a frame or ``"pipeline/tmax"`` for a result, or
            functions of a scan; a mapping gives them names. See `training.channels_of`.
        label
            The mask, in the same way.
        windows
            ``"winner"`` or another of `training.WINDOW_PRESETS`, or (lowest, highest) by channel.
        labels
            Names and values of the labels in the mask, as ``{"infarct": 1, "ignore": 255}``.
        label_threshold
            From which fraction on voxels of a soft mask are in the label.
        normalization
            Of nnU-Net, for all channels or by name: ``"CT"``, ``"zscore"``, ``"noNorm"``, ``"rescale_to_0_1"``. By
            default ``"CT"`` for images in HU, and ``"zscore"`` for others.
        fill
            What voxels that are not finite become; by default the lowest value of the window.
        folds, seed
            Of the splits by patient, see `folds`.
        space
            The grid, as for `scan`.
        subjects
            Names; all by default.
        overwrite
            Write all files anew.
        client, workers
            Where to run: on this Dask client, on that many processes; by default on the current client, or in threads.
        progress
            Show a bar on stderr.

        Returns
        -------
        NnunetReport
            Who was written, was there, or lacks an image. See `training.nnunet_dataset`.

        Raises
        ------
        UnknownNameError
            There is no such image, window, label, normalization or subject, or nobody has all images.
        DestinationError, StoreLockedError
            The folder cannot be written, holds other files, or another process writes into it.
        ClusterLostError, NoWorkersError, WorkerMismatchError
            The cluster cannot do it.

        Examples
        --------
        >>> import tempfile
        >>> folder = tempfile.mkdtemp(prefix="Dataset024_")
        >>> report = cohort.isles.to_nnunet(folder, ["ncct", "tmax"], windows="winner", progress=False)
        >>> report.ok, len(report.written)
        (True, 3)
        """
        from isles24_zarr.training import nnunet_dataset

        return nnunet_dataset(
            self._cohort,
            destination,
            images,
            label,
            windows=windows,
            labels=labels,
            label_threshold=label_threshold,
            normalization=normalization,
            fill=fill,
            folds=folds,
            seed=seed,
            space=space,
            subjects=subjects,
            overwrite=overwrite,
            client=client,
            workers=workers,
            progress=progress,
        )
