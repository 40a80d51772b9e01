// Products of bfloat16 with the processor's dot product (AVX512_BF16, vdpbf16ps): each lane of a sum takes two terms at
// once. Everything else of a bfloat16 table is as for AVX-512.
//
// The right operand is packed as pairs of terms, 64 columns side by side, so one broadcast pair of the left operand
// meets four vectors of columns. The instruction rounds once a product and treats denormals as zeros. A sum runs over
// the pairs in order, whatever the number of rows and their place: an odd last term is paired with zeros.
#include "collegium/kernels/loops.h"

#include <math.h>
#include <stddef.h>
#ifdef __x86_64__
#include <immintrin.h>  // its functions are always inlined, so no copy of theirs can be the linker's choice
#endif

namespace collegium::kernels {
namespace avx512_bf16_isa {
namespace {
constexpr int vector_bytes = 64;
constexpr int n_registers = 32;
#include "collegium/kernels/loops_body.inc"

constexpr int64_t dot_columns = 64;
constexpr int64_t left_columns = 192;  // of outer's left operand, packed at a time
constexpr int64_t vectors = dot_columns / 16;

using Pairs = __m512i;  // 16 pairs of terms

inline __mmask32 first_of_32(int64_t n) {
  return n >= 32 ? 0xffffffffu : (1u << (n > 0 ? n : 0)) - 1u;
}

inline Pairs load_terms(const Bf16* from, int64_t n) {
  return _mm512_maskz_loadu_epi16(first_of_32(n), from);
}

inline __m512 add_dot(__m512 sum, Pairs a, Pairs b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// 16 vectors of 16 pairs: vector i of the result has the pairs i of all.
inline void transpose(Pairs* v) {
  Pairs t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Pairs a = _mm512_unpacklo_epi32(v[4 * i], v[4 * i + 1]), b = _mm512_unpackhi_epi32(v[4 * i], v[4 * i + 1]);
    const Pairs c = _mm512_unpacklo_epi32(v[4 * i + 2], v[4 * i + 3]),
                d = _mm512_unpackhi_epi32(v[4 * i + 2], v[4 * i + 3]);
    t[4 * i] = _mm512_unpacklo_epi64(a, c), t[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
    t[4 * i + 2] = _mm512_unpacklo_epi64(b, d), t[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // Lane l of t[4 i + j] has pair 4 l + j of the rows 4 i to 4 i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Pairs a = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x44), b = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xee);
    const Pairs c = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x44),
                d = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xee);
    v[j] = _mm512_shuffle_i32x4(a, c, 0x88), v[4 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88), v[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// A panel from b's rows, one a column of the result, that run along k.
void pack_along(const Bf16* b, int64_t ldb, int64_t width, int64_t k, bool has_next, Pairs* panel) {
  for (int64_t j = 0; j < dot_columns; j += 16) {
    const Bf16* row = b + j * ldb;
    const int64_t real = width - j;
    const int64_t ahead = has_next || real > 16 ? 16 * ldb : 0;
    for (int64_t at = 0; at < k; at += 32) {
      Pairs v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const int64_t n = i < real ? k - at : 0;
        v[i] = n >= 32 ? _mm512_loadu_si512(row + i * ldb + at) : load_terms(n > 0 ? row + i * ldb + at : b, n);
        if (n > 0) __builtin_prefetch(row + i * ldb + at + ahead);
      }
      transpose(v);
      const int64_t pairs = (k - at + 1) / 2 < 16 ? (k - at + 1) / 2 : 16;
      for (int64_t p = 0; p < pairs; ++p) panel[(at / 2 + p) * vectors + j / 16] = v[p];
    }
  }
}

// Pairs of two rows' columns: `n` columns, zeros up to a multiple of 32, 32 at a time into 2 vectors.
inline void interleave(const Bf16* first, const Bf16* second, int64_t n, Pairs* to) {
  const Pairs low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                     36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const Pairs high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t j = 0; j < n; j += 32) {
    const Pairs a = load_terms(first + j, n - j), b = second ? load_terms(second + j, n - j) : _mm512_setzero_si512();
    to[j / 16] = _mm512_permutex2var_epi16(a, low, b);
    to[j / 16 + 1] = _mm512_permutex2var_epi16(a, high, b);
  }
}

// out[rows, width] = left [rows, k] panel; width 64 unless is_edge. The left operand is rows that run along k, or pairs
// packed by interleave, ldp pairs apart.
template <int rows, bool is_packed, bool is_edge, bool past_cache = false, class O>
inline void dot_tile(const Bf16* const* row, const uint32_t* packed, int64_t ldp, const Pairs* panel, int64_t k,
                     int64_t width, O* out, int64_t ldo) {
  __m512 sum[rows][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[i][v] = _mm512_setzero_ps();
  const Bf16* a[rows];
  for (int i = 0; i < rows; ++i) a[i] = is_packed ? nullptr : row[i];

  const auto step = [&](int64_t p, bool is_whole) {
    Pairs bv[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) bv[v] = panel[p * vectors + v];
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      uint32_t pair;
      if constexpr (is_packed)
        pair = packed[p * ldp + i];
      else if (is_whole)
        __builtin_memcpy(&pair, a[i] + 2 * p, sizeof pair);
      else
        pair = a[i][2 * p].bits;
      const Pairs av = _mm512_set1_epi32(static_cast<int>(pair));
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[i][v] = add_dot(sum[i][v], av, bv[v]);
    }
  };
  for (int64_t p = 0; p < k / 2; ++p) step(p, true);
  if (k % 2 == 1) step(k / 2, false);

#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const auto value = (V<float>)sum[i][v];
      O* to = out + i * ldo + v * 16;
      if constexpr (past_cache)
        stream(value, to);
      else if constexpr (!is_edge)
        store(value, to);
      else if (width > v * 16)
        store_part(value, to, width - v * 16);
    }
}

template <bool is_packed, bool past_cache = false, class O>
void dot_rows(const Bf16* const* row, const uint32_t* packed, int64_t ldp, int64_t m, const Pairs* panel, int64_t k,
              int64_t width, O* out, int64_t ldo) {
  cut_tiles(m, [&]<int rows>(int64_t i) {
    const auto* at = is_packed ? row : row + i;
    const auto* pairs = is_packed ? packed + i : packed;
    if (width < dot_columns)
      return dot_tile<rows, is_packed, true>(at, pairs, ldp, panel, k, width, out + i * ldo, ldo);
    dot_tile<rows, is_packed, false, past_cache>(at, pairs, ldp, panel, k, width, out + i * ldo, ldo);
  });
}

inline Pairs* aligned(float* scratch) {
  return reinterpret_cast<Pairs*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
}

template <class O>
void dot_linear(const Bf16* const* row, int64_t m, const Bf16* b, int64_t ldb, int64_t n, int64_t k, O* out,
                int64_t ldo, float* scratch) {
  if (m == 0) return;
  Pairs* panel = aligned(scratch);
  for (int64_t j = 0; j < n; j += dot_columns) {
    const int64_t width = n - j < dot_columns ? n - j : dot_columns;
    pack_along(b + j * ldb, ldb, width, k, n - j >= 2 * dot_columns, panel);
    dot_rows<false>(row, nullptr, 0, m, panel, k, width, out + j, ldo);
  }
}

template <class O>
void dot_times(const Bf16* const* row, int64_t m, const Bf16* b, int64_t ldb, int64_t n, int64_t k, O* out, int64_t ldo,
               float* scratch) {
  if (m == 0) return;
  Pairs* panel = aligned(scratch);
  for (int64_t j = 0; j < n; j += dot_columns) {
    const int64_t width = n - j < dot_columns ? n - j : dot_columns;
    for (int64_t at = 0; at < k; at += 2) {
      const Bf16* from = b + at * ldb + j;
      interleave(from, at + 1 < k ? from + ldb : nullptr, width, panel + at / 2 * vectors);
      if (width <= 32) panel[at / 2 * vectors + 2] = panel[at / 2 * vectors + 3] = _mm512_setzero_si512();
    }
    dot_rows<false>(row, nullptr, 0, m, panel, k, width, out + j, ldo);
  }
}

void dot_outer(const Bf16* const* a_row, int64_t first, int64_t m, const Bf16* const* b_row, int64_t n, int64_t k,
               Bf16* out, int64_t ldo, bool past_cache, float* scratch) {
  const bool streams = past_cache && may_stream(out, ldo);
  Pairs* panel = aligned(scratch);
  Pairs* left = panel + (k + 1) / 2 * vectors;
  constexpr int64_t ldp = left_columns;
  for (int64_t i = 0; i < m; i += left_columns) {
    const int64_t height = m - i < left_columns ? m - i : left_columns;
    for (int64_t at = 0; at < k; at += 2)
      interleave(a_row[at] + first + i, at + 1 < k ? a_row[at + 1] + first + i : nullptr, height,
                 left + at / 2 * (ldp / 16));
    for (int64_t j = 0; j < n; j += dot_columns) {
      const int64_t width = n - j < dot_columns ? n - j : dot_columns;
      for (int64_t at = 0; at < k; at += 2) {
        interleave(b_row[at] + j, at + 1 < k ? b_row[at + 1] + j : nullptr, width, panel + at / 2 * vectors);
        if (width <= 32) panel[at / 2 * vectors + 2] = panel[at / 2 * vectors + 3] = _mm512_setzero_si512();
      }
      // The odd last term is already paired with zeros, so the tile takes whole pairs only.
      const auto* packed = reinterpret_cast<const uint32_t*>(left);
      const int64_t whole = (k + 1) / 2 * 2;
      Bf16* to = out + i * ldo + j;
      if (streams)
        dot_rows<true, true>(nullptr, packed, ldp, height, panel, whole, width, to, ldo);
      else
        dot_rows<true>(nullptr, packed, ldp, height, panel, whole, width, to, ldo);
    }
  }
  if (streams) streamed();
}

// A float has room for a pair of terms; a vector more to align by.
int64_t dot_scratch(int64_t k) {
  return (dot_columns + left_columns) * ((k + 1) / 2) + 16;
}

constexpr Loops<Bf16> dot_loops() {
  auto loops = loops_of<Bf16>();
  loops.linear = dot_linear<Bf16>;
  loops.linear_wide = dot_linear<float>;
  loops.times = dot_times<Bf16>;
  loops.times_wide = dot_times<float>;
  loops.outer = dot_outer;
  loops.linear_scratch = loops.scratch = dot_scratch;
  loops.panel = dot_columns;
  loops.rows_per_task = 192;
  return loops;
}
}  // namespace
}  // namespace avx512_bf16_isa

constinit const Loops<Bf16> avx512_bf16_loops = avx512_bf16_isa::dot_loops();

}  // namespace collegium::kernels
