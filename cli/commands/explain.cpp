// `collegium explain`: why a token got its experts.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/setting.h"
#include "collegium/recipe/insight.h"

namespace collegium::cli {
namespace {

constexpr Positional kExplainArguments[] = {
    {.name = "RUN", .help = "a run's id, the start of one, or its folder", .complete = Complete::runs}};
constexpr Option kExplainOptions[] = {
    {.name = "text", .letter = 't', .value = "TEXT", .help = "the text to route"},
    {.name = "token",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "which of its tokens, from 0; -1 = the last one",
     .default_text = "-1"},
    {.name = "layer", .value = "N", .kind = ValueKind::integer, .help = "only this layer of the model"},
    {.name = "experts",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "show the N best experts, a third of them not chosen; 0 = all",
     .default_text = "6"},
    {.name = "step",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "the checkpoint of this step; default the newest"},
    kRunsOption,
    kDeviceOption,
    kThreadsOption,
};
constexpr Example kExplainExamples[] = {
    {"collegium explain tiny_moe --text ROMEO:", "the last token, in every layer"},
    {"collegium explain tiny_moe --text ROMEO: --token 0 --layer 1", "one token in one layer"},
};

// Four decimals, or two digits of what is too small for them.
std::string small_number(double value) {
  const auto size = std::abs(value);
  if (size < 1e-9) return "0";
  if (size >= 5e-4) return text(std::round(1e4 * value) / 1e4);
  return significant_text(value, 2);
}

std::string cell(const nlohmann::json& row, const char* key) {
  if (!row.contains(key)) return "-";
  return row[key].is_number_float() ? small_number(row[key].get<double>()) : row[key].dump();
}

std::string expert_cell(const nlohmann::json& row, size_t n_working) {
  const auto number = row["expert"].get<size_t>();
  return row.contains("null") ? text("null ", number - n_working) : text(number);
}

std::string quoted_token(const std::string& token) {
  return nlohmann::json(token).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool is_asked(const nlohmann::json& row) {
  return row["chosen"].get<bool>() || row.contains("moved_to");
}

// At most so many of a layer's experts, 0 = all: the best of what was asked for and, where something is known of them,
// the next ones; these keep a third of the room.
std::vector<nlohmann::json> experts_to_show(const nlohmann::json& experts, int64_t most) {
  std::vector<nlohmann::json> asked, others;
  for (const auto& e : experts) (is_asked(e) ? asked : others).push_back(e);
  const auto telling =
      std::count_if(others.begin(), others.end(), [](const auto& e) { return e.contains("compared"); });
  const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
  if (most > 0) {
    const auto kept_back = std::min(telling, most / 3);
    if (size(asked) > most - kept_back) asked.resize(static_cast<size_t>(most - kept_back));
    const auto rest = most - size(asked);
    if (size(others) > rest) others.resize(static_cast<size_t>(rest));
    if (telling == 0 && !asked.empty()) others.clear();
  }
  asked.insert(asked.end(), others.begin(), others.end());
  return asked;
}

void print_layer(Output& out, const nlohmann::json& layer, int64_t most) {
  out.line("");
  const auto rule = layer["rule"].get<std::string>(), name = layer["name"].get<std::string>();
  const auto number = name.starts_with("attention") ? text(" (--layer ", layer["layer"].get<int64_t>(), ")") : "";
  out.line(text(name, number, rule.empty() ? "" : ": ", rule));
  TextTable table(
      {"expert", "score", "bias", "margin", "group", "rank", "queue", "slot", "gate", "asked by", "kept by", "why"});
  const auto& experts = layer["experts"];
  const auto is_null = [](const auto& e) { return e.contains("null"); };
  const auto n_working = experts.size() - static_cast<size_t>(std::count_if(experts.begin(), experts.end(), is_null));
  const auto shown = experts_to_show(experts, most);
  for (const auto& e : shown)
    table.row({expert_cell(e, n_working), cell(e, "score"), cell(e, "bias"), cell(e, "margin"), cell(e, "group"),
               cell(e, "rank"), cell(e, "queue"), cell(e, "slot"), cell(e, "gate"), cell(e, "asked_by"),
               cell(e, "kept_by"), e["fate"].get<std::string>()});
  out.block(table.render(out.table_style()));
  const auto more =
      std::count_if(experts.begin(), experts.end(), is_asked) - std::count_if(shown.begin(), shown.end(), is_asked);
  if (more > 0) out.line(text("and ", more, " more of this token's experts; --experts 0 shows all"));
}

int run_explain(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  require(arguments.given("text") && !arguments.text("text").empty(), "--text TEXT is needed");
  require(arguments.integer("experts") >= 0, "--experts must be 0 or more, got ", arguments.integer("experts"));
  const auto device = parse_device(arguments.text("device"));
  auto run = open_run(run_folder(arguments, arguments.positional("RUN")), device,
                      arguments.given("step") ? std::optional(arguments.integer("step")) : std::nullopt);
  show_warnings(arguments, run.warnings);
  auto data = explain_text(run, arguments.text("text"), arguments.integer("token"), device);
  keep_layer(arguments, data["layers"]);

  std::string tokens;
  for (size_t i = 0; i < data["tokens"].size(); ++i) {
    const auto word = quoted_token(data["tokens"][i].get<std::string>());
    tokens += (i ? " " : "") +
              (static_cast<int64_t>(i) == data["index"].get<int64_t>() ? out.colored("1", text(">", word, "<")) : word);
  }
  out.line(text("token ", data["index"].get<int64_t>(), " of ", data["run"].get<std::string>(), " at step ",
                data["step"].get<int64_t>(), ": ", tokens));
  for (const auto& layer : data["layers"]) print_layer(out, layer, arguments.integer("experts"));
  out.json(Json(data));
  return 0;
}

}  // namespace

extern constinit const Command explain_command = {
    .name = "explain",
    .summary = "why one token got its experts",
    .help =
        "Routes a text through the run's newest checkpoint and shows, for one token and each layer, who chooses and "
        "every expert's score, selection bias, margin (how far what is compared lies above, or below, the value where "
        "the choice turns while all other scores stay), group, rank (0 = first choice), queue (0 = the first of those "
        "that asked for the expert to get a place), slot (its place in the expert's buffer), gate weight, how many "
        "tokens of the text asked for it and how many it kept, and what would have to change for another decision. "
        "Heads of attention that are experts are layers, too, numbered after the model's own.\n\n"
        "What capacity turned away keeps the margin of its choice, in the row of the expert that it asked for; where "
        "it was moved, the margin there is the distance to the next expert that could have taken it. Null experts do "
        "no work; they are called null 0, null 1 and so on.",
    .group = "understand",
    .positionals = kExplainArguments,
    .options = kExplainOptions,
    .examples = kExplainExamples,
    .run = run_explain,
};

}  // namespace collegium::cli
