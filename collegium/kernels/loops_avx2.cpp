#include "collegium/kernels/loops.h"

#include <math.h>
#include <stddef.h>
#ifdef __x86_64__
#include <immintrin.h>  // its functions are always inlined, so no copy of theirs can be the linker's choice
#endif

namespace collegium::kernels {
namespace avx2_isa {
namespace {
constexpr int vector_bytes = 32;
constexpr int n_registers = 16;
#include "collegium/kernels/loops_body.inc"
#include "collegium/kernels/loops_scores.inc"
}  // namespace
}  // namespace avx2_isa

constinit const LoopTables avx2_loops = avx2_isa::all_loops();

}  // namespace collegium::kernels
