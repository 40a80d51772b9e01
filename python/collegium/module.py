"""nn.Modules around C++ ones: Python owns the tensors, C++ borrows them for the length of a call."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from . import check
from .errors import UsageError

PHASES = ("train", "evaluate", "recompute", "replay")


class _Place(nn.Module):
    """A node of the tree of dotted names; the names come from C++."""

    _key, _label = "part", ""  # for people; see _label_places

    def _get_name(self) -> str:
        return "".join(word.capitalize() for word in self._key.split("_"))

    def extra_repr(self) -> str:
        shapes = [f"{name}={list(p.shape)}" for name, p in self._parameters.items() if p is not None]
        return ", ".join([self._label, *shapes] if self._label else shapes)

    def _apply(self, fn, recurse=True):
        # Balancers keep counts and biases in double precision: casting a model to bfloat16 must not round them.
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self


class CoreModule(_Place):
    """Base of Router, MoELayer and Model.

    Parameters and buffers carry the names that the C++ side gives them, so a state_dict has the names of a
    checkpoint's weights. The C++ object is made from the arguments alone; pickle and deepcopy make a new one.
    """

    _passing = ("aux_loss", "losses", "last_decision")  # results of the last pass: not state

    def _attach(self, core: Any) -> None:
        self._core = core
        self._names: list[tuple[str, ...]] = []
        self._kinds: dict[str, str] = {}
        for name, kind, tensor in core.tensors():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, _Place())
                owner = owner._modules[part]
            if kind == "buffer":
                owner.register_buffer(leaf, tensor)
            else:
                owner.register_parameter(leaf, nn.Parameter(tensor.detach()))
            self._names.append((*path, leaf))
            self._kinds[name] = kind

    def _make_core(self) -> Any:
        raise NotImplementedError

    def _tensors(self) -> list[Tensor]:
        # Looked up by name each time: functional_call and parametrisations exchange them.
        return [functools.reduce(getattr, name, self) for name in self._names]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_core", *self._passing)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._core = self._make_core()
        self._forget()

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        _label_places(self, self.config)
        return super().__repr__()

    def _forget(self) -> None:
        self.aux_loss: Tensor = torch.zeros(())
        self.losses: dict[str, Tensor] = {}
        self.last_decision = None
        self.carried: Tensor | None = None

    def _phase(self, phase: str | None) -> str:
        if phase is not None:
            if phase not in PHASES:
                raise UsageError(f"phase: '{phase}' is not one of {', '.join(PHASES)}")
            return phase
        if not self.training:
            return "evaluate"
        # A forward pass inside a backward pass is activation checkpointing at work: it must leave no mark.
        return "recompute" if torch._C._current_graph_task_id() != -1 else "train"

    @staticmethod
    def _noise(phase: str, noise_seed: int | None) -> int:
        """A seed from torch's CPU generator, which checkpointing restores: the recomputed noise is the same."""
        if noise_seed is not None:
            return check.seed(noise_seed, "noise_seed")
        if phase in ("evaluate", "replay"):
            return 0
        return int(torch.randint(2**63 - 1, (), device="cpu"))

    def balance_step(self) -> None:
        """Moves the balancers' state (selection biases, strengths). Call it after each optimiser step."""
        self._core.step(self._tensors())

    def parameter_kinds(self) -> dict[str, str]:
        """Name -> "matrix", "embedding", "vector" (gains and biases: usually not decayed) or "buffer"."""
        return dict(self._kinds)


# Under which key a configuration has what a place holds, where that is another one.
_CONFIG_KEYS = {"experts": "expert", "feed_forward": "moe"}


def _summary(part: dict[str, Any]) -> str:
    sizes = [f"{key}={part[key]}" for key in ("n_experts", "k", "d_expert") if part.get(key)]
    return ", ".join([repr(part["name"]), *sizes])


def _label_places(owner: nn.Module, config: dict[str, Any]) -> None:
    """Says of each place below which mechanism is there, as far as the configuration names it."""
    for key, place in owner._modules.items():
        part = config.get(_CONFIG_KEYS.get(key, key))
        # A model's layers without experts have the place, but not the mechanism.
        is_named = isinstance(part, dict) and "name" in part and (key != "feed_forward" or len(place._modules) > 0)
        place._key, place._label = "layer" if key.isdigit() else key, _summary(part) if is_named else ""
        _label_places(place, part if is_named else config)


def flat_tokens(x: Tensor, d_model: int, who: str) -> tuple[Tensor, int]:
    """[..., D] as [N, D], and how many sequences that is: the product of all leading sizes but the last one."""
    check.tensor(x, f"{who}: x")
    if x.dim() < 2 or x.shape[-1] != d_model:
        raise UsageError(f"{who}: x must be [..., tokens, {d_model}], got {list(x.shape)}")
    if not x.is_floating_point():
        raise UsageError(f"{who}: x must be of a floating type, got {x.dtype}")
    sequences = 1
    for size in x.shape[:-2]:
        sequences *= size
    return x.reshape(-1, d_model), max(sequences, 1)


def flat_optional(given: Tensor | None, x: Tensor, what: str) -> Tensor | None:
    """A tensor of one value per token, [...], as [N]."""
    if given is None:
        return None
    check.tensor(given, what)
    if given.shape != x.shape[:-1] and given.shape != (x.shape[:-1].numel(),):
        raise UsageError(f"{what}: shape {list(x.shape[:-1])} wanted, got {list(given.shape)}")
    return given.reshape(-1)


def factory(dtype: torch.dtype | None, device: Any) -> tuple[torch.dtype, torch.device]:
    device = torch.get_default_device() if device is None else check.device(device, "device")
    return (torch.get_default_dtype() if dtype is None else check.floating(dtype, "dtype")), device


def merged_fields(fields: dict[str, Any] | None, keywords: dict[str, Any]) -> dict[str, Any]:
    """Keywords over ``fields``: the latter is for fields whose name is taken (the hash router's ``seed``)."""
    if fields is not None and not isinstance(fields, dict):
        raise UsageError(f"fields must be a dict of field names and values, got {check.type_name(fields)}")
    return {**(fields or {}), **keywords}
