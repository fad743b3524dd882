"""The release: what its paths are, where its files come from, and how it is fetched."""

from isles24_zarr.release.extra_images import image_kind, image_rank, is_image_name
from isles24_zarr.release.files import SourceFile
from isles24_zarr.release.left_out import LeftOut, check_nothing_left_out, left_out_line, of_subjects
from isles24_zarr.release.names import DICTIONARY_NAME, Stray, classified
from isles24_zarr.release.paths import Release, Subject, selected_names
from isles24_zarr.release.source import Source
from isles24_zarr.release.zenodo import RECORD, ZENODO, FetchReport, fetch

__all__ = [
    "DICTIONARY_NAME",
    "RECORD",
    "ZENODO",
    "FetchReport",
    "LeftOut",
    "Release",
    "Source",
    "SourceFile",
    "Stray",
    "Subject",
    "check_nothing_left_out",
    "classified",
    "fetch",
    "image_kind",
    "image_rank",
    "is_image_name",
    "left_out_line",
    "of_subjects",
    "selected_names",
]
