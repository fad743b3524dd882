"""The reader of MONAI for images within a store, and what MONAI knows of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from isles24_zarr.errors import MissingExtraError, UnknownNameError
from isles24_zarr.training._paths import ImagePath
from isles24_zarr.training._volumes import Volume, volume_of

try:
    from monai.data import ImageReader
    from monai.utils import MetaKeys, SpaceKeys
except ImportError as error:
    advice = "needs MONAI and PyTorch, install them by: pip install 'isles24-zarr[monai]'"
    raise MissingExtraError("training", advice) from error

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

_NO_CHANNEL: Final = float("nan")
"""What MONAI calls "no_channel"."""


class StoreReader(ImageReader):  # type: ignore[misc]  # MONAI is optional, mypy does not follow it
    """Reads images by their paths within a store: the reader for MONAI's LoadImage and LoadImaged.

    Paths are ``"isles24.zarr/sub-stroke0001/space-ncct/tmax"``, ``".../ctp"`` for a whole series, ``".../ctp[12]"`` for
    a frame, ``"isles24.zarr/derivatives/<pipeline>/sub-stroke0001/space-ncct/<name>"`` for a result; several of them
    become channels. The store may be behind a URL.

    Parameters
    ----------
    storage_options
        For a store behind a URL.
    label_threshold
        From which fraction on voxels of a soft mask belong to it; None for 0.5, with a `SoftMaskWarning`.
    labels
        Whether all images are masks. Masks of the release and those that were added become labels in any case.

    Notes
    -----
    Voxels and affine are those that MONAI's own NibabelReader gives for the files of the release, followed by
    ``Orientation("RAS")``: axes run x, y, z to the patient's Right, Anterior and Superior, a series has its frames
    last, and ``original_affine`` and ``spatial_shape`` are those of the file. All images of a grid have one affine.
    """

    def __init__(
        self,
        *,
        storage_options: Mapping[str, Any] | None = None,
        label_threshold: float | None = None,
        labels: bool = False,
    ) -> None:
        super().__init__()
        self.storage_options = dict(storage_options or {})
        self.label_threshold = label_threshold
        self.labels = labels

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Tell whether all are paths of images within a store."""
        try:
            self.read(filename)
        except UnknownNameError:
            return False
        return True

    def read(self, data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], **_: Any) -> list[ImagePath]:
        """Return what is to be read. Nothing is: of an error here, LoadImaged would keep the last line of many.

        Raises
        ------
        UnknownNameError
            A path is none of an image within a store.
        """
        several = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
        return [ImagePath.of(path) for path in several]

    def get_data(self, img: Sequence[ImagePath]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read images.

        Parameters
        ----------
        img
            What `read` gave.

        Returns
        -------
        tuple
            Voxels (x, y, z), or (x, y, z, frame) of a series; of several images (channel, x, y, z). And what MONAI
            knows of an image: ``affine`` and the rest.

        Raises
        ------
        UnknownNameError
            There is no such image, or several are not on one grid.
        MaskError, StoreDamageError
            A mask has values that are no labels, or voxels cannot be read.
        """
        volumes = [self._volume(path) for path in img]
        for path, volume in zip(img, volumes, strict=True):
            _check_together(str(path), volume, str(img[0]), volumes[0])
        return stacked(volumes)

    def _volume(self, path: ImagePath) -> Volume:
        image = path.opened(self.storage_options)
        return volume_of(image, threshold=self.label_threshold, labels=self.labels)


def _check_together(name: str, volume: Volume, first: str, reference: Volume) -> None:
    same_shape = volume.values.shape[-3:] == reference.values.shape[-3:]
    if not same_shape or not np.allclose(volume.affine, reference.affine):
        raise UnknownNameError(name, f"is on another grid than {first}, and cannot be a channel beside it")


def stacked(volumes: Sequence[Volume]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return images as NibabelReader does: one without channels, a series with frames last, several as channels."""
    first = volumes[0]
    if len(volumes) > 1:
        voxels = np.concatenate([volume.channels for volume in volumes])
        channel: float = 0
    else:
        series = first.values.ndim == 4
        voxels, channel = (np.moveaxis(first.values, 0, -1), -1) if series else (first.values, _NO_CHANNEL)
    meta = {
        MetaKeys.AFFINE: first.affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: first.file_affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(first.file_shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: channel,
    }
    return voxels, {str(key.value): value for key, value in meta.items()}
