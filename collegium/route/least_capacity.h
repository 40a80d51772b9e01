// How small an expert's capacity may be. P070 (LocMoE): a token is of use to an expert when the angle between it and
// the expert's gate weight is small; among tokens of no preferred direction such tokens are rare, so an expert has to
// see a minimum number of tokens before one of them can be expected.
//
// N tokens, D model width, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include "collegium/route/decision.h"

namespace collegium::route {

/// The share of directions in R^d whose cosine with a given one is at least `cosine` is at most
///   (1 - c^2)^(d/2) <= exp(-d c^2 / (2 - c^2)),   c = max(cosine, 0).
/// Ball 1997 (An elementary introduction to modern convex geometry), lecture 2, for c <= 1 / sqrt(2); a test
/// integrates.
double largest_share_within(double cosine, int64_t d_model);

/// Slots per expert below which no such token can be expected, when a batch of tokens without a preferred direction is
/// dealt evenly to n_experts: 1 / (n_experts * largest_share_within) = exp(d c^2 / (2 - c^2)) / n_experts.
double least_capacity(double cosine, int64_t d_model, int64_t n_experts);

/// Cosine of the largest angle between a token and the gate weight of an expert that it was assigned to; 1 without
/// assignments.
double cosine_of_largest_angle(const Tensor& x_ND, const Tensor& weight_ED, const Decision& decision);

}  // namespace collegium::route
