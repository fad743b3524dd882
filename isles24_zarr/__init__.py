"""ISLES'24 stroke imaging as one chunked, sharded Zarr v3 store."""
