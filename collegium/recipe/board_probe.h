// What hidden units say of a chess board: games that the model has not seen are read, and its units are taken as
// classifiers of what stands on the board. A score of interpretability whose truth is known.
#pragma once
#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "collegium/data/packed.h"
#include "collegium/data/tokenizer.h"
#include "collegium/model/language_model.h"

namespace collegium {

struct BoardScores {
  double coverage = 0;        ///< mean over properties: F1 of the single unit and threshold that tells it best
  double reconstruction = 0;  ///< mean over boards: F1 of all that precise units (95% at least) say of the board
  int64_t n_properties = 0;
};

/// Units and thresholds are chosen on the `fit` rows and scored on the `test` rows. Units are on above a threshold of
/// 0, 10, ..., 90% of their largest activation. Properties that hold in less than 1% or more than half of the `fit`
/// rows are left out: a unit that is always on tells those, or none can. fit_PF, test_PF: units; fit_PG, test_PG: 0 or
/// 1; all float.
BoardScores score_units(const at::Tensor& fit_PF, const at::Tensor& fit_PG, const at::Tensor& test_PF,
                        const at::Tensor& test_PG);

/// {"board_coverage", "board_reconstruction", "properties", "positions", "units", "layer"} of the hidden units of layer
/// `layer`
/// (-1 = the middle one) at the '.' before each of white's moves of at most `most` held-out games, half of them for the
/// choice. Null where the held-out documents are no games.
nlohmann::json score_boards(model::LanguageModel& model, const data::Tokenizer& tokenizer,
                            const data::TokenSet& held_out, int64_t most, int64_t layer, int64_t context,
                            at::Device device);

}  // namespace collegium
