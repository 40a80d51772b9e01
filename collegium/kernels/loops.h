// The serial inner loops of this room, compiled once for each instruction set and called through tables.
//
// Included by the files that are compiled with special options: keep standard templates out of here, since an
// inline function compiled for a newer processor could be the copy that the linker keeps for everyone.
//
// Legend: m rows of the left operand, n columns of the result, k terms of each sum, ld* the distance in elements
// between rows. Rows on the left are given by pointers, so a gather costs nothing.
//
// Every element of a product is one sum over k in an order that depends on k alone: neither the number of rows,
// nor the place of a row among them, nor the number of threads changes a bit.
#pragma once
#include <cstdint>

namespace collegium::kernels {

/// A bfloat16 as its bits; sums over it are taken in float.
struct Bf16 {
  uint16_t bits;
};

template <class S>
struct WideOf {
  using type = S;
};
template <>
struct WideOf<Bf16> {
  using type = float;
};
/// The type in which sums over S are taken: float for Bf16, else S.
template <class S>
using Wide = typename WideOf<S>::type;

/// What stands between an expert's two matrices. swiglu: silu(first) * second; gelu: the exact (erf) GELU of first.
enum class Activation { swiglu, gelu };

/// How many pre-activations an output needs: 2 for gated activations, else 1.
constexpr int64_t parts_of(Activation activation) {
  return activation == Activation::swiglu ? 2 : 1;
}

template <class S>
struct ActivationLoops {
  /// out[i] = act(first[i], second[i]); `second` is not read by one-part activations.
  void (*forward)(const S* first, const S* second, int64_t n, S* out);
  /// With a = act(first, second): writes gate * grad * da/dfirst, the same for second, and gate * a (each pointer
  /// may be null); returns sum(grad * a), the gradient of `gate`.
  Wide<S> (*backward)(const S* first, const S* second, const Wide<S>* grad, Wide<S> gate, int64_t n, S* grad_first,
                      S* grad_second, S* gated);
};

template <class S>
struct Loops {
  using W = Wide<S>;

  /// out[m, n] = rows b^T, with b [n, k] row by row: a linear layer's product. `scratch` holds
  /// linear_scratch(k) elements.
  void (*linear)(const S* const* row, int64_t m, const S* b, int64_t ldb, int64_t n, int64_t k, S* out, int64_t ldo,
                 W* scratch);
  void (*linear_wide)(const S* const* row, int64_t m, const S* b, int64_t ldb, int64_t n, int64_t k, W* out,
                      int64_t ldo, W* scratch);
  /// out[m, n] = rows b, with b [k, n] row by row. `scratch` holds scratch(k) elements.
  void (*times)(const S* const* row, int64_t m, const S* b, int64_t ldb, int64_t n, int64_t k, S* out, int64_t ldo,
                W* scratch);
  void (*times_wide)(const S* const* row, int64_t m, const S* b, int64_t ldb, int64_t n, int64_t k, W* out, int64_t ldo,
                     W* scratch);
  /// out[i, j] = sum over k of a_row[k][first + i] * b_row[k][j], i < m, j < n: rows of a weight's gradient.
  /// `scratch` holds scratch(k) elements. past_cache: the result is too large to be found in the cache later, so it is
  /// written without being fetched first, where that can be done.
  void (*outer)(const S* const* a_row, int64_t first, int64_t m, const S* const* b_row, int64_t n, int64_t k, S* out,
                int64_t ldo, bool past_cache, W* scratch);
  int64_t (*linear_scratch)(int64_t k);
  int64_t (*scratch)(int64_t k);
  int64_t panel;          ///< columns of b worked on at a time
  int64_t rows_per_task;  ///< enough to repay the reading of a weight, few enough to stay in the second-level cache

  void (*add_scaled)(W factor, const S* in, int64_t n, W* sum);       ///< sum += factor * in
  void (*add_scaled_wide)(W factor, const W* in, int64_t n, W* sum);  ///< sum += factor * in
  void (*scale)(W factor, const S* in, int64_t n, S* out);            ///< out = factor * in
  W (*inner)(const S* a, const S* b, int64_t n);                      ///< sum(a * b)
  /// out[i] = sum(row[i] * b), i < m: inner's result to the bit.
  void (*inner_rows)(const S* const* row, int64_t m, const S* b, int64_t n, W* out);
  void (*narrow)(const W* in, int64_t n, S* out);  ///< rounds to S
  void (*widen)(const S* in, int64_t n, W* out);

  ActivationLoops<S> swiglu;
  ActivationLoops<S> gelu;
  constexpr const ActivationLoops<S>& of(Activation activation) const {
    return activation == Activation::swiglu ? swiglu : gelu;
  }
};

/// Loops over one row of router scores. A row's results depend on that row alone, to the bit.
template <class C>
struct ScoreLoops {
  void (*logistic)(const C* in, int64_t n, C* out);  ///< out = 1 / (1 + exp(-in)); each element for itself
  /// out = exp(in) / sum(exp(in)); -infinity gives 0, a row of nothing else and any NaN or +infinity give NaNs.
  void (*softmax)(const C* in, int64_t n, C* out);
  C (*log_sum_exp)(const C* in, int64_t n);
  /// The first `keep` of the row in descending order and where they stand, 1 <= keep <= n. NaN ranks above every
  /// number, and of equals the first in the row.
  void (*top)(const C* row, int64_t n, int64_t keep, C* best, int64_t* where);
  void (*add)(const C* a, const C* b, int64_t n, C* out);  ///< out = a + b
};

/// The loops compiled together for one instruction set, for every element type.
struct LoopTables {
  Loops<float> of_float;
  Loops<double> of_double;
  Loops<Bf16> of_bf16;
  ScoreLoops<float> scores_of_float;
  ScoreLoops<double> scores_of_double;
};

extern const LoopTables plain_loops;         ///< what every compiler for the platform may use; always there
extern const LoopTables avx2_loops;          ///< x86-64 with AVX2 and FMA
extern const LoopTables avx512_loops;        ///< x86-64 with AVX-512 F, BW, DQ and VL
extern const Loops<Bf16> avx512_bf16_loops;  ///< and with AVX512_BF16

}  // namespace collegium::kernels
