// `collegium inspect`: what a run's routing does, from a trace.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/setting.h"
#include "collegium/inspect/page.h"
#include "collegium/inspect/trace_file.h"
#include "collegium/recipe/insight.h"

namespace collegium::cli {
namespace {

constexpr Positional kInspectArguments[] = {
    {.name = "RUN",
     .help = "a run's id, the start of one, its folder, or a routing trace (.safetensors)",
     .complete = Complete::runs}};
constexpr Option kInspectOptions[] = {
    {.name = "tokens",
     .letter = 'n',
     .value = "N",
     .kind = ValueKind::integer,
     .help = "held-out tokens to route, at least",
     .default_text = "8192"},
    {.name = "text",
     .value = "FILE",
     .help = "route this text instead of the run's held-out one",
     .complete = Complete::files},
    {.name = "layer",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "only this layer of the model, also on the page"},
    {.name = "step",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "the checkpoint of this step; default the newest"},
    {.name = "trace", .value = "FILE", .help = "keep the trace (safetensors)", .complete = Complete::files},
    {.name = "page",
     .value = "FILE",
     .help = "where the page goes; default inspect.html in the run's folder, or beside the trace",
     .complete = Complete::files},
    kRunsOption,
    kDeviceOption,
    kThreadsOption,
    kOfflineOption,
};
constexpr Example kInspectExamples[] = {
    {"collegium inspect tiny_moe", "loads, pairs, margins and token classes of every layer, and a page"},
    {"collegium inspect tiny_moe --layer 2 --json", "one layer, for a program"},
    {"collegium inspect routing.safetensors", "a trace alone; no model is needed"},
};

std::string percent_text(double share) {
  return text(std::round(1000 * share) / 10, " %");
}
std::string share_text(const nlohmann::json& row, const char* key) {
  return row.contains(key) ? percent_text(row[key].get<double>()) : "-";
}
std::string number_text(const nlohmann::json& row, const char* key) {
  if (!row.contains(key)) return "-";
  const auto rounded = std::round(1000 * row[key].get<double>()) / 1000;
  return text(rounded == 0 ? 0.0 : rounded);  // never "-0"
}

std::string shown_token(const std::string& token) {
  std::string out;
  for (const char c : token) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (c == ' ')
      out += "\u00b7";
    else
      out += c;
  }
  return out;
}

// "2", or "4 (attention 0)" of heads that are experts.
std::string layer_text(const nlohmann::json& layer) {
  const auto name = layer.value("name", std::string());
  return layer["layer"].dump() + (name.starts_with("attention") ? text(" (", name, ")") : "");
}

// Many experts as the means of 32 groups of neighbours: among so many the sparkline's extremes would be all that shows.
std::string sparkline(Output& out, const nlohmann::json& layer) {
  const auto load_E = layer["load"].get<std::vector<double>>();
  constexpr size_t kCells = 32;
  if (load_E.size() <= 2 * kCells) return load_sparkline(load_E, out.terminal(), kCells);
  std::vector<double> mean(kCells);
  for (size_t i = 0; i < kCells; ++i) {
    const auto begin = i * load_E.size() / kCells, end = (i + 1) * load_E.size() / kCells;
    for (auto e = begin; e < end; ++e) mean[i] += load_E[e] / static_cast<double>(end - begin);
  }
  return load_sparkline(mean, out.terminal(), kCells);
}

void print_layers(Output& out, const nlohmann::json& layers) {
  const auto has_null =
      std::any_of(layers.begin(), layers.end(), [](const auto& l) { return l.contains("null_share"); });
  std::vector<std::string> heads = {"layer",   "experts",    "per token", "null",       "MaxVio",     "entropy",
                                    "dropped", "margin p50", "as before", "class info", "token info", "load"};
  const auto without_null = [&](std::vector<std::string> cells) {
    if (!has_null) cells.erase(cells.begin() + 3);
    return cells;
  };
  TextTable table(without_null(heads));
  for (const auto& l : layers) {
    table.row(without_null({layer_text(l), text(l["n_experts"].get<int64_t>()), number_text(l, "per_token"),
                            share_text(l, "null_share"), number_text(l, "max_violation"), number_text(l, "entropy"),
                            share_text(l, "dropped"), l.contains("margin") ? number_text(l["margin"], "p50") : "-",
                            share_text(l, "same_as_before"), number_text(l, "class_information"),
                            number_text(l, "token_information"), sparkline(out, l)}));
  }
  out.block(table.render(out.table_style()));
}

std::string partner_text(const nlohmann::json& layer, size_t e) {
  if (!layer.contains("partners") || layer["partners"][e].is_null()) return "-";
  const auto& partner = layer["partners"][e];
  return text(partner["expert"].get<int64_t>(), " (", std::round(100 * partner["share"].get<double>()), " %)");
}

// The class of which the expert takes the largest share, among classes of some size.
std::string class_text(const nlohmann::json& layer, size_t e) {
  std::string out = "-";
  double most = .005;  // what would be shown as 0 %
  if (!layer.contains("classes")) return out;
  for (const auto& c : layer["classes"])
    if (c["share"][e].get<double>() >= most && c["tokens"].get<int64_t>() >= 20)
      most = c["share"][e], out = text(c["name"].get<std::string>(), " (", std::round(100 * most), " % of it)");
  return out;
}

// All experts where they are few, else the busiest, busiest first.
constexpr size_t kMostExperts = 64, kBusiestExperts = 32;

std::vector<size_t> shown_experts(const std::vector<double>& load_E) {
  std::vector<size_t> out(load_E.size());
  std::iota(out.begin(), out.end(), size_t{0});
  if (out.size() <= kMostExperts) return out;
  std::stable_sort(out.begin(), out.end(), [&](size_t a, size_t b) { return load_E[a] > load_E[b]; });
  out.resize(kBusiestExperts);
  return out;
}

void print_experts(Output& out, const nlohmann::json& layers) {
  for (const auto& l : layers) {
    if (!l.contains("favourites")) continue;
    out.line("");
    out.line(text("layer ", layer_text(l), ": what each expert takes more often than its share"));
    TextTable table({"expert", "load", "most with", "class", "tokens"});
    const auto load = l["load"].get<std::vector<double>>();
    const auto shown = shown_experts(load);
    for (const auto e : shown) {
      std::string words;
      for (const auto& token : l["favourites"][e])
        words += (words.empty() ? "" : "  ") + shown_token(token.get<std::string>());
      table.row({text(e), percent_text(load[e]), partner_text(l, e), class_text(l, e), words});
    }
    out.block(table.render(out.table_style()));
    if (shown.size() < load.size())
      out.line(text("the busiest ", shown.size(), " of ", load.size(), " experts; --json has all"));
  }
}

// At most so many evaluations of a layer, evenly spaced, the last one among them.
constexpr size_t kShownEvaluations = 12;

void print_history(Output& out, const nlohmann::json& data) {
  const auto& history = data.value("history", nlohmann::json::array());
  if (history.size() < 2) return;
  const auto shown = std::min(history.size(), kShownEvaluations);
  for (const auto& l : data["layers"]) {
    out.line("");
    out.line(text("layer ", layer_text(l), " during training, held-out text"));
    TextTable table({"step", "MaxVio", "entropy", "fluctuation", "load"});
    for (size_t i = 0; i < shown; ++i) {
      const auto& row = history[(history.size() - 1) * i / (shown - 1)];
      for (const auto& then : row["layers"])
        if (then["layer"] == l["layer"])
          table.row({text(row["step"].get<int64_t>()), number_text(then, "max_violation"), number_text(then, "entropy"),
                     share_text(then, "fluctuation"), sparkline(out, then)});
    }
    out.block(table.render(out.table_style()));
  }
}

int run_inspect(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  const auto word = arguments.positional("RUN");
  require(arguments.integer("tokens") > 0, "--tokens must be at least 1, got ", arguments.integer("tokens"));
  auto& fs = io::real_file_system();
  nlohmann::json data;
  io::Path beside;
  route::RoutingTrace trace;
  TraceNotes notes;
  if (word.ends_with(".safetensors")) {
    require(!arguments.given("text") && !arguments.given("step"), "--text and --step need a run, not a trace");
    trace = read_trace(fs, word);
    notes = read_trace_notes(fs, word);
    data = insight_of(trace, notes, nullptr);
    beside = io::Path(word).replace_extension(".html");
  } else {
    const auto device = parse_device(arguments.text("device"));
    const auto folder = run_folder(arguments, word);
    auto run =
        open_run(folder, device, arguments.given("step") ? std::optional(arguments.integer("step")) : std::nullopt);
    show_warnings(arguments, run.warnings);
    const auto setting = run_setting(arguments, nullptr, nullptr);
    trace = arguments.given("text")
                ? trace_text(run, io::read_text(fs, arguments.text("text")), arguments.integer("tokens"), device)
                : trace_held_out(run, setting, arguments.integer("tokens"));
    notes = notes_of(trace, run);
    data = insight_of(trace, notes, &run);
    beside = folder / "inspect.html";
  }
  keep_layer(arguments, data["layers"]);
  if (data["layers"].empty()) fail(ErrorKind::data, word, ": no layer with experts: there is no routing to inspect");
  if (arguments.given("trace")) write_trace(fs, arguments.text("trace"), trace, notes);
  // One layer does not replace the page of all.
  if (arguments.given("layer"))
    beside.replace_filename(text(beside.stem().string(), "-layer-", arguments.integer("layer"), ".html"));
  const io::Path page = arguments.given("page") ? io::Path(arguments.text("page")) : beside;
  io::write_atomically(fs, page, io::as_bytes(inspect_page(data)));

  out.line(text(data["title"].get<std::string>(), ": ", data["tokens"].get<int64_t>(), " tokens, ",
                data["layers"].size(), " layers with experts"));
  print_layers(out, data["layers"]);
  print_experts(out, data["layers"]);
  print_history(out, data);
  out.line("");
  if (data.contains("remark")) out.line(data["remark"].get<std::string>());
  out.line(text("page: ", page.string()));
  data["page"] = page.string();
  out.json(Json(data));
  return 0;
}

}  // namespace

extern constinit const Command inspect_command = {
    .name = "inspect",
    .summary = "what a run's routing does: loads, pairs, margins, specialisation",
    .help =
        "Routes held-out text through the run's newest checkpoint, keeps the decisions as a trace, and reads "
        "everything "
        "from the trace: load and balance of each layer, which experts work together, how close choices were, how "
        "much of the choice the token's class or id explains, and each expert's typical tokens. A trace that "
        "`generate --trace` or `inspect --trace` wrote can be inspected without its model.\n\n"
        "MaxVio: how far the busiest expert is above the mean load, as a share of it; 0 = even. entropy: of the loads, "
        "over that of even ones; 1 = even. margin p50: how far the score of a first choice is above that of the next "
        "expert, half of them by less; - where nothing rivals a choice. null: share of the choices that went to null "
        "experts, which do no work. class info and token info: share of the uncertainty about a token's class (or id) "
        "that its expert removes, 0 to 1. as before: share of tokens whose first expert has the same number in the "
        "layer before. most with: the expert that works most often for the same tokens. Of a run, the loads of its "
        "evaluations during training follow. fluctuation: share of held-out tokens whose first expert changed since "
        "the evaluation before.\n\n"
        "Heads of attention that are experts are layers, too, numbered after the model's own: of four layers, layer 4 "
        "is attention 0. With --layer the page is inspect-layer-N.html.",
    .group = "understand",
    .positionals = kInspectArguments,
    .options = kInspectOptions,
    .examples = kInspectExamples,
    .run = run_inspect,
};

}  // namespace collegium::cli
