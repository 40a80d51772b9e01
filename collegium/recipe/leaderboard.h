// Head to head: the trained side of every recipe of a room, on one task, in one table with what each sacrifices.
#pragma once
#include "collegium/model/model.h"
#include "collegium/recipe/evidence.h"

namespace collegium {

/// What the table of a room compares.
enum class Board {
  route,  ///< routers: only the layers with experts differ
  layer   ///< layers and attention: all below `model` may differ, and losses are compared at about equal work
};

/// µs a token of one forward routing. Of layers without a router of their own: what their forward pass takes beyond
/// that of plain routed experts of the same work, which a table assigns to tokens.
struct RouterCost {
  double least = 0, median = 0;  ///< of several passes
};

/// One router (or layer) among the others.
struct Entrant {
  Recipe recipe;
  std::vector<std::string> changed;  ///< in what the run differs from the recipe's own: "model.moe.d_expert: 64 -> 128"
  std::vector<io::Path> runs;        ///< one a seed
  std::vector<std::string> commits;  ///< those the runs were made of
  std::vector<double> tokens_per_second;      ///< of training steps after training; one a round, all entrants in turn
  std::map<int64_t, RouterCost> router_cost;  ///< by the number of experts; none for layers of the board of layers
  model::ModelFacts facts;
  std::string pair;                      ///< the entrant that is its baseline; empty = none, or one of another task
  std::optional<double> training_bytes;  ///< that two training steps took at their peak, the program itself not counted
};

struct Leaderboard {
  Board board = Board::route;
  double reference_active = 0;  ///< active parameters of the reference
  std::vector<Entrant> entrants;
  std::vector<std::string> left_out;  ///< "clusters: other data" …: recipes of another task
};

/// Whether the recipe's question is one of layers: it and its baseline (without one: the reference) differ below
/// `model` in more than the router, the kind of expert and the number and width of experts.
bool is_about_layers(const Recipe& recipe, const Recipe& reference);

/// Trains what is not there yet. A recipe takes part when its data, its training and what the board holds equal are
/// those of `reference`; seeds are those of `reference`, too. On the board of routers a recipe with [leaderboard] takes
/// part on the reference's task, with its own layers with experts and those keys changed. Of a room of layers the
/// reference and the baselines take part as well. `say` gets a line for each step. Speed is measured at the end, every
/// entrant a step in turn, so that a busy moment of the machine meets all.
Leaderboard gather_leaderboard(Board board, const Recipe& reference, const std::vector<Recipe>& recipes,
                               const RunSetting& setting, Reuse reuse,
                               const std::function<void(const std::string&)>& say);

/// {room, machine, commit, date, seeds, rows: [{name, paper, commits, measures: {name: {mean, min, max, std, n}},
/// speed: {median, min, max} in tokens a second, router_us: {E: {least, median}}, flops_per_token,
/// cache_bytes_per_token, training_bytes, causal, needs, sacrifices: [text]}]}, best held-out loss first.
///
/// Of routers also active_ratio (active parameters over the reference's) and changed: [text], in what the run differs
/// from the recipe's own.
///
/// Of layers also {groups: [{flops_per_token: {min, max}, parameters_active: {min, max}, rows: [name]}]}, the least
/// work first (budgets.h), and rows group by group, each with parameters_active, group, over_best (held-out bits per
/// byte above the best causal one of its group) and, with a baseline, pair: {baseline, flops_ratio, active_ratio, gaps:
/// ["+31 % FLOPs"] (more than a twentieth), equal_work (not both of them have such a gap), loss: {mean, min, max, std,
/// n} (ours less the baseline's, seed by seed)}.
nlohmann::json leaderboard_json(const Leaderboard& board, const RunSetting& setting);

/// Name of the files that a board is kept in, without ending: "leaderboard", "layers".
std::string_view leaderboard_file(Board board);

/// The page; the picture beside it is leaderboard_svg.
std::string leaderboard_markdown(const nlohmann::json& board);

/// The columns that fit a terminal: a header and a line a row.
std::vector<std::vector<std::string>> leaderboard_lines(const nlohmann::json& board);

/// Held-out loss against training speed (of layers also against memory, cache and work), one mark an entrant with its
/// spread over the seeds.
std::string leaderboard_svg(const nlohmann::json& board);

}  // namespace collegium
