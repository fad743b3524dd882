"""``python -m isles24_zarr`` is the command ``isles24-zarr``."""

from isles24_zarr.cli import main

if __name__ == "__main__":
    main()
