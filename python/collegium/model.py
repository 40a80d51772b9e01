"""Language models: new ones by name, trained ones from a run's folder.

Shapes: B sequences, T tokens each, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _core, check
from .errors import UsageError
from .module import CoreModule, factory, merged_fields
from .routing import Decision, TextRouting, _loss_dicts


class Model(CoreModule):
    """A language model by name, ``collegium.Model("decoder", vocabulary=257, d_model=64)``, or ``Model.from_run``.

    Args:
        kind: a language model of ``collegium.list("models")``.
        vocabulary: number of token ids.
        seed, dtype, device, fields, **keywords: as for MoELayer.

    Raises:
        UsageError: an unknown name or field (with the nearest known one), or a value out of range.

    Attributes:
        tokenizer, run_config, step, warnings: of the run it was opened from; None, {}, 0 and [] otherwise.
        context: tokens that ``generate`` looks back at.
        aux_loss, losses: of the last pass, over all layers.
        last_decision: list of the last pass's Decisions, one for each layer with experts.
    """

    def __init__(self, kind: str = "decoder", /, *, vocabulary: int, seed: int = 0, dtype: torch.dtype | None = None,
                 device: Any = None, fields: dict[str, Any] | None = None, **keywords: Any):
        super().__init__()
        self._made_from = (check.word(kind, "Model: kind"), merged_fields(fields, keywords),
                           check.whole(vocabulary, "Model: vocabulary", 1), check.seed(seed, "Model: seed"),
                           *factory(dtype, device))
        self._attach(self._make_core())
        self._prepare()

    def _make_core(self):
        return _core.ModelCore(*self._made_from)

    def _prepare(self, tokenizer=None, run_config=None, step: int = 0, warnings: Sequence[str] = (),
                 context: int = 256):
        self.tokenizer, self.run_config, self.step, self.warnings = tokenizer, run_config or {}, step, [*warnings]
        self.context = context
        self._forget()

    @classmethod
    def from_run(cls, path: str | os.PathLike, *, step: int | None = None, device: Any = None) -> Model:
        """Opens a run's folder with its newest good checkpoint, or that of ``step``. The model is in eval mode.

        Raises:
            Error: there is no run, no good checkpoint, or its tensors do not fit.
        """
        device = factory(None, device)[1]
        step = None if step is None else check.whole(step, "Model.from_run: step", 0)
        opened = _core.open_run(os.fspath(path), device, step)
        self = cls.__new__(cls)
        CoreModule.__init__(self)
        config = opened["config"]
        fields = dict(config["model"])
        self._made_from = (fields.pop("name"), fields, opened["model"].vocabulary, 0, torch.float32, device)
        self._attach(opened["model"])
        self._prepare(opened["tokenizer"], config, opened["step"], opened["warnings"], config["train"]["context"])
        return self.eval()

    @property
    def kind(self) -> str:
        return self._made_from[0]

    @property
    def vocabulary(self) -> int:
        return self._core.vocabulary

    @property
    def config(self) -> dict[str, Any]:
        """Every field of the model with its value, nested components too."""
        return self._core.config()

    def facts(self, context: int | None = None) -> dict[str, Any]:
        """Sizes and costs at a context length: moe_layers, parameters_total, parameters_active, flops_per_token,
        cache_bytes_per_token, …"""
        return self._core.facts(self.context if context is None else check.whole(context, "Model.facts: context", 1))

    def _hidden(self, ids_BT: Tensor, mask, phase, noise_seed, compute, record=False, losses=True):
        phase = self._phase(phase)
        if check.tensor(ids_BT, "Model: ids").dim() != 2 or ids_BT.numel() == 0:
            raise UsageError("Model: ids must be [sequences, tokens], at least one of each, got "
                             f"{list(ids_BT.shape)}")
        check.optional_tensor(mask, "Model: mask")
        hidden, terms, decisions = self._core.hidden(self._tensors(), ids_BT, mask, phase,
                                                     self._noise(phase, noise_seed),
                                                     check.compute(compute, "Model: compute"), record, bool(losses))
        found = [Decision._from(d).detach() for d in decisions]
        if phase != "recompute":
            self.losses, _ = _loss_dicts(terms)
            self.aux_loss = sum(self.losses.values(), torch.zeros(()))
            self.last_decision = found
        return hidden, found

    def forward(self, ids: Tensor, mask: Tensor | None = None, *, phase: str | None = None,
                noise_seed: int | None = None, compute: torch.dtype = torch.float32, losses: bool = True) -> Tensor:
        """Scores of the next token, [B, T, V].

        Args:
            ids: int64 [B, T].
            mask: bool [B, T], True = a real token.
            phase, noise_seed: as for Router.
            compute: torch.float32, torch.bfloat16 or torch.float64; routers stay in float32 or wider.
            losses: as for MoELayer.

        Raises:
            UsageError: ids of another shape or type, or outside [0, vocabulary).
        """
        hidden, _ = self._hidden(ids, mask, phase, noise_seed, compute, losses=losses)
        return self._core.logits(self._tensors(), hidden).view(*ids.shape, -1)

    def token_losses(self, ids: Tensor, targets: Tensor, mask: Tensor | None = None, *, phase: str | None = None,
                     noise_seed: int | None = None, compute: torch.dtype = torch.float32) -> Tensor:
        """Negative log-likelihood of each target in nats, float32 [B, T]. ids, targets: int64 [B, T]."""
        if check.tensor(targets, "Model: targets").shape != check.tensor(ids, "Model: ids").shape:
            raise UsageError(f"Model: targets must be of the shape of ids, {list(ids.shape)}, got {list(targets.shape)}")
        hidden, _ = self._hidden(ids, mask, phase, noise_seed, compute)
        return self._core.token_losses(self._tensors(), hidden, targets.reshape(-1)).view(ids.shape)

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _ids(self, text: str | bytes | Sequence[int] | Tensor) -> list[int]:
        if isinstance(text, (str, bytes)):
            if self.tokenizer is None:
                raise UsageError("this model has no tokenizer (it was not opened from a run); give token ids")
            return self.tokenizer.encode(text)
        if not hasattr(text, "__iter__"):
            raise UsageError(f"text or token ids wanted, got {check.type_name(text)}")
        return [check.whole(i, "a token id", 0) for i in text]

    @torch.no_grad()
    def logits(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Scores of the next token in evaluation mode: [T, V] for T ids, [B, T, V] for [B, T]."""
        try:
            ids = torch.as_tensor(ids, dtype=torch.int64, device=self._device())
        except (TypeError, ValueError) as problem:
            raise UsageError(f"Model.logits: token ids, [T] or [B, T], wanted: {problem}") from None
        out = self.forward(ids if ids.dim() == 2 else ids.unsqueeze(0), phase="evaluate", losses=False)
        return out if ids.dim() == 2 else out.squeeze(0)

    @torch.no_grad()
    def generate(self, prompt: str | bytes | Sequence[int], *, tokens: int = 200, temperature: float = 0.8,
                 top_p: float = 0.95, top_k: int = 0, seed: int = 0,
                 on_token: Callable[[int], bool | None] | None = None):
        """Continues the prompt.

        Args:
            prompt: text (for models with a tokenizer) or token ids.
            tokens: at most so many new ones.
            temperature: divides the scores; 0 = always the likeliest token.
            top_p, top_k: only the likeliest tokens; 1 and 0 = all.
            seed: another seed, another text.
            on_token: gets each new id; returning False stops.

        Returns:
            The continuation without the prompt: a str for a text prompt, a list of ids otherwise.

        Raises:
            UsageError: an empty prompt, text without a tokenizer, ids outside [0, vocabulary), or a value out of range
                (tokens >= 1, temperature >= 0, top_p above 0 and at most 1, top_k >= 0).
        """
        is_text = isinstance(prompt, (str, bytes))
        sample = dict(tokens=tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        end = self.tokenizer.end_id if self.tokenizer is not None else -1
        made = self._core.generate(self._tensors(), self._ids(prompt), sample, end, self.context, on_token)
        return self.tokenizer.decode(made) if is_text else made

    @torch.no_grad()
    def route(self, text: str | bytes | Sequence[int]) -> TextRouting:
        """Which experts each token meets in each layer, in evaluation mode.

        Raises:
            UsageError: no tokens, text without a tokenizer, or ids outside [0, vocabulary).
        """
        ids = self._ids(text)
        if not ids:
            raise UsageError("route: the text has no tokens")
        row = torch.tensor([ids], device=self._device())
        _, decisions = self._hidden(row, None, "evaluate", None, torch.float32, record=True, losses=False)
        tokens = [self.tokenizer.decode([i]) for i in ids] if self.tokenizer is not None else [str(i) for i in ids]
        return TextRouting(ids, tokens, self.facts(len(ids))["moe_layers"], decisions)

    def extra_repr(self) -> str:
        return f"{self.kind!r}, vocabulary={self.vocabulary}"
