// What hidden units do: statistics of the activations that meet the projection back to the model width (of gated
// experts the product, of others the activation function's output), for layers that claim to use them more, or less.
//
//   active_units     share of units with |a| > 0.1 (P015, Pan 2025, Finedeep: NSAR, the rate of activations that are
//                    not near zero; the threshold is ours)
//   nonzero_units    share of units that are not exactly zero: sparsity of ReLU experts
//   effective_units  (sum |a|)^2 / (I sum a^2), a mean over rows: 1 = all alike, 1 / I = one does all; no scale in it
//
// N tokens, D model width, I hidden width, R rows.
#pragma once
#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"

namespace collegium::layer {

/// Adds to the statistic of this name, or makes it.
void add_statistic(std::vector<Statistic>& all, std::string_view name, double sum, double weight);

/// The three above, of these hidden units.
void add_activations(std::vector<Statistic>& all, const Tensor& hidden_RI);

/// Those of a recorded pass, of a sample of at most 256 real tokens, evenly spaced; nothing without context.record.
/// Of the experts that work for a token,
void show_activations(LayerOutput& out, Experts& experts, const Tensor& x_ND, const route::Decision& decision,
                      const route::Context& context);
/// or of one of them, which works for every token.
void show_activations(LayerOutput& out, Experts& experts, const Tensor& x_ND, int64_t expert,
                      const route::Context& context);

}  // namespace collegium::layer
