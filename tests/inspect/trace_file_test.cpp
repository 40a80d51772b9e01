// A trace that is written comes back whole.
#include "collegium/inspect/trace_file.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>

#include "collegium/base/error.h"

namespace {

using namespace collegium;

Tensor longs(const std::vector<int64_t>& v) {
  return at::tensor(v, at::kLong);
}
Tensor floats(const std::vector<float>& v) {
  return at::tensor(v, at::kFloat);
}
constexpr float kInf = std::numeric_limits<float>::infinity();

bool same(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || (a.scalar_type() == b.scalar_type() && at::equal(a, b)));
}

// Five tokens, three experts. Token 4's second choice found no room at expert 2, token 0's was moved from 2 to 1, and
// token 3 fills a free slot of expert 0.
route::Decision with_everything() {
  return route::Decision::from_parts({.n_tokens = 5,
                                      .n_experts = 3,
                                      .token_R = longs({0, 3, 0, 2, 1}),
                                      .expert_R = longs({0, 0, 1, 1, 2}),
                                      .gate_R = floats({.75f, .125f, .25f, 1, .1f}),
                                      .rank_R = longs({0, 0, 1, 0, 0}),
                                      .slot_R = longs({0, 1, 0, 1, 0}),
                                      .score_R = floats({.9f, .2f, .3f, .4f, .5f}),
                                      .margin_R = floats({.6f, kInf, .01f, .1f, .2f}),
                                      .wanted_R = longs({0, -1, 2, 1, 2}),
                                      .dropped = {.token_Q = longs({4, 1}),
                                                  .expert_Q = longs({2, 0}),
                                                  .rank_Q = longs({1, 2}),
                                                  .score_Q = floats({.45f, .05f}),
                                                  .margin_Q = floats({.02f, kInf}),
                                                  .reason_Q = longs({1, 1})}});
}

// Nobody was chosen.
route::Decision empty() {
  return route::Decision::make({longs({}), longs({}), longs({}), floats({}), floats({})}, 2, 3).with_gates(floats({}));
}

struct File {
  io::Path path = std::filesystem::temp_directory_path() / text("trace_file_test_", ::getpid(), ".safetensors");
  ~File() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("a trace comes back whole: what was dropped and why, phases, token ids, moved and filled places") {
  route::RoutingTrace trace;
  trace.model = "a run, \"quoted\"";
  const auto phases = {route::Phase::train, route::Phase::evaluate, route::Phase::recompute, route::Phase::replay};
  int64_t layer = 0;
  for (const auto phase : phases) {
    trace.records.push_back({.step = 120 + layer,
                             .pass = 7 * layer,
                             .layer = layer,
                             .phase = phase,
                             .token_id_N = layer == 1 ? Tensor() : longs({5, 0, 1'000'000'007, 5, 17}),
                             .decision = with_everything()});
    ++layer;
  }
  trace.records.push_back({.step = 1, .pass = 2, .layer = 3, .decision = empty()});

  const File file;
  write_trace(io::real_file_system(), file.path, trace);
  const auto back = read_trace(io::real_file_system(), file.path);
  CHECK(back.model == trace.model);
  REQUIRE(back.records.size() == trace.records.size());
  for (size_t i = 0; i < trace.records.size(); ++i) {
    CAPTURE(i);
    const auto &was = trace.records[i], &is = back.records[i];
    CHECK(is.step == was.step);
    CHECK(is.pass == was.pass);
    CHECK(is.layer == was.layer);
    CHECK((is.phase == was.phase));
    CHECK(same(is.token_id_N, was.token_id_N));
    const auto &a = was.decision, &b = is.decision;
    CHECK(b.n_tokens() == a.n_tokens());
    CHECK(b.n_experts() == a.n_experts());
    CHECK(b.n_filled() == a.n_filled());
    CHECK(b.is_rerouted() == a.is_rerouted());
    CHECK(same(b.token_R(), a.token_R()));
    CHECK(same(b.expert_R(), a.expert_R()));
    CHECK(same(b.wanted_R(), a.wanted_R()));
    CHECK(same(b.rank_R(), a.rank_R()));
    CHECK(same(b.slot_R(), a.slot_R()));
    CHECK(same(b.gate_R(), a.gate_R()));
    CHECK(same(b.score_R(), a.score_R()));
    CHECK(same(b.margin_R(), a.margin_R()));
    CHECK(same(b.dropped().token_Q, a.dropped().token_Q));
    CHECK(same(b.dropped().expert_Q, a.dropped().expert_Q));
    CHECK(same(b.dropped().rank_Q, a.dropped().rank_Q));
    CHECK(same(b.dropped().score_Q, a.dropped().score_Q));
    CHECK(same(b.dropped().margin_Q, a.dropped().margin_Q));
    CHECK(same(b.dropped().reason_Q, a.dropped().reason_Q));
    CHECK(same(b.offset_E1(), a.offset_E1()));
    CHECK(same(b.asked_E(), a.asked_E()));
    CHECK(same(b.kept_E(), a.kept_E()));
  }
  CHECK(back.records[0].decision.n_dropped() == 2);
  CHECK(back.records[0].decision.n_filled() == 1);
}

TEST_CASE("notes come back whole, and are no duty") {
  route::RoutingTrace trace;
  trace.records.push_back({.decision = empty()});
  const TraceNotes notes{
      .layers = {{0, {.name = "layer 0"}}, {4, {.name = "attention 0", .null_experts = 2, .choices = 3}}},
      .token_text = {{3, " a"}, {7, ""}, {9, "\xe2\x82"}}};
  const File file;
  write_trace(io::real_file_system(), file.path, trace, notes);
  const auto back = read_trace_notes(io::real_file_system(), file.path);
  CHECK(back.token_text == notes.token_text);
  REQUIRE(back.layers.size() == 2);
  CHECK(back.layers.at(0).name == "layer 0");
  CHECK(back.layers.at(4).null_experts == 2);
  CHECK(back.layers.at(4).choices == 3);
  CHECK(read_trace(io::real_file_system(), file.path).records.size() == 1);
  write_trace(io::real_file_system(), file.path, trace);
  const auto none = read_trace_notes(io::real_file_system(), file.path);
  CHECK((none.layers.empty() && none.token_text.empty()));
}

TEST_CASE("numbers of other precisions are kept as float32") {
  route::RoutingTrace trace;
  const auto gate_R = at::tensor({.75, .125, .25, 1.0, .1}, at::kDouble).requires_grad_(true);
  trace.records.push_back({.decision = with_everything().with_gates(gate_R)});
  const File file;
  write_trace(io::real_file_system(), file.path, trace);
  const auto back = read_trace(io::real_file_system(), file.path);
  CHECK(same(back.records[0].decision.gate_R(), floats({.75f, .125f, .25f, 1, .1f})));
}
