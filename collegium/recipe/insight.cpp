#include "collegium/recipe/insight.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <set>

#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

void add_pass(route::RoutingTrace& trace, OpenedRun& run, const Tensor& token_BT, const Tensor& mask_BT, int64_t pass) {
  const auto random = Random(0).at("trace").at(static_cast<uint64_t>(pass));
  infer::trace_batch(trace, run.language_model("inspect --text"), token_BT, {.mask_BT = mask_BT, .random = random},
                     run.config.train.context, run.step, pass);
}

TokenText token_text_of(const OpenedRun& run) {
  if (!run.tokenizer)
    return [task = std::shared_ptr<TaskKind>(task_of(run.config))](int64_t id) { return task->token_words(id); };
  return [&run](int64_t id) {
    const auto narrow = static_cast<int32_t>(id);
    return run.tokenizer->decode(std::span(&narrow, 1));
  };
}

// "; 8 of the 24 are null experts, which do no work: 2 of this token's choices"
std::string null_words(const nlohmann::json& experts) {
  const auto count = [&](bool chosen) {
    return std::count_if(experts.begin(), experts.end(), [&](const auto& e) {
      return e.contains("null") && (!chosen || e["chosen"].template get<bool>());
    });
  };
  if (count(false) == 0) return {};
  return text("; ", count(false), " of the ", experts.size(), " are null experts, which do no work: ", count(true),
              " of this token's choices");
}

}  // namespace

route::RoutingTrace trace_held_out(OpenedRun& run, const RunSetting& setting, int64_t n_tokens) {
  const auto data = task_of(run.config)->prepare(run.config, setting);
  auto trace = data->trace_held_out(*run.model, n_tokens, run.step, setting.device);
  trace.model = run.folder.filename().string();
  return trace;
}

route::RoutingTrace trace_text(OpenedRun& run, const std::string& words, int64_t n_tokens, at::Device device) {
  run.language_model("inspect --text");  // refuses a run that reads no text
  const auto ids = run.tokenizer->encode(words);
  if (ids.empty()) fail(ErrorKind::data, "inspect: the text has no tokens");
  const auto T = run.config.train.context;
  route::RoutingTrace trace;
  trace.model = run.folder.filename().string();
  const auto end = std::min(static_cast<int64_t>(ids.size()), n_tokens);
  for (int64_t begin = 0, pass = 0; begin < end; begin += T, ++pass) {
    const auto stop = std::min<int64_t>(begin + T, static_cast<int64_t>(ids.size()));
    const std::vector<int64_t> part(ids.begin() + begin, ids.begin() + stop);
    add_pass(trace, run, at::tensor(part, at::kLong).unsqueeze(0).to(device), Tensor(), pass);
  }
  return trace;
}

TraceNotes notes_of(const route::RoutingTrace& trace, OpenedRun& run) {
  TraceNotes out;
  const auto facts = run.model->facts(run.config.train.context);
  const auto words = token_text_of(run);
  std::set<int64_t> ids;
  for (size_t i = 0; i < facts.moe_layers.size(); ++i) {
    const auto layer = facts.moe_layers[i];
    out.layers[layer] = {
        .name = model::layer_name(facts, layer), .null_experts = facts.n_null[i], .choices = facts.fixed_choices[i]};
  }
  for (const auto& record : trace.records) {
    if (!record.token_id_N.defined()) continue;
    const auto id_N = record.token_id_N.contiguous();
    ids.insert(id_N.const_data_ptr<int64_t>(), id_N.const_data_ptr<int64_t>() + id_N.numel());
  }
  for (const auto id : ids)
    if (id >= 0) out.token_text[id] = words(id);
  return out;
}

nlohmann::json insight_of(const route::RoutingTrace& trace, const TraceNotes& notes, const OpenedRun* run) {
  int64_t tokens = 0;
  for (const auto& record : trace.records)
    if (record.layer == trace.records.front().layer) tokens += record.decision.n_tokens();
  nlohmann::json out = {{"title", trace.model.empty() ? "trace" : trace.model}, {"tokens", tokens}};
  const auto words = [&](int64_t id) {
    const auto found = notes.token_text.find(id);
    return found == notes.token_text.end() ? text("#", id) : found->second;
  };
  out["layers"] = routing_insight(trace, notes.token_text.empty() ? TokenText() : TokenText(words), notes);
  if (!run) {
    out["remark"] = text("from the trace alone: what changed during training is told of a run only",
                         notes.token_text.empty() ? ", and this trace has no texts of its tokens" : "");
    return out;
  }
  out["step"] = run->step;
  out["history"] = nlohmann::json::array();
  for (auto& row : rows_of(run->folder / "metrics.jsonl")) {
    if (row["kind"] != "valid" || row["layers"].size() != out["layers"].size()) continue;
    for (size_t i = 0; i < row["layers"].size(); ++i) row["layers"][i]["layer"] = out["layers"][i]["layer"];
    out["history"].push_back({{"step", row["step"]}, {"layers", std::move(row["layers"])}});
  }
  return out;
}

nlohmann::json explain_text(OpenedRun& run, const std::string& words, int64_t index, at::Device device) {
  auto& model = run.language_model("explain");
  const auto ids = run.tokenizer->encode(words);
  const auto n = static_cast<int64_t>(ids.size());
  require(n > 0, "explain: the text has no tokens");
  require(n <= run.config.train.context, "explain: the text has ", n, " tokens, more than the run's context of ",
          run.config.train.context);
  const auto at = index < 0 ? n + index : index;
  require(at >= 0 && at < n, "explain: --token ", index, ": the text has tokens 0 to ", n - 1);
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> tokens(ids.begin(), ids.end());
  const auto out =
      model.forward(at::tensor(tokens, at::kLong).unsqueeze(0).to(device), {.record = true, .explain = true});
  const auto facts = run.model->facts(run.config.train.context);
  const auto text_of = token_text_of(run);
  nlohmann::json result = {{"run", run.folder.filename().string()},
                           {"step", run.step},
                           {"index", at},
                           {"token", text_of(tokens[static_cast<size_t>(at)])},
                           {"token_id", tokens[static_cast<size_t>(at)]},
                           {"tokens", nlohmann::json::array()},
                           {"layers", nlohmann::json::array()}};
  for (const auto id : tokens) result["tokens"].push_back(text_of(id));
  if (out.decisions.empty())
    fail(ErrorKind::data, run.folder.filename().string(), ": the model has no layer with experts");
  for (size_t i = 0; i < out.decisions.size(); ++i) {
    const auto layer = facts.moe_layers[i];
    const auto& r = out.records[i];
    const auto experts = explain_token(out.decisions[i], at, r.score_NE, r.bias_E, r.reasons);
    nlohmann::json told = {{"rule", r.reasons.rule + null_words(experts)}, {"experts", experts}};
    told["layer"] = layer, told["name"] = model::layer_name(facts, layer);
    result["layers"].push_back(std::move(told));
  }
  return result;
}

}  // namespace collegium
