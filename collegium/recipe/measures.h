// What can be said of a finished run in one number: what recipes expect, comparisons list and leaderboards rank by.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collegium/io/fs.h"

namespace collegium {

struct Measure {
  enum class Place {
    run,              ///< in the run store
    facts,            ///< of the model's sizes
    row,              ///< in the last held-out row of metrics.jsonl
    layers,           ///< there, a mean over the layers with experts
    training_layers,  ///< the same of the last training row
    statistics,       ///< in the last held-out row, a mean over the layers that state it
    answers,          ///< in translation.json
    probes,           ///< in probes.json
    aux,              ///< an auxiliary term in the rows of training
    in_turn,          ///< taken when a recipe is judged (in_turn.h); nothing a run has of itself
    pair              ///< of a run and its baseline together; nothing a run has alone (steps_to_loss_of)
  };
  std::string_view name, title, unit;
  std::string_view better;  ///< "lower", "higher" or "" where neither is
  Place place;
  bool in_comparisons = true;
  bool is_fixed = false;  ///< by the configuration: the same for every seed
};

std::span<const Measure> measures();

/// One of `measures()`, or an auxiliary term by the name it has in the rows of training, for instance
///   aux:agreement       its mean over the last quarter of the rows that have it
///   aux:agreement:rise  that, minus its mean over the first quarter
///   aux:agreement:all   its mean over all of them
/// A usage Error names the nearest and lists the known ones. The result's name is a view of `name`.
Measure find_measure(std::string_view name);

/// The term that "aux:term", "aux:term:rise" or "aux:term:all" asks for; "" for other measures.
std::string aux_term_of(std::string_view measure);

/// A stored run, read once for any number of measures.
class MeasuredRun {
 public:
  explicit MeasuredRun(const io::Path& folder);
  /// Nothing where the run has not got it (a dense model has no loads). A usage Error for an unknown measure.
  std::optional<double> find(std::string_view measure) const;
  /// Of what is a mean over the layers with experts: each layer's. Empty for other measures.
  std::vector<double> by_layer(std::string_view measure) const;
  /// As `find`; a data Error where there is nothing.
  double of(std::string_view measure) const;
  /// The training steps after which the held-out loss first is the last one of `baseline`, as a share of all steps of
  /// `baseline`; linear between evaluations, so no finer than they are, and the first evaluation where that is below
  /// already. A run that never gets there counts all of its steps. A data Error where either has no held-out loss.
  double steps_to_loss_of(const MeasuredRun& baseline) const;

 private:
  std::string id_;
  nlohmann::json facts_, last_valid_, last_train_, translation_, probes_;
  std::optional<double> best_bpb_;
  std::vector<std::pair<double, double>> step_loss_;  ///< held out, in order: bits per byte, of images nats
  std::vector<nlohmann::json> aux_;                   ///< of the rows of training, in order
};

/// Numbers of several seeds.
struct Spread {
  double mean = 0, min = 0, max = 0, std = 0;  ///< std of the sample; 0 for one number
  size_t n = 0;
  nlohmann::json json() const;
};

/// Of at least one number.
Spread spread_of(const std::vector<double>& values);

/// The middle one of at least one number; of an even number of them the upper one.
double median_of(std::vector<double> values);

/// Over those of the runs that have got the measure; nothing where none has.
std::optional<Spread> spread_of(const std::vector<MeasuredRun>& runs, std::string_view measure);

/// "P106"; empty for 0.
std::string paper_name(int64_t paper);

}  // namespace collegium
