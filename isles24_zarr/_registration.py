"""``.isles`` on the objects of xarray, without importing xarray before anybody does.

To register accessors needs xarray, which takes most of the time of an import. Where it has been imported, they are
registered at once, else at the end of its first import by anybody: ``--help`` need not wait for it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_XARRAY: Final = "xarray"
_ACCESSORS: Final = "isles24_zarr.accessors"


def register_accessors() -> None:
    """Register ``.isles`` now, or as soon as xarray has been imported."""
    if _XARRAY in sys.modules:
        importlib.import_module(_ACCESSORS)
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds xarray as others do, with a loader that registers accessors at the end.

    It stays until that has come about: many a library looks whether xarray could be imported, and leaves it at that.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _XARRAY:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Loads a module as another loader does, which it leaves in its place."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # such as where the file is, for those who only look

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        importlib.import_module(_ACCESSORS)
