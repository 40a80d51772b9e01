// What a routing trace tells: loads, pairs of experts, margins, and which kinds of token an expert works for.
//
// N tokens, E experts, X experts and null experts, C token classes. No model is needed: a trace and, for the classes,
// the texts of its tokens.
#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "collegium/inspect/trace_file.h"
#include "collegium/route/stages.h"
#include "collegium/route/trace.h"

namespace collegium {

/// A token as text; partial UTF-8 is allowed.
using TokenText = std::function<std::string(int64_t id)>;

/// The class of a token, of: "word start" (with its space), "word part", "capital" (a word that starts with one),
/// "number", "punctuation", "line break", "space", "other" (symbols, parts of characters).
std::string_view token_class(std::string_view token);

/// One object a layer of the trace, its passes together:
///   layer, name (where noted), n_tokens, n_experts, per_token, dropped (share of what was asked), moved (share of the
///   kept that capacity sent elsewhere or added)
///   load [E] (shares of the kept), entropy (over log E), max_violation
///   null_share: share of the choices that went to null experts; only where the notes tell it
///   partners [E]: {expert, share}: of the tokens that e works for, the largest share that another works for, too, or
///   null; absent where no token has two
///   pairs [E][E]: these shares of all f; absent beyond kMostPaired experts, too
///   margin {p10, p50, p90, close}: first choices' distance to the runner-up; close = share below a tenth of the
///   median; absent where no choice has a rival
///   same_as_before: share of tokens whose first expert has the number of the layer before; absent in the first layer
/// and over the tokens with a known id:
///   token_information: mutual information of id and first expert over the entropy of the ids, 0 to 1; near 1 = the id
///   alone decides
///   favourites [E]: up to eight tokens that the expert takes most often compared with its share of all: their texts,
///   or numbers, "#17", where `text` is empty
/// and with `text`:
///   classes: list of {name, tokens, share [E] (of its tokens, by first expert)}, by falling size
///   class_information: the same of the class
nlohmann::json routing_insight(const route::RoutingTrace& trace, const TokenText& text = {},
                               const TraceNotes& notes = {});

/// Tables of pairs go no further: they grow with the square.
constexpr int64_t kMostPaired = 64;

/// Why one token got its experts in one layer of a recorded pass: a list over experts, best first, of
///   {expert, score, bias, compared (what the selector compared: score + bias, or a logit), chosen,
///    group, group_taken (where experts are in groups),
///    rank (0 = first choice of the chooser), slot (place in the expert's buffer), gate,
///    asked_by (tokens that asked for it), kept_by,
///    queue (capacity rank: the token's place, from 0, among those that asked for it, in the order of reasons.places),
///    moved_to, moved_from (experts, where capacity moved the assignment),
///    null (true for an expert that does no work: it has no buffer),
///    margin (how far `compared` is above the value where the choice turns; below it, negative), fate}
/// where fate is a sentence: chosen; dropped or moved for capacity; or what would have to change. What does not apply
/// is absent. Where the router has null experts, they are the last of X, and have rows, too. score_NX and bias_X may be
/// undefined; without `reasons` nothing is said of what would have to change for an expert that was not chosen.
/// The margin of what was dropped or moved is that of the choice, in the row of the expert that was asked for; in the
/// row of the expert that it was moved to it is the distance to the next one that could have taken it.
nlohmann::json explain_token(const route::Decision& decision, int64_t token, const at::Tensor& score_NX,
                             const at::Tensor& bias_X, const route::Reasons& reasons = {});

}  // namespace collegium
