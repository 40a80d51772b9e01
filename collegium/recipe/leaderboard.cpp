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

// Why a recipe is not on the reference's task; empty when it is. Only what stands in model.moe may differ.
std::string other_task(const RunConfig& reference, const RunConfig& run) {
  for (const auto& line : differences(resolved(reference), resolved(run))) {
    const auto path = line.substr(0, line.find(": "));
    if (path == "seed" || path == "model.allow_noncausal" || path.starts_with("model.moe.") ||
        path.starts_with("sample."))
      continue;
    return line;
  }
  return {};
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
  for (const auto& run : runs) out.insert(store.find(run.filename().string()).git_commit.substr(0, 9));
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

Leaderboard gather_leaderboard(const Recipe& reference, const std::vector<Recipe>& recipes, const RunSetting& setting,
                               Reuse reuse, const std::function<void(const std::string&)>& say) {
  Leaderboard out;
  for (auto recipe : recipes) {
    if (const auto why = other_task(reference.run, recipe.run); !why.empty()) {
      out.left_out.push_back(text(recipe.name, " (another task: ", why, ")"));
      say("left out: " + out.left_out.back());
      continue;
    }
    recipe.seeds = reference.seeds;
    say(recipe.name);
    Entrant entrant{.recipe = recipe};
    entrant.runs = runs_of(recipe, setting, reuse);
    entrant.commits = commits_of(entrant.runs, setting);
    entrant.router_microseconds = router_cost(recipe.run, setting);
    const auto task = task_of(recipe.run);
    const auto facts = task->imagine(recipe.run)->build_model(at::kMeta)->facts(task->sequence_length(recipe.run));
    entrant.is_causal = facts.is_causal, entrant.needs = facts.needs.missing({});
    out.entrants.push_back(std::move(entrant));
  }
  require(!out.entrants.empty(), "leaderboard: no recipe is on the reference's task");
  say("speed of training steps, all in turn");
  measure_speeds(out.entrants, setting);
  return out;
}

nlohmann::json leaderboard_json(const Leaderboard& board, const RunSetting& setting) {
  const auto env = io::environment();
  nlohmann::json out = {{"commit", setting.git_commit},
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
                          {"causal", e.is_causal},
                          {"needs", e.needs},
                          {"measures", nlohmann::json::object()},
                          {"router_us", nlohmann::json::object()},
                          {"sacrifices", nlohmann::json::array()}};
    const std::vector<MeasuredRun> runs(e.runs.begin(), e.runs.end());
    for (const auto& m : measures())
      if (const auto spread = spread_of(runs, m.name)) row["measures"][std::string(m.name)] = spread->json();
    for (const auto& [E, us] : e.router_microseconds) row["router_us"][std::to_string(E)] = us;
    if (!e.is_causal) row["sacrifices"].push_back("causality");
    if (!e.needs.empty()) row["sacrifices"].push_back("needs " + e.needs);
    rows.push_back(std::move(row));
  }
  // What a router gives up: measures in which it is in the worst fifth and worse than the median by more than a tenth.
  struct Trait {
    const char *measure, *word;
    bool high_is_bad;
  };
  constexpr Trait traits[] = {{"valid_bpb", "loss", true},           {"speed", "speed", false},
                              {"max_violation", "balance", true},    {"dropped", "dropped tokens", true},
                              {"fluctuation", "stability", true},    {"noisy_bpb", "robustness", true},
                              {"utilisation", "idle experts", false}};
  const auto value_in = [](const nlohmann::json& row, const std::string& measure) -> std::optional<double> {
    if (measure == "speed") return row["speed"]["median"].get<double>();
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

std::string leaderboard_markdown(const nlohmann::json& board) {
  std::ostringstream out;
  out << "# Routers head to head\n\nGenerated by `collegium compare --room route`: the trained side of every recipe in "
         "`recipes/route`, "
      << "same model, data, steps and seeds\n(" << board["seeds"].size()
      << " seeds; mean ± standard deviation over them), commit " << board["commit"].get<std::string>().substr(0, 9)
      << ", " << board["machine"].get<std::string>()
      << ".\nSorted by held-out loss; routers that see later tokens stand at the end, for their loss is too good to be "
         "true.\n\n"
      << "![held-out loss against training speed](leaderboard.svg)\n\n"
      << "| router | paper | held-out bits/byte | noisy | active parameters | tokens/s | router µs/token at E = 8, 64, "
         "256 | MaxVio | "
         "dropped % | in use % | experts/token | score entropy | changed % | collapse | sacrifices | commit |\n"
      << "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const auto& row : board["rows"]) {
    std::vector<std::string> costs, sacrifices;
    for (const auto E : kSizes) {
      const auto key = std::to_string(E);
      costs.push_back(row["router_us"].contains(key) ? fixed_text(row["router_us"][key].get<double>(), 2) : "–");
    }
    for (const auto& s : row["sacrifices"]) sacrifices.push_back(s.get<std::string>());
    out << "| " << row["name"].get<std::string>() << (row["causal"].get<bool>() ? "" : " (sees later tokens)") << " | "
        << paper_name(row["paper"].get<int64_t>()) << " | " << cell(row, "valid_bpb", 4) << " | "
        << cell(row, "noisy_bpb", 3) << " | "
        << fixed_text(row["measures"]["parameters_active"]["mean"].get<double>() / 1000, 0) << "k | "
        << fixed_text(row["speed"]["median"].get<double>(), 0) << " | " << join(costs, " / ") << " | "
        << cell(row, "max_violation", 2) << " | " << cell(row, "dropped", 1, 100) << " | "
        << cell(row, "utilisation", 0, 100) << " | " << cell(row, "per_token", 2) << " | "
        << cell(row, "score_entropy", 2) << " | " << cell(row, "fluctuation", 1, 100) << " | "
        << cell(row, "collapse", 2) << " | " << join(sacrifices) << " | "
        << join(row["commits"].get<std::vector<std::string>>()) << " |\n";
  }
  out << "\ntokens/s: training steps after training, every router a step in turn, median of the rounds. "
         "noisy: bits per byte with 15 % of the input tokens replaced. MaxVio: busiest expert over the mean, less "
         "one. in use: experts "
         "with more than a quarter of the even load.\nchanged: tokens whose first expert changed since the evaluation "
         "before. collapse: "
         "share of the hidden states' variance that lies between experts.\nsacrifices: measures in which the router is "
         "among the worst "
         "fifth and clearly worse than the median.\n";
  if (!board["left_out"].empty()) {
    out << "\nNot in the table:\n";
    for (const auto& line : board["left_out"]) out << "- " << line.get<std::string>() << "\n";
  }
  return out.str();
}

std::string leaderboard_svg(const nlohmann::json& board) {
  constexpr double width = 1000, height = 620, left = 70, right = 150, top = 20, bottom = 50;
  struct Mark {
    std::string name;
    double x, y, low, high;
    bool causal;
  };
  std::vector<Mark> marks;
  for (const auto& row : board["rows"]) {
    const auto& loss = row["measures"]["valid_bpb"];
    marks.push_back({row["name"], row["speed"]["median"].get<double>() / 1000, loss["mean"], loss["min"], loss["max"],
                     row["causal"]});
  }
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const auto& m : marks)
    x0 = std::min(x0, m.x), x1 = std::max(x1, m.x), y0 = std::min(y0, m.low), y1 = std::max(y1, m.high);
  const auto xpad = 0.05 * (x1 - x0) + 1e-9, ypad = 0.05 * (y1 - y0) + 1e-9;
  x0 -= xpad, x1 += xpad, y0 -= ypad, y1 += ypad;
  const auto X = [&](double x) { return left + (x - x0) / (x1 - x0) * (width - left - right); };
  const auto Y = [&](double y) { return top + (y1 - y) / (y1 - y0) * (height - top - bottom); };
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width
      << " " << height
      << "\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"Held-out loss against training "
         "speed\">\n<rect width=\""
      << width << "\" height=\"" << height << "\" fill=\"#fff\"/>\n";
  const auto grid = [&](double low, double high, auto&& draw) {
    const auto raw = (high - low) / 6, power = std::pow(10, std::floor(std::log10(raw)));
    const auto step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
    for (double v = std::ceil(low / step) * step; v <= high; v += step)
      draw(v, std::max(0, static_cast<int>(-std::floor(std::log10(step)))));
  };
  grid(x0, x1, [&](double v, int digits) {
    out << "<path d=\"M" << X(v) << " " << top << "V" << height - bottom << "\" stroke=\"#ddd\"/><text x=\"" << X(v)
        << "\" y=\"" << height - bottom + 18 << "\" text-anchor=\"middle\" fill=\"#555\">" << fixed_text(v, digits)
        << "</text>\n";
  });
  grid(y0, y1, [&](double v, int digits) {
    out << "<path d=\"M" << left << " " << Y(v) << "H" << width - right << "\" stroke=\"#ddd\"/><text x=\"" << left - 8
        << "\" y=\"" << Y(v) + 4 << "\" text-anchor=\"end\" fill=\"#555\">" << fixed_text(v, digits) << "</text>\n";
  });
  out << "<text x=\"" << (left + width - right) / 2 << "\" y=\"" << height - 10
      << "\" text-anchor=\"middle\" fill=\"#333\">training speed, thousand tokens a second (faster to the "
         "right)</text>\n<text x=\"16\" y=\""
      << (top + height - bottom) / 2 << "\" text-anchor=\"middle\" fill=\"#333\" transform=\"rotate(-90 16 "
      << (top + height - bottom) / 2 << ")\">held-out bits per byte (better below)</text>\n";
  // Names keep a line's distance from those already placed.
  std::vector<std::pair<double, double>> placed;
  std::sort(marks.begin(), marks.end(), [](const auto& a, const auto& b) { return a.y > b.y; });
  for (const auto& m : marks) {
    const auto colour = m.causal ? "#1f5fa8" : "#b0541d";
    auto y = Y(m.y) + 4;
    const auto x = X(m.x) + 8;
    for (bool moved = true; moved;) {
      moved = false;
      for (const auto& [px, py] : placed)
        if (std::abs(px - x) < 110 && std::abs(py - y) < 12) y = py + 12, moved = true;
    }
    placed.emplace_back(x, y);
    out << "<path d=\"M" << X(m.x) << " " << Y(m.low) << "V" << Y(m.high) << "\" stroke=\"" << colour
        << "\" stroke-opacity=\".5\"/><circle cx=\"" << X(m.x) << "\" cy=\"" << Y(m.y) << "\" r=\"4\" fill=\"" << colour
        << "\"/><text x=\"" << x << "\" y=\"" << y << "\" fill=\"" << colour << "\">" << text_for_html(m.name)
        << (m.causal ? "" : " (sees later tokens)") << "</text>\n";
  }
  out << "</svg>\n";
  return out.str();
}

}  // namespace collegium
