// Head to head: the trained side of every recipe of a room, on one task, in one table with what each sacrifices.
#pragma once
#include "collegium/recipe/evidence.h"

namespace collegium {

/// One router (or layer) among the others.
struct Entrant {
  Recipe recipe;
  std::vector<io::Path> runs;             ///< one a seed
  std::vector<std::string> commits;       ///< those the runs were made of
  std::vector<double> tokens_per_second;  ///< of training steps after training; one a round, all entrants in turn
  std::map<int64_t, double>
      router_microseconds;  ///< E -> µs a token of one forward routing; empty for layers without a router
  bool is_causal = true;
  std::string needs;  ///< "token ids", "attention", …; empty = hidden states alone
};

struct Leaderboard {
  std::vector<Entrant> entrants;
  std::vector<std::string> left_out;  ///< "clusters: other data" …: recipes of another task
};

/// Trains what is not there yet. A recipe takes part when its data, its training and the sizes of its model outside the
/// MoE layers are those of `reference`; seeds are those of `reference`, too. `say` gets a line for each step.
/// Speed is measured at the end, every entrant a step in turn, so that a busy moment of the machine meets all.
Leaderboard gather_leaderboard(const Recipe& reference, const std::vector<Recipe>& recipes, const RunSetting& setting,
                               Reuse reuse, const std::function<void(const std::string&)>& say);

/// {machine, commit, date, seeds, rows: [{name, paper, commits, measures: {name: {mean, min, max, std, n}}, speed:
/// {median, min, max} in tokens a second, router_us: {E: µs}, causal, needs, sacrifices: [text]}]}, best held-out loss
/// first.
nlohmann::json leaderboard_json(const Leaderboard& board, const RunSetting& setting);

/// The page docs/leaderboard.md; the picture beside it is leaderboard_svg.
std::string leaderboard_markdown(const nlohmann::json& board);

/// Held-out loss against training speed, one mark an entrant with its spread over the seeds.
std::string leaderboard_svg(const nlohmann::json& board);

}  // namespace collegium
