// The token's id decides, through a seeded hash: no parameters, no forward pass, no change in training. Roller 2021
// (Hash Layers), section 3.1, random hash; the fixed gate of P025 (survey of mixtures of experts).
//
// N tokens, E experts, K choices.
#include <ATen/ATen.h>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kHashClaims = {.chooser = Chooser::nobody};

class HashSelector final : public Selector, public Makes<HashSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    int64_t k = 1;
    int64_t seed = 0;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token, all different", .unit = "experts", .min = 1});
      field("seed", seed, {.help = "which hash function"});
    }
  };

  HashSelector(const Config& config, const StageInputs& in)
      : config_(config), n_experts_(in.n_experts), hash_(static_cast<uint64_t>(config.seed)) {
    require(config.k <= in.n_experts, "hash: k = ", config.k, " is more than the ", in.n_experts, " experts there are");
  }

  Assignments select(const Scores&, const Tensor&, const Context& context) override {
    const auto id_N = context.token_id_N.cpu().contiguous();
    const auto real_N = context.mask_N.defined() ? context.mask_N.cpu().contiguous() : Tensor();
    const auto* id = id_N.const_data_ptr<int64_t>();
    const auto* real = real_N.defined() ? real_N.const_data_ptr<bool>() : nullptr;
    const auto E = static_cast<uint64_t>(n_experts_), K = static_cast<uint64_t>(config_.k);
    std::vector<int64_t> token, expert, rank;
    for (int64_t n = 0; n < id_N.size(0); ++n) {
      if (real && !real[n]) continue;
      // The first choice is uniform; further ones step on by a second hash, so that ids that share the first
      // choice differ in the second. Linear probing keeps them all different.
      const auto i = static_cast<uint64_t>(id[n]);
      std::vector<int64_t> taken;
      for (uint64_t j = 0; j < K; ++j) {
        auto e = hash_.at(j).below(i, E);
        while (std::find(taken.begin(), taken.end(), static_cast<int64_t>(e)) != taken.end()) e = (e + 1) % E;
        taken.push_back(static_cast<int64_t>(e));
        token.push_back(n), expert.push_back(static_cast<int64_t>(e)), rank.push_back(static_cast<int64_t>(j));
      }
    }
    const auto device = context.token_id_N.device();
    const auto ints = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
    const auto count = static_cast<int64_t>(token.size());
    const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
    return {ints(token), ints(expert), ints(rank), at::ones({count}, floats),
            at::full({count}, std::numeric_limits<double>::infinity(), floats)};
  }
  Reasons reasons(const Scores&, const Tensor&, const Context&) override {
    return {.rule = "a hash of the token's id decides, nothing of the token else"};
  }
  Needs needs() const override { return {.context = {.token_ids = true}}; }
  Claims claims() const override { return kHashClaims; }
  double choices_per_token() const override { return static_cast<double>(config_.k); }

 private:
  Config config_;
  int64_t n_experts_;
  Random hash_;
};

}  // namespace

extern constinit const Entry<Selector> selector_hash = entry<HashSelector>(
    {.name = "hash",
     .paper = 25,
     .source = "Roller 2021 (Hash Layers), section 3.1, random hash",
     .taxonomy = "gating/sparse/fixed",
     .summary = "the token id decides, through a seeded hash",
     .equation = "T = {h_1(id), …, h_k(id)},  h_j(id) uniform in 0 … E - 1, the next free one where it is taken",
     .claims = kHashClaims});

}  // namespace collegium::route
