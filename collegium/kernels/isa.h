// Which instruction set the hand-written loops of this room use. Chosen once, at run time, from a constant list;
// the environment variable COLLEGIUM_ISA forces one by name.
//
// Bits: on one machine and one instruction set, every function of this room gives the same bits for any number of
// threads. Two instruction sets add in different orders and so differ in the last bits.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "collegium/kernels/loops.h"

namespace collegium::kernels {

struct Isa {
  std::string_view name;     ///< what COLLEGIUM_ISA is compared with
  std::string_view summary;  ///< the processor features that it needs
  bool (*supported)();       ///< whether this processor and operating system have them
  const LoopTables* loops;
  const Loops<Bf16>* bf16 = &loops->of_bf16;  ///< its bfloat16 loops, where it has its own
};

/// Every instruction set compiled in, slowest first; the first one, "plain", runs anywhere.
std::span<const Isa> isas();

/// The instruction set called `wanted`, or the last supported one when `wanted` is empty.
/// Throws a usage Error that lists the available ones when the name is unknown or the processor lacks it.
const Isa& choose_isa(std::string_view wanted);

/// choose_isa of the environment variable COLLEGIUM_ISA, settled at the first call.
const Isa& chosen_isa();

/// One line for people: which one is chosen, why, and what else there is.
std::string isa_report();

/// One line for people: which products experts run on this processor in each element type.
std::string products_report();

/// The chosen loops over elements of type S (float, double or Bf16).
template <class S>
const Loops<S>& loops() {
  const LoopTables& tables = *chosen_isa().loops;
  if constexpr (std::is_same_v<S, float>) return tables.of_float;
  if constexpr (std::is_same_v<S, double>) return tables.of_double;
  if constexpr (std::is_same_v<S, Bf16>) return *chosen_isa().bf16;
}

/// The chosen loops over rows of router scores of type C (float or double).
template <class C>
const ScoreLoops<C>& score_loops() {
  const LoopTables& tables = *chosen_isa().loops;
  if constexpr (std::is_same_v<C, float>) return tables.scores_of_float;
  if constexpr (std::is_same_v<C, double>) return tables.scores_of_double;
}

}  // namespace collegium::kernels
