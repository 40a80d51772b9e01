// Which auxiliary terms a configuration logs in training, found without data: what an expectation may name.
#pragma once
#include <set>
#include <string>

#include "collegium/recipe/recipe.h"

namespace collegium {

/// Names of the terms in the rows of training ("balance_loss", "agreement", …). Runs the model over a few random
/// tokens with an optimiser that does nothing, because some terms come on random steps only; ends early once
/// `wanted` was seen.
std::set<std::string> aux_terms(const RunConfig& run, const std::string& wanted);

/// Each expectation of an auxiliary term must name one that its side's training logs: a usage Error otherwise, which
/// says what there is.
void check_aux_terms(const Recipe& recipe);

}  // namespace collegium
