"""Router and MoELayer. Shapes: D model width, E experts, N tokens (all leading sizes of x but D, flattened)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from . import _core, check
from .errors import UsageError
from .module import CoreModule, factory, flat_optional, flat_tokens, merged_fields
from .routing import Decision, Routing, _loss_dicts


class Router(CoreModule):
    """A router by name: ``collegium.Router("top_k", d_model=64, n_experts=8, k=2)``.

    Args:
        kind: a name of ``collegium.list("routers")``.
        d_model: width of the hidden states.
        n_experts: experts to choose from.
        seed: of the first weights.
        dtype, device: of the parameters; torch's defaults otherwise.
        fields: the router's fields as a dict, for names that are taken above (``{"seed": 7}`` for "hash").
        **keywords: the router's fields; ``print(collegium.show(kind))`` lists them. Components are names or dicts:
            ``Router("stages", ..., scorer={"name": "linear", "activation": "sigmoid"})``.

    Raises:
        UsageError: an unknown name or field (with the nearest known one), or a value out of range.
    """

    def __init__(self, kind: str, /, *, d_model: int, n_experts: int, seed: int = 0, dtype: torch.dtype | None = None,
                 device: Any = None, fields: dict[str, Any] | None = None, **keywords: Any):
        super().__init__()
        self.d_model = check.whole(d_model, "Router: d_model", 1)
        self.n_experts = check.whole(n_experts, "Router: n_experts", 1)
        self._made_from = (check.word(kind, "Router: kind"), merged_fields(fields, keywords), self.d_model,
                           self.n_experts, check.seed(seed, "Router: seed"), *factory(dtype, device))
        self._attach(self._make_core())
        self._forget()

    def _make_core(self):
        return _core.RouterCore(*self._made_from)

    @property
    def kind(self) -> str:
        return self._made_from[0]

    @property
    def config(self) -> dict[str, Any]:
        """Every field with its value, nested components too."""
        return self._core.config()

    @property
    def composition(self) -> dict[str, Any] | None:
        """The router written out stage by stage, as ``Router("stages", **composition)`` takes it."""
        return self._core.composition()

    @property
    def facts(self) -> dict[str, Any]:
        """chooser ("token", "expert" or "nobody"), is_exactly_balanced, may_drop, is_causal, needs_token_ids,
        reads_other_tokens, needs (what ``forward`` must get besides x, as text), choices_per_token, flops_per_token
        (forward, multiply and add counted as two)."""
        return self._core.facts()

    def forward(self, x: Tensor, token_ids: Tensor | None = None, mask: Tensor | None = None, *,
                sequence_ids: Tensor | None = None, n_sequences: int | None = None, phase: str | None = None,
                noise_seed: int | None = None, attention: Tensor | None = None, carried: Tensor | None = None,
                losses: bool = True) -> Routing:
        """Routes each token of x.

        Args:
            x: [..., tokens, D], any floating type; leading sizes are sequences.
            token_ids: int64, x's shape without D; only some routers need them.
            mask: bool, x's shape without D, True = a real token. Masked tokens are never routed.
            sequence_ids: int64, x's shape without D, ascending from 0: sequences of different lengths.
            n_sequences: overrides what x's shape says; with ``sequence_ids``, their number.
            phase: "train", "evaluate", "recompute" or "replay"; otherwise as the module's mode says, and "recompute"
                inside of activation checkpointing. Balancers count in "train" only.
            noise_seed: of the routing noise; otherwise drawn from torch's CPU generator.
            attention: [sequences, tokens, tokens], this layer's attention, mean over heads; only some routers need it.
            carried: what the router of the layer before left in ``Routing.carried``; None in the first layer.
            losses: False where nobody reads the auxiliary losses of this pass (inference): none are worked out, and
                ``Routing.losses`` is empty.

        Returns:
            Routing.

        Raises:
            UsageError: a wrong shape, type or phase, or nothing given of what the router needs (``facts["needs"]``).
        """
        x_ND, sequences = flat_tokens(x, self.d_model, "Router")
        ids_N = flat_optional(sequence_ids, x, "sequence_ids")
        if n_sequences is None:
            n_sequences = sequences if ids_N is None else (int(ids_N.max()) + 1 if ids_N.numel() else 1)
        n_sequences = check.whole(n_sequences, "n_sequences", 1)
        phase = self._phase(phase)
        call = _core.CallContext(phase, flat_optional(token_ids, x, "token_ids"), flat_optional(mask, x, "mask"), ids_N,
                                 n_sequences, self._noise(phase, noise_seed), False,
                                 check.optional_tensor(attention, "attention"),
                                 check.optional_tensor(carried, "carried"), bool(losses))
        try:
            decision, terms, scores, logits, carried = self._core.route(self._tensors(), x_ND, call)
        except UsageError:
            self._require_no_experts()
            raise
        return Routing(Decision._from(decision), *_loss_dicts(terms), scores, logits, carried)

    def _require_no_experts(self) -> None:
        if "experts" in self.facts["needs"].split(", "):
            raise UsageError(f"Router: '{self.kind}' asks the experts themselves, which a router alone has not got",
                             f'collegium.MoELayer("routed", d_model={self.d_model}, n_experts={self.n_experts}, '
                             f'router="{self.kind}") has both') from None

    def extra_repr(self) -> str:
        return f"{self.kind!r}, d_model={self.d_model}, n_experts={self.n_experts}"


class MoELayer(CoreModule):
    """A mixture-of-experts layer by name, in the place of a feed-forward network.

        layer = collegium.MoELayer("routed", d_model=64, n_experts=8, d_expert=128, router={"name": "top_k", "k": 2})
        loss = criterion(layer(x), target) + layer.aux_loss
        loss.backward(); optimizer.step(); layer.balance_step()

    Args:
        kind: a name of ``collegium.list("layers")``.
        d_model: width of the hidden states.
        seed: of the first weights.
        dtype, device: of the parameters; torch's defaults otherwise.
        fields, **keywords: the layer's fields, as for Router; ``print(collegium.show(kind, "layers"))`` lists them.

    Attributes:
        aux_loss: after a pass, the scalar sum of the weighted auxiliary losses, with its gradient.
        losses: name -> weighted auxiliary loss.
        carried: what the router left for the next layer's; None for routers that carry nothing.
        last_decision: the Decision of the last pass, without gradient; None for layers that assign nothing.

    Activation checkpointing (``torch.utils.checkpoint``, both kinds) needs nothing special: a pass inside of a
    backward pass is taken as a recomputation, draws the same noise and leaves ``aux_loss`` and the balancers alone.
    With ``use_reentrant=True`` attributes carry no gradient; take the losses from ``return_routing=True`` there.

    ``torch.compile`` breaks its graph at the layer and runs it as it is; ``torch.func.grad`` and second derivatives are
    refused by the fused kernels.

    Raises:
        UsageError: an unknown name or field (with the nearest known one), or a value out of range.
    """

    def __init__(self, kind: str = "routed", /, *, d_model: int, seed: int = 0, dtype: torch.dtype | None = None,
                 device: Any = None, fields: dict[str, Any] | None = None, **keywords: Any):
        super().__init__()
        self.d_model = check.whole(d_model, "MoELayer: d_model", 1)
        self._made_from = (check.word(kind, "MoELayer: kind"), merged_fields(fields, keywords), self.d_model,
                           check.seed(seed, "MoELayer: seed"), *factory(dtype, device))
        self._attach(self._make_core())
        self._forget()

    def _make_core(self):
        return _core.LayerCore(*self._made_from)

    @classmethod
    def from_published(cls, layout: str, path: str | os.PathLike, *, layer: int, dtype: torch.dtype | None = None,
                       device: Any = None) -> MoELayer:
        """One layer of a published model, with its weights: ``MoELayer.from_published("yuan", folder, layer=3)``.

        Args:
            layout: whose names the files use: "yuan" (Yuan 2.0-M32 as converted for Hugging Face).
            path: a folder with the model's .safetensors files, or one such file. Pickled files are never read.
            layer: number of the decoder layer, from 0.
            dtype: of the parameters; that of the files otherwise. Routers compute in float32 from them.
            device: of the parameters; torch's default otherwise.

        Raises:
            UsageError: an unknown layout, no safetensors there (the hint says how to convert), or no such layer.
            DataError: a file that is no safetensors, a tensor that is missing or of another shape.
        """
        layer = check.whole(layer, "MoELayer.from_published: layer", 0)
        kind, fields, d_model, tensors = _core.published_layer(layout, os.fspath(path), layer)
        made = cls(kind, d_model=d_model, dtype=dtype or tensors["experts.gate_up"].dtype, device=device, fields=fields)
        made.load_state_dict(tensors)
        return made

    @property
    def kind(self) -> str:
        return self._made_from[0]

    @property
    def config(self) -> dict[str, Any]:
        """Every field with its value, nested components too."""
        return self._core.config()

    @property
    def facts(self) -> dict[str, Any]:
        """n_experts (0 = dense), parameters_active, flops_per_token (forward, multiply and add counted as two),
        is_causal, needs_token_ids, reads_other_tokens, needs (what ``forward`` must get besides x, as text)."""
        return self._core.facts()

    def forward(self, x: Tensor, token_ids: Tensor | None = None, mask: Tensor | None = None, *,
                phase: str | None = None, noise_seed: int | None = None, return_routing: bool = False,
                attention: Tensor | None = None, carried: Tensor | None = None, losses: bool = True):
        """y of x's shape and type; with ``return_routing``, (y, Routing).

        Args:
            x: [..., tokens, D]; [B, T, D] is B sequences, [T, D] one.
            token_ids: int64, x's shape without D; only some routers need them.
            mask: bool, x's shape without D, True = a real token.
            phase, noise_seed: as for Router.
            return_routing: also describe the pass; layers without an assignment describe their mixture as one.
            losses: as for Router; False leaves ``aux_loss`` at zero.
            attention, carried: as for Router; what this layer leaves for the next is in ``carried`` and in the Routing.

        Raises:
            UsageError: as for Router.
        """
        x_ND, sequences = flat_tokens(x, self.d_model, "MoELayer")
        phase = self._phase(phase)
        call = _core.CallContext(phase, flat_optional(token_ids, x, "token_ids"), flat_optional(mask, x, "mask"), None,
                                 sequences, self._noise(phase, noise_seed), bool(return_routing),
                                 check.optional_tensor(attention, "attention"),
                                 check.optional_tensor(carried, "carried"), bool(losses))
        y_ND, terms, decision, left = self._core.forward(self._tensors(), x_ND, call)
        routing = Routing(None if decision is None else Decision._from(decision), *_loss_dicts(terms), carried=left)
        self.carried = left
        if phase != "recompute":
            self.aux_loss, self.losses = routing.aux_loss, routing.losses
            self.last_decision = None if routing.decision is None else routing.decision.detach()
        y = y_ND.reshape(x.shape)
        return (y, routing) if return_routing else y

    def extra_repr(self) -> str:
        return f"{self.kind!r}, d_model={self.d_model}, n_experts={self.facts['n_experts']}"
