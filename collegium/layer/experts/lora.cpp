// Experts as low-rank updates of one shared SwiGLU network: W_e = W_0 + (alpha / rank) B_e A_e for both matrices, so an
// expert more costs rank * (inputs + outputs) parameters. Hu 2021 (LoRA), section 4.1; as experts with a router: Li
// 2024 (MixLoRA), section 3.2, where W_0 is a pretrained layer (and frozen). Here W_0 is trained like the rest, unless
// an optimiser leaves it out.
//
// W_0 is stored once, with a first dimension of one. Fused, each token meets it once, whatever the number of its
// experts: the products with W_0 before the activation are shared by them, those behind are made of the sum of their
// weighted hidden units. B starts at zero, as in LoRA: all experts begin alike.
//
// N tokens, E experts, D model width, I expert width, H = 2 I, r rank, R rows sorted by expert.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/layer/experts.h"

namespace collegium::layer {
namespace {

class LoraExperts final : public Experts, public Makes<LoraExperts, Experts> {
 public:
  using Interface = Experts;
  struct Config {
    int64_t rank = 8;
    double alpha = 0;
    double init_scale = 0.3;
    void visit(Fields& field) {
      field("rank", rank, {.help = "rank of each update", .min = 1});
      field("alpha", alpha, {.help = "updates count alpha / rank; 0 = rank", .min = 0});
      field("init_scale", init_scale, {.help = "variance of the first weights, times their fan-in", .min = 0});
    }
  };

  LoraExperts(const Config& config, const Inputs& in)
      : scale_(config.alpha > 0 ? config.alpha / static_cast<double>(config.rank) : 1) {
    const auto E = in.n_experts, D = in.d_model, I = in.d_expert, r = config.rank;
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes) {
      const auto std = std::sqrt(config.init_scale / static_cast<double>(sizes[2]));
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    const auto zeros = [&](at::IntArrayRef sizes) { return at::zeros(sizes, in.options).requires_grad_(true); };
    up_1HD_ = normal("gate_up", {1, 2 * I, D}), down_1DI_ = normal("down", {1, D, I});
    up_a_ErD_ = normal("gate_up_a", {E, r, D}), up_b_EHr_ = zeros({E, 2 * I, r});
    down_a_ErI_ = normal("down_a", {E, r, I}), down_b_EDr_ = zeros({E, D, r});
  }

  Tensor forward(const Tensor& x_ND, const route::Decision& d) override {
    const auto dtype = x_ND.scalar_type();
    const auto N = x_ND.size(0);
    const auto up_NH = kernels::linear(x_ND, up_1HD_.to(dtype)[0]);
    const auto x_RD = kernels::gather_rows(x_ND, d.token_R());
    const auto h_RH = kernels::gather_rows(up_NH, d.token_R()) + update(x_RD, up_a_ErD_, up_b_EHr_, d.offset_E1());
    const auto a_RI = kernels::swiglu(h_RH);
    const auto shared_NI = kernels::combine(a_RI, d.gate_R(), d.token_R(), N);
    const auto own_RD = update(a_RI, down_a_ErI_, down_b_EDr_, d.offset_E1());
    return kernels::linear(shared_NI, down_1DI_.to(dtype)[0]) + kernels::combine(own_RD, d.gate_R(), d.token_R(), N);
  }
  Tensor rows(const Tensor& x_RD, const Tensor& offset_E1) override {
    const auto dtype = x_RD.scalar_type();
    const auto h_RH = kernels::linear(x_RD, up_1HD_.to(dtype)[0]) + update(x_RD, up_a_ErD_, up_b_EHr_, offset_E1);
    const auto a_RI = kernels::swiglu(h_RH);
    return kernels::linear(a_RI, down_1DI_.to(dtype)[0]) + update(a_RI, down_a_ErI_, down_b_EDr_, offset_E1);
  }
  Tensor hidden(const Tensor& x_RD, int64_t expert) override {
    const auto halves = at::linear(x_RD, whole(up_1HD_, up_a_ErD_, up_b_EHr_, expert, x_RD)).chunk(2, -1);
    return at::silu(halves[0]) * halves[1];
  }
  Tensor one(const Tensor& x_RD, int64_t expert) override {
    return at::linear(hidden(x_RD, expert), whole(down_1DI_, down_a_ErI_, down_b_EDr_, expert, x_RD));
  }
  std::vector<View> view(int64_t expert) override {
    require(expert >= 0 && expert < up_a_ErD_.size(0), "lora: there is no expert ", expert);
    return {{"gate_up_a", up_a_ErD_[expert]},
            {"gate_up_b", up_b_EHr_[expert]},
            {"down_a", down_a_ErI_[expert]},
            {"down_b", down_b_EDr_[expert]}};
  }
  void collect(ParameterList& list) override {
    list.parameter("gate_up", up_1HD_);
    list.parameter("down", down_1DI_);
    list.parameter("gate_up_a", up_a_ErD_);
    list.parameter("gate_up_b", up_b_EHr_);
    list.parameter("down_a", down_a_ErI_);
    list.parameter("down_b", down_b_EDr_);
  }
  int64_t parameters_per_expert() const override {
    const auto own = up_a_ErD_.numel() + up_b_EHr_.numel() + down_a_ErI_.numel() + down_b_EDr_.numel();
    return parameters_shared() + own / up_a_ErD_.size(0);
  }
  int64_t parameters_shared() const override { return up_1HD_.numel() + down_1DI_.numel(); }

 private:
  // The low-rank part of rows sorted by expert.
  Tensor update(const Tensor& x_RX, const Tensor& a_ErX, const Tensor& b_EYr, const Tensor& offset_E1) const {
    const auto dtype = x_RX.scalar_type();
    const auto low_Rr = kernels::grouped_linear(x_RX, a_ErX.to(dtype), offset_E1);
    return scale_ * kernels::grouped_linear(low_Rr, b_EYr.to(dtype), offset_E1);
  }
  // One expert's matrix, written out.
  Tensor whole(const Tensor& base_1YX, const Tensor& a_ErX, const Tensor& b_EYr, int64_t expert,
               const Tensor& like) const {
    return (base_1YX[0] + scale_ * at::matmul(b_EYr[expert], a_ErX[expert])).to(like.scalar_type());
  }

  double scale_;
  Tensor up_1HD_, down_1DI_, up_a_ErD_, up_b_EHr_, down_a_ErI_, down_b_EDr_;
};

}  // namespace

extern constinit const Entry<Experts> experts_lora = entry<LoraExperts>(
    {.name = "lora",
     .source = "Hu 2021 (LoRA), section 4.1; Li 2024 (MixLoRA), section 3.2",
     .taxonomy = "expert network/low-rank",
     .summary = "one shared SwiGLU network, and a low-rank update of it for each expert",
     .equation = "FFN_e(x) = D_e (silu(g) ⊙ u),  (g, u) = G_e x,  each W_e = W + c B_e A_e of rank r\n"
                 "W shared by all experts;  c = alpha / r, or 1"});

}  // namespace collegium::layer
