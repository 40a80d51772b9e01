"""Decisions as data: who does the work, with which weight, and why it was lost where it was.

Shapes: N tokens, E experts, R kept assignments (sorted by expert, inside an expert by slot), Q dropped ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Dropped:
    """Assignments that were asked for and not kept; tensors of length Q."""

    token: Tensor  #: int64 in [0, N)
    expert: Tensor  #: int64 in [0, E)
    rank: Tensor  #: int64, 0 = first choice
    score: Tensor  #: what the selector compared
    margin: Tensor  #: how far the score may fall before the assignment is lost
    reason: Tensor  #: int64, 1 = capacity

    def __len__(self) -> int:
        return self.token.numel()


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """Who does the work. ``gate`` carries the router's gradient, everything else has none."""

    n_tokens: int
    n_experts: int
    token: Tensor  #: int64 [R] in [0, N)
    expert: Tensor  #: int64 [R] in [0, E), ascending
    gate: Tensor  #: [R], weight of the expert's output
    rank: Tensor  #: int64 [R], 0 = first choice of the chooser
    slot: Tensor  #: int64 [R], place in the expert's buffer
    score: Tensor  #: [R], what the selector compared, bias included
    margin: Tensor  #: [R], how far the score may fall before the assignment is lost; inf without a rival
    offset: Tensor  #: int64 [E + 1] on the CPU: rows offset[e] to offset[e + 1] are expert e's
    dropped: Dropped

    @classmethod
    def _from(cls, parts: dict) -> Decision:
        parts["dropped"] = Dropped(**parts["dropped"])
        return cls(**parts)

    @property
    def n_kept(self) -> int:
        return self.token.numel()

    @property
    def n_dropped(self) -> int:
        return len(self.dropped)

    @property
    def load(self) -> Tensor:
        """int64 [E]: assignments that each expert works on."""
        return self.offset.diff()

    @property
    def asked(self) -> Tensor:
        """int64 [E]: assignments asked of each expert, dropped ones included."""
        return self.load + torch.bincount(self.dropped.expert.cpu(), minlength=self.n_experts)

    def dense(self) -> Tensor:
        """[N, E]: the gate of each token and expert, 0 where there is no assignment."""
        gates = self.gate.new_zeros(self.n_tokens, self.n_experts)
        return gates.index_put((self.token, self.expert), self.gate, accumulate=True)

    def detach(self) -> Decision:
        return dataclasses.replace(self, gate=self.gate.detach())


def _loss_dicts(terms: list) -> tuple[dict[str, Tensor], dict[str, float]]:
    weighted: dict[str, Tensor] = {}
    raw: dict[str, float] = {}
    for name, value, number in terms:
        key, copy = name, 2
        while key in weighted:
            key, copy = f"{name} ({copy})", copy + 1
        weighted[key], raw[key] = value, number
    return weighted, raw


@dataclasses.dataclass(frozen=True, eq=False)
class Routing:
    """What one pass of a router or a layer decided, and what it costs.

    The fields of the decision are at hand here too: ``routing.expert`` is ``routing.decision.expert``.
    """

    decision: Decision | None  #: None for layers that assign nothing, unless they were asked to record
    losses: dict[str, Tensor]  #: weighted auxiliary losses, scalars with a gradient
    raw_losses: dict[str, float]  #: the same before their weights, for people
    scores: Tensor | None = None  #: [N, E] in [0, inf); routers only, None where there are none
    logits: Tensor | None = None  #: [N, E] before the score function
    carried: Tensor | None = None  #: state for the router of the next layer, with its gradient

    @property
    def aux_loss(self) -> Tensor:
        """Scalar: the sum of ``losses``; add it to the training loss."""
        return sum(self.losses.values(), torch.zeros(()))

    def __getattr__(self, name: str):
        # Reached only for what is not a field; dunder lookups (copy, pickle) come before the fields exist.
        decision = None if name.startswith("__") else self.__dict__.get("decision")
        if decision is None or not hasattr(decision, name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(decision, name)


@dataclasses.dataclass(frozen=True, eq=False)
class TextRouting:
    """Which experts each token of a text met. Iterating gives (layer, decision)."""

    ids: list[int]
    tokens: list[str]  #: the text of each id
    layers: list[int]  #: numbers of the model's layers with experts
    decisions: list[Decision]  #: one for each of ``layers``

    def __iter__(self) -> Iterator[tuple[int, Decision]]:
        return iter(zip(self.layers, self.decisions, strict=True))

    def __len__(self) -> int:
        return len(self.layers)

    def experts(self, position: int) -> dict[int, list[tuple[int, float]]]:
        """For the token at ``position``: layer -> [(expert, gate)], the largest gate first."""
        out = {}
        for layer, d in self:
            rows = (d.token == position).nonzero().flatten().tolist()
            pairs = [(int(d.expert[r]), float(d.gate[r])) for r in rows]
            out[layer] = sorted(pairs, key=lambda pair: -pair[1])
        return out
