// Pages that a browser opens without a network: the report of one run, the comparison of several.
//
// A page is one HTML file. Its style and scripts come from web/, compiled in; the data is embedded as JSON
// and drawn by the page itself, so a page can also be read by a program: it is the text of the element
// <script type="application/json" id="data">. Missing parts of the data leave out their part of the page.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace collegium {

/// `plain` between the tags of a page or a drawing.
std::string text_for_html(std::string_view plain);

/// The report of one training run, UTF-8 HTML of about 95 kB plus the data.
///
/// `data` is an object; every key may be missing:
///   run          object: id, name, status, recipe, started, finished (ISO 8601 text or seconds since 1970), seed,
///                commit, steps, tokens, parameters_total, parameters_active, flops_per_token, device, precision,
///                tokens_per_second, train_bpb, valid_bpb (bits per byte), valid_accuracy, claim, paper
///   metrics      list of {kind: "train" | "valid", step, tokens, loss (nats per token, or per image), bpb (bits per
///   byte) or accuracy, lr,
///                grad_norm, aux: {name: loss}, layers: [{load: shares [E] summing to 1, dropped in [0, 1],
///                entropy in [0, 1], max_violation >= 0}]}
///   timing       list of {step, seconds (since the start), tokens_per_second}
///   layer_names, n_experts   one entry a MoE layer, in the order of `layers`
///   sample       {prompt, tokens: [text], n_prompt, routing: [layer][token][choice] of {expert, gate, score, margin}}
///   config_toml  text;  environment, data: objects;  notes: list of texts
/// Text that is not UTF-8 is repaired with U+FFFD, numbers that are not finite become null (a gap).
/// @throws Error (data) when `data` is not an object, or metrics or timing is not a list.
std::string report_page(const nlohmann::json& data);

/// The comparison of groups of runs, one run a seed, on the same axes.
///
/// `data` is an object; every key may be missing:
///   title        text;  verdict: {text, state: "held" | "not_shown" | "failed"}
///   groups       list of {name, runs: [{id, seed, name, run, metrics, timing as in report_page}]}
///   differences  list of {path, values: one a group}
///   table        list of {measure, unit, better: "lower" | "higher", values: one {mean, min, max, std, n} a group}
/// @throws Error (data) when `data` is not an object, or groups is not a list.
std::string compare_page(const nlohmann::json& data);

/// What routing does: `data` as insight_of (recipe/insight.h) gives it: {title, tokens, layers, history, step}.
/// @throws Error (data) when `data` is not an object, or layers is not a list.
std::string inspect_page(const nlohmann::json& data);

}  // namespace collegium
