// What training says about itself: sums since the last row of metrics.jsonl, exact in a checkpoint.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collegium/model/language_model.h"

namespace collegium::train {

/// Sums over micro-batches, turned into one row of metrics.
class Meter {
 public:
  /// One forward pass: `nats` summed over `n_targets` targets of `bytes` UTF-8 bytes. `n_real`: real tokens routed.
  void add(double nats, int64_t n_targets, int64_t bytes, int64_t n_real, const model::ModelOutput& output);

  /// Adds another meter's sums to these.
  void merge(const Meter& other);

  /// {"loss": nats per token, "bpb": bits per byte, "aux": {name: mean of the raw loss over layers},
  ///  "layers": [{"load": [E], "dropped", "entropy", "max_violation", "per_token"}]}
  nlohmann::json row() const;
  /// Each expert's share of the kept assignments of all layers with as many experts as the first; for a sparkline.
  std::vector<double> mean_load() const;
  double loss() const { return n_targets_ ? nats_ / static_cast<double>(n_targets_) : 0; }
  double bits_per_byte() const;
  int64_t n_targets() const { return n_targets_; }
  int64_t n_real() const { return n_real_; }

  nlohmann::json state() const;
  static Meter from_state(const nlohmann::json& state);

 private:
  struct Layer {
    std::vector<int64_t> kept, asked;
    int64_t dropped = 0;  ///< not asked - kept: a capacity may fill free slots that nobody asked for
  };
  double nats_ = 0;
  int64_t n_targets_ = 0, bytes_ = 0, n_real_ = 0, passes_ = 0;
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
