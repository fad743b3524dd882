"""The cohort for statisticians: what each variable is, and the table in types that files of other programs keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isles24_zarr.cohorts.opening import available_images, clinical_table
from isles24_zarr.format import PHENOTYPE
from isles24_zarr.release import image_kind
from isles24_zarr.vocabulary import CLINICAL, MASK_NAME, shown_units

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def cohort_codebook(cohort: xr.DataTree) -> pd.DataFrame:
    """Return what each variable of a cohort is, one row a variable: clinical ones, then images.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it. No subject is opened.

    Returns
    -------
    pandas.DataFrame
        By ``name``. ``unit``, empty for scores, flags and text, and of a variable that only this cohort has that of its
        data dictionary; ``type``: ``"number"``, ``"score"`` (whole numbers),
        ``"flag"`` (0 or 1), ``"duration"``, ``"category"``, ``"text"``, ``"image"`` or ``"mask"``; ``range``: what a
        value can be, as ``"0 to 42"``; ``description``; ``missing``: how many subjects of this cohort lack it;
        ``categories``: separated by semicolons, as names of hospitals have commas; those of a scale in its order.
    """
    import pandas as pd

    table, variables = clinical_table(cohort), cohort[PHENOTYPE].to_dataset()
    rows = [_clinical_row(str(name), column, variables[str(name)].attrs) for name, column in table.items()]
    available = available_images(cohort)
    rows += [_image_row(name, int((~available[name]).sum())) for name in map(str, available)]
    return pd.DataFrame(rows).set_index("name")


def portable_table(cohort: xr.DataTree) -> pd.DataFrame:
    """Return the clinical table of a cohort for files: as `clinical_table`, with scores and flags as whole numbers.

    Parameters
    ----------
    cohort
        As from `open_cohort`, or a part of it.

    Returns
    -------
    pandas.DataFrame
        By ``subject``. Scores and flags are ``Int64``, which can be missing; categories stay such.
    """
    table = clinical_table(cohort)
    whole = [
        name
        for name, variable in CLINICAL.items()
        # a store of another release may hold halves: they stay
        if variable.kind in ("score", "flag") and name in table and not (table[name] % 1 > 0).any()
    ]
    return table.astype(dict.fromkeys(whole, "Int64"))


def _clinical_row(name: str, column: pd.Series[Any], attributes: dict[str, Any]) -> dict[str, Any]:
    known = CLINICAL.get(name)
    units = known.units if known else attributes.get("units", attributes.get("dictionary_units"))
    usual = "number" if column.dtype.kind == "f" else "text"
    return {
        "name": name,
        "unit": shown_units(units),
        "type": known.kind if known else usual,
        "range": f"{known.limits[0]:g} to {known.limits[1]:g}" if known and known.limits else "",
        "description": known.long_name
        if known
        else str(attributes.get("description", attributes.get("long_name", ""))),
        "missing": int(column.isna().sum()),
        "categories": "; ".join(column.cat.categories) if hasattr(column, "cat") else "",
    }


def _image_row(name: str, missing: int) -> dict[str, Any]:
    kind = image_kind(name)
    return {
        "name": name,
        "unit": shown_units(kind.units),
        "type": "mask" if MASK_NAME.search(name) else "image",
        "range": "",
        "description": kind.long_name,
        "missing": missing,
        "categories": "; ".join(f"{value} {meaning}" for value, meaning in kind.labels),
    }
