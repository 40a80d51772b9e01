#include "cli/bench/measure.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "cli/bench/child.h"
#include "cli/bench/routers.h"
#include "cli/bench/steps.h"
#include "collegium/base/error.h"
#include "collegium/base/text_table.h"
#include "collegium/kernels/isa.h"

namespace collegium::cli {
namespace {

std::string isa_name() {
  return std::string(kernels::chosen_isa().name);
}

double ceiling_of(const std::vector<DenseCeiling>& ceilings, at::ScalarType type) {
  double best = 0;
  for (const auto& ceiling : ceilings)
    for (const auto& speed : ceiling.speeds)
      if (ceiling.type == type && speed.is_chosen) best = std::max(best, speed.flops_per_second);
  return best;
}

const Timed* find_timed(const std::vector<Timed>& all, std::string_view name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Timed& t) { return t.name == name; });
  return found == all.end() ? nullptr : &*found;
}

// The rivals' times over ours, as cells, bars and facts; "-" for a rival that is not here.
void add_ratios(BenchRow& row, const std::vector<Timed>& timed, const Timed& ours,
                std::initializer_list<const char*> rivals) {
  for (const auto* rival : rivals) {
    const auto* other = find_timed(timed, rival);
    if (!other) {
      row.cells.emplace_back("-");
      continue;
    }
    const auto ratio = ratio_of(*other, ours);
    row.cells.push_back(spread_text(ratio));
    row.bars.push_back({rival, ratio});
    row.facts["ratios"][rival] = spread_json(ratio);
  }
}

}  // namespace

const char* type_name(at::ScalarType type) {
  return type == at::kFloat ? "float32" : "bfloat16";
}

std::vector<DenseCeiling> measure_ceilings(BenchSink& sink, const BenchWish& wish) {
  std::vector<DenseCeiling> out;
  const auto sizes = dense_sizes(wish.quick);
  sink.stretch(static_cast<int64_t>(wish.types.size() * sizes.size()) * wish.turns);
  for (const auto type : wish.types)
    if (!sink.stopped())
      out.push_back({type, dense_speeds(type, sizes, wish.turns, wish.clock,
                                        turns_of(sink, text("dense products, ", type_name(type))))});
  return out;
}

void report_dense(BenchSink& sink, const std::vector<DenseCeiling>& ceilings) {
  sink.section(
      {.id = text("dense ", isa_name()),
       .name = "dense",
       .title = text("Dense products beside torch held to ", isa_name()),
       .note = "The fastest of three sizes. What is used here is the ceiling that expert layers are held against.",
       .unit = "GFLOP/s",
       .n_labels = 2,
       .columns = {"type", "whose loops", "GFLOP/s", "used here"},
       .rows = {}});
  for (const auto& [type, speeds] : ceilings)
    for (const auto& s : speeds) {
      const double giga = s.flops_per_second * 1e-9;
      sink.row({.label = text(s.who, ", ", type_name(type)),
                .cells = {type_name(type), s.who, fixed_text(giga, 0), s.is_chosen ? "yes" : ""},
                .bars = {{s.who == "torch" ? "torch" : "collegium", {giga, giga, giga}}},
                .aside = s.is_chosen ? "used here" : "",
                .facts = {{"kernels", isa_name()},
                          {"type", type_name(type)},
                          {"who", s.who},
                          {"flops_per_second", s.flops_per_second},
                          {"chosen", s.is_chosen}}});
    }
}

void measure_experts(BenchSink& sink, const BenchWish& wish, const std::vector<DenseCeiling>& ceilings) {
  int64_t n_stretches = 0;
  for (const auto& shape : expert_shapes(wish.quick))
    n_stretches += static_cast<int64_t>(wish.types.size() * wish.skews.size()) * (shape.trains ? 2 : 1);
  sink.stretch(n_stretches * wish.turns);
  sink.section({.id = text("experts ", isa_name()),
                .name = "experts",
                .title = text("Expert layers, ", isa_name()),
                .note =
                    "SwiGLU experts from the router's choices to the sum, in C++: beside the path that transformers "
                    "takes (torch's grouped product) and a loop over the experts. Time of the other / time of ours, "
                    "median [quartiles].",
                .unit = "",
                .n_labels = 4,
                .columns = {"shape", "type", "load", "pass", "ours, ms", "GFLOP/s", "of dense", "grouped_mm / ours",
                            "loop / ours"},
                .rows = {}});
  for (const auto& shape : expert_shapes(wish.quick))
    for (const auto type : wish.types)
      for (const auto skew : wish.skews) {
        if (sink.stopped()) return;
        const auto problem = make_problem(shape, skew, type);
        for (const bool backward : {false, true}) {
          if (sink.stopped() || (backward && !shape.trains)) continue;
          const auto* const pass = backward ? "fwd+bwd" : "fwd";
          const auto label = text(shape.name(), ", ", type_name(type), ", ", skew_name(skew), ", ", pass);
          const auto timed =
              take_turns(expert_contenders(problem, backward), wish.turns, wish.clock, turns_of(sink, label));
          const auto& ours = timed[0];
          const double seconds = ours.median(), speed = problem.flops(backward) / seconds,
                       ceiling = ceiling_of(ceilings, type);
          const auto share = ceiling > 0 ? text(fixed_text(100 * speed / ceiling, 0), " %") : "-";
          BenchRow row{.label = label,
                       .cells = {shape.name(), type_name(type), std::string(skew_name(skew)), pass,
                                 fixed_text(1e3 * seconds, 3), fixed_text(speed * 1e-9, 0), share},
                       .bars = {},
                       .aside = ceiling > 0 ? text(share, " of dense") : "",
                       .facts = {{"kernels", isa_name()},
                                 {"experts", shape.experts},
                                 {"k", shape.k},
                                 {"hidden", shape.hidden},
                                 {"width", shape.width},
                                 {"tokens", shape.tokens},
                                 {"type", type_name(type)},
                                 {"skew", skew_name(skew)},
                                 {"pass", pass},
                                 {"seconds", seconds},
                                 {"flops_per_second", speed},
                                 {"dense_flops_per_second", ceiling}}};
          add_ratios(row, timed, ours, {"grouped_mm", "loop"});
          sink.row(std::move(row));
        }
      }
}

void measure_memory(BenchSink& sink, const BenchWish& wish, const std::string& program) {
  const auto names = expert_contender_names();
  std::vector<ExpertShape> shapes;
  for (const auto& shape : expert_shapes(wish.quick))
    if (shape.trains) shapes.push_back(shape);
  sink.stretch(static_cast<int64_t>(shapes.size() * wish.types.size() * names.size()));
  BenchSection section{.id = "memory",
                       .name = "memory",
                       .title = "Memory of an expert layer's forward and backward pass",
                       .note =
                           "Each in a process of its own, even load. Saved: bytes a token that are held for the "
                           "backward pass, inputs and the result not counted. Peak: what one pass adds to the resident "
                           "memory, gradients included. Bars: the other's bytes / ours.",
                       .unit = "",
                       .n_labels = 2,
                       .columns = {"shape", "type"},
                       .rows = {}};
  for (const auto& name : names) section.columns.push_back(text("saved, ", name));
  for (const auto& name : names) section.columns.push_back(text("peak MiB, ", name));
  sink.section(section);
  const auto stopped = [&] { return sink.stopped(); };
  for (const auto& shape : shapes)
    for (const auto type : wish.types) {
      std::vector<double> saved, peak;
      for (const auto& name : names) {
        if (sink.stopped()) return;
        std::string line;
        const auto end = run_child(
            {program, "bench-memory", text(shape.tokens), text(shape.width), text(shape.hidden), text(shape.experts),
             text(shape.k), type_name(type), name, "--json", "--threads", text(at::get_num_threads())},
            {}, [&](const std::string& said) { line += said; }, stopped);
        if (sink.stopped()) return;
        if (end.exit_code != 0) {
          sink.skip(text("the memory of ", name, ", ", shape.name(), ", ", type_name(type)),
                    text("its process ended with code ", end.exit_code, ": ", end.errors));
          break;
        }
        const auto json = Json::parse(line);
        saved.push_back(json.at("saved_bytes").get<double>() / static_cast<double>(shape.tokens));
        peak.push_back(json.at("peak_bytes").get<double>() / 1048576);
        sink.turn(text("memory, ", shape.name(), ", ", type_name(type), ", ", name));
      }
      if (peak.size() < names.size()) continue;
      BenchRow row{.label = text(shape.name(), ", ", type_name(type)),
                   .cells = {shape.name(), type_name(type)},
                   .bars = {},
                   .aside = "",
                   .facts = {{"kernels", isa_name()}, {"shape", shape.name()}, {"type", type_name(type)}}};
      for (size_t i = 0; i < names.size(); ++i) {
        row.cells.push_back(fixed_text(saved[i], 0));
        row.facts["saved_bytes_per_token"][names[i]] = saved[i];
      }
      for (size_t i = 0; i < names.size(); ++i) {
        row.cells.push_back(fixed_text(peak[i], 1));
        row.facts["peak_mib"][names[i]] = peak[i];
      }
      for (const auto& [what, values] : {std::pair{"saved", &saved}, std::pair{"peak", &peak}})
        for (size_t i = 1; i < names.size(); ++i)
          if ((*values)[0] > 0) {
            const double ratio = (*values)[i] / (*values)[0];
            row.bars.push_back({text(what, ", ", names[i]), {ratio, ratio, ratio}});
          }
      sink.row(std::move(row));
    }
}

void measure_steps(BenchSink& sink, const BenchWish& wish) {
  const auto shapes = step_shapes(wish.quick);
  sink.stretch(static_cast<int64_t>(shapes.size()) * wish.turns);
  sink.section({.id = text("steps ", isa_name()),
                .name = "steps",
                .title = text("Training steps of two language models, ", isa_name()),
                .note =
                    "Forward, backward, clipping and AdamW, float32, in C++. \"collegium\" is Collegium's decoder and "
                    "training loop; the other three are one decoder in torch's operations with Collegium's experts, "
                    "torch's grouped product and a loop over the experts. All have the same weights, tokens and "
                    "first loss. Time of the other / time of the row's, median [quartiles].",
                .unit = "",
                .n_labels = 2,
                .columns = {"model", "whose", "tokens/s", "grouped_mm / this", "loop / this"},
                .rows = {}});
  for (const auto& shape : shapes) {
    if (sink.stopped()) return;
    const auto race = make_step_race(shape);
    const auto losses = race->first_losses();
    for (const double loss : losses)
      require(std::abs(loss - losses[0]) < 1e-4, "bench: the decoders of ", shape.name,
              " compute different functions: first losses ", losses[0], " and ", loss);
    const auto timed =
        take_turns(race->contenders(), wish.turns, wish.clock, turns_of(sink, text(shape.name, ", training steps")));
    for (const auto& side : timed) {
      const double speed = static_cast<double>(shape.tokens()) / side.median();
      BenchRow row{.label = text(shape.name, ", ", side.name),
                   .cells = {std::string(shape.name), side.name, fixed_text(speed, 0)},
                   .bars = {},
                   .aside = text(fixed_text(speed, 0), " tokens/s"),
                   .facts = {{"kernels", isa_name()},
                             {"model", shape.name},
                             {"who", side.name},
                             {"tokens_per_second", speed},
                             {"first_loss", losses[0]}}};
      if (side.name.starts_with("collegium")) add_ratios(row, timed, side, {"grouped_mm", "loop"});
      sink.row(std::move(row));
    }
  }
}

void measure_routers(BenchSink& sink, const BenchWish& wish) {
  const auto sizes = router_sizes(wish.quick);
  size_t n_rows = 0;
  for (const auto& size : sizes) n_rows += bench_routers(size).size();
  sink.stretch(static_cast<int64_t>(n_rows) * wish.turns);
  sink.section({.id = text("routers ", isa_name()),
                .name = "routers",
                .title = text("Routers stage by stage, ", isa_name()),
                .note = "Microseconds a token, float32, evaluating. The rival, in C++, gives ids and weights only "
                        "(softmax, top-k, normalised); ours, whole, a sorted decision as well, in two passes over the "
                        "tokens where the stages allow it. Neither gives losses: their column is what training adds.",
                .unit = "",
                .n_labels = 1,
                .columns = {"router", "E", "k", "scorer", "selector", "decision", "capacity", "gate", "balancers",
                            "whole", "softmax, top-k / ours"},
                .rows = {}});
  for (const auto& size : sizes)
    for (const auto name : bench_routers(size)) {
      if (sink.stopped()) return;
      const auto label = text(name, ", E", size.experts, " k", size.k);
      const auto t = time_router(name, size, wish.turns, wish.clock, turns_of(sink, label));
      const auto micros = [&](const Timed& timed) { return 1e6 * timed.median() / static_cast<double>(t.tokens); };
      BenchRow row{
          .label = label,
          .cells = {t.router, text(t.experts), text(t.k)},
          .bars = {},
          .aside = text(fixed_text(micros(t.whole), 2), " µs a token"),
          .facts = {
              {"kernels", isa_name()}, {"router", t.router}, {"experts", t.experts}, {"k", t.k}, {"tokens", t.tokens}}};
      for (const auto& stage : t.stages) {
        row.cells.push_back(fixed_text(micros(stage), 3));
        row.facts["microseconds_per_token"][stage.name] = micros(stage);
      }
      const auto ratio = ratio_of(t.rival, t.whole);
      row.cells.push_back(fixed_text(micros(t.whole), 3));
      row.cells.push_back(spread_text(ratio));
      row.facts["microseconds_per_token"]["whole"] = micros(t.whole);
      row.facts["ratios"]["transformers"] = spread_json(ratio);
      row.bars.push_back({"softmax, top-k", ratio});
      sink.row(std::move(row));
    }
}

}  // namespace collegium::cli
