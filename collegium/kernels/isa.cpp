#include "collegium/kernels/isa.h"

#include <cstdlib>
#include <vector>

#include "collegium/base/error.h"

namespace collegium::kernels {
namespace {

std::string forced_isa() {
  const char* value = std::getenv("COLLEGIUM_ISA");
  return value ? value : "";
}

std::vector<std::string> isa_names(bool only_supported) {
  std::vector<std::string> names;
  for (const Isa& isa : isas())
    if (!only_supported || isa.supported()) names.emplace_back(isa.name);
  return names;
}

}  // namespace

const Isa& choose_isa(std::string_view wanted) {
  const Isa* best = nullptr;
  for (const Isa& isa : isas()) {
    const bool is_meant = wanted.empty() || wanted == isa.name;
    if (is_meant && isa.supported()) best = &isa;
  }
  if (best) return *best;
  const auto all = isa_names(false);
  const auto near = nearest(std::string(wanted), all);
  const bool is_known = near == wanted;
  throw Error(ErrorKind::usage,
              text("COLLEGIUM_ISA: ", is_known ? "this processor does not support '" : "unknown instruction set '",
                   wanted, "'", is_known || near.empty() ? "" : text("; did you mean '", near, "'?"),
                   " (available here: ", join(isa_names(true)), ")"),
              "unset COLLEGIUM_ISA to let the fastest available one be chosen");
}

const Isa& chosen_isa() {
  static const Isa& isa = choose_isa(forced_isa());
  return isa;
}

std::string isa_report() {
  const Isa& isa = chosen_isa();
  const bool is_forced = !forced_isa().empty();
  return text("kernels: ", isa.name, " (", isa.summary, "), ",
              is_forced ? "forced by COLLEGIUM_ISA" : "the fastest that this processor supports",
              "; compiled in: ", join(isa_names(false)), "; supported here: ", join(isa_names(true)));
}

std::string products_report() {
  const Isa& isa = chosen_isa();
  const bool has_dot = isa.bf16 != &isa.loops->of_bf16;
  return text(
      "loops of ours, fused from gather to sum, for float32, float64 and bfloat16 (",
      has_dot ? "the processor's dot product of bfloat16" : "widened to float32: no dot product of bfloat16 is used",
      "); other types: one product of torch an expert");
}

}  // namespace collegium::kernels
