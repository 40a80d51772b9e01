#include "collegium/recipe/leaderboard.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "collegium/base/text_table.h"
#include "collegium/inspect/page.h"
#include "collegium/layer/experts.h"
#include "collegium/recipe/budgets.h"
#include "collegium/recipe/machine.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/step_timer.h"
#include "collegium/recipe/toml.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

constexpr int64_t kSizes[] = {8, 64, 256};

// Why a recipe is not on the reference's task; empty when it is.
std::string other_task(Board board, const RunConfig& reference, const RunConfig& run) {
  const auto may_differ = [&](std::string_view path) {
    if (path == "train.routing_noise") return true;  // a further measure after training
    if (path == "seed" || path == "model.allow_noncausal" || path.starts_with("sample.")) return true;
    if (board == Board::route) return path.starts_with("model.moe.") || path == "train.consistency";
    return path.starts_with("model.") && path != "model.name";
  };
  for (const auto& line : differences(resolved(reference), resolved(run)))
    if (!may_differ(line.substr(0, line.find(": ")))) return line;
  return {};
}

std::string key_of(const RunConfig& run) {
  return to_toml(resolved(run));
}

// The reference and the baselines of layers, each once, named by what they are.
std::vector<Recipe> with_baselines(const Recipe& reference, const std::vector<Recipe>& recipes) {
  std::vector<Recipe> out = recipes;
  std::set<std::string> known;
  for (const auto& r : recipes) known.insert(key_of(r.run));
  const auto add = [&](const Recipe& from, const RunConfig& run, const std::string& name) {
    if (!known.insert(key_of(run)).second) return;
    Recipe one = from;
    one.run = run, one.name = name, one.paper = 0, one.title = name, one.has_baseline = false;
    out.push_back(std::move(one));
  };
  add(reference, reference.run, reference.name);
  for (const auto& r : recipes)
    if (r.has_baseline) add(r, r.baseline, text(r.baseline_name, " (baseline of ", r.name, ")"));
  return out;
}

// The recipe's layers with experts on the reference's task, with the keys of its [leaderboard] changed.
RunConfig on_task_of(const RunConfig& reference, const Recipe& recipe) {
  auto root = write_config(reference);
  const auto own = write_config(recipe.run);
  for (const auto* path : {"model.moe", "model.allow_noncausal", "train.consistency"})
    if (const auto* value = find_path(own, path)) set_path(root, path, *value);
  return read_run_config(merged(std::move(root), *recipe.leaderboard));
}

// 4096 tokens of sequences as long as in training, and all that a router may know of them.
struct Tokens {
  static constexpr int64_t kCount = 4096, kVocabulary = 1024;
  int64_t T, B;
  Tensor x_ND;
  route::Corpus corpus;
  route::Context context;

  Tokens(const RunConfig& config, int64_t D, const RunSetting& setting)
      : T(std::min(kCount, config.train.context)), B(kCount / T) {
    const auto options = at::TensorOptions().dtype(at::kFloat).device(setting.device);
    const auto random = Random(1).at("leaderboard");
    const auto causal_TT = at::ones({T, T}, options).tril();
    x_ND = random.at("x").normal({B * T, D}, 1, options);
    corpus = {.vocabulary = kVocabulary, .count_V = at::arange(kVocabulary, at::kLong).to(setting.device)};
    context = {.phase = route::Phase::evaluate,
               .token_id_N = at::arange(B * T, at::kLong).remainder(kVocabulary).to(setting.device),
               .sequence_N = at::arange(B, at::kLong).repeat_interleave(T).to(setting.device),
               .n_sequences = B,
               .attention_BTT = (causal_TT / causal_TT.sum(1, true)).expand({B, T, T}),
               .random = random};
  }
};

// Seconds of several runs of each, in turn, the least first: a busy machine only adds.
std::vector<std::vector<double>> seconds_in_turn(const std::vector<std::function<void()>>& actions,
                                                 const Clock& clock) {
  constexpr int kPasses = 9;
  std::vector<std::vector<double>> out(actions.size());
  for (int pass = 0; pass < kPasses; ++pass)
    for (size_t i = 0; i < actions.size(); ++i) {
      const auto before = clock();
      actions[i]();
      out[i].push_back(clock() - before);
    }
  for (auto& seconds : out) std::sort(seconds.begin(), seconds.end());
  return out;
}

RouterCost cost_of_router(const Named& router, int64_t E, int64_t D, const Tokens& tokens, const RunSetting& setting) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(setting.device);
  const auto random = Random(1).at("leaderboard");
  const auto made = find(route::routers(), router, "router")
                        .make(router, {.d_model = D,
                                       .n_experts = E,
                                       .random = random.at("router"),
                                       .options = options,
                                       .corpus = tokens.corpus});
  const auto experts =
      find(layer::experts(), Named{.name = "swiglu"}, "expert")
          .make(Named{.name = "swiglu"},
                {.n_experts = E, .d_model = D, .d_expert = 64, .random = random.at("experts"), .options = options});
  auto context = tokens.context;
  context.experts = experts.get();
  const at::NoGradGuard no_grad;
  const auto seconds = seconds_in_turn({[&] { made->route(tokens.x_ND, context); }}, setting.clock).front();
  const auto scale = 1e6 / static_cast<double>(tokens.x_ND.size(0));
  return {scale * seconds.front(), scale * seconds[seconds.size() / 2]};
}

// What choosing costs where it is part of the experts: the layer's forward pass less that of experts that a table
// assigns, as many a token and as wide as the layer's other parameters come to. What every further expert adds to the
// parameters that a token meets counts as choosing.
RouterCost cost_of_choosing(Named moe, int64_t E, int64_t D, const Tokens& tokens, const RunSetting& setting) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(setting.device);
  const layer::MoeLayer::Inputs inputs{
      .d_model = D, .random = Random(1).at("leaderboard").at("layer"), .options = options, .corpus = tokens.corpus};
  const auto with = [&](int64_t n, const at::TensorOptions& where) {
    auto named = moe;
    set_path(named.fields, "n_experts", Value(n));
    auto in = inputs;
    in.options = where;
    return find(layer::layers(), named, "layer").make(named, in);
  };
  const auto active = [&](int64_t n) { return with(n, options.device(at::kMeta))->facts().parameters_active; };
  const auto made = with(E, options);
  const auto working = made->facts().parameters_active - (active(2 * E) - active(E));
  const auto k = made->router() ? std::lround(made->router()->facts().choices_per_token) : 1;
  const Named plain{.name = "routed",
                    .fields = table({{"n_experts", E},
                                     {"d_expert", std::lround(working / (3.0 * static_cast<double>(D * k)))},
                                     {"router", table({{"name", "hash"}, {"k", k}})}})};
  const auto other = find(layer::layers(), plain, "layer").make(plain, inputs);
  const at::NoGradGuard no_grad;
  const auto seconds = seconds_in_turn(
      {[&] { made->forward(tokens.x_ND, tokens.context); }, [&] { other->forward(tokens.x_ND, tokens.context); }},
      setting.clock);
  const auto scale = 1e6 / static_cast<double>(tokens.x_ND.size(0));
  const auto beyond = [&](size_t i) { return scale * (seconds[0][i] - seconds[1][i]); };
  return {beyond(0), beyond(seconds[0].size() / 2)};
}

std::map<int64_t, RouterCost> router_cost(const RunConfig& config, const RunSetting& setting) {
  std::map<int64_t, RouterCost> out;
  const auto table = resolved(config);
  const auto* moe = find_path(table, "model.moe");
  if (!moe) return out;
  const auto layer = read_named(*moe, "model.moe");
  const auto D = std::get<int64_t>(find_path(table, "model.d_model")->data);
  const Tokens tokens(config, D, setting);
  const auto* router = layer.fields.find("router");
  for (const auto E : kSizes) try {
      out[E] = router ? cost_of_router(read_named(*router, "model.moe.router"), E, D, tokens, setting)
                      : cost_of_choosing(layer, E, D, tokens, setting);
    } catch (const Error&) {
      // A size that this router cannot have, such as groups that do not divide it: no figure.
    }
  return out;
}

void measure_speeds(std::vector<Entrant>& entrants, const RunSetting& setting) {
  constexpr int kRounds = 9;
  std::vector<std::unique_ptr<StepTimer>> timers;
  for (const auto& e : entrants) timers.push_back(std::make_unique<StepTimer>(e.runs.front(), setting));
  for (auto& timer : timers) timer->step();
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < entrants.size(); ++i)
      entrants[i].tokens_per_second.push_back(static_cast<double>(timers[i]->tokens_per_step()) / timers[i]->step());
}

std::vector<std::string> commits_of(const std::vector<io::Path>& runs, const RunSetting& setting) {
  std::set<std::string> out;
  io::RunStore store(setting.runs_root);
  for (const auto& run : runs) out.insert(io::short_commit(store.find(run.filename().string()).git_commit));
  return {out.begin(), out.end()};
}

std::string cell(const nlohmann::json& row, const char* measure, int digits, double scale = 1) {
  if (!row["measures"].contains(measure)) return "–";
  const auto& m = row["measures"][measure];
  auto out = fixed_text(scale * m["mean"].get<double>(), digits);
  if (m["n"].get<int>() > 1) out += " ± " + fixed_text(scale * m["std"].get<double>(), digits);
  return out;
}

Work work_of(const Entrant& entrant) {
  return {entrant.facts.flops_per_token, entrant.facts.parameters_active};
}

// Entrants and their baselines, as indices.
std::vector<std::pair<size_t, size_t>> pairs_of(const std::vector<Entrant>& entrants) {
  std::vector<std::pair<size_t, size_t>> out;
  for (size_t i = 0; i < entrants.size(); ++i)
    for (size_t j = 0; j < entrants.size(); ++j)
      if (!entrants[i].pair.empty() && entrants[i].pair == entrants[j].recipe.name) out.emplace_back(i, j);
  return out;
}

constexpr double kEqual = 0.05;  // what is nearer counts as equal work

// "+19 %"
std::string percent_more(double ratio) {
  return text(ratio > 1 ? "+" : "", fixed_text(100 * (ratio - 1), 0), " %");
}

// What an entrant does against its baseline: work, active parameters and, seed by seed, loss.
nlohmann::json pair_json(const Entrant& ours, const Entrant& baseline) {
  const auto a = work_of(ours), b = work_of(baseline);
  const auto flops = a.flops_per_token / b.flops_per_token, active = a.parameters_active / b.parameters_active;
  auto gaps = nlohmann::json::array();
  for (const auto& [ratio, what] : {std::pair(flops, "FLOPs"), std::pair(active, "active")})
    if (std::abs(ratio - 1) > kEqual) gaps.push_back(text(percent_more(ratio), " ", what));
  std::vector<double> differences;
  for (size_t i = 0; i < ours.runs.size(); ++i)
    differences.push_back(MeasuredRun(ours.runs[i]).of("valid_bpb") - MeasuredRun(baseline.runs[i]).of("valid_bpb"));
  return {{"baseline", baseline.recipe.name}, {"flops_ratio", flops},    {"active_ratio", active},
          {"equal_work", gaps.size() < 2},    {"gaps", std::move(gaps)}, {"loss", spread_of(differences).json()}};
}

double loss_of(const nlohmann::json& row) {
  return row["measures"]["valid_bpb"]["mean"].get<double>();
}

bool is_causal(const nlohmann::json& row) {
  return row["causal"].get<bool>();
}

// What one gives up: measures in which it is in the worst fifth and worse than the median by more than a tenth.
void mark_sacrifices(const std::vector<nlohmann::json*>& rows) {
  struct Trait {
    const char *measure, *word;
    bool high_is_bad;
  };
  constexpr Trait traits[] = {{"valid_bpb", "loss", true},
                              {"speed", "speed", false},
                              {"max_violation", "balance", true},
                              {"dropped", "dropped tokens", true},
                              {"fluctuation", "stability", true},
                              {"noisy_bpb", "robustness", true},
                              {"utilisation", "idle experts", false},
                              {"training_bytes", "training memory", true},
                              {"cache_bytes_per_token", "cache", true}};
  const auto value_in = [](const nlohmann::json& row, const std::string& measure) -> std::optional<double> {
    if (measure == "speed") return row["speed"]["median"].get<double>();
    if (row.contains(measure)) return row[measure].get<double>();
    if (!row["measures"].contains(measure)) return {};
    return row["measures"][measure]["mean"].get<double>();
  };
  for (const auto& trait : traits) {
    std::vector<double> values;
    for (const auto* row : rows)
      if (const auto v = value_in(*row, trait.measure)) values.push_back(*v);
    if (values.size() < 5) continue;
    std::sort(values.begin(), values.end());
    if (trait.high_is_bad) std::reverse(values.begin(), values.end());
    const auto bound = values[values.size() / 5], median = values[values.size() / 2];
    // Losses differ by little: a hundredth counts there.
    const auto margin = std::string_view(trait.measure).ends_with("bpb") ? 0.01 * median : 0.1 * std::abs(median);
    for (auto* row : rows) {
      const auto v = value_in(*row, trait.measure);
      if (!v) continue;
      if (trait.high_is_bad ? *v >= bound && *v > median + margin : *v <= bound && *v < median - margin)
        (*row)["sacrifices"].push_back(trait.word);
    }
  }
}

// Gives each row its group, its pair and its place in the group; what is compared is compared within a group.
nlohmann::json group_rows(std::vector<nlohmann::json>& rows, const std::vector<Entrant>& entrants) {
  std::vector<Work> works;
  for (const auto& e : entrants) works.push_back(work_of(e));
  std::vector<std::pair<size_t, size_t>> equal;
  for (const auto& [ours, baseline] : pairs_of(entrants)) {
    rows[ours]["pair"] = pair_json(entrants[ours], entrants[baseline]);
    if (rows[ours]["pair"]["gaps"].empty()) equal.emplace_back(ours, baseline);
  }
  const auto group_of = budget_groups(works, equal);
  const auto n_groups = *std::max_element(group_of.begin(), group_of.end()) + 1;
  auto groups = nlohmann::json::array();
  for (size_t g = 0; g < n_groups; ++g) {
    std::vector<nlohmann::json*> members;
    std::vector<double> flops, active;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (group_of[i] != g) continue;
      rows[i]["group"] = g, rows[i]["parameters_active"] = works[i].parameters_active;
      members.push_back(&rows[i]);
      flops.push_back(works[i].flops_per_token), active.push_back(works[i].parameters_active);
    }
    std::stable_sort(members.begin(), members.end(), [](const auto* a, const auto* b) {
      return is_causal(*a) != is_causal(*b) ? is_causal(*a) : loss_of(*a) < loss_of(*b);
    });
    auto names = nlohmann::json::array();
    for (auto* row : members) {
      names.push_back((*row)["name"]);
      if (is_causal(*row)) (*row)["over_best"] = loss_of(*row) - loss_of(*members.front());
    }
    mark_sacrifices(members);
    const auto span = [](const std::vector<double>& values) {
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      return nlohmann::json{{"min", *least}, {"max", *most}};
    };
    groups.push_back({{"flops_per_token", span(flops)}, {"parameters_active", span(active)}, {"rows", names}});
  }
  return groups;
}

}  // namespace

bool is_about_layers(const Recipe& recipe, const Recipe& reference) {
  const auto ours = resolved(recipe.run), other = resolved(recipe.has_baseline ? recipe.baseline : reference.run);
  const auto layer_of = [](const Table& run) {
    const auto* name = find_path(run, "model.moe.name");
    return name ? std::get<std::string>(name->data) : std::string();
  };
  // Against another layer, often a dense one, the routed layer stands for its router.
  const bool is_router = layer_of(ours) == "routed" && layer_of(other) != "routed";
  for (const auto& line : differences(other, ours)) {
    const auto path = std::string_view(line).substr(0, line.find(": "));
    if (path.starts_with("model.") && path != "model.name" && path != "model.allow_noncausal" &&
        path != "model.moe.n_experts" && path != "model.moe.d_expert" && !path.starts_with("model.moe.router.") &&
        !path.starts_with("model.moe.expert.") && !(is_router && path.starts_with("model.moe.")))
      return true;
  }
  return false;
}

Leaderboard gather_leaderboard(Board board, const Recipe& reference, const std::vector<Recipe>& recipes,
                               const RunSetting& setting, Reuse reuse,
                               const std::function<void(const std::string&)>& say) {
  require(reference.run.task == RunConfig{}.task, "leaderboard: ranks by held-out bits per byte, which task '",
          reference.run.task.name, "' of the reference does not have");
  Leaderboard out{.board = board};
  const auto facts_of = [](const RunConfig& run) {
    const auto task = task_of(run);
    return task->imagine(run)->build_model(at::kMeta)->facts(task->sequence_length(run));
  };
  out.reference_active = facts_of(reference.run).parameters_active;
  std::map<std::string, std::string> entered;  // configuration -> the recipe that has it
  for (auto recipe : board == Board::layer ? with_baselines(reference, recipes) : recipes) {
    const bool is_route = board == Board::route;
    if (is_route && !recipe.leaderboard_absence.empty()) {
      out.left_out.push_back(text(recipe.name, " (", recipe.leaderboard_absence, ")"));
      say("left out: " + out.left_out.back());
      continue;
    }
    std::vector<std::string> changed;
    if (is_route && recipe.leaderboard) {
      const auto own = resolved(recipe.run);
      recipe.run = on_task_of(reference.run, recipe);
      for (const auto& line : differences(own, resolved(recipe.run)))
        if (!line.starts_with("seed")) changed.push_back(line);
    }
    if (const auto why = other_task(board, reference.run, recipe.run); !why.empty()) {
      out.left_out.push_back(text(recipe.name, " (another task: ", why, ")"));
      say("left out: " + out.left_out.back());
      continue;
    }
    const auto [twin, is_new] = entered.emplace(key_of(recipe.run), recipe.name);
    if (!is_new) {
      out.left_out.push_back(text(recipe.name, " (the configuration of ", twin->second, ")"));
      say("left out: " + out.left_out.back());
      continue;
    }
    recipe.seeds = reference.seeds;
    say(recipe.name);
    Entrant entrant{.recipe = recipe, .changed = std::move(changed)};
    entrant.runs = runs_of(recipe, setting, reuse);
    entrant.commits = commits_of(entrant.runs, setting);
    if (is_route) entrant.router_cost = router_cost(recipe.run, setting);
    entrant.facts = facts_of(recipe.run);
    if (board == Board::layer)
      if (const auto memory = memory_of_steps(recipe.run, setting))
        entrant.training_bytes = memory->most - memory->before;
    out.entrants.push_back(std::move(entrant));
  }
  require(!out.entrants.empty(), "leaderboard: no recipe is on the reference's task");
  if (board == Board::layer)
    for (auto& entrant : out.entrants)
      if (entrant.recipe.has_baseline)
        if (const auto at = entered.find(key_of(entrant.recipe.baseline)); at != entered.end())
          entrant.pair = at->second;
  say("speed of training steps, all in turn");
  measure_speeds(out.entrants, setting);
  return out;
}

nlohmann::json leaderboard_json(const Leaderboard& board, const RunSetting& setting) {
  nlohmann::json out = {{"room", board.board == Board::route ? "route" : "layer"},
                        {"commit", setting.git_commit},
                        {"date", setting.now()},
                        {"left_out", board.left_out},
                        {"machine", machine_class(environment_on(setting.device))},
                        {"seeds", board.entrants.front().recipe.seeds}};
  std::vector<nlohmann::json> rows;
  for (const auto& e : board.entrants) {
    nlohmann::json row = {{"name", e.recipe.name},
                          {"paper", e.recipe.paper},
                          {"title", e.recipe.title},
                          {"commits", e.commits},
                          {"speed",
                           {{"median", median_of(e.tokens_per_second)},
                            {"min", *std::min_element(e.tokens_per_second.begin(), e.tokens_per_second.end())},
                            {"max", *std::max_element(e.tokens_per_second.begin(), e.tokens_per_second.end())}}},
                          {"flops_per_token", e.facts.flops_per_token},
                          {"cache_bytes_per_token", e.facts.cache_bytes_per_token},
                          {"causal", e.facts.is_causal},
                          {"needs", e.facts.needs.missing({})},
                          {"measures", nlohmann::json::object()},
                          {"router_us", nlohmann::json::object()},
                          {"sacrifices", nlohmann::json::array()}};
    const std::vector<MeasuredRun> runs(e.runs.begin(), e.runs.end());
    for (const auto& m : measures())
      if (const auto spread = spread_of(runs, m.name)) row["measures"][std::string(m.name)] = spread->json();
    for (const auto& [E, us] : e.router_cost)
      row["router_us"][std::to_string(E)] = {{"least", us.least}, {"median", us.median}};
    if (board.board == Board::route) {
      const auto ratio = e.facts.parameters_active / board.reference_active;
      row["active_ratio"] = ratio, row["changed"] = e.changed;
      if (ratio - 1 > kEqual) row["sacrifices"].push_back(text("active parameters ", percent_more(ratio)));
    }
    if (e.training_bytes) row["training_bytes"] = *e.training_bytes;
    if (!e.facts.is_causal) row["sacrifices"].push_back("causality");
    if (const auto needs = e.facts.needs.missing({}); !needs.empty()) row["sacrifices"].push_back("needs " + needs);
    rows.push_back(std::move(row));
  }
  const bool is_route = board.board == Board::route;
  if (is_route) {
    std::vector<nlohmann::json*> all;
    for (auto& row : rows) all.push_back(&row);
    mark_sacrifices(all);
  } else {
    out["groups"] = group_rows(rows, board.entrants);
  }
  std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
    if (!is_route && a["group"] != b["group"]) return a["group"] < b["group"];
    return is_causal(a) != is_causal(b) ? is_causal(a) : loss_of(a) < loss_of(b);
  });
  out["rows"] = rows;
  return out;
}

std::string_view leaderboard_file(Board board) {
  return board == Board::route ? "leaderboard" : "layers";
}

namespace {

struct Column {
  std::string header;
  std::string short_header;  ///< in a terminal; empty = not there
  std::function<std::string(const nlohmann::json&)> cell;
};

std::string name_of(const nlohmann::json& row) {
  return row["name"].get<std::string>() + (row["causal"].get<bool>() ? "" : " (sees later tokens)");
}

std::string router_costs(const nlohmann::json& row) {
  std::vector<std::string> costs;
  for (const auto E : kSizes) {
    const auto key = std::to_string(E);
    if (!row["router_us"].contains(key)) {
      costs.push_back("–");
      continue;
    }
    const auto least = fixed_text(row["router_us"][key]["least"].get<double>(), 2),
               median = fixed_text(row["router_us"][key]["median"].get<double>(), 2);
    costs.push_back(least == median ? least : least + "–" + median);
  }
  return join(costs, " / ");
}

std::string signed_text(double value, int digits) {
  return (value > 0 ? "+" : "") + fixed_text(value, digits);
}

// Loss against the baseline's, in brackets where the two do not do equal work.
std::string pair_loss(const nlohmann::json& row) {
  if (!row.contains("pair")) return "–";
  const auto& loss = row["pair"]["loss"];
  auto out = signed_text(loss["mean"].get<double>(), 4);
  if (loss["n"].get<int>() > 1) out += " ± " + fixed_text(loss["std"].get<double>(), 4);
  return row["pair"]["equal_work"].get<bool>() ? out : "(" + out + ")";
}

std::string pair_work(const nlohmann::json& row) {
  if (!row.contains("pair")) return "–";
  const auto& pair = row["pair"];
  auto out =
      fixed_text(pair["flops_ratio"].get<double>(), 2) + " / " + fixed_text(pair["active_ratio"].get<double>(), 2);
  const auto gaps = pair["gaps"].get<std::vector<std::string>>();
  return gaps.empty() ? out : out + ": " + join(gaps);
}

std::string group_name(const nlohmann::json& group) {
  const auto span = [&](const char* key, double scale, int digits) {
    const auto low = fixed_text(scale * group[key]["min"].get<double>(), digits),
               high = fixed_text(scale * group[key]["max"].get<double>(), digits);
    return low == high ? low : low + " to " + high;
  };
  return span("flops_per_token", 1e-6, 2) + " MFLOP/token, " + span("parameters_active", 1e-3, 0) +
         "k active parameters";
}

std::vector<Column> columns_of(bool is_route) {
  using Row = const nlohmann::json&;
  const auto measured = [](const char* measure, int digits, double scale = 1) {
    return [=](Row row) { return cell(row, measure, digits, scale); };
  };
  const auto mean = [](const char* measure, int digits, double scale, const char* unit) {
    return [=](Row row) { return fixed_text(scale * row["measures"][measure]["mean"].get<double>(), digits) + unit; };
  };
  const auto number = [](const char* key, int digits, double scale) {
    return [=](Row row) { return row.contains(key) ? fixed_text(scale * row[key].get<double>(), digits) : "–"; };
  };
  const auto words = [](const char* key) {
    return [=](Row row) { return join(row[key].get<std::vector<std::string>>()); };
  };
  const Column name{is_route ? "router" : "layer", is_route ? "router" : "layer", name_of};
  const Column paper{"paper", "", [](Row row) { return paper_name(row["paper"].get<int64_t>()); }};
  const Column loss{"held-out bits/byte", "held-out bpb", measured("valid_bpb", 4)};
  const Column noisy{"noisy", "noisy", measured("noisy_bpb", 3)};
  const Column active{"active parameters", is_route ? "" : "active", [](Row row) {
                        auto out =
                            fixed_text(1e-3 * row["measures"]["parameters_active"]["mean"].get<double>(), 0) + "k";
                        const auto ratio = row.value("active_ratio", 1.0);
                        return std::abs(ratio - 1) > kEqual ? text(out, " (", percent_more(ratio), ")") : out;
                      }};
  const Column speed{"tokens/s", "tok/s", [](Row row) {
                       const auto of = [&](const char* key) { return fixed_text(row["speed"][key].get<double>(), 0); };
                       return text(of("median"), " (", of("min"), "–", of("max"), ")");
                     }};
  const Column violation{"MaxVio", "MaxVio", measured("max_violation", 2)};
  const Column sacrifices{"sacrifices", "sacrifices", words("sacrifices")};
  const Column commits{"commit", "", words("commits")};
  if (!is_route)
    return {name,
            paper,
            loss,
            {"over the group's best", "over best",
             [](Row row) { return row.contains("over_best") ? fixed_text(row["over_best"].get<double>(), 4) : "–"; }},
            {"less its baseline's", "less baseline's", pair_loss},
            {"baseline", "",
             [](Row row) { return row.contains("pair") ? text(row["pair"]["baseline"].get<std::string>()) : "–"; }},
            {"FLOPs / active against it", "FLOPs / active", pair_work},
            noisy,
            {"parameters", "parameters", mean("parameters_total", 0, 1e-3, "k")},
            active,
            {"MFLOP/token", "MFLOP/token", number("flops_per_token", 2, 1e-6)},
            speed,
            {"training memory, MiB", "train MiB", number("training_bytes", 0, 1 / 1048576.0)},
            {"cache, bytes/token", "cache B/token", number("cache_bytes_per_token", 0, 1)},
            violation,
            sacrifices,
            commits};
  return {name,
          paper,
          loss,
          noisy,
          active,
          speed,
          {"router µs/token at E = 8, 64, 256", "router µs/token", router_costs},
          violation,
          {"dropped %", "dropped %", measured("dropped", 1, 100)},
          {"in use %", "", measured("utilisation", 0, 100)},
          {"experts/token", "experts/token", measured("per_token", 2)},
          {"score entropy", "", measured("score_entropy", 2)},
          {"changed %", "changed %", measured("fluctuation", 1, 100)},
          {"collapse", "", measured("collapse", 2)},
          sacrifices,
          commits};
}

constexpr std::string_view kRouteLegend =
    "tokens/s: training steps after training, every router a step in turn, median of the rounds (least and most in "
    "brackets). router µs/token: one forward routing of 4096 tokens, the least and the median of nine passes; of "
    "layers that choose inside their experts, what the layer takes beyond plain experts of the same work that a table "
    "assigns. active parameters: in brackets where more than a twentieth from the "
    "reference's. noisy: bits per byte with 15 % of the input tokens replaced. MaxVio: busiest expert over the mean, "
    "less one. in use: experts with more "
    "than a quarter of the even load.\nchanged: tokens whose first expert changed since the evaluation before. "
    "collapse: share of the hidden states' variance that lies between experts.\nsacrifices: measures in which the "
    "router is among the worst fifth and clearly worse than the median.\n";
constexpr std::string_view kLayerLegend =
    "Losses are compared within a table only, or between a recipe and its baseline, which was sized for equal work.\n"
    "less its baseline's: held-out bits per byte less those of its baseline, seed by seed. FLOPs / active against it: "
    "ratios to the baseline's work per token and active parameters, with the gap where one is more than a twentieth; "
    "where both are, the loss stands in brackets: it is no comparison at equal work.\n"
    "parameters: all, and those that one token meets. MFLOP/token: forward, a multiply-add counted as two, at the "
    "context of training. tokens/s: training steps after training, every one a step in turn, median of the rounds "
    "(least and "
    "most in brackets).\n"
    "training memory: what two training steps add to the process at their peak. cache: what generation keeps of one "
    "token, in float32. MaxVio: busiest expert over the mean, less one.\nsacrifices: in tables of five and more, "
    "measures in which one is among the worst fifth and clearly worse than the median.\n";

void write_table(std::ostream& out, const std::vector<Column>& columns, const std::vector<nlohmann::json>& rows) {
  std::string rule = "|";
  for (const auto& c : columns) out << "| " << c.header << " ", rule += " --- |";
  out << "|\n" << rule << "\n";
  for (const auto& row : rows) {
    for (const auto& c : columns) out << "| " << c.cell(row) << " ";
    out << "|\n";
  }
  out << "\n";
}

}  // namespace

std::vector<std::vector<std::string>> leaderboard_lines(const nlohmann::json& board) {
  const bool is_route = board["room"] == "route";
  std::vector<Column> columns = columns_of(is_route);
  std::erase_if(columns, [](const Column& c) { return c.short_header.empty(); });
  if (!is_route)
    columns.insert(columns.begin(),
                   {"group", "group", [](const nlohmann::json& row) { return text(row["group"].get<int64_t>() + 1); }});
  std::vector<std::vector<std::string>> out(1);
  for (const auto& c : columns) out.front().push_back(c.short_header);
  for (const auto& row : board["rows"]) {
    auto& line = out.emplace_back();
    for (const auto& c : columns) line.push_back(c.cell(row));
  }
  return out;
}

std::string leaderboard_markdown(const nlohmann::json& board) {
  const bool is_route = board["room"] == "route";
  const auto file = leaderboard_file(is_route ? Board::route : Board::layer);
  std::ostringstream out;
  out << (is_route ? "# Routers head to head\n\nGenerated by `collegium compare --room route`: the trained side of "
                     "every recipe in `recipes/route`, same model, data, steps and seeds\n("
                   : "# Layers head to head\n\nGenerated by `collegium compare --room layer`: both sides of every "
                     "recipe in `recipes/layer` and of those of other rooms that are about layers, and the routed "
                     "layer of top-k, same data, steps and seeds\n(")
      << board["seeds"].size() << (board["seeds"].size() == 1 ? " seed" : " seeds")
      << "; mean ± standard deviation over them), commit " << io::short_commit(board["commit"].get<std::string>())
      << ", " << board["machine"].get<std::string>() << ".\n"
      << (is_route ? ""
                   : "A table for each budget: work per token and active parameters within a tenth of its middle.\n")
      << "Sorted by held-out loss; those that see later tokens stand at the end, for their loss is too good to be "
         "true.\n\n![held-out loss against what it costs]("
      << file << ".svg)\n\n";
  const auto columns = columns_of(is_route);
  const auto rows = board["rows"].get<std::vector<nlohmann::json>>();
  if (is_route) {
    write_table(out, columns, rows);
  } else {
    for (size_t g = 0; g < board["groups"].size(); ++g) {
      std::vector<nlohmann::json> members;
      for (const auto& row : rows)
        if (row["group"] == g) members.push_back(row);
      out << "## " << g + 1 << ": " << group_name(board["groups"][g]) << "\n\n";
      write_table(out, columns, members);
    }
  }
  out << (is_route ? kRouteLegend : kLayerLegend);
  std::ostringstream changes;
  for (const auto& row : rows)
    if (const auto changed = row.value("changed", std::vector<std::string>()); !changed.empty())
      changes << "- " << row["name"].get<std::string>() << ": " << join(changed, "; ") << "\n";
  if (!changes.str().empty())
    out << "\nOn this table's task or at its active parameters, so not the runs of their recipes' evidence:\n"
        << changes.str();
  if (!board["left_out"].empty()) {
    out << "\nNot in the table:\n";
    for (const auto& line : board["left_out"]) out << "- " << line.get<std::string>() << "\n";
  }
  return out.str();
}

namespace {

constexpr double kWidth = 1000, kHeight = 620, kLeft = 70, kRight = 40, kTop = 20, kBottom = 50;

struct Mark {
  std::string name;
  double x, y, low, high;  ///< held-out loss with its spread
  bool causal;
};

struct Box {
  double x0, y0, x1, y1;
  bool meets(const Box& o) const { return x0 < o.x1 && o.x0 < x1 && y0 < o.y1 && o.y0 < y1; }
};

// Where a mark stands in the picture, and the ends of its spread.
struct Spot {
  double x, y, top, bottom;
};

constexpr std::string_view kCausal = "#1f5fa8", kNotCausal = "#b0541d";

std::string_view colour_of(const Mark& mark) {
  return mark.causal ? kCausal : kNotCausal;
}

// The nearest place around (x, y) for a name of this width that keeps clear of what is taken.
std::optional<Box> free_place(double x, double y, double width, const std::vector<Box>& taken) {
  const auto box_at = [&](double left, double middle) { return Box{left, middle - 7, left + width, middle + 7}; };
  const auto right = x + 8, left = x - 8 - width;
  for (double away = 0; away < 200; away += 7)
    for (const auto& box :
         {box_at(right, y - away), box_at(right, y + away), box_at(left, y - away), box_at(left, y + away),
          box_at(right + 2 * away, y), box_at(right + away, y - away), box_at(right + away, y + away),
          box_at(left - away, y - away), box_at(left - away, y + away)}) {
      if (box.x0 < kLeft || box.x1 > kWidth - 2 || box.y0 < kTop || box.y1 > kHeight - kBottom) continue;
      if (std::none_of(taken.begin(), taken.end(), [&](const Box& t) { return t.meets(box); })) return box;
    }
  return std::nullopt;
}

// Where each name goes: beside its mark; a thin line leads back from far ones. Where there is no room
// beside the lines of spread, names cross those.
void draw_names(std::ostream& out, const std::vector<Mark>& marks, const std::vector<Spot>& at) {
  std::vector<Box> taken, lines;
  for (const auto& s : at) {
    taken.push_back({s.x - 5, s.y - 5, s.x + 5, s.y + 5});
    lines.push_back({s.x - 1, s.top, s.x + 1, s.bottom});
  }
  for (size_t i = 0; i < marks.size(); ++i) {
    const auto x = at[i].x, y = at[i].y;
    const auto width = 7.4 * static_cast<double>(marks[i].name.size());  // of wide sans-serif fonts
    auto all = taken;
    all.insert(all.end(), lines.begin(), lines.end());
    auto place = free_place(x, y, width, all);
    if (!place || std::hypot(place->x0 - x, place->y0 + 7 - y) > 60 + width)
      if (const auto over_lines = free_place(x, y, width, taken)) place = over_lines;
    const auto box = place.value_or(Box{x + 8, y - 7, x + 8 + width, y + 7});
    taken.push_back(box);
    const bool is_right = box.x0 > x;
    const auto middle = (box.y0 + box.y1) / 2, near = is_right ? box.x0 - 2 : box.x1 + 2;
    if (std::hypot(near - x, middle - y) > 14)
      out << "<path d=\"M" << x << " " << y << "L" << near << " " << middle << "\" stroke=\"#aaa\"/>\n";
    out << "<text x=\"" << (is_right ? box.x0 : box.x1) << "\" y=\"" << middle + 4 << "\" fill=\""
        << colour_of(marks[i]) << (is_right ? "" : "\" text-anchor=\"end") << "\">" << text_for_html(marks[i].name)
        << "</text>\n";
  }
}

// One picture of marks, its upper edge at `offset`.
void draw_panel(std::ostream& out, const std::vector<Mark>& marks, std::string_view x_title, double offset) {
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const auto& m : marks)
    x0 = std::min(x0, m.x), x1 = std::max(x1, m.x), y0 = std::min(y0, m.low), y1 = std::max(y1, m.high);
  // Costs that are all alike stand in the middle.
  if (const auto least = 0.01 * std::abs(x1); x1 - x0 < least) x0 -= least, x1 += least;
  const auto xpad = 0.05 * (x1 - x0) + 1e-9, ypad = 0.05 * (y1 - y0) + 1e-9;
  x0 -= xpad, x1 += 3 * xpad, y0 -= ypad, y1 += ypad;
  const auto X = [&](double x) { return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight); };
  const auto Y = [&](double y) { return kTop + (y1 - y) / (y1 - y0) * (kHeight - kTop - kBottom); };
  const auto grid = [&](double low, double high, auto&& draw) {
    const auto raw = (high - low) / 6, power = std::pow(10, std::floor(std::log10(raw)));
    const auto step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
    for (double v = std::ceil(low / step) * step; v <= high; v += step)
      draw(v, std::max(0, static_cast<int>(-std::floor(std::log10(step)))));
  };
  out << "<g transform=\"translate(0 " << offset << ")\">\n";
  grid(x0, x1, [&](double v, int digits) {
    out << "<path d=\"M" << X(v) << " " << kTop << "V" << kHeight - kBottom << "\" stroke=\"#ddd\"/><text x=\"" << X(v)
        << "\" y=\"" << kHeight - kBottom + 18 << "\" text-anchor=\"middle\" fill=\"#555\">" << fixed_text(v, digits)
        << "</text>\n";
  });
  grid(y0, y1, [&](double v, int digits) {
    out << "<path d=\"M" << kLeft << " " << Y(v) << "H" << kWidth - kRight << "\" stroke=\"#ddd\"/><text x=\""
        << kLeft - 8 << "\" y=\"" << Y(v) + 4 << "\" text-anchor=\"end\" fill=\"#555\">" << fixed_text(v, digits)
        << "</text>\n";
  });
  out << "<text x=\"" << (kLeft + kWidth - kRight) / 2 << "\" y=\"" << kHeight - 10
      << "\" text-anchor=\"middle\" fill=\"#333\">" << x_title << "</text>\n<text x=\"16\" y=\""
      << (kTop + kHeight - kBottom) / 2 << "\" text-anchor=\"middle\" fill=\"#333\" transform=\"rotate(-90 16 "
      << (kTop + kHeight - kBottom) / 2 << ")\">held-out bits per byte (better below)</text>\n";
  std::vector<Spot> at;
  for (const auto& m : marks) {
    const auto colour = colour_of(m);
    at.push_back({X(m.x), Y(m.y), Y(m.high), Y(m.low)});
    out << "<path d=\"M" << X(m.x) << " " << Y(m.low) << "V" << Y(m.high) << "\" stroke=\"" << colour
        << "\" stroke-opacity=\".5\"/><circle cx=\"" << X(m.x) << "\" cy=\"" << Y(m.y) << "\" r=\"4\" fill=\"" << colour
        << "\"/>\n";
  }
  if (std::ranges::any_of(marks, [](const Mark& m) { return !m.causal; }))
    out << "<text x=\"" << kLeft << "\" y=\"" << kHeight - 10 << "\" fill=\"" << kNotCausal
        << "\">this colour: sees later tokens</text>\n";
  draw_names(out, marks, at);
  out << "</g>\n";
}

}  // namespace

std::string leaderboard_svg(const nlohmann::json& board) {
  std::vector<std::pair<std::string_view, std::vector<Mark>>> panels;
  // A value's mark for each row that has it.
  const auto panel = [&](std::string_view title, double scale,
                         const std::function<const nlohmann::json*(const nlohmann::json&)>& value_of) {
    auto& marks = panels.emplace_back(title, std::vector<Mark>()).second;
    for (const auto& row : board["rows"]) {
      const auto& loss = row["measures"]["valid_bpb"];
      if (const auto* value = value_of(row))
        marks.push_back(
            {row["name"], scale * value->get<double>(), loss["mean"], loss["min"], loss["max"], row["causal"]});
    }
  };
  const auto key = [](const char* name) {
    return [name](const nlohmann::json& row) { return row.contains(name) ? &row[name] : nullptr; };
  };
  const auto speed = [](const nlohmann::json& row) { return &row["speed"]["median"]; };
  panel("training speed, thousand tokens a second (faster to the right)", 1e-3, speed);
  // A few far ones press the others together: those once more, alone.
  std::vector<double> losses;
  for (const auto& row : board["rows"]) losses.push_back(row["measures"]["valid_bpb"]["mean"]);
  std::ranges::sort(losses);
  if (board["room"] == "route" && losses.size() > 12) {
    const auto most = losses[losses.size() * 3 / 4];
    panel("the same, for the better three quarters", 1e-3, [&](const nlohmann::json& row) {
      return row["measures"]["valid_bpb"]["mean"].get<double>() <= most ? speed(row) : nullptr;
    });
  }
  if (board["room"] == "layer") {
    panel("training memory, MiB (less to the left)", 1 / 1048576.0, key("training_bytes"));
    panel("cache, bytes of keys and values a token (less to the left)", 1, key("cache_bytes_per_token"));
    panel("work, MFLOP a token forward (less to the left)", 1e-6, key("flops_per_token"));
  }
  std::erase_if(panels, [](const auto& one) { return one.second.empty(); });
  const auto height = kHeight * static_cast<double>(panels.size());
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << kWidth
      << " " << height
      << "\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"Held-out loss against its costs\">\n"
         "<rect width=\""
      << kWidth << "\" height=\"" << height << "\" fill=\"#fff\"/>\n";
  for (size_t i = 0; i < panels.size(); ++i)
    draw_panel(out, panels[i].second, panels[i].first, kHeight * static_cast<double>(i));
  out << "</svg>\n";
  return out.str();
}

}  // namespace collegium
