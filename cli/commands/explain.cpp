// `collegium explain`: why a token got its experts.
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
     .help = "show the N best experts; 0 = all",
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

std::string cell(const nlohmann::json& row, const char* key) {
  if (!row.contains(key)) return "-";
  return row[key].is_number_float() ? text(std::round(1e4 * row[key].get<double>()) / 1e4) : row[key].dump();
}

std::string quoted_token(const std::string& token) {
  return nlohmann::json(token).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
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
  for (const auto& layer : data["layers"]) {
    out.line("");
    const auto rule = layer["rule"].get<std::string>();
    out.line(text("layer ", layer["layer"].get<int64_t>(), rule.empty() ? "" : ": ", rule));
    TextTable table(
        {"expert", "score", "bias", "margin", "group", "rank", "slot", "gate", "asked by", "kept by", "why"});
    int64_t shown = 0;
    for (const auto& e : layer["experts"]) {
      if (arguments.integer("experts") > 0 && shown++ >= arguments.integer("experts") && !e["chosen"].get<bool>())
        break;
      table.row({cell(e, "expert"), cell(e, "score"), cell(e, "bias"), cell(e, "margin"), cell(e, "group"),
                 cell(e, "rank"), cell(e, "slot"), cell(e, "gate"), cell(e, "asked_by"), cell(e, "kept_by"),
                 e["fate"].get<std::string>()});
    }
    out.block(table.render(out.table_style()));
  }
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
        "the choice turns while all other scores stay), group, rank (0 = first choice), slot (its place in the "
        "expert's buffer), gate weight, how many tokens of the text asked for it and how many it kept, and what would "
        "have to change for another decision.",
    .group = "understand",
    .positionals = kExplainArguments,
    .options = kExplainOptions,
    .examples = kExplainExamples,
    .run = run_explain,
};

}  // namespace collegium::cli
