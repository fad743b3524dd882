"""The command about maps of perfusion: computed from the series, measured, compared with the released ones, kept."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from isles24_zarr.cli._options import AsJson, Options, Scheduler, Store, Subjects
from isles24_zarr.cli._rendering import err, out, plain_rows, print_json, print_table
from isles24_zarr.places import options_from_texts

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_COLUMNS: Final = {
    "hypoperfusion": "Tmax > 6 s, mL",
    "core": "core, mL",
    "mismatch_ratio": "ratio",
    "side": "side",
    "intensity_ratio": "HIR",
    "coverage": "coverage",
    "hypoperfusion_reference": "released, mL",
    "hypoperfusion_dice": "Dice",
    "tmax_spearman": "Tmax, rho",
    "cbf_spearman": "CBF, rho",
}
"""What is shown of a table, under which title."""


def perfusion(
    store: Store,
    *,
    subject: Subjects = None,
    space: Annotated[str, typer.Option(help="The grid: 'ctp' as acquired, or 'ncct', registered.")] = "ctp",
    save: Annotated[str | None, typer.Option(help="Keep the maps in the store, as results of this name.")] = None,
    method: Annotated[Literal["bcsvd", "osvd"], typer.Option(help="Of deconvolution.")] = "bcsvd",
    truncation: Annotated[float, typer.Option(help="Part of the largest singular value; of bcsvd.")] = 0.1,
    smoothing: Annotated[float, typer.Option(help="Width of a Gaussian in mm, at half maximum; 0 for none.")] = 8.0,
    smoothing_time: Annotated[float, typer.Option(help="The same in time, in s.")] = 3.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace maps of this name.")] = False,
    scheduler: Scheduler = None,
    storage_option: Options = None,
    as_json: AsJson = False,
) -> bool:
    """Compute Tmax, CBF, CBV and MTT of the CTP, measure core and penumbra, and compare with the released maps."""
    import isles24_zarr
    from isles24_zarr.tasks import connected_client

    cohort = isles24_zarr.open_cohort(store, storage_options=options_from_texts(storage_option))
    maps = functools.partial(compute_maps, method=method, truncation=truncation, smoothing=(smoothing, smoothing_time))
    failed = {}
    with connected_client(scheduler) as client:
        if save is not None:
            description = "Tmax, CBF, CBV, MTT and time to peak of the CTP"
            states = cohort.isles.derive(
                maps, save, space=space, subjects=subject, description=description, overwrite=overwrite, client=client
            )
            failed = states["error"].dropna().to_dict()
        table = cohort.isles.perfusion_table(save or maps, space=space, subjects=subject, client=client)
    table["error"] = table["error"].where(~table.index.isin(list(failed)), [failed.get(name) for name in table.index])
    _print(table, as_json=as_json)
    return bool(table["error"].isna().all())


def compute_maps(scan: xr.Dataset, **options: Any) -> xr.Dataset:
    """Return the maps of a scan; a function of this module, so that workers can import it."""
    maps: xr.Dataset = scan.isles.perfusion_maps(**options)
    return maps


def _print(table: pd.DataFrame, *, as_json: bool) -> None:
    """Print a row a subject, and over all of them how the volumes agree."""
    from isles24_zarr.perfusion import volume_agreement

    agreement = {
        name: dataclasses.asdict(volume_agreement(table[name], table[f"{name}_reference"]))
        for name in ("hypoperfusion", "core")
        if f"{name}_reference" in table
    }
    if as_json:
        print_json(subjects=dict(zip(table.index, plain_rows(table), strict=True)), agreement=agreement)
        return
    shown = [name for name in _COLUMNS if name in table]
    good = table[table["error"].isna()]
    rows = [(str(subject), *(_text(row[name]) for name in shown)) for subject, row in good.iterrows()]
    print_table(("subject", *(_COLUMNS[name] for name in shown)), rows)
    for name, found in agreement.items():
        if found["subjects"] > 1:
            limits = f"limits of agreement {found['lower']:.1f} to {found['upper']:.1f} mL, ICC {found['icc']:.2f}"
            out().print(f"{name}: {found['subjects']} subjects, bias {found['bias']:.1f} mL, {limits}", soft_wrap=True)
    for subject, why in table["error"].dropna().items():
        err().print(f"error: {subject}: {why}", style="red", soft_wrap=True)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or value != value else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
