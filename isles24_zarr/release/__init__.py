"""The release: what its paths are, where its files come from, and how it is fetched."""

from isles24_zarr.release.paths import DICTIONARY_NAME, Release, SourceFile, Stray, Subject, classified, selected_names
from isles24_zarr.release.remote import check_parts, copy_member, told_reading
from isles24_zarr.release.reports import FetchCost, FetchReport
from isles24_zarr.release.source import Source
from isles24_zarr.release.zenodo import RECORD, ZENODO, fetch, fetch_cost

__all__ = [
    "DICTIONARY_NAME",
    "RECORD",
    "ZENODO",
    "FetchCost",
    "FetchReport",
    "Release",
    "Source",
    "SourceFile",
    "Stray",
    "Subject",
    "check_parts",
    "classified",
    "copy_member",
    "fetch",
    "fetch_cost",
    "selected_names",
    "told_reading",
]
