// Traces of stored runs, and what they tell.
#pragma once
#include "collegium/inspect/insight.h"
#include "collegium/recipe/run.h"

namespace collegium {

/// Routes at least `n_tokens` held-out tokens (all of them when there are fewer) through the run's model.
route::RoutingTrace trace_held_out(OpenedRun& run, const RunSetting& setting, int64_t n_tokens);

/// Routes the first tokens of `text`, at least `n_tokens` where it is that long, in windows of the run's context. A
/// data Error when the text is empty or not UTF-8.
route::RoutingTrace trace_text(OpenedRun& run, const std::string& text, int64_t n_tokens, at::Device device);

/// What a run knows of its trace: names of layers, null experts, token texts.
TraceNotes notes_of(const route::RoutingTrace& trace, OpenedRun& run);

/// What `inspect` shows: {title, tokens, layers: routing_insight}, and with a run its step and, from its metrics,
/// "history": rows {step, layers: [{layer, load, max_violation, entropy, fluctuation, score_entropy, collapse, …}]} of
/// its evaluations. Without one, "remark" says what is left out.
nlohmann::json insight_of(const route::RoutingTrace& trace, const TraceNotes& notes, const OpenedRun* run);

/// Why token `index` of `text` (from the end when negative) got its experts: {tokens, index, token,
/// layers: [{layer, name, rule (who chooses and by what), experts: explain_token}]}. A usage Error when there is no
/// such token.
nlohmann::json explain_text(OpenedRun& run, const std::string& text, int64_t index, at::Device device);

}  // namespace collegium
