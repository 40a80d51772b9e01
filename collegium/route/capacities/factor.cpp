// A fixed number of slots per expert; what does not fit is dropped and passes by the layer on the residual path.
// P106 (Switch Transformer), section 2.2.
#include <ATen/ATen.h>

#include "collegium/route/losses.h"
#include "collegium/route/room_limit.h"

namespace collegium::route {
namespace {

constexpr Capacity::Claims kFactorClaims = {.may_drop = true, .is_causal = false, .respects_closed = true};

class FactorCapacity final : public Capacity, public Makes<FactorCapacity, Capacity> {
 public:
  using Interface = Capacity;
  struct Config {
    double factor = 1.25;
    double evaluation_factor = 0;
    int64_t tokens = 0;
    int64_t minimum = 1;
    Priority priority = Priority::position;
    LossScope scope = LossScope::batch;
    void visit(Fields& field) {
      field("factor", factor,
            {.help = "slots per expert = factor * assignments asked / experts, rounded up", .min = 0});
      field("evaluation_factor", evaluation_factor, {.help = "the factor outside training; 0 = the same", .min = 0});
      field("tokens", tokens,
            {.help = "slots per expert as a fixed number; 0 = from the factor", .unit = "tokens", .min = 0});
      field("minimum", minimum, {.help = "slots that an expert always has", .unit = "tokens", .min = 0});
      field("priority", priority, {.help = "who gets the slots when there are too few"});
      field("scope", scope, {.help = "slots are for the whole batch, or for each sequence"});
    }
  };

  FactorCapacity(const Config& config, const StageInputs&) : config_(config) {}

  Decision apply(const Decision& decision, const Scores&, const Context& context) override {
    if (decision.n_kept() == 0) return decision;
    const bool by_sequence = config_.scope == LossScope::sequence && context.sequence_N.defined();
    const auto group_R =
        by_sequence ? context.sequence_N.index_select(0, decision.token_R()) : at::zeros_like(decision.token_R());
    const auto G = by_sequence ? context.n_sequences : 1;
    const auto factor = trains(context) || config_.evaluation_factor == 0 ? config_.factor : config_.evaluation_factor;
    // Each sequence has room by its own length, so that padding and neighbours change nothing for it.
    const auto asked_G = at::bincount(group_R, {}, G).cpu();
    std::vector<int64_t> slots_G;
    for (int64_t g = 0; g < G; ++g)
      slots_G.push_back(
          slots_per_expert(factor, config_.tokens, config_.minimum, asked_G[g].item<int64_t>(), decision.n_experts()));
    return decision.keep_only(fits_R(decision, group_R, slots_G, config_.priority), DropReason::capacity);
  }
  PlaceRule places(const Decision&) const override { return {.order = config_.priority}; }
  // In position order a token's place depends on earlier ones only; in the others a later token may push it out.
  Claims claims() const override {
    return {.may_drop = true, .is_causal = config_.priority == Priority::position, .respects_closed = true};
  }

 private:
  Config config_;
};

}  // namespace

extern constinit const Entry<Capacity> capacity_factor = entry<FactorCapacity>(
    {.name = "factor",
     .paper = 106,
     .source = "Fedus 2021 (Switch Transformer), eq. 3; Lepikhin 2020 (GShard), section 2.2",
     .taxonomy = "system/capacity/drop",
     .summary = "a fixed number of slots per expert, the rest is dropped",
     .equation = "each expert keeps the first C = max(minimum, ⌈factor · A / E⌉) of its assignments\n"
                 "A = assignments asked for, in order of position, rank or score",
     .claims = kFactorClaims});

}  // namespace collegium::route
