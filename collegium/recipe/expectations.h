// Whether what a recipe expects can be measured of its runs: found out before anything is trained.
#pragma once
#include <string>

#include "collegium/recipe/recipe.h"

namespace collegium {

/// "recipe.toml:12: expect[0]: valid_bpb: ", which begins what is said of an expectation.
std::string subject_of(const Expectation& expectation);

/// Why no run of this configuration has the measure, as far as the configuration tells; "" where nothing speaks against
/// it. `evaluation` is of `imagined_evaluation`.
std::string why_unmeasured(const RunConfig& run, std::string_view measure, const nlohmann::json& evaluation);

/// The row of metrics that one evaluation of a new model gives on a few random sequences (or scenes).
nlohmann::json imagined_evaluation(const RunConfig& run);

/// A usage Error that names file and line for the first expectation that could never be judged: a comparison without a
/// baseline, a measure or an auxiliary term that a side has not got, a measure of pairs with a relation that it has
/// not.
void check_expectations(const Recipe& recipe);

}  // namespace collegium
