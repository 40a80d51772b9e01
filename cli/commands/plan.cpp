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
  Json json = {{"parameters_total", f.parameters_total},
               {"parameters_active", f.parameters_active},
               {"train_flops_per_token", plan.train_flops_per_token},
               {"cache_bytes_per_token", f.cache_bytes_per_token},
               {"tokens", plan.tokens},
               {"memory_bytes", plan.memory_bytes},
               {"memory_probed", plan.is_memory_probed},
               {"memory_available", plan.memory_available ? Json(*plan.memory_available) : Json()},
               {"checkpoint_bytes", plan.checkpoint_bytes},
               {"disk_bytes", plan.disk_bytes},
               {"fits", plan.refusals.empty()},
               {"refusals", plan.refusals}};
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
        "Parameters, work per token, memory, disk and time, the latter from a short measurement on this machine. "
        "Exits with 3 when the run does not fit.",
    .group = "train and use",
    .positionals = kPlanArguments,
    .options = kPlanOptions,
    .examples = kPlanExamples,
    .run = run_plan,
};

}  // namespace collegium::cli
