// Two-layer experts with exact GELU, no biases: down(gelu(up(x))).
//
// E experts, D model width, I = H expert width, R rows sorted by expert.
#include <ATen/ATen.h>

#include "collegium/kernels/experts.h"
#include "collegium/layer/feed_forward_experts.h"

namespace collegium::layer {
namespace {

class GeluExperts final : public FeedForwardExperts, public Makes<GeluExperts, Experts> {
 public:
  using Interface = Experts;

  GeluExperts(const Config& config, const Inputs& in)
      : FeedForwardExperts({.name = "gelu", .first = "up"}, config, in) {}

  Tensor forward(const Tensor& x_ND, const route::Decision& d) override {
    const auto dtype = x_ND.scalar_type();
    return kernels::gelu_experts(x_ND, d.gate_R(), d.token_R(), d.offset_E1(), up_EHD_.to(dtype), down_EDI_.to(dtype));
  }
  Tensor activate(const Tensor& h_RH) const override { return at::gelu(h_RH); }
};

}  // namespace

extern constinit const Entry<Experts> experts_gelu =
    entry<GeluExperts>({.name = "gelu",
                        .source = "Hendrycks 2016 (GELU); the feed-forward layer of Vaswani 2017, eq. 2",
                        .taxonomy = "expert network/feed-forward",
                        .summary = "two-layer feed-forward experts with GELU",
                        .equation = "FFN_e(x) = D_e gelu(U_e x)"});

}  // namespace collegium::layer
