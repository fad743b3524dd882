"""Datasets of the Hugging Face Hub: which commit a URL means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from isles24_zarr.errors import MissingExtraError, SourceNotFoundError
from isles24_zarr.places import access_errors, filesystem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB: Final = "hf://"
_BUCKETS: Final = f"{HUB}buckets/"


def pinned_url(url: str, options: Mapping[str, Any]) -> str:
    """Return the URL with the commit that its revision is now, so that all that is read is of one state.

    Parameters
    ----------
    url
        As ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``.
    options
        As for `places.own_options`.

    Raises
    ------
    MissingExtraError
        huggingface_hub is not installed.
    SourceNotFoundError
        There is no such dataset or revision.
    StoreAccessError
        The Hub is out of reach.
    """
    if url.startswith(_BUCKETS):  # they have no commits
        return url
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import REPO_TYPES_URL_PREFIXES
    except ImportError as error:
        raise MissingExtraError(url, "needs the extra: pip install 'isles24-zarr[hf]'") from error
    with access_errors(url):
        try:
            filesystem, path = filesystem_of(url, options)
            found = filesystem.resolve_path(path)
        except (FileNotFoundError, NotImplementedError, ValueError) as error:
            raise SourceNotFoundError(url, f"cannot be opened ({error})") from error
        api = HfApi(endpoint=filesystem.endpoint, token=filesystem.token)
        commit = api.repo_info(found.repo_id, revision=found.revision, repo_type=found.repo_type).sha
    place = f"{HUB}{REPO_TYPES_URL_PREFIXES.get(found.repo_type, '')}{found.repo_id}@{commit}"
    return f"{place}/{found.path_in_repo}" if found.path_in_repo else place
