"""The release: what its paths are, where its files come from, and how it is fetched."""

from isles24_zarr.release.files import SourceFile
from isles24_zarr.release.paths import DICTIONARY_NAME, Release, Stray, Subject, classified, selected_names
from isles24_zarr.release.source import Source
from isles24_zarr.release.zenodo import RECORD, ZENODO, FetchReport, fetch

__all__ = [
    "DICTIONARY_NAME",
    "RECORD",
    "ZENODO",
    "FetchReport",
    "Release",
    "Source",
    "SourceFile",
    "Stray",
    "Subject",
    "classified",
    "fetch",
    "selected_names",
]
