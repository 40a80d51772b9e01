// Routing with a memory of the layers below: the token is projected to a small state, a GRU cell joins it with what
// the router of the layer before left, and experts are scored from the result. P103 (RMoE), section 3:
// r_i = GRU(Proj_i(x_i), r_{i-1}), logits = W_i r_i; the first layer starts from zeros.
//
// The cell is the usual one: reset = s(W_ir p + W_hr h), update = s(W_iz p + W_hz h),
// new = tanh(W_in p + b_in + reset * (W_hn h + b_hn)), h' = (1 - update) * new + update * h, rows in the order of
// torch's GRUCell (reset, update, new).
//
// One cell serves all layers of a model, as in the authors' code (github.com/qiuzh20/RMoE); Proj_i and W_i are each
// layer's own. A layer that stands alone has a cell to itself. Assumed: a state of a quarter of the model width.
//
// N tokens, D model width, E experts, H state, G = 3 H.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/router_linear.h"
#include "collegium/kernels/sigmoid.h"
#include "collegium/route/score_function.h"

namespace collegium::route {
namespace {

// The GRU, whichever layers use it.
struct Cell {
  Cell(int64_t H, const Random& random, const at::TensorOptions& options) {
    const auto normal = [&](std::string_view name) {
      return random.at(name).normal({3 * H, H}, 1 / std::sqrt(static_cast<double>(H)), options).requires_grad_(true);
    };
    input_GH = normal("input"), state_GH = normal("state");
    input_bias_G = at::zeros({3 * H}, options).requires_grad_(true);
    state_bias_G = at::zeros({3 * H}, options).requires_grad_(true);
  }
  Tensor next(const Tensor& low_NH, const Tensor& before_NH) const {
    const auto H = state_GH.size(1);
    const auto affine = [&](const Tensor& in_NH, const Tensor& weight_GH, const Tensor& bias_G) {
      const auto dtype = in_NH.scalar_type();
      return (kernels::router_linear(in_NH, weight_GH.to(dtype)) + bias_G.to(dtype)).split(H, 1);
    };
    const auto from_input = affine(low_NH, input_GH, input_bias_G);
    const auto from_state = affine(before_NH, state_GH, state_bias_G);
    const auto reset_NH = kernels::sigmoid(from_input[0] + from_state[0]);
    const auto update_NH = kernels::sigmoid(from_input[1] + from_state[1]);
    const auto new_NH = 2 * kernels::sigmoid(2 * (from_input[2] + reset_NH * from_state[2])) - 1;  // tanh
    return new_NH + update_NH * (before_NH - new_NH);
  }
  void collect(ParameterList& list) {
    list.parameter("input", input_GH);
    list.parameter("state", state_GH);
    list.parameter("input_bias", input_bias_G, ParameterKind::vector);
    list.parameter("state_bias", state_bias_G, ParameterKind::vector);
  }
  Tensor input_GH, state_GH, input_bias_G, state_bias_G;
};

class RecurrentScorer final : public Scorer, public Makes<RecurrentScorer, Scorer> {
 public:
  using Interface = Scorer;
  struct Config {
    ScoreKind activation = ScoreKind::softmax;
    int64_t d_state = 0;
    bool share_cell = true;
    void visit(Fields& field) {
      field("activation", activation, {.help = "score function over the experts"});
      field("d_state", d_state,
            {.help = "width of what is carried from layer to layer; 0 = a quarter of d_model", .min = 0});
      field("share_cell", share_cell, {.help = "one cell for all layers of a model; false = each has its own"});
    }
  };

  RecurrentScorer(const Config& config, const StageInputs& in)
      : activation_(config.activation), d_state_(config.d_state > 0 ? config.d_state : (in.d_model + 3) / 4) {
    require(config.activation != ScoreKind::none, "recurrent: activation must be softmax, sigmoid or relu");
    const auto H = d_state_;
    const auto normal = [&](std::string_view name, int64_t rows, int64_t columns) {
      return in.random.at(name)
          .normal({rows, columns}, 1 / std::sqrt(static_cast<double>(columns)), in.options)
          .requires_grad_(true);
    };
    project_HD_ = normal("project", H, in.d_model);
    weight_EH_ = normal("weight", in.n_experts, H);
    const auto make = [&] { return std::make_shared<Cell>(H, in.random, in.options); };
    if (config.share_cell && in.shared) {
      const auto share = in.shared->get<Cell>("recurrent cell", make);
      cell_ = share.part, lists_cell_ = share.is_holder;
    } else {
      cell_ = make();
    }
    require(cell_->state_GH.size(1) == H, "recurrent: a state of ", H, " in one layer and of ", cell_->state_GH.size(1),
            " in another, but all layers share one cell; give both the same d_state, or set share_cell = false");
  }

  Scores score(const Tensor& x_ND, const Context& context) override {
    const auto dtype = router_dtype(x_ND);
    const auto N = x_ND.size(0);
    const auto& carried = context.carried_NH;
    require(!carried.defined() || (carried.dim() == 2 && carried.size(0) == N && carried.size(1) == d_state_),
            "recurrent: a state of [", N, ", ", d_state_, "] from the layer before was wanted, got ",
            carried.defined() ? carried.sizes() : at::IntArrayRef{});
    const auto before_NH =
        carried.defined() ? carried.to(dtype) : at::zeros({N, d_state_}, x_ND.options().dtype(dtype));
    const auto low_NH = kernels::router_linear(x_ND.to(dtype), project_HD_.to(dtype));
    Scores out;
    out.carried_NH = cell_->next(low_NH, before_NH);
    out.logit_NE = kernels::router_linear(out.carried_NH, weight_EH_.to(dtype));
    out.score_NE = score_function(out.logit_NE, activation_);
    return out;
  }
  ScoreKind kind() const override { return activation_; }
  double flops_per_token() const override {
    return 2.0 * static_cast<double>(project_HD_.numel() + cell_->input_GH.numel() + cell_->state_GH.numel() +
                                     weight_EH_.numel());
  }
  void collect(ParameterList& list) override {
    list.parameter("project", project_HD_);
    if (lists_cell_) cell_->collect(list);
    list.parameter("weight", weight_EH_, ParameterKind::embedding);
  }

 private:
  ScoreKind activation_;
  int64_t d_state_;
  Tensor project_HD_, weight_EH_;
  std::shared_ptr<Cell> cell_;
  bool lists_cell_ = true;
};

}  // namespace

extern constinit const Entry<Scorer> scorer_recurrent =
    entry<RecurrentScorer>({.name = "recurrent",
                            .paper = 103,
                            .source = "Qiu 2024 (RMoE), section 3",
                            .taxonomy = "gating/sparse/recurrent",
                            .summary = "a GRU carries what routers decided from layer to layer",
                            .equation = "s = φ(W_i r_i),  r_i = GRU(P_i x_i, r_{i-1}),  φ = softmax, sigmoid or relu\n"
                                        "i = layers with experts from below, r_0 = 0; one GRU for all"});

}  // namespace collegium::route
