// `collegium inspect`: what a run's routing does, from a trace.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

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
    {.name = "layer", .value = "N", .kind = ValueKind::integer, .help = "only this layer of the model"},
    {.name = "step",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "the checkpoint of this step; default the newest"},
    {.name = "trace", .value = "FILE", .help = "keep the trace (safetensors)", .complete = Complete::files},
    {.name = "page",
     .value = "FILE",
     .help = "where the page goes; default inspect.html beside the run or trace",
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

std::string share_text(const nlohmann::json& row, const char* key) {
  return row.contains(key) ? text(std::round(1000 * row[key].get<double>()) / 10, " %") : "-";
}
std::string number_text(const nlohmann::json& row, const char* key) {
  return row.contains(key) ? text(std::round(1000 * row[key].get<double>()) / 1000) : "-";
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

void print_layers(Output& out, const nlohmann::json& layers) {
  TextTable table({"layer", "experts", "per token", "MaxVio", "entropy", "dropped", "margin p50", "as before",
                   "class info", "token info", "load"});
  for (const auto& l : layers) {
    const auto load = l["load"].get<std::vector<double>>();
    table.row({text(l["layer"].get<int64_t>()), text(l["n_experts"].get<int64_t>()), number_text(l, "per_token"),
               number_text(l, "max_violation"), number_text(l, "entropy"), share_text(l, "dropped"),
               l.contains("margin") ? number_text(l["margin"], "p50") : "-", share_text(l, "same_as_before"),
               number_text(l, "class_information"), number_text(l, "token_information"),
               load_sparkline(load, out.terminal(), 32)});
  }
  out.block(table.render(out.table_style()));
}

void print_experts(Output& out, const nlohmann::json& layers) {
  for (const auto& l : layers) {
    if (!l.contains("favourites")) continue;
    out.line("");
    out.line(text("layer ", l["layer"].get<int64_t>(), ": what each expert takes more often than its share"));
    TextTable table({"expert", "load", "most with", "class", "tokens"});
    const auto E = l["n_experts"].get<size_t>();
    for (size_t e = 0; e < E; ++e) {
      std::string with = "-", kind = "-", words;
      if (l.contains("pairs")) {
        double best = 0;
        for (size_t f = 0; f < E; ++f)
          if (f != e && l["pairs"][e][f].get<double>() > best)
            best = l["pairs"][e][f], with = text(f, " (", std::round(100 * best), " %)");
      }
      double most = 0;
      for (const auto& c : l["classes"])
        if (c["share"][e].get<double>() > most && c["tokens"].get<int64_t>() >= 20)
          most = c["share"][e], kind = text(c["name"].get<std::string>(), " (", std::round(100 * most), " % of it)");
      for (const auto& token : l["favourites"][e])
        words += (words.empty() ? "" : "  ") + shown_token(token.get<std::string>());
      table.row({text(e), text(std::round(1000 * l["load"][e].get<double>()) / 10, " %"), with, kind, words});
    }
    out.block(table.render(out.table_style()));
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
    out.line(text("layer ", l["layer"].get<int64_t>(), " during training, held-out text"));
    TextTable table({"step", "MaxVio", "entropy", "fluctuation", "load"});
    for (size_t i = 0; i < shown; ++i) {
      const auto& row = history[(history.size() - 1) * i / (shown - 1)];
      for (const auto& then : row["layers"])
        if (then["layer"] == l["layer"])
          table.row({text(row["step"].get<int64_t>()), number_text(then, "max_violation"), number_text(then, "entropy"),
                     share_text(then, "fluctuation"),
                     load_sparkline(then["load"].get<std::vector<double>>(), out.terminal(), 32)});
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
  if (word.ends_with(".safetensors")) {
    require(!arguments.given("text") && !arguments.given("step"), "--text and --step need a run, not a trace");
    trace = read_trace(fs, word);
    data = insight_of(trace, nullptr);
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
    data = insight_of(trace, &run);
    beside = folder / "inspect.html";
  }
  keep_layer(arguments, data["layers"]);
  if (data["layers"].empty()) fail(ErrorKind::data, word, ": no layer with experts: there is no routing to inspect");
  if (arguments.given("trace")) write_trace(fs, arguments.text("trace"), trace);
  const io::Path page = arguments.given("page") ? io::Path(arguments.text("page")) : beside;
  io::write_atomically(fs, page, io::as_bytes(inspect_page(data)));

  out.line(text(data["title"].get<std::string>(), ": ", data["tokens"].get<int64_t>(), " tokens, ",
                data["layers"].size(), " layers with experts"));
  print_layers(out, data["layers"]);
  print_experts(out, data["layers"]);
  print_history(out, data);
  out.line("");
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
        "class info and token info: share of the uncertainty about a token's class (or id) that its expert removes, "
        "0 to 1. as before: share of tokens whose first expert has the same number in the layer before. Of a run, the "
        "loads of its evaluations during training follow. fluctuation: share of held-out tokens whose first expert "
        "changed since the evaluation before.",
    .group = "understand",
    .positionals = kInspectArguments,
    .options = kInspectOptions,
    .examples = kInspectExamples,
    .run = run_inspect,
};

}  // namespace collegium::cli
