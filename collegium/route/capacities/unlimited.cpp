// Dropless: every assignment is kept. Gale 2022 (MegaBlocks); the limit of P106's capacity factor, section 2.2.
#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

constexpr Capacity::Claims kUnlimitedClaims = {.may_drop = false, .is_causal = true, .respects_closed = true};

class Unlimited final : public Capacity, public Makes<Unlimited, Capacity> {
 public:
  using Interface = Capacity;
  struct Config {
    void visit(Fields&) {}
  };
  Unlimited(const Config&, const StageInputs&) {}
  Decision apply(const Decision& decision, const Scores&, const Context&) override { return decision; }
  bool keeps_all() const override { return true; }
  Claims claims() const override { return kUnlimitedClaims; }
};

}  // namespace

extern constinit const Entry<Capacity> capacity_unlimited =
    entry<Unlimited>({.name = "unlimited",
                      .paper = 106,
                      .source = "Gale 2022 (MegaBlocks), dropless routing; the limit of a large capacity factor",
                      .taxonomy = "system/capacity/dropless",
                      .summary = "every assignment is kept",
                      .equation = "kept = asked for,  C = ∞",
                      .claims = kUnlimitedClaims});

}  // namespace collegium::route
