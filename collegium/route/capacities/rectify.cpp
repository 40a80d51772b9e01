// Rectify-Router: a fixed number of slots per expert, and two repairs. Intra-device rectification sends what finds no
// slot to the best expert on the device where its token already is, so that nothing crosses the network twice. Fill-in
// rectification gives slots that stay empty, which would be padded with zeros, to the tokens that score highest there
// and are not there yet. P112 (Zeng 2024), sections 3.1 and 3.2.
// Devices hold contiguous blocks of the real tokens and of the experts; with one device every expert is near.
// Slots bound what crosses the network. What stays on its device is under no such bound, so that nothing is dropped: an
// expert with a free slot comes first, and where the device has none, its best expert takes the token beyond its slots.
// Assumed: that order, and that rectified tokens come before fill-ins. Fill-ins have rank = the expert's place in the
// token's own order, and wanted_R = -1: nobody asked for them.
//
// N tokens, E experts, R kept assignments, Q dropped ones.
#include <ATen/ATen.h>

#include "collegium/route/placement.h"
#include "collegium/route/room_limit.h"

namespace collegium::route {
namespace {

constexpr Capacity::Claims kRectifyClaims = {.may_drop = true, .is_causal = false};

class RectifyCapacity final : public Capacity, public Makes<RectifyCapacity, Capacity> {
 public:
  using Interface = Capacity;
  struct Config {
    double factor = 1.0;
    int64_t minimum = 1;
    int64_t n_devices = 1;
    bool rectify = true;
    bool fill = true;
    Priority priority = Priority::position;
    void visit(Fields& field) {
      field("factor", factor,
            {.help = "slots per expert = factor * assignments asked / experts, rounded up", .min = 0});
      field("minimum", minimum, {.help = "slots that an expert always has", .unit = "tokens", .min = 0});
      field("n_devices", n_devices, {.help = "devices that tokens and experts are divided over, in order", .min = 1});
      field("rectify", rectify,
            {.help = "what finds no slot goes to the best expert of its device, one with room first"});
      field("fill", fill, {.help = "free slots go to the tokens that score highest there"});
      field("priority", priority, {.help = "who gets the slots of the wanted expert when there are too few"});
    }
  };

  RectifyCapacity(const Config& config, const StageInputs& in) : config_(config) {
    const auto n_true = in.n_experts - in.n_null;
    require(n_true % config.n_devices == 0, "rectify: ", n_true, " experts do not divide over ", config.n_devices,
            " devices");
  }

  Decision apply(const Decision& decision, const Scores& scores, const Context& context) override {
    if (decision.n_kept() == 0) return decision;
    const auto slots = slots_of(decision);
    const auto limited = decision.keep_only(
        fits_R(decision, at::zeros_like(decision.token_R()), {slots}, config_.priority), DropReason::capacity);
    Placement placement(limited, scores, context, slots);
    if (config_.rectify) {
      // Real tokens in order are cut into equal blocks, one a device, and experts as well.
      const auto G = config_.n_devices, size = decision.n_experts() / G;
      placement.move_dropped(
          [&](int64_t token) {
            const auto device = placement.place(token) * G / placement.n_real();
            return Placement::Range{device * size, (device + 1) * size};
          },
          /*beyond_slots=*/true);
    }
    if (config_.fill) placement.fill_free();
    return placement.decision();
  }
  PlaceRule places(const Decision& decision) const override {
    return {.order = config_.priority,
            .elsewhere =
                text("of the experts ", config_.n_devices > 1 ? "of its device " : "", "with room it scores best here"),
            .slots = slots_of(decision),
            .n_devices = config_.n_devices};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override { return kRectifyClaims; }

 private:
  int64_t slots_of(const Decision& decision) const {
    return slots_per_expert(config_.factor, 0, config_.minimum, decision.n_asked(), decision.n_experts());
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Capacity> capacity_rectify = entry<RectifyCapacity>(
    {.name = "rectify",
     .paper = 112,
     .source = "Zeng 2024 (Turn Waste into Worth: Rectify-Router), section 3",
     .taxonomy = "system/capacity/reroute",
     .summary = "dropped tokens move to experts on their device, free slots take the best tokens",
     .equation = "C = max(minimum, ⌈factor · A / E⌉) slots an expert,  A = assignments asked for\n"
                 "dropped t → argmax_e s_te on its device, e with room first;  free slot of e → argmax_t s_te",
     .claims = kRectifyClaims});

}  // namespace collegium::route
