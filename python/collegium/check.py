"""Arguments are looked at before the extension sees them, so that a mistake is told in words."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from .errors import UsageError

COMPUTE = (torch.float32, torch.bfloat16, torch.float64)


def type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def whole(value: Any, what: str, least: int, most: int = 2**63 - 1) -> int:
    """A whole number of any library (NumPy's too) in [least, most]."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{what} must be a whole number, got {value!r}") from None
    if not least <= number <= most:
        bound = f"at least {least}" if number < least else f"at most {most}"
        raise UsageError(f"{what} must be {bound}, got {number}")
    return number


def seed(value: Any, what: str) -> int:
    return whole(value, what, 0, 2**64 - 1)


def tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        hint = "" if value is None else "torch.as_tensor(…) makes one"
        raise UsageError(f"{what} must be a torch.Tensor, got {type_name(value)}", hint)
    return value


def optional_tensor(value: Any, what: str) -> Tensor | None:
    return None if value is None else tensor(value, what)


def word(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} must be a string, got {value!r}")
    return value


def floating(value: Any, what: str) -> torch.dtype:
    if not isinstance(value, torch.dtype):
        raise UsageError(f"{what} must be a torch.dtype such as torch.float32, got {value!r}")
    if not value.is_floating_point:
        raise UsageError(f"{what} must be a floating type, got {value}")
    return value


def compute(value: Any, what: str) -> torch.dtype:
    if floating(value, what) not in COMPUTE:
        raise UsageError(f"{what} must be one of {', '.join(map(str, COMPUTE))}, got {value}")
    return value


def device(value: Any, what: str) -> torch.device:
    try:
        return torch.device(value)
    except (RuntimeError, TypeError):
        raise UsageError(f"{what} must be a device such as 'cpu' or 'cuda', got {value!r}") from None
