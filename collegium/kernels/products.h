// Grouped products over threads, shared by this room's files: blocks of rows of one expert, each computed by one
// serial loop of loops.h.
//
// Legend: R assignments sorted by expert, E experts, k terms of each sum, n columns of the result.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/flops.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {

template <class S>
using Rows = std::vector<const S*>;

/// Where each row starts: row r is row index[r] of a matrix of `width` columns, or row r when `index` is null.
template <class S>
Rows<S> row_pointers(const S* first, int64_t width, const int64_t* index, int64_t n_rows) {
  Rows<S> rows(static_cast<size_t>(n_rows));
  const S** row = rows.data();
  for (int64_t r = 0; r < n_rows; ++r) row[r] = first + (index ? index[r] : r) * width;
  return rows;
}

struct Experts {
  const int64_t* offset;  ///< [n + 1]
  int64_t n;
};

/// Counts a product of `rows` rows, k terms to a sum, n sums to a row.
inline void count_product(int64_t rows, int64_t k, int64_t n) {
  count_flops(2.0 * static_cast<double>(rows) * static_cast<double>(k) * static_cast<double>(n));
}

/// out[R, n] = each row times its expert's weight_e^T, weight_e [n, k].
template <class S, class O>
void product_linear(const Rows<S>& rows, const Experts& experts, const S* weight, int64_t n, int64_t k, O* out) {
  count_product(static_cast<int64_t>(rows.size()), k, n);
  const auto& loop = loops<S>();
  const auto blocks = cut_rows(experts.offset, experts.n, loop.rows_per_task, n, loop.panel);
  run_tasks(static_cast<int64_t>(blocks.size()), [&] {
    return [&, scratch = Scratch<Wide<S>>(loop.linear_scratch(k))](int64_t i) {
      const Block& b = blocks[static_cast<size_t>(i)];
      const S* w = weight + (b.expert * n + b.column) * k;
      O* to = out + b.row * n + b.column;
      if constexpr (std::is_same_v<O, S>)
        loop.linear(rows.data() + b.row, b.n_rows, w, k, b.n_columns, k, to, n, scratch.get());
      else
        loop.linear_wide(rows.data() + b.row, b.n_rows, w, k, b.n_columns, k, to, n, scratch.get());
    };
  });
}

/// out[R, n] = each row times its expert's weight_e, weight_e [k, n].
template <class S, class O>
void product_times(const Rows<S>& rows, const Experts& experts, const S* weight, int64_t n, int64_t k, O* out) {
  count_product(static_cast<int64_t>(rows.size()), k, n);
  const auto& loop = loops<S>();
  const auto blocks = cut_rows(experts.offset, experts.n, loop.rows_per_task, n, loop.panel);
  run_tasks(static_cast<int64_t>(blocks.size()), [&] {
    return [&, scratch = Scratch<Wide<S>>(loop.scratch(k))](int64_t i) {
      const Block& b = blocks[static_cast<size_t>(i)];
      const S* w = weight + b.expert * k * n + b.column;
      O* to = out + b.row * n + b.column;
      if constexpr (std::is_same_v<O, S>)
        loop.times(rows.data() + b.row, b.n_rows, w, n, b.n_columns, k, to, n, scratch.get());
      else
        loop.times_wide(rows.data() + b.row, b.n_rows, w, n, b.n_columns, k, to, n, scratch.get());
    };
  });
}

/// out[E, m, n] = for each expert the sum over its rows of a^T b; zeros for experts without rows.
template <class S>
void product_outer(const Rows<S>& a, int64_t m, const Rows<S>& b, int64_t n, const Experts& experts, S* out) {
  count_product(static_cast<int64_t>(a.size()), m, n);
  const auto& loop = loops<S>();
  constexpr int64_t rows_of_weight = 192;
  const int64_t parts = (m + rows_of_weight - 1) / rows_of_weight;
  // More than a processor's share of the last cache.
  const bool past_cache = experts.n * m * n * static_cast<int64_t>(sizeof(S)) > (16 << 20);
  int64_t most = 0;
  for (int64_t e = 0; e < experts.n; ++e) most = std::max(most, experts.offset[e + 1] - experts.offset[e]);
  run_tasks(experts.n * parts, [&] {
    return [&, scratch = Scratch<Wide<S>>(loop.scratch(most))](int64_t task) {
      const int64_t e = task / parts, first = m * (task % parts) / parts, end = m * (task % parts + 1) / parts;
      const int64_t row = experts.offset[e], count = experts.offset[e + 1] - row;
      S* to = out + (e * m + first) * n;
      if (count == 0) return static_cast<void>(std::memset(to, 0, static_cast<size_t>((end - first) * n) * sizeof(S)));
      loop.outer(a.data() + row, first, end - first, b.data() + row, n, count, to, n, past_cache, scratch.get());
    };
  });
}

/// The rows of each token, ascending.
struct TokenRows {
  std::vector<int64_t> start_N1, row_R;
};
TokenRows rows_by_token(const int64_t* token, int64_t n_rows, int64_t n_tokens);

/// out[n] = sum over token n's rows of gate[r] * value[r], in row order; `gate` may be null and then counts as 1.
template <class S, class Value>
void sum_rows(const TokenRows& by_token, int64_t n_tokens, const Value* value, const Wide<S>* gate, int64_t width,
              S* out) {
  using W = Wide<S>;
  const auto& loop = loops<S>();
  const int64_t n_rows = static_cast<int64_t>(by_token.row_R.size());
  const int64_t grain = std::max<int64_t>(1, 32768 * n_tokens / (1 + width * (n_rows + n_tokens)));
  at::parallel_for(0, n_tokens, grain, [&](int64_t begin, int64_t end) {
    Scratch<W> sum(width);
    const int64_t *start = by_token.start_N1.data(), *row = by_token.row_R.data();
    for (int64_t n = begin; n < end; ++n) {
      W* to = sum.get();
      if constexpr (std::is_same_v<S, W>) to = out + n * width;
      std::memset(to, 0, static_cast<size_t>(width) * sizeof(W));
      for (int64_t i = start[n]; i < start[n + 1]; ++i) {
        const W factor = gate ? gate[row[i]] : W{1};
        if constexpr (std::is_same_v<Value, W>)
          loop.add_scaled_wide(factor, value + row[i] * width, width, to);
        else
          loop.add_scaled(factor, value + row[i] * width, width, to);
      }
      if constexpr (!std::is_same_v<S, W>) loop.narrow(to, width, out + n * width);
    }
  });
}

/// Throws a usage Error, named after `who`, unless the arguments are what experts.h says.
void check_offset(const char* who, const Tensor& offset_E1, int64_t n_experts, int64_t n_rows);
void check_token(const char* who, const Tensor& token_R, int64_t n_tokens);
void check_same(const char* who, const Tensor& a, const Tensor& b);
void check_gate(const char* who, const Tensor& gate_R, const Tensor& values);

/// Backward passes here are not themselves differentiable; throws when that is asked for.
void refuse_second_derivative(const char* who);

}  // namespace collegium::kernels
