"""Mixture-of-experts models from C++: routers, layers and language models as torch modules.

    collegium.list("routers")                    names
    print(collegium.show("switch"))              what one is and takes
    collegium.Router("top_k", d_model=64, n_experts=8, k=2)
    collegium.MoELayer("routed", d_model=64, n_experts=8, router={"name": "top_k", "k": 2})
    collegium.Model.from_run("runs/demo-…").generate("ROMEO:")
"""

import torch  # noqa: F401  loads libtorch, which _core is linked to

try:
    from . import _core
except ImportError as problem:
    raise ImportError(
        f"collegium's extension does not load beside torch {torch.__version__}: {problem}. It works with the torch it "
        "was built with; build it again with `pip install --force-reinstall --no-deps .`"
    ) from problem

from ._core import Tokenizer
from .catalogue import describe, names, show
from .errors import DataError, Error, IoError, RefusedError, UsageError
from .layers import MoELayer, Router
from .model import Model
from .routing import Decision, Dropped, Routing, TextRouting

__version__ = "0.1.0"

list = names  # the verb of the command line

__all__ = [
    "DataError", "Decision", "Dropped", "Error", "IoError", "Model", "MoELayer", "RefusedError", "Router", "Routing",
    "TextRouting", "Tokenizer", "UsageError", "describe", "list", "show",
]
