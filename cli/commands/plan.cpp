// `collegium plan`: what a recipe will cost.
#include "collegium/recipe/plan.h"

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/setting.h"
#include "collegium/base/bytes.h"

namespace collegium::cli {
namespace {

constexpr Positional kPlanArguments[] = {{.name = "RECIPE", .help = "a recipe", .complete = Complete::recipes}};
constexpr Option kPlanOptions[] = {
    kSetOption,     {.name = "no-measure", .help = "skip the short measurement of this machine's speed"},
    kRunsOption,    kDeviceOption,
    kThreadsOption,
};
constexpr Example kPlanExamples[] = {
    {"collegium plan recipes/model/tiny_moe.toml", "parameters, memory, time"},
    {"collegium plan recipes/model/tiny_moe.toml --set model.d_model=2048", "does it fit?"}};

// "0-2, 5" for layers in order.
std::string ranges_text(const std::vector<int64_t>& layers) {
  std::vector<std::string> out;
  for (size_t first = 0, last = 0; first < layers.size(); first = last) {
    while (last < layers.size() && layers[last] - layers[first] == static_cast<int64_t>(last - first)) ++last;
    out.push_back(last - first == 1 ? text(layers[first]) : text(layers[first], "-", layers[last - 1]));
  }
  return join(out);
}

// What each layer costs; those that cost the same share a row, whose numbers are those of one of them.
TextTable layers_table(const model::ModelFacts& facts) {
  TextTable table({"layers", "parts", "experts", "parameters", "active", "work/token", "cache/token"});
  for (size_t column = 2; column < 7; ++column) table.align(column, Align::right);
  std::vector<std::pair<std::vector<std::string>, std::vector<int64_t>>> rows;
  for (const auto& cost : facts.costs) {
    std::vector<std::string> experts;
    if (cost.n_experts > 0) experts.push_back(text(cost.n_experts));
    if (cost.n_heads > 0) experts.push_back(text(cost.n_heads, " heads"));
    auto parts = cost.parts;
    if (cost.share < 1) parts += text(", for ", fixed_text(100 * cost.share, 1), " % of the tokens");
    const std::vector<std::string> cells = {
        parts,
        experts.empty() ? "-" : join(experts, ", "),
        count_text(cost.parameters_total),
        count_text(cost.parameters_active),
        count_text(3 * cost.flops_per_token) + "FLOP",
        cost.cache_bytes_per_token > 0 ? bytes_text(cost.cache_bytes_per_token) : "-"};
    const auto twin = std::find_if(rows.begin(), rows.end(), [&](const auto& row) {
      return row.first == cells && !row.second.empty() && cost.layer >= 0;
    });
    if (twin != rows.end())
      twin->second.push_back(cost.layer);
    else
      rows.push_back({cells, cost.layer >= 0 ? std::vector<int64_t>{cost.layer} : std::vector<int64_t>{}});
  }
  for (const auto& [cells, layers] : rows) {
    std::vector<std::string> line = {layers.empty() ? "around" : ranges_text(layers)};
    line.insert(line.end(), cells.begin(), cells.end());
    table.row(line);
  }
  return table;
}

Json layers_json(const model::ModelFacts& facts) {
  auto out = Json::array();
  for (const auto& cost : facts.costs)
    out.push_back({{"layer", cost.layer >= 0 ? Json(cost.layer) : Json()},
                   {"parts", cost.parts},
                   {"n_experts", cost.n_experts},
                   {"n_heads", cost.n_heads},
                   {"share", cost.share},
                   {"parameters_total", cost.parameters_total},
                   {"parameters_active", cost.parameters_active},
                   {"train_flops_per_token", 3 * cost.flops_per_token},
                   {"cache_bytes_per_token", cost.cache_bytes_per_token}});
  return out;
}

int run_plan(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  const auto recipe = read_recipe(arguments.positional("RECIPE"), arguments.all("set"));
  const InterruptFlag interrupt;
  const auto setting = run_setting(arguments, &interrupt, nullptr);
  if (!arguments.flag("no-measure")) out.note("measuring a few training steps on random data …");
  const auto plan =
      in_recipe(recipe.path, [&] { return make_plan(recipe.run, setting, !arguments.flag("no-measure")); });
  const auto& f = plan.facts;
  show_warnings(arguments, f.notes);

  TextTable rows({"what", "value", "note"});
  rows.align(1, Align::right);
  rows.row({"parameters", count_text(f.parameters_total), "all experts counted"});
  rows.row({"active parameters", count_text(f.parameters_active),
            "met by one token (of an image: a patch), embedding included"});
  const auto of_heads =
      std::count_if(f.moe_layers.begin(), f.moe_layers.end(), [&](auto l) { return l >= f.n_layers; });
  rows.row({"layers with experts", text(static_cast<int64_t>(f.moe_layers.size()) - of_heads, " of ", f.n_layers), ""});
  if (of_heads > 0) rows.row({"heads as experts", text("in ", of_heads, " of ", f.n_layers), "layers"});
  rows.row({"work per token", count_text(plan.train_flops_per_token) + "FLOP", "forward and backward"});
  if (f.cache_bytes_per_token > 0)
    rows.row({"cache per token", bytes_text(f.cache_bytes_per_token),
              f.reads_other_tokens ? "of keys and values in float32; but a layer needs whole sequences to generate"
                                   : "keys and values kept for generation, in float32"});
  rows.row({"tokens", count_text(static_cast<double>(plan.tokens)),
            text(recipe.run.train.steps, " steps of ", plan.tokens / recipe.run.train.steps)});
  if (!plan.start.empty())
    rows.row(
        {"starts from", std::filesystem::path(recipe.run.train.init_from).filename().string(), join(plan.start, "; ")});
  if (plan.source_tokens)
    rows.row({"trained first", count_text(static_cast<double>(*plan.source_tokens)),
              "tokens of the recipe that it starts from"});
  rows.row({"memory", bytes_text(plan.memory_bytes),
            text(plan.memory_available
                     ? text(bytes_text(*plan.memory_available), setting.device.is_cpu() ? " free" : " on the device")
                     : text("how much ", setting.device, " has is not known"),
                 "; ", plan.is_memory_probed ? "from steps with smaller batches" : "an estimate")});
  rows.row({"checkpoint", bytes_text(plan.checkpoint_bytes),
            text(bytes_text(plan.disk_bytes), " at most at once, ", bytes_text(plan.disk_available), " free")});
  if (plan.tokens_per_second) {
    rows.row({"speed", count_text(*plan.tokens_per_second) + " tok/s", "measured just now"});
    rows.row({"time", duration_text(*plan.seconds), "training; evaluations and checkpoints come on top"});
  }
  out.block(rows.render(out.table_style()));
  out.block("\n" + layers_table(f).render(out.table_style()));
  Json json = {{"parameters_total", f.parameters_total},
               {"parameters_active", f.parameters_active},
               {"train_flops_per_token", plan.train_flops_per_token},
               {"cache_bytes_per_token", f.cache_bytes_per_token},
               {"layers", layers_json(f)},
               {"tokens", plan.tokens},
               {"memory_bytes", plan.memory_bytes},
               {"memory_probed", plan.is_memory_probed},
               {"memory_available", plan.memory_available ? Json(*plan.memory_available) : Json()},
               {"checkpoint_bytes", plan.checkpoint_bytes},
               {"disk_bytes", plan.disk_bytes},
               {"fits", plan.refusals.empty()},
               {"refusals", plan.refusals}};
  if (!plan.start.empty()) json["start"] = plan.start;
  if (plan.source_tokens) json["source_tokens"] = *plan.source_tokens;
  if (plan.tokens_per_second) json["tokens_per_second"] = *plan.tokens_per_second, json["seconds"] = *plan.seconds;
  if (!plan.refusals.empty()) refuse_if_too_large(plan);
  out.line(plan.memory_available ? "it fits" : text("it fits, if the memory of ", setting.device, " suffices"));
  out.json(json);
  return 0;
}

}  // namespace

extern constinit const Command plan_command = {
    .name = "plan",
    .summary = "what a recipe will cost, before any work",
    .help =
        "Parameters, work per token, memory, disk and time, the latter from a short measurement on this machine; and "
        "what each layer costs, where layers that cost the same share a row. "
        "Exits with 3 when the run does not fit.",
    .group = "train and use",
    .positionals = kPlanArguments,
    .options = kPlanOptions,
    .examples = kPlanExamples,
    .run = run_plan,
};

}  // namespace collegium::cli
