"""A store over HTTP, and the page that shows it in a browser."""

from isles24_zarr.serving._app import LOOPBACK_ORIGINS, store_app
from isles24_zarr.serving._page import write_page
from isles24_zarr.serving._server import serve, view

__all__ = ["LOOPBACK_ORIGINS", "serve", "store_app", "view", "write_page"]
