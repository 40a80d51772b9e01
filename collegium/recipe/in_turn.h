// Measures that the machine decides: speed, latency, memory. What runs of different hours say of themselves tells of
// the hours, so these are taken when a recipe is judged, its two sides in turn.
#pragma once
#include <string_view>
#include <vector>

#include "collegium/recipe/run.h"

namespace collegium {

/// "tokens_per_second"  of training steps of the trained model on its training data (what a run says of itself is kept
///                      in the run store, for comparisons)
/// "layer_latency"      microseconds a token of one feed-forward place, router included: forward passes of the trained
///                      model over a batch of held-out tokens, no gradient; mean over the places
/// "training_memory"    bytes at the peak of two training steps on random data, the program itself not counted
bool is_measured_in_turn(std::string_view measure);

/// One number a run.
struct InTurn {
  std::vector<double> ours, baseline;
};

/// `measure` of finished runs, seed by seed: both sides take turns, and the median of several rounds counts.
/// `baseline` is as long as `ours`, or empty. A data Error where the system does not tell.
InTurn measure_in_turn(std::string_view measure, const std::vector<io::Path>& ours,
                       const std::vector<io::Path>& baseline, const RunSetting& setting);

}  // namespace collegium
