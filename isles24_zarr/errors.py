"""The errors of this package, and the findings that are reported instead of raised.

Every error is a sentence that names the thing at fault, says what is wrong and what to do about it: the
first two are the arguments, the last is the class's ``advice``. Errors travel between processes, so all
of them are rebuilt from their two arguments, or from the one text that PyTorch makes of an error in a worker.

`RequestError` and its children mean that what was asked for cannot be done at all (exit code 2).
`SourceError` and its children mean that one file of a release cannot be used: they become a `Problem` of a
report, and the other files are converted (exit code 1).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from isles24_zarr._sentences import RUN_AGAIN as RUN_AGAIN  # noqa: PLC0414 - to be imported from here, as the others
from isles24_zarr._sentences import Isles24Error as Isles24Error  # noqa: PLC0414
from isles24_zarr._sentences import failure_line as failure_line  # noqa: PLC0414
from isles24_zarr._sentences import one_line as one_line  # noqa: PLC0414
from isles24_zarr._sentences import without_passwords as without_passwords  # noqa: PLC0414


class RequestError(Isles24Error):
    """The request itself cannot be carried out."""


class SourceNotFoundError(RequestError):
    """There is no release at the given place."""

    advice = "give the folder or archive that holds raw_data/, derivatives/ and phenotype/"


class LeftOutError(RequestError):
    """Files of a release would be left out, and nothing was to be."""

    advice = (
        "give '--extra-images' to keep images beyond the twelve, rename or move the others as 'isles24-zarr scan' "
        "says, or convert without '--strict'; nothing was written"
    )


class UnusableArchiveError(RequestError):
    """An archive cannot be read at all: it is encrypted, compressed in an unusual way, or its directory is damaged."""


class NotAStoreError(RequestError):
    """The given place is not an isles24-zarr store."""

    advice = "give the path that was written by 'isles24-zarr convert'"


class PartOfStoreError(NotAStoreError):
    """The given place is inside of a store: a subject, a grid, an array or the table."""

    advice = "give the path of the store, and name the subject after it"


class StoreVersionError(RequestError):
    """The store was written in a format that this version cannot read."""

    advice = "upgrade isles24-zarr"


class OldStoreError(StoreVersionError):
    """The store was written in a format that is not read any more."""

    advice = (
        "convert the whole release into it again by 'isles24-zarr convert', which keeps the arrays that are the same; "
        "without the release, export it by isles24-zarr 0.1 first"
    )


class IncompleteStoreError(RequestError):
    """The conversion that wrote this store has not finished."""

    advice = f"where it was converted, {RUN_AGAIN}"


class StoreLockedError(RequestError):
    """Another process is writing into the store."""

    advice = "wait until it has ended, then run the same command again"


class StoreAccessError(RequestError):
    """A place behind a URL is out of reach."""

    advice = "check the address, the credentials, the storage options and the network, then run the same command again"


class ForkedProcessError(RequestError):
    """A process was forked from one that had used a library, and lacks the threads of that."""

    advice = "start it otherwise, as a DataLoader does by multiprocessing_context='forkserver'"


class OptionError(RequestError):
    """An option is given in a form that it does not have."""

    advice = "write it as name=value, as 'anon=true' or 'client_kwargs.region_name=eu-central-1'"


class UnknownNameError(RequestError, ValueError):
    """A subject, image, space or option value that does not exist was asked for; a `ValueError`, too."""


class RemovedSubjectError(RequestError):
    """A subject that was removed from the store for good was asked for by name."""

    advice = "give '--readmit' as well if it may be converted again"


class GeometryError(RequestError):
    """The data no longer carry the coordinates that a physical answer needs."""

    advice = "keep the x, y and z coordinates, and select along them by slices"


class OtherGridError(GeometryError):
    """An image of a framework is not on the grid of the scan that it is to go back to."""

    advice = (
        "undo what has resampled, cropped or padded it, as by Invertd of MONAI or apply_inverse_transform of TorchIO"
    )


class MaskError(RequestError):
    """What was given as a mask does not mark voxels."""

    advice = "give booleans, whole numbers from 0 on, or fractions between 0 and 1; fill gaps, as by .fillna(0)"


class PerfusionError(RequestError):
    """Perfusion cannot be computed of this series."""


class PerfusionWarning(UserWarning):
    """Perfusion was computed, but the series is too short, or starts too late, for some of it to be right."""


class SoftMaskWarning(UserWarning):
    """A mask of fractions was taken for labels, by a threshold that was not asked for."""


class UncomputedWarning(UserWarning):
    """Values were counted by which perfusion software says that it computed nothing, if they still mean that."""


class SlowReadWarning(UserWarning):
    """Voxels are read many times more slowly than they could be."""


class VoxelTypeError(RequestError):
    """Values of a type that no NIfTI file holds."""

    advice = "convert them to a number type first, as by .astype('float32')"


class NotFiniteError(RequestError):
    """An image holds voxels that are no numbers, where every one has to be."""

    advice = "give the image a window, or say by 'fill' which value they get"


class MissingExtraError(RequestError):
    """An optional library is not installed."""


class SchedulerNotFoundError(RequestError):
    """There is no Dask scheduler at the given address."""

    advice = "give the address that 'dask scheduler' printed, or leave it out to use this machine"


class WorkerStartError(RequestError):
    """No worker process could be started on this machine."""

    advice = "in a script, make the call under 'if __name__ == \"__main__\":'"


class WorkerRefusedError(RequestError):
    """The system does not let worker processes start."""

    advice = (
        "make /dev/shm and the folder of temporary files writable, free memory, processes and open files, "
        "or call it from Python with client=Client(processes=False)"
    )


class NoWorkersError(RequestError):
    """A Dask cluster has no workers, and none joins."""

    advice = "start workers and run the same command again; DASK_ISLES24_ZARR__WAIT_FOR_WORKERS=8h waits longer"


class WorkerMismatchError(RequestError):
    """A worker of a Dask cluster lacks this package, or has another version of it."""

    advice = "install the same isles24-zarr where all workers run, start them anew, then run the same command again"


class DestinationError(RequestError):
    """The place to write to cannot be used, or workers do not see what they are to work on."""


class NoRoomError(DestinationError):
    """The disk of the place to write to has less room than what is to be written takes at the very least."""

    advice = "free space, give a store on another disk, or convert some subjects by '--subject'; nothing was written"


class LittleRoomWarning(UserWarning):
    """The disk may turn out to be too small for what is to be written."""


class NoFolderError(RequestError):
    """The folder in which a command runs was deleted."""

    advice = "change into a folder that is there"


class RecordError(RequestError):
    """There is no such record of files to fetch."""

    advice = "give the number or the DOI of a Zenodo record with '--record'"


class AddressError(RequestError):
    """A server cannot listen at an address."""

    advice = "give another '--port' or '--host'"


class SourceError(Isles24Error):
    """One file of the release cannot be used."""

    advice = "fetch the file again; until then its subject is converted without it"


class UnreadableFileError(SourceError):
    """The file system does not let the file be read."""

    advice = "check that it exists and may be read, then run the same command again"


class UnsupportedArchiveError(SourceError):
    """A member of an archive is compressed in a way that cannot be decompressed in bounded memory."""

    advice = "pack the archive again by deflate or not at all, or unpack it"


class UnsafePathError(SourceError):
    """A path that leads out of the release, or a name that could."""

    advice = "it was not read; replace it by the file itself, under a plain name"


class HeaderError(SourceError):
    """The header is not a NIfTI header, or contradicts itself."""


class UnsupportedImageError(SourceError):
    """A valid NIfTI file of a kind that this package does not convert."""

    advice = "convert it to a 3-D or 4-D image of a real scalar type, or leave it out"


class TruncatedFileError(SourceError):
    """The file ends before the voxels that its header promises."""


class TrailingDataError(SourceError):
    """The file goes on after the voxels that its header promises."""


class CorruptFileError(SourceError):
    """The compressed data are damaged: a checksum or the deflate stream is wrong."""


class DamagedArchiveError(CorruptFileError):
    """The archive around the file is damaged: the file itself may be good in another copy."""

    advice = "fetch the archive again, then run the same command again: it adds what is missing"


class DamagedShardError(DamagedArchiveError):
    """The Parquet file around the file is damaged: the file itself may be good in another copy."""

    advice = "fetch the Parquet file again, then run the same command again: it adds what is missing"


class UnsupportedShardError(SourceError):
    """A value of a Parquet file is stored in a way that cannot be read in bounded memory."""

    advice = "write it again by 'to_parquet' of the library datasets"


class TableError(SourceError):
    """A phenotype table cannot be read."""

    advice = "correct the table; until then its subject is converted without these values"


class ClusterLostError(Isles24Error):
    """The Dask cluster went away."""

    advice = f"{RUN_AGAIN}; an analysis starts anew"


class WorkersLostError(ClusterLostError):
    """The worker processes of this machine died, and do not come back."""

    advice = (
        f"see what ends them (too little memory, most often), give fewer workers, then {RUN_AGAIN}; an analysis "
        "starts anew"
    )


class StoreWriteError(Isles24Error):
    """Writing to the store failed."""

    advice = f"free space or restore access, then {RUN_AGAIN}"


class SpoolError(Isles24Error):
    """The place for copies of an archive's members cannot be written."""

    advice = f"free space there or give another folder with '--spool', then {RUN_AGAIN}"


class DownloadError(Isles24Error):
    """A file could not be fetched."""

    advice = RUN_AGAIN


class StoreDamageError(Isles24Error):
    """Something in the store is missing or not what was written."""

    advice = "convert the subject again with '--overwrite --subject'"


class DerivativeDamageError(StoreDamageError):
    """Part of a result of a pipeline is lost or damaged; the images are not concerned."""

    advice = "derive, save or add it again with overwrite, or take it out with 'isles24-zarr remove --derivative'"


class UnreadableObjectError(StoreDamageError):
    """A file or folder of the store may not be read, or the disk fails."""

    advice = "check its permissions and the disk, then run the same command again"


class StaleReadError(StoreDamageError):
    """What was opened has been replaced in the store since."""

    advice = "open it again"


Severity = Literal["error", "notice"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding about a release or a store.

    Parameters
    ----------
    path
        The file or array that it concerns, relative to the release or the store.
    message
        What is wrong and what to do, in one line.
    severity
        ``"error"``: something could not be used, the exit code becomes 1. ``"notice"``: odd, and everything
        was used as described.
    subject, image
        Those concerned, where there are such.
    passing
        Whether it may be gone another time although no file has changed: a second conversion tries again.
    """

    path: str
    message: str
    severity: Severity = "error"
    subject: str | None = None
    image: str | None = None
    passing: bool = False

    @classmethod
    def from_error(cls, error: Isles24Error, *, subject: str | None = None, image: str | None = None) -> Problem:
        """Make a problem of severity ``"error"`` of an error about a path."""
        advice = f"; {error.advice}" if error.advice else ""
        # an archive that is fetched again lists the same sizes and checksums as the damaged one did
        passing = isinstance(error, UnreadableFileError | DamagedArchiveError)
        return cls(path=error.subject, message=f"{error.what}{advice}", subject=subject, image=image, passing=passing)

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.message}")
