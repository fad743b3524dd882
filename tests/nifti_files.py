"""NIfTI files for tests, written by nibabel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

OBLIQUE = np.array([[-0.45, 0.02, 0.1, 100.0], [0.03, 0.43, -0.5, -90.0], [0.01, 0.09, 1.9, -60.0], [0, 0, 0, 1]])


def random_voxels(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray[Any, Any]:
    """Voxels with every byte pattern a type can have, NaNs with payloads included."""
    rng = np.random.default_rng(seed)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def write(
    path: Path,
    voxels: np.ndarray[Any, Any],
    affine: np.ndarray[Any, Any] = OBLIQUE,
    *,
    byte_order: str = "<",
    version: int = 1,
    codes: tuple[int, int] = (1, 0),
    extension: bytes | None = None,
    **fields: Any,
) -> Path:
    """Write voxels as they are; `codes` are those of sform and qform, `fields` go into the header."""
    image_class, header_class = {
        1: (nib.Nifti1Image, nib.Nifti1Header),
        2: (nib.Nifti2Image, nib.Nifti2Header),
    }[version]
    header = header_class(endianness=byte_order)
    header.set_data_dtype(voxels.dtype.newbyteorder(byte_order))
    header.set_data_shape(voxels.shape)
    image = image_class(voxels, None, header)
    image.header.set_sform(affine, code=codes[0])
    image.header.set_qform(affine, code=codes[1], strip_shears=True)
    image.header.set_xyzt_units(2)
    for name, value in fields.items():
        image.header[name] = value
    if extension is not None:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    if "scl_slope" in fields:
        _set_scaling(path, image.header, float(fields["scl_slope"]), float(fields.get("scl_inter", 0.0)))
    return path


def _set_scaling(path: Path, header: Any, slope: float, intercept: float) -> None:
    """nibabel chooses the scaling itself on saving: put what was asked for into the file."""
    import gzip

    packed = path.name.endswith(".gz")
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    for name, value in (("scl_slope", slope), ("scl_inter", intercept)):
        dtype, offset = header.template_dtype.fields[name][:2]
        data[offset : offset + dtype.itemsize] = np.array(value, dtype.newbyteorder(header.endianness)).tobytes()
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
