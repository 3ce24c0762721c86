"""maqd_snn: single-step spiking neural networks, folded exactly into one integer network.

Its names are those of `_public`, imported when the first of them is used: torch takes a second to import, and within it
the command line must already be able to answer.
"""

from importlib import import_module, util
from typing import TYPE_CHECKING

from maqd_snn._version import __version__ as __version__

if TYPE_CHECKING:
    from maqd_snn._public import *  # noqa: F403
else:

    def __getattr__(name):
        if not name.startswith("_") and util.find_spec(f"maqd_snn.{name}") is not None:
            return import_module(f"maqd_snn.{name}")
        if name == "__all__" or not name.startswith("_"):
            public = import_module("maqd_snn._public")
            if name == "__all__":
                return [*public.__all__, "__version__"]
            if name in public.__all__:
                return getattr(public, name)
        raise AttributeError(f"module 'maqd_snn' has no attribute {name!r}")

    def __dir__():
        return __getattr__("__all__")
