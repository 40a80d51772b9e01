// The k best cells of a grid whose scores are sums: a cell (a, b) scores first[a] + second[b].
//
// Legend: N tokens, A rows and B columns of the grid, K choices.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

struct ProductTopK {
  Tensor cell_NK;      ///< int64 ids a * B + b, best first
  Tensor score_NK;     ///< their sums, of first_NA's type
  Tensor runner_up_N;  ///< the best sum that was not chosen; -inf when K = A B
};

/// The k largest sums of each token, descending, without looking at all A B of them: a cell that is i-th in its
/// column's order and j-th in its row's has i j cells at least as good, so that only cells with i j <= k + 1 of the
/// k + 1 best rows and columns can be among the k + 1 best (product keys, Lample 2019, section 3.1). The sums are those
/// of a search through all cells. Among equal sums the cell whose row ranks higher comes first, rows and columns of
/// equal score rank by their number; a cell's rank does not depend on other tokens. NaN ranks above every number.
/// first_NA, second_NB: floating point, of one type; 1 <= k <= A B. Nothing here carries a gradient. Throws a usage
/// Error when these do not fit.
ProductTopK product_top_k(const Tensor& first_NA, const Tensor& second_NB, int64_t k);

namespace plain {
/// The same by a stable sort of all A B sums, where equal sums rank by the cell's id; on any device.
ProductTopK product_top_k(const Tensor& first_NA, const Tensor& second_NB, int64_t k);
}  // namespace plain

}  // namespace collegium::kernels
