// Chance decides: k different experts, drawn uniformly from the noise of this layer and step, in training and in
// evaluation. P062 (THOR), section 3: no router, so no load to balance and none that can collapse.
// Drawn token by token (the paper's "dispatch at token level"). With `shared_draw` a layer draws once for all tokens of
// a training pass, as in the authors' code (transformer_thor_layer.py); evaluation draws for each token (their
// inference_level 0).
//
// N tokens, E experts, K choices.
#include <ATen/ATen.h>

#include <limits>
#include <numeric>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kRandomClaims = {.chooser = Chooser::nobody, .is_random = true};

class RandomSelector final : public Selector, public Makes<RandomSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    int64_t k = 1;
    bool shared_draw = false;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token, all different", .unit = "experts", .min = 1});
      field("shared_draw", shared_draw,
            {.help = "training draws once for all tokens of a pass; evaluation always draws for each token"});
    }
  };

  RandomSelector(const Config& config, const StageInputs& in)
      : k_(config.k), n_experts_(in.n_experts), shared_draw_(config.shared_draw) {
    require(k_ <= n_experts_, "random: k = ", k_, " is more than the ", n_experts_, " experts there are");
  }

  Assignments select(const Scores& scores, const Tensor&, const Context& context) override {
    const auto draw = context.random.at("choice");
    const auto real_N = context.mask_N.defined() ? context.mask_N.cpu().contiguous() : Tensor();
    const auto* real = real_N.defined() ? real_N.const_data_ptr<bool>() : nullptr;
    std::vector<int64_t> token, expert, rank;
    std::vector<int64_t> all(static_cast<size_t>(n_experts_));
    const bool is_shared = shared_draw_ && context.phase != Phase::evaluate;
    uint64_t place = 0;  // among real tokens: padding draws nothing
    for (int64_t n = 0; n < scores.n_tokens; ++n) {
      if (real && !real[n]) continue;
      const auto mine = draw.at(is_shared ? 0 : place++);
      std::iota(all.begin(), all.end(), 0);
      for (int64_t j = 0; j < k_; ++j) {  // the first k places of a shuffle
        const auto other =
            j + static_cast<int64_t>(mine.below(static_cast<uint64_t>(j), static_cast<uint64_t>(n_experts_ - j)));
        std::swap(all[static_cast<size_t>(j)], all[static_cast<size_t>(other)]);
        token.push_back(n), expert.push_back(all[static_cast<size_t>(j)]), rank.push_back(j);
      }
    }
    const auto device = context.token_id_N.defined() ? context.token_id_N.device() : at::Device(at::kCPU);
    const auto ints = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
    const auto count = static_cast<int64_t>(token.size());
    const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
    return {ints(token), ints(expert), ints(rank), at::ones({count}, floats),
            at::full({count}, std::numeric_limits<double>::infinity(), floats)};
  }
  Reasons reasons(const Scores&, const Tensor&, const Context&) override { return {.rule = "chance decides"}; }
  Needs needs() const override { return {}; }
  Claims claims() const override { return kRandomClaims; }
  double choices_per_token() const override { return static_cast<double>(k_); }

 private:
  int64_t k_, n_experts_;
  bool shared_draw_;
};

}  // namespace

extern constinit const Entry<Selector> selector_random =
    entry<RandomSelector>({.name = "random",
                           .paper = 62,
                           .source = "Zuo 2021 (THOR), section 3",
                           .taxonomy = "gating/sparse/random",
                           .summary = "chance decides, in training and in evaluation",
                           .equation = "T ~ uniform over the sets of k experts, drawn for each token\n"
                                       "training with a shared draw: one set for all tokens of a pass",
                           .claims = kRandomClaims});

}  // namespace collegium::route
