// The routing trace: decisions kept as data. Replay, placement, audits and plots read it; none needs a model.
#pragma once
#include <string>
#include <vector>

#include "collegium/route/context.h"
#include "collegium/route/decision.h"

namespace collegium::route {

/// What one layer decided in one pass.
struct TraceRecord {
  int64_t step = 0;   ///< training step of the model that decided
  int64_t pass = 0;   ///< number of the forward pass within the trace
  int64_t layer = 0;  ///< layer of the model
  Phase phase = Phase::evaluate;
  Tensor token_id_N;  ///< int64; undefined where the host had none
  Decision decision;
};

struct RoutingTrace {
  std::vector<TraceRecord> records;
  std::string model;  ///< what it was recorded from, for people
};

}  // namespace collegium::route
