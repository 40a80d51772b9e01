// Two-layer experts with ReLU, no biases: down(relu(up(x))). Most hidden units of a token are exactly zero, which is
// what MoE-X (P022) builds on: a layer of such experts is one wide network of sparse units.
//
// E experts, D model width, I = H expert width, R rows sorted by expert.
#include <ATen/ATen.h>

#include "collegium/layer/feed_forward_experts.h"

namespace collegium::layer {
namespace {

class ReluExperts final : public FeedForwardExperts, public Makes<ReluExperts, Experts> {
 public:
  using Interface = Experts;

  ReluExperts(const Config& config, const Inputs& in)
      : FeedForwardExperts({.name = "relu", .first = "up"}, config, in) {}

  Tensor activate(const Tensor& h_RH) const override { return at::relu(h_RH); }
};

}  // namespace

extern constinit const Entry<Experts> experts_relu =
    entry<ReluExperts>({.name = "relu",
                        .paper = 22,
                        .source = "Vaswani 2017, eq. 2; as experts: Yang 2025 (MoE-X)",
                        .taxonomy = "expert network/feed-forward",
                        .summary = "two-layer feed-forward experts with ReLU, whose hidden units are sparse",
                        .equation = "FFN_e(x) = D_e relu(U_e x)"});

}  // namespace collegium::layer
