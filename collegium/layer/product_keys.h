// A router over a square grid of E = S S experts: an expert's score is that of its row plus that of its column, so two
// tables of S scores rank all E of them (product keys, Lample 2019, section 3.1).
//
// With d_key = 0 the tables read the token itself, one head (P027, the Cartesian product router). Otherwise each head
// has a query of two halves of d_key numbers, compared with S keys each (PEER, He 2024, section 2). Heads choose for
// themselves; an expert that several of them choose is met once, with their weights added.
//
// N tokens, D model width, E experts, S rows and columns of the grid, H heads, K choices of a head, M = H K.
#pragma once
#include "collegium/layer/layer.h"

namespace collegium::layer {

/// probability: the product of the row's and the column's softmax over all rows and columns; share: softmax over what a
/// head chose.
enum class ProductWeight { probability, share };
std::span<const std::string_view> enum_names(ProductWeight);

struct ProductKeyConfig {
  std::string_view who;  ///< for errors
  int64_t n_experts = 0, heads = 1, k = 0;
  int64_t d_key = 0;
  bool batch_norm = true;  ///< of the scores (d_key = 0) or the queries: no shift or gain is learned
  ProductWeight weight = ProductWeight::share;
  double scale = 1;  ///< of the weights
};

/// Its cost per token grows with S = sqrt(E). There are no scores of single experts, so that no loss over scores can be
/// taken. A usage Error where n_experts is no square or there are too few experts for k.
std::unique_ptr<route::Router> product_key_router(const ProductKeyConfig& config, const MoeLayer::Inputs& in);

}  // namespace collegium::layer
