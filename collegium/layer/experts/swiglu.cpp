// SwiGLU experts: down(silu(gate(x)) * up(x)), no biases. The first half of `gate_up` is the gate, as in
// transformers' fused experts, so weights go over unchanged. Shazeer 2020, GLU variants, eq. 6.
//
// E experts, D model width, I expert width, H = 2 I, R rows sorted by expert.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/layer/experts.h"

namespace collegium::layer {
namespace {

class SwigluExperts final : public Experts, public Makes<SwigluExperts, Experts> {
 public:
  using Interface = Experts;
  struct Config {
    double init_scale = 1;
    void visit(Fields& field) {
      field("init_scale", init_scale, {.help = "variance of the first weights, times their fan-in", .min = 0});
    }
  };

  SwigluExperts(const Config& config, const Inputs& in) {
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes, int64_t n_together = 1) {
      const auto std = std::sqrt(config.init_scale / static_cast<double>(n_together * sizes[2]));
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    up_EHD_ = normal("gate_up", {in.n_experts, 2 * in.d_expert, in.d_model});
    down_EDI_ = normal("down", {in.n_experts, in.d_model, in.d_expert}, in.n_together);
  }

  Tensor forward(const Tensor& x_ND, const route::Decision& d) override {
    const auto dtype = x_ND.scalar_type();
    return kernels::swiglu_experts(x_ND, d.gate_R(), d.token_R(), d.offset_E1(), up_EHD_.to(dtype),
                                   down_EDI_.to(dtype));
  }
  Tensor rows(const Tensor& x_RD, const Tensor& offset_E1) override {
    const auto dtype = x_RD.scalar_type();
    const auto h_RH = kernels::grouped_linear(x_RD, up_EHD_.to(dtype), offset_E1);
    return kernels::grouped_linear(kernels::swiglu(h_RH), down_EDI_.to(dtype), offset_E1);
  }
  Tensor hidden(const Tensor& x_RD, int64_t expert) override {
    const auto halves = at::linear(x_RD, up_EHD_[expert].to(x_RD.scalar_type())).chunk(2, -1);
    return at::silu(halves[0]) * halves[1];
  }
  Tensor one(const Tensor& x_RD, int64_t expert) override {
    return at::linear(hidden(x_RD, expert), down_EDI_[expert].to(x_RD.scalar_type()));
  }
  route::UnitPrediction predict_units(const Tensor& x_ND, int64_t) override {
    return layer::predict_units(x_ND, up_EHD_.chunk(2, 1)[0]);
  }
  std::vector<View> view(int64_t expert) override {
    require(expert >= 0 && expert < up_EHD_.size(0), "swiglu: there is no expert ", expert);
    return {{"gate_up", up_EHD_[expert]}, {"down", down_EDI_[expert]}};
  }
  void collect(ParameterList& list) override {
    list.parameter("gate_up", up_EHD_);
    list.parameter("down", down_EDI_);
  }
  int64_t parameters_per_expert() const override { return (up_EHD_.numel() + down_EDI_.numel()) / up_EHD_.size(0); }

 private:
  Tensor up_EHD_, down_EDI_;
};

}  // namespace

extern constinit const Entry<Experts> experts_swiglu =
    entry<SwigluExperts>({.name = "swiglu",
                          .source = "Shazeer 2020 (GLU variants), eq. 6",
                          .taxonomy = "expert network/feed-forward",
                          .summary = "gated feed-forward experts: down(silu(gate(x)) * up(x))"});

}  // namespace collegium::layer
