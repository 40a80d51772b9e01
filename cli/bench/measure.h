// What `collegium bench` measures without Python, each part into a sink.
#pragma once
#include <ATen/core/ScalarType.h>

#include <functional>
#include <string>
#include <vector>

#include "cli/bench/dense.h"
#include "cli/bench/experts.h"
#include "cli/bench/record.h"
#include "cli/bench/turns.h"

namespace collegium::cli {

struct BenchWish {
  std::vector<at::ScalarType> types;
  std::vector<Skew> skews;
  int64_t turns = 11;
  BenchClock clock = BenchClock::wall;
  bool quick = false;
};

const char* type_name(at::ScalarType type);

struct DenseCeiling {
  at::ScalarType type;
  std::vector<DenseSpeed> speeds;
};

/// Dense products of each type: the ceiling that experts are held against.
std::vector<DenseCeiling> measure_ceilings(BenchSink& sink, const BenchWish& wish);

/// The section of these ceilings.
void report_dense(BenchSink& sink, const std::vector<DenseCeiling>& ceilings);
void measure_experts(BenchSink& sink, const BenchWish& wish, const std::vector<DenseCeiling>& ceilings);
/// Peak and saved memory of each contender of the expert layers that train, each in a process of its own:
/// `collegium bench-memory`, with `program` for collegium.
void measure_memory(BenchSink& sink, const BenchWish& wish, const std::string& program);
void measure_steps(BenchSink& sink, const BenchWish& wish);
void measure_routers(BenchSink& sink, const BenchWish& wish);

}  // namespace collegium::cli
