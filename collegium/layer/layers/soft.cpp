// Soft MoE: every slot is a mixture of all tokens of a sequence, every token's output a mixture of all slots. There
// is no assignment, nothing is dropped, and the layer is differentiable throughout; but each token sees all others,
// so it is not causal. One of the routers compared in P115.
//
// The scale of the scores starts at one in the authors' code (vmoe, projects/soft_moe/router.py). Cosines of random
// vectors are about 1 / sqrt(D), so every slot is then the mean of all tokens, and Adam moves the scale by no more than
// the sum of its learning rates. `init_sharpness = 0` starts it at sqrt(D): scores of unit variance, in short training.
//
// B sequences, T tokens each, N = B T, D model width, E experts, S slots per expert, P = E S slots per sequence.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "collegium/layer/routed_part.h"
#include "collegium/layer/soft_decision.h"

namespace collegium::layer {
namespace {

class SoftLayer final : public MoeLayer, public Makes<SoftLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t slots = 1;
    double init_sharpness = 1;
    Named expert{.name = "swiglu"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts", .unit = "experts", .min = 1});
      field("d_expert", d_expert, {.help = "hidden width of one expert; 0 = 2 * d_model", .min = 0});
      field("slots", slots, {.help = "slots of each expert per sequence", .unit = "slots", .min = 1});
      field(
          "init_sharpness", init_sharpness,
          {.help = "first value of the learned scale of the scores, which are cosines; 0 = the square root of d_model",
           .min = 0});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
    }
  };

  SoftLayer(const Config& config, const Inputs& in) : config_(config) {
    const auto d_expert = config.d_expert > 0 ? config.d_expert : 2 * in.d_model;
    experts_ = make_experts(config.expert, config.n_experts, d_expert, in);
    const auto P = config.n_experts * config.slots;
    phi_PD_ = in.random.at("phi")
                  .normal({P, in.d_model}, 1 / std::sqrt(static_cast<double>(in.d_model)), in.options)
                  .requires_grad_(true);
    const auto sharpness =
        config.init_sharpness > 0 ? config.init_sharpness : std::sqrt(static_cast<double>(in.d_model));
    scale_ = at::full({}, sharpness, in.options).requires_grad_(true);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    const auto N = x_ND.size(0), D = x_ND.size(1), B = std::max<int64_t>(1, context.n_sequences);
    require(N % B == 0, "soft: needs sequences of equal length, got ", N, " tokens in ", B, " sequences");
    const auto T = N / B, E = config_.n_experts, S = config_.slots, P = E * S;
    require(!context.sequence_N.defined() || has_equal_lengths(context.sequence_N, N, B),
            "soft: needs sequences of equal length, one after the other; fill up with masked tokens");
    if (N == 0) {
      LayerOutput none{.y_ND = at::zeros_like(x_ND)};
      if (context.record) none.decision = soft_decision(at::zeros({0, E}, x_ND.options().dtype(at::kFloat)), context);
      return none;
    }
    const auto dtype = route::router_dtype(x_ND);
    // Both sides are normalised so that scores stay bounded when D grows (Puigcerver 2023, section 2.3).
    const auto unit = [](const Tensor& t) { return t / t.norm(2, {-1}, true).clamp_min(1e-6); };
    const auto x_BTD = x_ND.to(dtype).reshape({B, T, D});
    auto logit_BTP = at::matmul(unit(x_BTD), (unit(phi_PD_.to(dtype)) * scale_.to(dtype)).t());
    const auto real_BT1 = context.mask_N.defined() ? context.mask_N.reshape({B, T, 1}) : Tensor();
    const auto combine_BTP = logit_BTP.softmax(2);
    if (real_BT1.defined())
      logit_BTP = logit_BTP.masked_fill(real_BT1.logical_not(), -std::numeric_limits<float>::max());
    const auto dispatch_BTP = logit_BTP.softmax(1);

    const auto slot_BPD = at::matmul(dispatch_BTP.transpose(1, 2), x_BTD).to(x_ND.scalar_type());
    const auto row_RD = slot_BPD.view({B, E, S, D}).permute({1, 0, 2, 3}).reshape({E * B * S, D});
    const auto offset_E1 = at::arange(E + 1, at::kLong) * (B * S);
    const auto out_BPD = experts_->rows(row_RD, offset_E1).view({E, B, S, D}).permute({1, 0, 2, 3}).reshape({B, P, D});
    auto y_BTD = at::matmul(combine_BTP.to(x_ND.scalar_type()), out_BPD);
    if (real_BT1.defined()) y_BTD = y_BTD * real_BT1.to(y_BTD.scalar_type());

    LayerOutput out{.y_ND = y_BTD.reshape({N, D})};
    if (context.record) {
      out.decision = soft_decision(combine_BTP.detach().reshape({N, E, S}).sum(2), context);
      out.reasons.rule =
          "every expert works for mixtures of all tokens of the sequence; scores say how much each counts";
    }
    return out;
  }
  LayerFacts facts() const override {
    // A sequence has so many slots, however long it is; scores, what goes into the slots and what comes out of them.
    const auto each = static_cast<double>(experts_->parameters_per_expert());
    const auto slots = static_cast<double>(phi_PD_.size(0)), phi = static_cast<double>(phi_PD_.numel());
    return {.n_experts = config_.n_experts,
            .parameters_active = each + phi,
            .flops_per_token = 6 * phi,
            .flops_per_sequence = 2 * each * slots,
            .is_causal = false};
  }
  void collect(ParameterList& list) override {
    list.parameter("phi", phi_PD_, ParameterKind::embedding);
    list.parameter("scale", scale_, ParameterKind::vector);
    list.child("experts", *experts_);
  }

 private:
  static bool has_equal_lengths(const Tensor& sequence_N, int64_t N, int64_t B) {
    return sequence_N.size(0) == N && sequence_N.equal(at::arange(B, sequence_N.options()).repeat_interleave(N / B));
  }

  Config config_;
  std::unique_ptr<Experts> experts_;
  Tensor phi_PD_, scale_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_soft = entry<SoftLayer>(
    {.name = "soft",
     .paper = 115,
     .source = "Puigcerver 2023 (Soft MoE), section 2",
     .taxonomy = "architecture/soft",
     .summary = "slots mix all tokens, tokens mix all slots: no assignment, no drop, not causal",
     .equation = "y_t = Σ_p softmax_p(ℓ_tp) FFN_{e(p)}(z_p),  z_p = Σ_t softmax_t(ℓ_tp) x_t,  ℓ_tp = λ cos(x_t, φ_p)\n"
                 "p = slots, e(p) = expert of the slot;  φ and λ learned",
     .claims = {.has_assignment = false}});

}  // namespace collegium::layer
