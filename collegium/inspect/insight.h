// What a routing trace tells: loads, pairs of experts, margins, and which kinds of token an expert works for.
//
// N tokens, E experts, C token classes. No model is needed: a trace and, for the classes, the texts of its tokens.
#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "collegium/route/stages.h"
#include "collegium/route/trace.h"

namespace collegium {

/// A token as text; partial UTF-8 is allowed.
using TokenText = std::function<std::string(int64_t id)>;

/// The class of a token, of: "word start" (with its space), "word part", "capital" (a word that starts with one),
/// "number", "punctuation", "line break", "space", "other" (symbols, parts of characters).
std::string_view token_class(std::string_view token);

/// One object a layer of the trace, its passes together:
///   layer, n_tokens, n_experts, per_token, dropped (share of what was asked), moved (share of the kept that capacity
///   sent elsewhere or added)
///   load [E] (shares of the kept), entropy (over log E), max_violation
///   pairs [E][E]: of the tokens that e works for, the share that f works for too; absent where no token has two
///   margin {p10, p50, p90, close}: first choices' distance to the runner-up; close = share below a tenth of the
///   median; absent where no choice has a rival
///   same_as_before: share of tokens whose first expert has the number of the layer before; absent in the first layer
/// and with `text`, over the tokens with a known id:
///   classes: list of {name, tokens, share [E] (of its tokens, by first expert)}, by falling size
///   class_information: mutual information of class and first expert over the entropy of the classes, 0 to 1
///   token_information: the same for token ids; near 1 = the id alone decides
///   favourites [E]: up to eight token texts that the expert takes most often compared with its share of all
nlohmann::json routing_insight(const route::RoutingTrace& trace, const TokenText& text = {});

/// Why one token got its experts in one layer of a recorded pass: a list over experts, best first, of
///   {expert, score, bias, compared (what the selector compared: score + bias, or a logit), chosen,
///    group, group_taken (where experts are in groups),
///    rank (0 = first choice of the chooser), slot (capacity rank: place in the expert's buffer), gate,
///    asked_by (tokens that asked for it), kept_by,
///    margin (how far `compared` is above the value where the choice turns; below it, negative), fate}
/// where fate is a sentence: chosen; dropped or moved for capacity; or what would have to change. What does not apply
/// is absent. score_NE and bias_E may be undefined; without `reasons` nothing is said of what would have to change for
/// an expert that was not chosen.
nlohmann::json explain_token(const route::Decision& decision, int64_t token, const at::Tensor& score_NE,
                             const at::Tensor& bias_E, const route::Reasons& reasons = {});

}  // namespace collegium
