#include "collegium/inspect/trace_file.h"

#include <ATen/ATen.h>

#include <array>
#include <nlohmann/json.hpp>

#include "collegium/io/json.h"
#include "collegium/io/safetensors.h"

namespace collegium {
namespace {

constexpr std::string_view kTraceFormat = "collegium.routing_trace/1";
constexpr std::array<std::string_view, 4> kPhaseNames = {"train", "evaluate", "recompute", "replay"};

[[noreturn]] void bad_trace(const io::Path& path, std::string_view problem) {
  fail(ErrorKind::data, path.string(), ": not a usable routing trace: ", problem);
}

void add_texts(std::vector<io::NamedTensor>& tensors, const std::map<int64_t, std::string>& token_text) {
  if (token_text.empty()) return;
  std::vector<int64_t> id, end;
  std::vector<uint8_t> bytes;
  for (const auto& [token, words] : token_text) {
    bytes.insert(bytes.end(), words.begin(), words.end());
    id.push_back(token), end.push_back(static_cast<int64_t>(bytes.size()));
  }
  tensors.push_back({"text.id", at::tensor(id, at::kLong)});
  tensors.push_back({"text.end", at::tensor(end, at::kLong)});
  tensors.push_back({"text.bytes", at::tensor(bytes, at::kByte)});
}

nlohmann::json layers_json(const TraceNotes& notes) {
  auto out = nlohmann::json::array();
  for (const auto& [layer, l] : notes.layers)
    out.push_back({{"layer", layer}, {"name", l.name}, {"null_experts", l.null_experts}, {"choices", l.choices}});
  return out;
}

std::map<int64_t, std::string> read_texts(const io::SafetensorsFile& file, const io::Path& path) {
  if (!file.contains("text.id")) return {};
  const auto flat = [&](const char* name, at::ScalarType type) {
    if (!file.contains(name)) bad_trace(path, text("tensor '", name, "' is missing"));
    auto t = file.read(name);
    if (t.dim() != 1 || t.scalar_type() != type)
      bad_trace(path, text("tensor '", name, "' has the wrong type or shape"));
    return t.contiguous();
  };
  const auto id = flat("text.id", at::kLong), end = flat("text.end", at::kLong), bytes = flat("text.bytes", at::kByte);
  if (id.size(0) != end.size(0)) bad_trace(path, "'text.id' and 'text.end' differ in length");
  const auto* first = reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>());
  std::map<int64_t, std::string> out;
  int64_t begin = 0;
  for (int64_t i = 0; i < id.size(0); ++i) {
    const auto stop = end.const_data_ptr<int64_t>()[i];
    if (stop < begin || stop > bytes.size(0)) bad_trace(path, "'text.end' leaves the texts");
    out.emplace(id.const_data_ptr<int64_t>()[i], std::string(first + begin, first + stop));
    begin = stop;
  }
  return out;
}

}  // namespace

void write_trace(io::FileSystem& fs, const io::Path& path, const route::RoutingTrace& trace, const TraceNotes& notes) {
  std::vector<io::NamedTensor> tensors;
  nlohmann::json records = nlohmann::json::array();
  for (size_t i = 0; i < trace.records.size(); ++i) {
    const auto& r = trace.records[i];
    const auto& d = r.decision;
    const auto add = [&](std::string_view name, const Tensor& t) {
      const auto flat = t.detach().cpu();
      tensors.push_back({text(i, ".", name), (flat.is_floating_point() ? flat.to(at::kFloat) : flat).contiguous()});
    };
    add("token", d.token_R()), add("expert", d.expert_R()), add("rank", d.rank_R()), add("slot", d.slot_R());
    add("gate", d.gate_R()), add("score", d.score_R()), add("margin", d.margin_R());
    add("dropped.token", d.dropped().token_Q), add("dropped.expert", d.dropped().expert_Q);
    add("dropped.rank", d.dropped().rank_Q), add("dropped.reason", d.dropped().reason_Q);
    add("dropped.score", d.dropped().score_Q), add("dropped.margin", d.dropped().margin_Q);
    if (d.is_rerouted()) add("wanted", d.wanted_R());
    if (r.token_id_N.defined()) add("token_id", r.token_id_N);
    records.push_back({{"step", r.step},
                       {"pass", r.pass},
                       {"layer", r.layer},
                       {"phase", kPhaseNames[static_cast<size_t>(r.phase)]},
                       {"n_tokens", d.n_tokens()},
                       {"n_experts", d.n_experts()}});
  }
  add_texts(tensors, notes.token_text);
  io::Metadata metadata = {{"format", std::string(kTraceFormat)}, {"model", trace.model}, {"records", records.dump()}};
  if (!notes.layers.empty()) metadata["layers"] = layers_json(notes).dump();
  io::write_safetensors(fs, path, tensors, metadata);
}

TraceNotes read_trace_notes(io::FileSystem& fs, const io::Path& path) {
  const io::SafetensorsFile file(fs, path);
  TraceNotes out{.token_text = read_texts(file, path)};
  const auto found = file.metadata().find("layers");
  if (found == file.metadata().end()) return out;
  const auto layers = io::parse_json(found->second, path.string());
  if (!layers.is_array()) bad_trace(path, "'layers' is not a list");
  for (const auto& l : layers) try {
      out.layers[l.at("layer").get<int64_t>()] = {.name = l.at("name").get<std::string>(),
                                                  .null_experts = l.at("null_experts").get<int64_t>(),
                                                  .choices = l.at("choices").get<double>()};
    } catch (const nlohmann::json::exception& e) {
      bad_trace(path, text("'layers': ", e.what()));
    }
  return out;
}

route::RoutingTrace read_trace(io::FileSystem& fs, const io::Path& path) {
  const io::SafetensorsFile file(fs, path);
  const auto word = [&](const std::string& key) -> std::string {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) bad_trace(path, text("metadata '", key, "' is missing"));
    return found->second;
  };
  if (word("format") != kTraceFormat)
    bad_trace(path, text("format is '", word("format"), "', wanted '", kTraceFormat, "'"));
  route::RoutingTrace trace;
  trace.model = word("model");
  const auto records = io::parse_json(word("records"), path.string());
  if (!records.is_array()) bad_trace(path, "'records' is not a list");
  for (size_t i = 0; i < records.size(); ++i) {
    const auto& r = records[i];
    const auto number = [&](const char* key) -> int64_t {
      if (!r.is_object() || !r.contains(key) || !r[key].is_number_integer())
        bad_trace(path, text("record ", i, " lacks the number '", key, "'"));
      return r[key].get<int64_t>();
    };
    const auto tensor = [&](std::string_view name, at::ScalarType type) {
      const auto full = text(i, ".", name);
      if (!file.contains(full)) bad_trace(path, text("tensor '", full, "' is missing"));
      auto t = file.read(full);
      if (t.dim() != 1 || t.scalar_type() != type)
        bad_trace(path, text("tensor '", full, "' has the wrong type or shape"));
      return t;
    };
    const auto ints = [&](std::string_view name) { return tensor(name, at::kLong); };
    const auto floats = [&](std::string_view name) { return tensor(name, at::kFloat); };
    const auto N = number("n_tokens"), E = number("n_experts");
    const auto in_range = [&](const Tensor& t, int64_t limit) {
      return t.numel() == 0 || (t.min().item<int64_t>() >= 0 && t.max().item<int64_t>() < limit);
    };
    route::Decision::Parts p{.n_tokens = N,
                             .n_experts = E,
                             .token_R = ints("token"),
                             .expert_R = ints("expert"),
                             .gate_R = floats("gate"),
                             .rank_R = ints("rank"),
                             .slot_R = ints("slot"),
                             .score_R = floats("score"),
                             .margin_R = floats("margin"),
                             .dropped = {ints("dropped.token"), ints("dropped.expert"), ints("dropped.rank"),
                                         floats("dropped.score"), floats("dropped.margin"), ints("dropped.reason")}};
    if (file.contains(text(i, ".wanted"))) p.wanted_R = ints("wanted");
    if (p.wanted_R.defined() && (p.wanted_R.size(0) != p.token_R.size(0) || !in_range(p.wanted_R + 1, E + 1)))
      bad_trace(path, text("record ", i, ": 'wanted' is not an expert or -1 for each kept assignment"));
    for (const auto* t : {&p.expert_R, &p.gate_R, &p.rank_R, &p.slot_R, &p.score_R, &p.margin_R})
      if (t->size(0) != p.token_R.size(0)) bad_trace(path, text("record ", i, ": kept tensors differ in length"));
    const auto& q = p.dropped;
    for (const auto* t : {&q.expert_Q, &q.rank_Q, &q.score_Q, &q.margin_Q, &q.reason_Q})
      if (t->size(0) != q.token_Q.size(0)) bad_trace(path, text("record ", i, ": dropped tensors differ in length"));
    if (!in_range(p.token_R, N) || !in_range(q.token_Q, N))
      bad_trace(path, text("record ", i, ": a token id is out of range"));
    if (!in_range(p.expert_R, E) || !in_range(q.expert_Q, E))
      bad_trace(path, text("record ", i, ": an expert id is out of range"));
    if (p.expert_R.numel() > 1 && p.expert_R.diff().min().item<int64_t>() < 0)
      bad_trace(path, text("record ", i, ": rows are not sorted by expert"));
    const auto phase_name = r.contains("phase") && r["phase"].is_string() ? r["phase"].get<std::string>() : "";
    const auto phase = std::find(kPhaseNames.begin(), kPhaseNames.end(), phase_name);
    if (phase == kPhaseNames.end()) bad_trace(path, text("record ", i, ": unknown phase '", phase_name, "'"));
    trace.records.push_back({.step = number("step"),
                             .pass = number("pass"),
                             .layer = number("layer"),
                             .phase = static_cast<route::Phase>(phase - kPhaseNames.begin()),
                             .token_id_N = file.contains(text(i, ".token_id")) ? ints("token_id") : Tensor(),
                             .decision = route::Decision::from_parts(std::move(p))});
  }
  return trace;
}

}  // namespace collegium
