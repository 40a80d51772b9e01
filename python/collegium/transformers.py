"""Collegium's expert kernels in Hugging Face models.

    import collegium.transformers

    model = AutoModelForCausalLM.from_pretrained("allenai/OLMoE-1B-7B-0924", experts_implementation="collegium")

Importing this module adds "collegium" to transformers' experts implementations, beside "eager" and "grouped_mm"; a model
that is there already takes it with model.set_experts_implementation("collegium"). Weights stay where they are, outputs
and gradients are the same within rounding.

Experts of other kinds than plain SwiGLU or GELU ones (with biases, transposed weights, norms or activations of their own)
run as "grouped_mm", which a warning says once a class.

    collegium.transformers.use_linear(model)

lets the model's dense projections (attention, the output layer, dense feed-forward networks) run in the same loops. Worth
it where `collegium bench dense` shows ours faster than torch's, as on AMD processors with AVX-512; on a GPU nothing changes.

The operators themselves, for N tokens of width D, K choices a token, E experts of hidden width I:

    torch.ops.collegium.grouped_swiglu(x_ND, expert_NK, gate_NK, gate_up_EHD, down_EDI)  # H = 2 I, gate rows first
    torch.ops.collegium.grouped_gelu(x_ND, expert_NK, gate_NK, up_EID, down_EDI)         # the exact (erf) GELU

    torch.ops.collegium.linear(x, weight_HD)                                             # x [..., D]; [..., H]

expert_NK: int64 or int32; ids from E on do no work. The first two return [N, D], the sum of gate * expert(x). All can be
differentiated once. Wrong shapes, types or ids raise ValueError.
"""

import warnings

import torch

try:
    from transformers.activations import ACT2FN
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.integrations import moe as _moe
except ImportError as problem:
    raise ImportError(f"collegium.transformers needs transformers 5 or newer: {problem}") from problem

from . import _core  # noqa: F401  its operators are torch.ops.collegium

_KINDS = {"silu": "swiglu", "gelu": "gelu"}
_CLASSES = {type(ACT2FN[name]): name for name in _KINDS}
_warned = set()


def why_not(experts):
    """Why Collegium's kernels cannot stand in for this experts module of transformers; None when they can."""
    if getattr(experts, "has_bias", False):
        return "its experts have biases"
    if getattr(experts, "is_transposed", False):
        return "its weights are transposed"
    if not getattr(experts, "is_concatenated", True):
        return "its gate and up weights are interleaved"
    if getattr(experts, "has_post_expert_norm", False):
        return "its experts have a norm"
    name = _CLASSES.get(type(experts.act_fn))
    if name is None and isinstance(experts.act_fn, torch.nn.SiLU):
        name = "silu"
    if experts.has_gate:
        if getattr(type(experts), "_apply_gate", None) is not _moe._default_apply_gate:
            return "its experts combine gate and up in a way of their own"
        return None if name == "silu" else f"its activation is {type(experts.act_fn).__name__}, not SiLU"
    return None if name == "gelu" else f"its activation is {type(experts.act_fn).__name__}, not GELU"


def experts_forward(self, hidden_states, top_k_index, top_k_weights):
    """transformers' experts interface: hidden_states [N, D], top_k_index and top_k_weights [N, K]; returns [N, D] in
    the type of hidden_states."""
    reason = why_not(self)
    if reason is not None:
        if type(self) not in _warned:
            _warned.add(type(self))
            warnings.warn(f"collegium: {type(self).__name__} runs as grouped_mm, for {reason}", stacklevel=2)
        return _moe.grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    x = hidden_states.to(self.down_proj.dtype)
    if self.has_gate:
        y = torch.ops.collegium.grouped_swiglu(x, top_k_index, top_k_weights, self.gate_up_proj, self.down_proj)
    else:
        y = torch.ops.collegium.grouped_gelu(x, top_k_index, top_k_weights, self.up_proj, self.down_proj)
    return y.to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register("collegium", experts_forward)


class Linear(torch.nn.Linear):
    """torch.nn.Linear whose product is torch.ops.collegium.linear: x [..., in_features] to [..., out_features]."""

    def forward(self, input):
        if torch.is_autocast_enabled(input.device.type) or input.dtype != self.weight.dtype:
            return super().forward(input)  # which converts, or says what is wrong
        y = torch.ops.collegium.linear(input, self.weight)
        return y if self.bias is None else y + self.bias


def use_linear(model, use=True):
    """Lets every plain torch.nn.Linear of a model run in Collegium's loops, or, with use=False, in torch's again.

    Parameters, their names and the state dict stay what they are. Subclasses of Linear (quantised or adapted ones) are left
    alone. Returns how many projections changed. A model that torch.compile has compiled is compiled anew.
    """
    old, new = (torch.nn.Linear, Linear) if use else (Linear, torch.nn.Linear)
    changed = [module for module in model.modules() if type(module) is old]
    for module in changed:
        module.__class__ = new
    return len(changed)
