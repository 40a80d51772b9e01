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
#include "collegium/io/env.h"
#include "collegium/layer/experts.h"
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
    if (path == "seed" || path == "model.allow_noncausal" || path.starts_with("sample.")) return true;
    if (board == Board::route) return path.starts_with("model.moe.");
    return path.starts_with("model.") && path != "model.d_model" && path != "model.n_layers" && path != "model.name";
  };
  for (const auto& line : differences(resolved(reference), resolved(run)))
    if (!may_differ(line.substr(0, line.find(": ")))) return line;
  return {};
}

// The reference and the baselines of layers, each once, named by what they are.
std::vector<Recipe> with_baselines(const Recipe& reference, const std::vector<Recipe>& recipes) {
  std::vector<Recipe> out = recipes;
  std::set<std::string> known;
  const auto key = [](const RunConfig& run) { return to_toml(resolved(run)); };
  for (const auto& r : recipes) known.insert(key(r.run));
  const auto add = [&](const Recipe& from, const RunConfig& run, const std::string& name) {
    if (!known.insert(key(run)).second) return;
    Recipe one = from;
    one.run = run, one.name = name, one.paper = 0, one.title = name;
    out.push_back(std::move(one));
  };
  add(reference, reference.run, reference.name);
  for (const auto& r : recipes)
    if (r.has_baseline) add(r, r.baseline, text(r.baseline_name, " (baseline of ", r.name, ")"));
  return out;
}

// µs a token of one forward routing of 4096 tokens, the least of several passes: a busy machine only adds.
std::map<int64_t, double> router_cost(const RunConfig& config, const RunSetting& setting) {
  std::map<int64_t, double> out;
  const auto table = resolved(config);
  const auto* value = find_path(table, "model.moe.router");
  const auto* fields = value ? std::get_if<Table>(&value->data) : nullptr;
  if (!fields) return out;
  Named router{.name = std::get<std::string>(fields->find("name")->data), .fields = *fields};
  std::erase_if(router.fields.items, [](const Item& item) { return item.key == "name"; });
  const auto D = std::get<int64_t>(find_path(table, "model.d_model")->data);
  const int64_t V = 1024, N = 4096, T = std::min(N, config.train.context), B = N / T;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(setting.device);
  const auto random = Random(1).at("leaderboard");
  const auto causal_TT = at::ones({T, T}, options).tril();
  for (const auto E : kSizes) try {
      const auto made =
          find(route::routers(), router, "router")
              .make(router, {.d_model = D,
                             .n_experts = E,
                             .random = random.at("router"),
                             .options = options,
                             .corpus = {.vocabulary = V, .count_V = at::arange(V, at::kLong).to(setting.device)}});
      const auto experts =
          find(layer::experts(), Named{.name = "swiglu"}, "expert")
              .make(Named{.name = "swiglu"},
                    {.n_experts = E, .d_model = D, .d_expert = 64, .random = random.at("experts"), .options = options});
      const route::Context context{.phase = route::Phase::evaluate,
                                   .token_id_N = at::arange(B * T, at::kLong).remainder(V).to(setting.device),
                                   .sequence_N = at::arange(B, at::kLong).repeat_interleave(T).to(setting.device),
                                   .n_sequences = B,
                                   .attention_BTT = (causal_TT / causal_TT.sum(1, true)).expand({B, T, T}),
                                   .experts = experts.get(),
                                   .random = random};
      const at::NoGradGuard no_grad;
      const auto x_ND = random.at("x").normal({B * T, D}, 1, options);
      double best = std::numeric_limits<double>::infinity();
      for (int pass = 0; pass < 7; ++pass) {
        const auto before = setting.clock();
        made->route(x_ND, context);
        best = std::min(best, setting.clock() - before);
      }
      out[E] = best * 1e6 / static_cast<double>(B * T);
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

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string cell(const nlohmann::json& row, const char* measure, int digits, double scale = 1) {
  if (!row["measures"].contains(measure)) return "–";
  const auto& m = row["measures"][measure];
  auto out = fixed_text(scale * m["mean"].get<double>(), digits);
  if (m["n"].get<int>() > 1) out += " ± " + fixed_text(scale * m["std"].get<double>(), digits);
  return out;
}

}  // namespace

Leaderboard gather_leaderboard(Board board, const Recipe& reference, const std::vector<Recipe>& recipes,
                               const RunSetting& setting, Reuse reuse,
                               const std::function<void(const std::string&)>& say) {
  Leaderboard out{.board = board};
  std::map<std::string, std::string> entered;  // configuration -> the recipe that has it
  for (auto recipe : board == Board::layer ? with_baselines(reference, recipes) : recipes) {
    if (const auto why = other_task(board, reference.run, recipe.run); !why.empty()) {
      out.left_out.push_back(text(recipe.name, " (another task: ", why, ")"));
      say("left out: " + out.left_out.back());
      continue;
    }
    const auto [twin, is_new] = entered.emplace(to_toml(resolved(recipe.run)), recipe.name);
    if (!is_new) {
      out.left_out.push_back(text(recipe.name, " (the configuration of ", twin->second, ")"));
      say("left out: " + out.left_out.back());
      continue;
    }
    recipe.seeds = reference.seeds;
    say(recipe.name);
    Entrant entrant{.recipe = recipe};
    entrant.runs = runs_of(recipe, setting, reuse);
    entrant.commits = commits_of(entrant.runs, setting);
    if (board == Board::route) entrant.router_microseconds = router_cost(recipe.run, setting);
    const auto task = task_of(recipe.run);
    entrant.facts = task->imagine(recipe.run)->build_model(at::kMeta)->facts(task->sequence_length(recipe.run));
    if (board == Board::layer)
      if (const auto memory = memory_of_steps(recipe.run, setting))
        entrant.training_bytes = memory->most - memory->before;
    out.entrants.push_back(std::move(entrant));
  }
  require(!out.entrants.empty(), "leaderboard: no recipe is on the reference's task");
  say("speed of training steps, all in turn");
  measure_speeds(out.entrants, setting);
  return out;
}

nlohmann::json leaderboard_json(const Leaderboard& board, const RunSetting& setting) {
  const auto env = io::environment();
  nlohmann::json out = {{"room", board.board == Board::route ? "route" : "layer"},
                        {"commit", setting.git_commit},
                        {"date", setting.now()},
                        {"left_out", board.left_out},
                        {"machine", text(env["cpu"].value("model", "?"), ", ", env.value("threads", 0), " threads")},
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
    for (const auto& [E, us] : e.router_microseconds) row["router_us"][std::to_string(E)] = us;
    if (e.training_bytes) row["training_bytes"] = *e.training_bytes;
    if (!e.facts.is_causal) row["sacrifices"].push_back("causality");
    if (const auto needs = e.facts.needs.missing({}); !needs.empty()) row["sacrifices"].push_back("needs " + needs);
    rows.push_back(std::move(row));
  }
  // What one gives up: measures in which it is in the worst fifth and worse than the median by more than a tenth.
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
    for (const auto& row : rows)
      if (const auto v = value_in(row, trait.measure)) values.push_back(*v);
    if (values.size() < 5) continue;
    std::sort(values.begin(), values.end());
    if (trait.high_is_bad) std::reverse(values.begin(), values.end());
    const auto bound = values[values.size() / 5], median = values[values.size() / 2];
    // Losses differ by little: a hundredth counts there.
    const auto margin = std::string_view(trait.measure).ends_with("bpb") ? 0.01 * median : 0.1 * std::abs(median);
    for (auto& row : rows) {
      const auto v = value_in(row, trait.measure);
      if (!v) continue;
      if (trait.high_is_bad ? *v >= bound && *v > median + margin : *v <= bound && *v < median - margin)
        row["sacrifices"].push_back(trait.word);
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    const auto loss = [](const auto& r) { return r["measures"]["valid_bpb"]["mean"].template get<double>(); };
    return a["causal"] != b["causal"] ? a["causal"].template get<bool>() : loss(a) < loss(b);
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
    costs.push_back(row["router_us"].contains(key) ? fixed_text(row["router_us"][key].get<double>(), 2) : "–");
  }
  return join(costs, " / ");
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
  const Column active{"active parameters", is_route ? "" : "active", mean("parameters_active", 0, 1e-3, "k")};
  const Column speed{"tokens/s", "tok/s", [](Row row) { return fixed_text(row["speed"]["median"].get<double>(), 0); }};
  const Column violation{"MaxVio", "MaxVio", measured("max_violation", 2)};
  const Column sacrifices{"sacrifices", "sacrifices", words("sacrifices")};
  const Column commits{"commit", "", words("commits")};
  if (!is_route)
    return {name,
            paper,
            loss,
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
    "tokens/s: training steps after training, every router a step in turn, median of the rounds. noisy: bits per byte "
    "with 15 % of the input tokens replaced. MaxVio: busiest expert over the mean, less one. in use: experts with more "
    "than a quarter of the even load.\nchanged: tokens whose first expert changed since the evaluation before. "
    "collapse: share of the hidden states' variance that lies between experts.\nsacrifices: measures in which the "
    "router is among the worst fifth and clearly worse than the median.\n";
constexpr std::string_view kLayerLegend =
    "parameters: all, and those that one token meets. MFLOP/token: forward, a multiply-add counted as two, at the "
    "context of training. tokens/s: training steps after training, every one a step in turn, median of the rounds.\n"
    "training memory: what two training steps add to the process at their peak. cache: what generation keeps of one "
    "token, in float32. MaxVio: busiest expert over the mean, less one.\nsacrifices: measures in which one is among "
    "the worst fifth and clearly worse than the median.\n";

}  // namespace

std::vector<std::vector<std::string>> leaderboard_lines(const nlohmann::json& board) {
  std::vector<Column> columns = columns_of(board["room"] == "route");
  std::erase_if(columns, [](const Column& c) { return c.short_header.empty(); });
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
                     "recipe in `recipes/layer` and the routed layer of top-k, same width, depth, data, steps and "
                     "seeds\n(")
      << board["seeds"].size() << " seeds; mean ± standard deviation over them), commit "
      << io::short_commit(board["commit"].get<std::string>()) << ", " << board["machine"].get<std::string>()
      << ".\nSorted by held-out loss; those that see later tokens stand at the end, for their loss is too good to be "
         "true.\n\n![held-out loss against what it costs]("
      << file << ".svg)\n\n";
  const auto columns = columns_of(is_route);
  std::string rule = "|";
  for (const auto& c : columns) out << "| " << c.header << " ", rule += " --- |";
  out << "|\n" << rule << "\n";
  for (const auto& row : board["rows"]) {
    for (const auto& c : columns) out << "| " << c.cell(row) << " ";
    out << "|\n";
  }
  out << "\n" << (is_route ? kRouteLegend : kLayerLegend);
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

// Where each name goes: the nearest free place around its mark; a thin line leads back from far ones.
void draw_names(std::ostream& out, const std::vector<Mark>& marks, const std::vector<std::pair<double, double>>& at) {
  std::vector<Box> taken;
  for (const auto& [x, y] : at) taken.push_back({x - 5, y - 5, x + 5, y + 5});
  for (size_t i = 0; i < marks.size(); ++i) {
    const auto [x, y] = at[i];
    const auto width = 6.6 * static_cast<double>(marks[i].name.size());
    const auto box_at = [&](double left, double middle) { return Box{left, middle - 7, left + width, middle + 7}; };
    Box best = box_at(x + 8, y);
    bool is_placed = false;
    for (double away = 0; away < 300 && !is_placed; away += 7)
      for (const auto& box : {box_at(x + 8, y - away), box_at(x + 8, y + away), box_at(x - 8 - width, y - away),
                              box_at(x - 8 - width, y + away), box_at(x + 8 + 2 * away, y),
                              box_at(x + 8 + away, y - away), box_at(x + 8 + away, y + away)}) {
        if (box.x0 < kLeft || box.x1 > kWidth - 2 || box.y0 < kTop || box.y1 > kHeight - kBottom) continue;
        if (std::any_of(taken.begin(), taken.end(), [&](const Box& t) { return t.meets(box); })) continue;
        best = box, is_placed = true;
        break;
      }
    taken.push_back(best);
    const auto colour = marks[i].causal ? "#1f5fa8" : "#b0541d";
    const auto middle = (best.y0 + best.y1) / 2, near = best.x0 > x ? best.x0 - 2 : best.x1 + 2;
    if (std::hypot(near - x, middle - y) > 14)
      out << "<path d=\"M" << x << " " << y << "L" << near << " " << middle << "\" stroke=\"#aaa\"/>\n";
    out << "<text x=\"" << best.x0 << "\" y=\"" << middle + 4 << "\" fill=\"" << colour << "\">"
        << text_for_html(marks[i].name) << "</text>\n";
  }
}

// One picture of marks, its upper edge at `offset`.
void draw_panel(std::ostream& out, const std::vector<Mark>& marks, std::string_view x_title, double offset) {
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const auto& m : marks)
    x0 = std::min(x0, m.x), x1 = std::max(x1, m.x), y0 = std::min(y0, m.low), y1 = std::max(y1, m.high);
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
  std::vector<std::pair<double, double>> at;
  for (const auto& m : marks) {
    const auto colour = m.causal ? "#1f5fa8" : "#b0541d";
    at.emplace_back(X(m.x), Y(m.y));
    out << "<path d=\"M" << X(m.x) << " " << Y(m.low) << "V" << Y(m.high) << "\" stroke=\"" << colour
        << "\" stroke-opacity=\".5\"/><circle cx=\"" << X(m.x) << "\" cy=\"" << Y(m.y) << "\" r=\"4\" fill=\"" << colour
        << "\"/>\n";
  }
  draw_names(out, marks, at);
  out << "</g>\n";
}

}  // namespace

std::string leaderboard_svg(const nlohmann::json& board) {
  std::vector<std::pair<std::string_view, std::vector<Mark>>> panels = {
      {"training speed, thousand tokens a second (faster to the right)", {}}};
  if (board["room"] == "layer") panels.push_back({"training memory, MiB (less to the left)", {}});
  for (const auto& row : board["rows"]) {
    const auto& loss = row["measures"]["valid_bpb"];
    const auto mark = [&](double x) {
      return Mark{name_of(row), x, loss["mean"], loss["min"], loss["max"], row["causal"]};
    };
    panels[0].second.push_back(mark(row["speed"]["median"].get<double>() / 1000));
    if (panels.size() > 1 && row.contains("training_bytes"))
      panels[1].second.push_back(mark(row["training_bytes"].get<double>() / 1048576));
  }
  std::erase_if(panels, [](const auto& panel) { return panel.second.empty(); });
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
