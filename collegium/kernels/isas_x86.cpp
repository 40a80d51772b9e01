// The list for x86-64 (room.cmake chooses between the lists).
#include "collegium/kernels/isa.h"

namespace collegium::kernels {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

std::span<const Isa> isas() {
  static constexpr Isa all[] = {{"plain", "any x86-64", [] { return true; }, &plain_loops},
                                {"avx2", "AVX2 and FMA", has_avx2, &avx2_loops},
                                {"avx512", "AVX-512 F, BW, DQ, VL", has_avx512, &avx512_loops},
                                {"avx512_bf16", "AVX-512 F, BW, DQ, VL, and BF16 for bfloat16 products",
                                 has_avx512_bf16, &avx512_loops, &avx512_bf16_loops}};
  return all;
}

}  // namespace collegium::kernels
