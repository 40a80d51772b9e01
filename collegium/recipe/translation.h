// How well a trained model answers prompts: held-out documents that begin with a prompt (translations, see
// data/gettext.h) are continued greedily and compared with what stands there.
#pragma once
#include <nlohmann/json.hpp>

#include "collegium/data/packed.h"
#include "collegium/data/tokenizer.h"
#include "collegium/model/language_model.h"

namespace collegium {

/// {"chrf": of all answers together, "n", "answers": [{"prompt", "reference", "made"}]} over at most `most` documents
/// with a prompt that fit `context` tokens, evenly spread over `held_out`. Null where there is no such document.
nlohmann::json score_translations(model::LanguageModel& model, const data::Tokenizer& tokenizer,
                                  const data::TokenSet& held_out, int64_t most, int64_t context, at::Device device);

}  // namespace collegium
