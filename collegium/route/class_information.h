// How much a token's expert tells of its class.
//
// C classes, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace collegium::route {

using at::Tensor;

/// Mutual information of class and expert over the entropy of the classes, 0 (nothing) to 1 (everything), from how many
/// tokens of each class have each expert. count_CE: [C, E], any number type. Nothing where fewer than two classes have
/// a token.
std::optional<double> class_information(const Tensor& count_CE);

}  // namespace collegium::route
