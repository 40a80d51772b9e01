// The list for processors without instruction sets of their own here (room.cmake chooses between the lists).
#include "collegium/kernels/isa.h"

namespace collegium::kernels {

std::span<const Isa> isas() {
  static constexpr Isa all[] = {
      {"plain", "any processor that the compiler's platform allows", [] { return true; }, &plain_loops}};
  return all;
}

}  // namespace collegium::kernels
