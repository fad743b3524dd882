"""Whether a store is what was converted. Nothing here writes."""

from isles24_zarr.verification.verifying import VerifyReport, verify

__all__ = ["VerifyReport", "verify"]
