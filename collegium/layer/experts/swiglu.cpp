// SwiGLU experts: down(silu(gate(x)) * up(x)), no biases. The first half of `gate_up` is the gate, as in
// transformers' fused experts, so weights go over unchanged. Shazeer 2020, GLU variants, eq. 6.
//
// E experts, D model width, I expert width, H = 2 I, R rows sorted by expert.
#include <ATen/ATen.h>

#include "collegium/kernels/experts.h"
#include "collegium/layer/feed_forward_experts.h"

namespace collegium::layer {
namespace {

class SwigluExperts final : public FeedForwardExperts, public Makes<SwigluExperts, Experts> {
 public:
  using Interface = Experts;

  SwigluExperts(const Config& config, const Inputs& in)
      : FeedForwardExperts({.name = "swiglu", .first = "gate_up", .parts = 2}, config, in) {}

  Tensor forward(const Tensor& x_ND, const route::Decision& d) override {
    const auto dtype = x_ND.scalar_type();
    return kernels::swiglu_experts(x_ND, d.gate_R(), d.token_R(), d.offset_E1(), up_EHD_.to(dtype),
                                   down_EDI_.to(dtype));
  }
  Tensor activate(const Tensor& h_RH) const override {
    const auto halves = h_RH.chunk(2, -1);
    return at::silu(halves[0]) * halves[1];
  }
  Tensor activate_rows(const Tensor& h_RH) const override { return kernels::swiglu(h_RH); }
};

}  // namespace

extern constinit const Entry<Experts> experts_swiglu =
    entry<SwigluExperts>({.name = "swiglu",
                          .source = "Shazeer 2020 (GLU variants), eq. 6",
                          .taxonomy = "expert network/feed-forward",
                          .summary = "gated feed-forward experts: down(silu(gate(x)) * up(x))",
                          .equation = "FFN_e(x) = D_e (silu(G_e x) ⊙ U_e x)"});

}  // namespace collegium::layer
