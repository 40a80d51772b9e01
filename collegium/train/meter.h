// What training says about itself: sums since the last row of metrics.jsonl, exact in a checkpoint.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collegium/model/model.h"

namespace collegium::train {

/// What one pass adds up besides its routing.
struct PassSums {
  double nats = 0;                       ///< loss, summed over the targets
  int64_t n_targets = 0;                 ///< what the loss is a mean over: tokens to predict, images to name
  int64_t n_tokens = 0;                  ///< real tokens (of an image: patches) that went through the layers
  std::map<std::string, double> counts;  ///< what the task's scores are made of: {"bytes": 512}, {"correct": 12}
};

/// Sums over micro-batches, turned into one row of metrics.
class Meter {
 public:
  /// One forward pass.
  void add(const PassSums& sums, const model::ModelOutput& output);

  /// Adds another meter's sums to these.
  void merge(const Meter& other);

  /// {"loss": nats per target, "aux": {name: mean of the raw loss over layers},
  ///  "layers": [{"load": [E], "dropped", "entropy", "max_violation", "per_token"}]}
  nlohmann::json row() const;
  /// Each expert's share of the kept assignments of all layers with as many experts as the first; for a sparkline.
  std::vector<double> mean_load() const;
  double loss() const { return sums_.n_targets ? sums_.nats / static_cast<double>(sums_.n_targets) : 0; }
  double nats() const { return sums_.nats; }
  int64_t n_targets() const { return sums_.n_targets; }
  int64_t n_tokens() const { return sums_.n_tokens; }
  /// One of PassSums::counts; 0 where no pass had it.
  double count(const std::string& name) const;

  nlohmann::json state() const;
  static Meter from_state(const nlohmann::json& state);

 private:
  struct Layer {
    std::vector<int64_t> kept, asked;
    int64_t dropped = 0;  ///< not asked - kept: a capacity may fill free slots that nobody asked for
  };
  void add(const PassSums& sums);

  PassSums sums_;
  int64_t passes_ = 0;
  std::map<std::string, std::pair<double, int64_t>> aux_;
  std::vector<Layer> layers_;
};

/// The name of a loss term without the layer in front: "layer 2: z_loss" is "z_loss" in a row.
std::string short_term_name(const std::string& name);

/// Entropy of the shares divided by log E: 1 = even, 0 = one expert does all. 1 when there is no load or one expert.
double normalised_entropy(const std::vector<double>& share_E);
/// Largest share over the even share, minus one (MaxVio, P084 section 4.1). 0 when there is no load.
double max_violation(const std::vector<double>& share_E);

}  // namespace collegium::train
