"""numpy, loaded when something of it is first used: a client that only waits needs none of it."""

from typing import TYPE_CHECKING, Any

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _Numpy:
        """Stands in for the module; what was asked of it once is here from then on."""

        def __getattr__(self, name: str) -> Any:
            from importlib import import_module

            value = getattr(import_module("numpy"), name)
            setattr(self, name, value)
            return value

    np = _Numpy()
