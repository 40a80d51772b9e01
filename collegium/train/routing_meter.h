// What an evaluation says about routing beyond loads: how sure it is, how stable, how collapsed, how used; and what
// layers state of themselves.
//
// N tokens, D model width, E experts, L layers with experts.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "collegium/model/model.h"

namespace collegium::train {

/// Sums over the passes of one evaluation, whose outputs were recorded (ModelContext::record).
class RoutingMeter {
 public:
  /// mask_N: bool, true = counts; undefined = all.
  void add(const model::ModelOutput& output, const Tensor& mask_N);

  /// Adds to each layer of `row["layers"]`
  ///   score_entropy  mean entropy of a token's scores, divided by their sum, in nats; absent without scores
  ///   margin         mean finite margin of first choices to the runner-up; absent where no choice has a rival
  ///   utilisation    share of the experts with more than a quarter of the even load
  ///   collapse       share of the variance of the hidden states that lies between experts (between / total, by first
  ///                  expert), 0 to 1: 1 = every state sits on its expert's centroid (the idea of Chi 2022,
  ///                  section 5.3)
  ///   fluctuation    share of tokens whose first expert is not that of `before`; absent without it
  /// and to `row["statistics"]` each statistic that layers state, by name: one mean a layer that states it.
  void report(nlohmann::json& row, const Tensor& before_LN) const;

  /// First experts of all tokens so far, int32 [L, N]; undefined without layers.
  Tensor first_experts() const;

 private:
  struct Layer {
    double entropy = 0, margin = 0, squares = 0;
    int64_t n_scored = 0, n_margins = 0;
    Tensor count_E, sum_ED;  // float64, by first expert
    Tensor kept_E;
    // One block that grows: a small tensor kept a pass, between the large ones that a pass frees, pinned the heap
    // apart.
    std::vector<int> first_N;
  };
  std::vector<Layer> layers_;
  std::vector<std::map<std::string, std::pair<double, double>>> statistics_;  ///< of all layers: sum and weight
};

}  // namespace collegium::train
