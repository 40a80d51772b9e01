// Finedeep: a dense feed-forward layer cut along its hidden width into M K small experts, K in each of M sub-layers,
// one above the other. All of them work for every token, so parameters and work are those of the dense layer; a router
// weighs each expert by what it answered:
//
//   h_j = norm(s_(j-1)),   r_ji = sigmoid(E_ji(h_j) . R_ji),   s_j = s_(j-1) + sum_i r_ji E_ji(h_j)
//
// P015 (Pan 2025): RMSNorm and a residual around each sub-layer, routing guided by the experts' outputs, a sigmoid
// each rather than a softmax over experts; the alternatives are here as `guide` and `function`. Assumed: s_0 is the
// layer's normalised input, the only one it sees (the first norm is the host's, and y = s_M - s_0 is what the host adds
// to its state); guided by inputs, a score is h_j . R_ji; R starts normal with variance 1 / D.
//
// A recorded pass describes the weights r of all M K experts, sub-layer after sub-layer, as a decision.
//
// N tokens, D model width, M sub-layers, K experts in each, E = M K.
#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "collegium/kernels/norm.h"
#include "collegium/layer/activations.h"
#include "collegium/layer/routed_part.h"
#include "collegium/layer/soft_decision.h"

namespace collegium::layer {
namespace {

enum class Guide { output, input };
std::span<const std::string_view> enum_names(Guide) {
  static constexpr std::array<std::string_view, 2> names = {"output", "input"};
  return names;
}
enum class GuideFunction { sigmoid, softmax };
std::span<const std::string_view> enum_names(GuideFunction) {
  static constexpr std::array<std::string_view, 2> names = {"sigmoid", "softmax"};
  return names;
}

class FinedeepLayer final : public MoeLayer, public Makes<FinedeepLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_sublayers = 2;
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    Guide guide = Guide::output;
    GuideFunction function = GuideFunction::sigmoid;
    double norm_epsilon = 1e-5;
    Named expert{.name = "swiglu"};
    void visit(Fields& field) {
      field("n_sublayers", n_sublayers, {.help = "sub-layers, one above the other", .unit = "sub-layers", .min = 1});
      field("n_experts", n_experts, {.help = "experts in each sub-layer", .unit = "experts", .min = 1});
      field("d_expert", d_expert,
            {.help = "hidden width of one expert; 0 = 4 * d_model / (n_sublayers * n_experts)", .min = 0});
      field("guide", guide, {.help = "an expert is weighed by its own output, or by its input"});
      field("function", function, {.help = "a sigmoid for each expert, or a softmax over those of a sub-layer"});
      field("norm_epsilon", norm_epsilon, {.help = "of the normalisation between sub-layers", .min = 0});
      field("expert", expert, {.help = "kind of expert", .catalogue = "experts"});
    }
  };

  FinedeepLayer(const Config& config, const Inputs& in) : config_(config) {
    const auto M = config.n_sublayers, K = config.n_experts, D = in.d_model;
    require(config.d_expert > 0 || 4 * D % (M * K) == 0, "finedeep: 4 * d_model = ", 4 * D, " does not divide into ", M,
            " * ", K, " experts; set d_expert");
    const auto width = config.d_expert > 0 ? config.d_expert : 4 * D / (M * K);
    for (int64_t j = 0; j < M; ++j)
      sublayers_.push_back(make_experts(config.expert, K, width, below(in, static_cast<uint64_t>(j))));
    const auto std = 1 / std::sqrt(static_cast<double>(D));
    router_MKD_ = in.random.at("router").normal({M, K, D}, std, in.options).requires_grad_(true);
    if (M > 1) norm_MD_ = at::ones({M - 1, D}, in.options).requires_grad_(true);
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    const auto N = x_ND.size(0), D = x_ND.size(1), K = config_.n_experts;
    const auto offset_E1 = at::arange(K + 1, at::kLong) * N;
    const auto dtype = route::router_dtype(x_ND);
    LayerOutput out;
    std::vector<Tensor> weights;
    auto h_ND = x_ND;
    for (int64_t j = 0; j < config_.n_sublayers; ++j) {
      if (j > 0) h_ND = kernels::rms_norm(x_ND + out.y_ND, norm_MD_[j - 1], config_.norm_epsilon);
      auto& experts = *sublayers_[static_cast<size_t>(j)];
      const auto y_KND = experts.rows(h_ND.repeat({K, 1}), offset_E1).view({K, N, D});
      const auto weight_NK = weigh(h_ND, y_KND, router_MKD_[j].to(dtype));
      const auto sum_ND = at::einsum("nk,knd->nd", {weight_NK.to(x_ND.scalar_type()), y_KND});
      out.y_ND = j == 0 ? sum_ND : out.y_ND + sum_ND;
      for (int64_t i = 0; i < K; ++i) show_activations(out, experts, h_ND, i, context);
      if (context.record) weights.push_back(weight_NK.detach());
    }
    out.y_ND = route::only_real(out.y_ND, context);
    if (context.record) {
      out.score_NE = at::cat(weights, 1);
      out.decision = soft_decision(out.score_NE, context);
      out.reasons.rule = "every expert works for every token; scores say how much each counts";
    }
    return out;
  }
  LayerFacts facts() const override {
    const auto E = config_.n_sublayers * config_.n_experts;
    const auto routing = static_cast<double>(router_MKD_.numel());
    LayerFacts out{
        .n_experts = E, .parameters_active = routing, .flops_per_token = 4 * routing};  // scores, and sums by them
    for (const auto& experts : sublayers_) {
      out.parameters_active += experts->parameters_working(static_cast<double>(config_.n_experts));
      out.flops_per_token += 2 * static_cast<double>(config_.n_experts * experts->parameters_per_expert());
    }
    if (norm_MD_.defined()) out.parameters_active += static_cast<double>(norm_MD_.numel());
    return out;
  }
  void collect(ParameterList& list) override {
    for (size_t j = 0; j < sublayers_.size(); ++j) list.child(text("sublayers.", j), *sublayers_[j]);
    list.parameter("router", router_MKD_, ParameterKind::embedding);
    if (norm_MD_.defined()) list.parameter("norm", norm_MD_, ParameterKind::vector);
  }

 private:
  static Inputs below(Inputs in, uint64_t sublayer) {
    in.random = in.random.at("sublayer").at(sublayer);
    return in;
  }

  // How much each expert of a sub-layer counts. [N, K]
  Tensor weigh(const Tensor& h_ND, const Tensor& y_KND, const Tensor& router_KD) const {
    const auto dtype = router_KD.scalar_type();
    const auto logit_NK = config_.guide == Guide::output
                              ? at::matmul(y_KND.to(dtype), router_KD.unsqueeze(2)).squeeze(2).t()
                              : at::linear(h_ND.to(dtype), router_KD);
    return config_.function == GuideFunction::sigmoid ? logit_NK.sigmoid() : logit_NK.softmax(1);
  }

  Config config_;
  std::vector<std::unique_ptr<Experts>> sublayers_;
  Tensor router_MKD_, norm_MD_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_finedeep = entry<FinedeepLayer>(
    {.name = "finedeep",
     .paper = 15,
     .source = "Pan 2025 (Finedeep)",
     .taxonomy = "architecture/dense/partitioned",
     .summary = "a dense layer cut into small experts on several levels, all at work, each weighed "
                "by its own answer",
     .equation = "s_j = s_{j-1} + Σ_i r_ji FFN_ji(h_j),  r_ji = sigmoid(⟨R_ji, FFN_ji(h_j)⟩),  h_j = norm(s_{j-1})\n"
                 "y = s_M - s_0,  s_0 = h_1 = x,  j = 1 … M sub-layers",
     .claims = {.has_assignment = false}});

}  // namespace collegium::layer
