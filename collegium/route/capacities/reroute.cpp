// What finds no slot goes to the token's next-best expert that still has one ("no token left behind"); dropped only
// when no expert has room. P106 (Switch Transformer), appendix B.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include "collegium/route/placement.h"
#include "collegium/route/room_limit.h"

namespace collegium::route {
namespace {

constexpr Capacity::Claims kRerouteClaims = {.may_drop = true, .is_causal = false};

class RerouteCapacity final : public Capacity, public Makes<RerouteCapacity, Capacity> {
 public:
  using Interface = Capacity;
  struct Config {
    double factor = 1.25;
    int64_t minimum = 1;
    Priority priority = Priority::position;
    void visit(Fields& field) {
      field("factor", factor,
            {.help = "slots per expert = factor * assignments asked / experts, rounded up", .min = 0});
      field("minimum", minimum, {.help = "slots that an expert always has", .unit = "tokens", .min = 0});
      field("priority", priority, {.help = "who gets the slots of the wanted expert when there are too few"});
    }
  };

  RerouteCapacity(const Config& config, const StageInputs&) : config_(config) {}

  Decision apply(const Decision& decision, const Scores& scores, const Context& context) override {
    if (decision.n_kept() == 0) return decision;
    const auto E = decision.n_experts();
    const auto slots = slots_of(decision);
    const auto limited = decision.keep_only(
        fits_R(decision, at::zeros_like(decision.token_R()), {slots}, config_.priority), DropReason::capacity);
    if (limited.n_dropped() == decision.n_dropped()) return limited;
    Placement placement(limited, scores, context, slots);
    placement.move_dropped([&](int64_t) { return Placement::Range{0, E}; });
    return placement.decision();
  }
  PlaceRule places(const Decision& decision) const override {
    return {.order = config_.priority,
            .elsewhere = "of the experts with room it scores best here",
            .slots = slots_of(decision)};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override { return kRerouteClaims; }

 private:
  int64_t slots_of(const Decision& decision) const {
    return slots_per_expert(config_.factor, 0, config_.minimum, decision.n_asked(), decision.n_experts());
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Capacity> capacity_reroute = entry<RerouteCapacity>(
    {.name = "reroute",
     .paper = 106,
     .source = "Fedus 2021 (Switch Transformer), appendix B, no token left behind",
     .taxonomy = "system/capacity/reroute",
     .summary = "what finds no slot goes to the next-best expert with room",
     .equation = "C = max(minimum, ⌈factor · A / E⌉) slots an expert,  A = assignments asked for\n"
                 "dropped t → argmax_e s_te over experts with room that do not have t yet",
     .claims = kRerouteClaims});

}  // namespace collegium::route
