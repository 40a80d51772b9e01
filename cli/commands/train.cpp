// `collegium train`: carries out a recipe.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/setting.h"
#include "collegium/recipe/plan.h"

namespace collegium::cli {
namespace {

constexpr Positional kTrainArguments[] = {
    {.name = "RECIPE", .help = "a recipe, such as recipes/model/tiny_moe.toml", .complete = Complete::recipes}};
constexpr Option kTrainOptions[] = {
    kSetOption,
    {.name = "seed",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "the recipe's seed, replaced",
     .environment = "COLLEGIUM_SEED"},
    {.name = "init-from",
     .value = "SOURCE",
     .help = "start from the weights of this run, checkpoint folder or recipe (sets train.init_from)",
     .complete = Complete::runs},
    {.name = "name", .value = "NAME", .help = "how the run is called; the recipe's name when left out"},
    {.name = "resume", .help = "go on with the newest unfinished run of this recipe"},
    {.name = "run", .value = "ID", .help = "with --resume: go on with this run", .complete = Complete::runs},
    {.name = "allow-drift", .help = "with --resume: accept a changed configuration"},
    {.name = "dry-run", .help = "check the recipe and show the plan, train nothing"},
    {.name = "print-config", .help = "print the configuration with every value, train nothing"},
    {.name = "no-report", .help = "write no report.html at the end"},
    kRunsOption,
    kDeviceOption,
    kThreadsOption,
    kOfflineOption,
};
constexpr Example kTrainExamples[] = {
    {"collegium train recipes/model/tiny_moe.toml", "train, with a report at the end"},
    {"collegium train recipes/model/tiny_moe.toml --set model.moe.router=switch --seed 2", "another router and seed"},
    {"collegium train recipes/model/tiny_moe.toml --resume", "go on after Ctrl-C or a crash"},
};

Json outcome_json(const RunOutcome& o) {
  Json out = {
      {"run", o.run.id},        {"folder", o.folder.string()}, {"status", io::run_status_name(o.run.status)},
      {"steps", o.result.step}, {"tokens", o.result.tokens},   {"tokens_per_second", o.result.tokens_per_second}};
  for (const auto& [key, value] : o.result.train) out["train_" + key] = value;
  for (const auto& [key, value] : o.result.valid) out["valid_" + key] = value;
  return out;
}

std::string quoted(const std::string& word) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("_-./=:,@%+").find(c) != std::string::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// What goes on with an interrupted run, to be pasted into the same shell.
std::string going_on(const Arguments& arguments, const io::Run& run) {
  auto out = text("collegium train ", quoted(arguments.positional("RECIPE")));
  for (const auto& set : arguments.all("set")) out += " --set " + quoted(set);
  for (const auto* option : {"init-from", "runs", "device", "threads"})
    if (arguments.given(option)) out += text(" --", option, " ", quoted(arguments.text(option)));
  return text(out, " --resume --run ", run.id);
}

int finish(const Arguments& arguments, const RunOutcome& outcome, const RunSetting& setting) {
  auto& out = arguments.out();
  show_warnings(arguments, outcome.warnings);
  const auto& r = outcome.result;
  auto json = outcome_json(outcome);
  if (r.reason == train::StopReason::not_finite) {
    const auto kept = r.kept_step ? text("the checkpoint of step ", *r.kept_step, " is kept")
                                  : std::string("there is no checkpoint to go on from");
    throw Error(ErrorKind::data, text(outcome.run.id, ": stopped: ", r.problem, "; ", kept),
                text("lower train.optimizer.lr, or raise its warm-up, and ",
                     r.kept_step ? "resume with --allow-drift" : "train again"));
  }
  if (r.reason == train::StopReason::interrupted) {
    throw Error(ErrorKind::interrupted, text(outcome.run.id, ": interrupted at step ", r.step, ", checkpoint written"),
                text("go on with: ", going_on(arguments, outcome.run)));
  }
  for (const auto& line : outcome.start) out.line(line);
  if (!outcome.start.empty()) json["start"] = outcome.start;
  if (!arguments.flag("no-report")) {
    auto opened = open_run(outcome.folder, setting.device);
    write_sample(opened, setting.device);
    json["report"] = write_report(outcome.folder).string();
    out.line(text("report: ", json["report"].get<std::string>()));
  }
  if (const auto found = r.valid.find(std::string(r.headline.key)); found != r.valid.end())
    out.line(text("held-out: ", found->second, " ", r.headline.unit, " after ", r.step, " steps"));
  out.line(text("run: ", outcome.run.id));
  out.json(json);
  return 0;
}

int run_train(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  auto sets = arguments.all("set");
  if (arguments.given("seed")) sets.push_back(text("seed=", arguments.integer("seed")));
  // As a TOML string: a run's id may look like a number.
  if (arguments.given("init-from"))
    sets.push_back(text("train.init_from=", to_toml(Value(arguments.text("init-from")))));
  const auto recipe = read_recipe(arguments.positional("RECIPE"), sets);
  if (arguments.flag("print-config")) {
    const auto table = resolved(recipe.run);
    out.block(to_toml(table));
    out.json({{"config", to_toml(table)}});
    return 0;
  }
  require(!arguments.given("run") || arguments.flag("resume"), "--run goes with --resume");
  require(!arguments.flag("allow-drift") || arguments.flag("resume"), "--allow-drift goes with --resume");

  const InterruptFlag interrupt;
  const auto progress = arguments.progress();
  const auto setting = run_setting(arguments, &interrupt, progress.get());
  if (arguments.flag("resume")) {
    io::RunStore store(setting.runs_root);
    const auto run = arguments.given("run") ? store.find(arguments.text("run")) : find_unfinished(store, recipe.path);
    auto config = recipe.run;
    // The seed belongs to the run; the recipe's own is only where a new run starts from.
    if (!arguments.given("seed")) config.seed = run.seed;
    return finish(arguments, resume_run(run, config, arguments.flag("allow-drift"), setting), setting);
  }
  if (!arguments.flag("dry-run")) io::real_file_system().create_directories(setting.runs_root);
  const auto plan = in_recipe(recipe.path, [&] { return make_plan(recipe.run, setting, false); });
  refuse_if_too_large(plan);
  if (!plan.memory_available)
    out.note(text("the memory of ", setting.device, " is not known, nor whether it suffices"));
  if (arguments.flag("dry-run")) {
    out.line(text(recipe.path, ": fits; ", count_text(plan.facts.parameters_total), " parameters, ",
                  count_text(plan.facts.parameters_active), " active per token; `collegium plan` shows more"));
    out.json({{"recipe", recipe.path}, {"fits", true}});
    return 0;
  }
  const auto name = arguments.maybe("name").value_or(recipe.name);
  for (const char c : name)
    require(std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.', "--name ", name,
            ": letters, digits, '_', '-' and '.' only");
  return finish(arguments, start_run(recipe.run, name, recipe.path, setting), setting);
}

}  // namespace

extern constinit const Command train_command = {
    .name = "train",
    .summary = "train a model as a recipe says",
    .help =
        "Trains in a new folder below --runs: metrics, checkpoints and, at the end, a report that a browser opens. "
        "Ctrl-C once writes a checkpoint and exits with 130; twice stops at once. --resume goes on where the last "
        "good checkpoint stands and ends bitwise where the uninterrupted run would have.",
    .group = "train and use",
    .positionals = kTrainArguments,
    .options = kTrainOptions,
    .examples = kTrainExamples,
    .run = run_train,
};

}  // namespace collegium::cli
