// B sequences, T tokens each, N = B T, D model width, H heads, d head width, E experts, k choices, V vocabulary.
#include "cli/bench/steps.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>

#include "cli/bench/experts.h"
#include "collegium/base/error.h"
#include "collegium/data/batch.h"
#include "collegium/kernels/rotary.h"
#include "collegium/model/language_model.h"
#include "collegium/train/adam.h"
#include "collegium/train/language_task.h"

namespace collegium::cli {
namespace {

constexpr double kStepEpsilon = 1e-6, kStepTheta = 10000, kStepClip = 1;

data::TokenSet random_tokens(const StepShape& is) {
  std::vector<int32_t> tokens(static_cast<size_t>(is.sequences * 8 * (is.context + 1)));
  const Random random(1);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(is.vocabulary)));
  return {std::move(tokens), std::vector<int32_t>(static_cast<size_t>(is.vocabulary), 1)};
}

train::TrainConfig train_config(const StepShape& is) {
  train::TrainConfig out;
  out.batch_size = is.sequences, out.context = is.context, out.clip = kStepClip;
  out.schedule = {.name = "constant"};
  return out;
}

std::unique_ptr<model::LanguageModel> decoder(const StepShape& is) {
  const Table router = table({{"name", "top_k"}, {"k", is.k}, {"balance_loss", 0.0}, {"z_loss", 0.0}});
  const Named named{
      .name = "decoder",
      .fields = table(
          {{"d_model", is.width},
           {"n_layers", is.layers},
           {"n_heads", is.heads},
           {"rope_theta", kStepTheta},
           {"norm_epsilon", kStepEpsilon},
           {"tie_embeddings", false},
           {"moe",
            table({{"name", "routed"}, {"n_experts", is.experts}, {"d_expert", is.hidden}, {"router", router}})}})};
  return find(model::language_models(), named, "model")
      .make(named, {.vocabulary = is.vocabulary, .random = Random(1), .options = at::kFloat});
}

// The decoder again in torch's operations, with weights of its own.
class TorchDecoder {
 public:
  TorchDecoder(const StepShape& is, std::string experts, const std::vector<ParameterRef>& from)
      : is_(is), experts_(std::move(experts)) {
    for (const auto& p : from)
      if (p.trained()) weights_.push_back({p.name, p.tensor->detach().clone().requires_grad_(true), p.kind});
  }

  std::vector<ParameterRef> parameters() {
    std::vector<ParameterRef> out;
    for (auto& w : weights_) out.push_back({w.name, &w.tensor, w.kind});
    return out;
  }

  /// Scores of the next token, [N, V].
  Tensor forward(const Tensor& token_BT) const {
    const auto N = is_.tokens();
    const auto rotation = kernels::rotation(0, is_.context, is_.width / is_.heads, kStepTheta, at::kFloat);
    auto x_ND = at::embedding(weight("embedding"), token_BT.reshape({N}));
    for (int64_t i = 0; i < is_.layers; ++i) {
      const auto at_layer = text("layers.", i, ".");
      x_ND = x_ND + attention(norm(x_ND, at_layer + "attention_norm"), at_layer, rotation);
      x_ND = x_ND + feed_forward(norm(x_ND, at_layer + "feed_forward_norm"), at_layer + "feed_forward.");
    }
    return at::linear(norm(x_ND, "final_norm"), weight("output"));
  }

 private:
  struct Weight {
    std::string name;
    Tensor tensor;
    ParameterKind kind;
  };

  const Tensor& weight(std::string_view name) const {
    for (const auto& w : weights_)
      if (w.name == name) return w.tensor;
    ensure(false, "bench: the decoder has no ", name);
    return weights_[0].tensor;
  }

  Tensor norm(const Tensor& x_ND, const std::string& name) const {
    return at::rms_norm(x_ND, {is_.width}, weight(name), kStepEpsilon);
  }

  Tensor attention(const Tensor& x_ND, const std::string& at_layer, const kernels::Rotation& rotation) const {
    const auto B = is_.sequences, T = is_.context, H = is_.heads, d = is_.width / H;
    const auto qkv = at::linear(x_ND, weight(at_layer + "qkv")).view({B, T, 3 * H, d});
    const auto turned = [&](int64_t first) {
      return kernels::plain::rotate(qkv.slice(2, first, first + H), rotation).transpose(1, 2);
    };
    const auto value_BHTd = qkv.slice(2, 2 * H).transpose(1, 2);
    const auto y_BHTd = at::scaled_dot_product_attention(turned(0), turned(H), value_BHTd, {}, 0.0, true);
    return at::linear(y_BHTd.transpose(1, 2).reshape({B * T, is_.width}), weight(at_layer + "out"));
  }

  Tensor feed_forward(const Tensor& x_ND, const std::string& at_place) const {
    const auto share_NE = at::softmax(at::linear(x_ND, weight(at_place + "router.scorer.weight")), -1);
    const auto [best_Nk, expert_Nk] = at::topk(share_NE, is_.k, -1);
    ExpertProblem problem;
    problem.is = {is_.tokens(), is_.width, is_.hidden, is_.experts, is_.k, true};
    problem.x_TD = x_ND;
    problem.weight_Tk = best_Nk / best_Nk.sum(-1, true);
    problem.expert_Tk = expert_Nk;
    problem.gate_up_EHD = weight(at_place + "experts.gate_up");
    problem.down_EDI = weight(at_place + "experts.down");
    return run_experts(experts_, problem);
  }

  const StepShape& is_;
  std::string experts_;
  std::vector<Weight> weights_;
};

// Its training loop: what train::Trainer does, without decisions and metrics.
class TorchSide {
 public:
  TorchSide(const StepShape& is, const std::string& experts, const std::vector<ParameterRef>& from,
            const data::BatchStream& stream)
      : model_(is, experts, from), optimizer_(model_.parameters()), stream_(stream) {}

  double step() {
    const auto batch = stream_.batch(step_++, 0);
    const auto all = model_.parameters();
    for (const auto& p : all) p.tensor->mutable_grad().reset();
    const auto loss =
        at::cross_entropy_loss(model_.forward(batch.input_BT), batch.target_BT.reshape({-1}).to(at::kLong));
    loss.backward();
    std::vector<Tensor> gradients;
    for (const auto& p : all) gradients.push_back(p.tensor->grad());
    const at::NoGradGuard no_grad;
    const auto length = at::stack(at::_foreach_norm(gradients)).norm().item<double>();
    if (length > kStepClip) at::_foreach_mul_(gradients, kStepClip / length);
    optimizer_.step({}, 1);
    return loss.item<double>();
  }

 private:
  TorchDecoder model_;
  train::Adam optimizer_;
  const data::BatchStream& stream_;
  int64_t step_ = 0;
};

class Race final : public StepRace {
 public:
  explicit Race(const StepShape& shape)
      : is_(shape),
        config_(train_config(is_)),
        tokens_(random_tokens(is_)),
        stream_(tokens_, {.batch_size = is_.sequences, .context = is_.context}),
        held_out_(tokens_, {.batch_size = 1, .context = is_.context, .max_windows = 1}),
        ours_(decoder(is_)),
        task_(config_, *ours_, stream_, held_out_, 1, at::kCPU),
        trainer_(config_, task_) {
    for (const auto& name : expert_contender_names())
      torch_sides_.emplace_back(name == "collegium" ? "collegium experts" : name,
                                std::make_unique<TorchSide>(is_, name, parameters_of(*ours_), stream_));
  }

  std::vector<double> first_losses() override {
    std::vector<double> out = {our_step()};
    for (auto& [name, side] : torch_sides_) out.push_back(side->step());
    return out;
  }

  std::vector<Contender> contenders() override {
    std::vector<Contender> out = {{"collegium", [this] { our_step(); }}};
    for (auto& [name, side] : torch_sides_) out.push_back({name, [one = side.get()] { one->step(); }});
    return out;
  }

 private:
  double our_step() {
    train::Meter meter;
    if (!trainer_.train_step(meter)) fail(ErrorKind::data, "bench: the loss of ", is_.name, " is not a finite number");
    return meter.loss();
  }

  StepShape is_;
  train::TrainConfig config_;
  data::TokenSet tokens_;
  data::BatchStream stream_;
  data::EvalStream held_out_;
  std::unique_ptr<model::LanguageModel> ours_;
  train::LanguageTask task_;
  train::Trainer trainer_;
  std::vector<std::pair<std::string, std::unique_ptr<TorchSide>>> torch_sides_;
};

}  // namespace

std::span<const StepShape> step_shapes(bool quick) {
  // name, width, layers, heads, vocabulary, experts, k, hidden, sequences, context
  static constexpr std::array all = {StepShape{"OLMoE", 512, 2, 8, 4096, 64, 8, 256, 4, 256},
                                     StepShape{"Mixtral", 512, 2, 8, 4096, 8, 2, 1024, 4, 256}};
  static constexpr std::array small = {StepShape{"OLMoE", 32, 2, 4, 64, 8, 4, 16, 2, 16},
                                       StepShape{"Mixtral", 32, 2, 4, 64, 4, 2, 64, 2, 16}};
  if (quick) return small;
  return all;
}

std::unique_ptr<StepRace> make_step_race(const StepShape& shape) {
  return std::make_unique<Race>(shape);
}

}  // namespace collegium::cli
