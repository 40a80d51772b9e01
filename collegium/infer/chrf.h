// chrF: how close translations are to references, by character n-grams.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace collegium::infer {

/// One translation and what a person wrote, UTF-8.
struct Translated {
  std::string_view made, reference;
};

/// chrF2 of a whole set, 0 to 100 (Popovic 2015): the F-score of precision P and recall R with beta = 2,
///   chrF = (1 + beta^2) P R / (beta^2 P + R),
/// P and R means over the orders n = 1 to 6 of the share of n-grams of characters (white space left out) that both
/// sides have in common, counted over all translations together. Orders that one side has no n-gram of are left out.
/// 0 when nothing is in common or the set is empty.
double chrf(const std::vector<Translated>& set);

}  // namespace collegium::infer
