"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        help="The release: a folder with raw_data/, derivatives/ and phenotype/, an archive (.7z, .zip, .tar, .tar.gz),"
        " Parquet files (one case a row), a URL, of a 7z archive, too, or hf://datasets/OWNER/NAME[@REVISION]."
    ),
]
Store = Annotated[str, typer.Argument(help="The Zarr store: a folder or a URL.")]
Subjects = Annotated[list[str] | None, typer.Option("--subject", help="Only this subject; may be repeated.")]
Images = Annotated[list[str] | None, typer.Option("--image", help="Only this image, as 'ctp'; may be repeated.")]
Prune = Annotated[bool, typer.Option("--prune", help="Remove what the store has and the release has no more.")]
Readmit = Annotated[
    bool, typer.Option("--readmit", help="Convert a --subject that was removed from the store for good.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; one for each core by default.")]
Spool = Annotated[
    str | None,
    typer.Option(help="Folder for copies of an archive's members, some GB at a time; where the store is by default."),
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler to use instead.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="NAME=VALUE",
        help="For places that are URLs, as 'endpoint_url=https://s3.example.org' or 'anon=true'; may be repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
ExtraImages = Annotated[
    bool,
    typer.Option("--extra-images", help="Keep images beyond the twelve of ISLES'24, too, under names of their own."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Nothing of a subject may be left out.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say what is done, step by step, and show the traceback of an error.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress and no notices: results and errors alone.")
]
Log = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append progress, steps, problems and results to this file, with the time."),
]
