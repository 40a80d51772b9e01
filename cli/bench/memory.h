// Memory of one pass through an expert layer, measured in a process that does nothing else.
#pragma once
#include <string>
#include <string_view>

#include "cli/bench/experts.h"

namespace collegium::cli {

struct PassMemory {
  double peak_bytes = 0;   ///< that the pass adds to the resident memory of the process, at most
  double saved_bytes = 0;  ///< held for the backward pass after the forward one, inputs and the result not counted
};

/// Runs the contender's forward and backward pass in this process, which should be a new one: what earlier work has
/// freed would hide what the pass needs. A usage Error lists the contenders when there is none of that name.
PassMemory pass_memory(const ExpertShape& shape, at::ScalarType type, std::string_view contender);

}  // namespace collegium::cli
