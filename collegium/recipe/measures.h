// What can be said of a finished run in one number: what recipes expect, comparisons list and leaderboards rank by.
#pragma once
#include <span>
#include <string_view>

#include "collegium/io/fs.h"

namespace collegium {

struct Measure {
  enum class Place {
    run,    ///< in the run store
    facts,  ///< of the model's sizes
    row,    ///< in the last held-out row of metrics.jsonl
    layers  ///< there, a mean over the layers with experts
  };
  std::string_view name, title, unit;
  std::string_view better;  ///< "lower", "higher" or "" where neither is
  Place place;
  bool in_comparisons = true;
};

std::span<const Measure> measures();

/// A usage Error names the nearest and lists the known ones.
const Measure& find_measure(std::string_view name);

/// The measure of a stored run. A data Error when the run has not got it (a dense model has no loads).
double measure_of(const io::Path& folder, std::string_view name);

}  // namespace collegium
