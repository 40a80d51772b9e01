// `collegium bench`: speed against rivals on this machine, as far as it needs no Python.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/bench/dense.h"
#include "cli/bench/experts.h"
#include "cli/bench/picture.h"
#include "cli/bench/routers.h"
#include "cli/machine.h"
#include "cli/setting.h"
#include "collegium/io/fs.h"
#include "collegium/kernels/isa.h"

namespace collegium::cli {
namespace {

constexpr std::string_view kParts[] = {"experts", "routers", "dense"};
constexpr std::string_view kClocks[] = {"wall", "cpu"};
constexpr std::string_view kTypes[] = {"float32", "bfloat16", "all"};
constexpr std::string_view kSkews[] = {"uniform", "zipf", "hot", "all"};
constexpr Positional kBenchArguments[] = {{.name = "PART",
                                           .help = "what to measure; everything when none is named",
                                           .min = 0,
                                           .max = kUnlimited,
                                           .choices = kParts}};
constexpr Option kBenchOptions[] = {
    {.name = "turns",
     .letter = 'n',
     .value = "N",
     .kind = ValueKind::integer,
     .help = "turns of each contender",
     .default_text = "11"},
    {.name = "type", .value = "TYPE", .help = "element type", .default_text = "all", .choices = kTypes},
    {.name = "skew", .value = "SKEW", .help = "load of the experts", .default_text = "uniform", .choices = kSkews},
    {.name = "clock",
     .value = "CLOCK",
     .help = "wall, or cpu: this process's time, steadier on a busy machine with --threads 1",
     .default_text = "wall",
     .choices = kClocks},
    {.name = "out",
     .letter = 'o',
     .value = "FILE",
     .help = "a picture, FILE.svg, or a page, FILE.html",
     .complete = Complete::files},
    kThreadsOption,
};
constexpr Example kBenchExamples[] = {
    {"collegium bench", "everything, some minutes"},
    {"collegium bench experts --type float32 --skew all --out bench.html", "a page on expert layers"},
    {"collegium bench dense --threads 1 --clock cpu", "the ceiling, on a busy machine"}};

struct Wish {
  std::vector<at::ScalarType> types;
  std::vector<Skew> skews;
  int64_t turns;
  BenchClock clock;
};

// Counts turns on the progress bar and stops at Ctrl-C.
class Ticker {
 public:
  Ticker(Progress& progress, const InterruptFlag& interrupt, int64_t total)
      : progress_(progress), interrupt_(interrupt) {
    progress_.start(total, "turns", "bench");
  }
  std::function<bool()> of(std::string what) {
    return [this, what = std::move(what)] {
      progress_.update(++done_, {ProgressField{"", what}});
      return !interrupt_.raised();
    };
  }
  bool stopped() const { return interrupt_.raised(); }

 private:
  Progress& progress_;
  const InterruptFlag& interrupt_;
  int64_t done_ = 0;
};

const char* type_name(at::ScalarType type) {
  return type == at::kFloat ? "float32" : "bfloat16";
}

std::string ratio_text(const Spread& ratio) {
  return text(fixed_text(ratio.middle, 2), " [", fixed_text(ratio.low, 2), ", ", fixed_text(ratio.high, 2), "]");
}

Json ratio_json(const Spread& ratio) {
  return {{"median", ratio.middle}, {"quartiles", {ratio.low, ratio.high}}};
}

struct Report {
  std::string tables;  // as plain text, for the page
  std::vector<PictureRow> picture;
  Json json = Json::object();
};

void put_table(Output& out, Report& report, std::string_view title, const TextTable& rows) {
  out.line(out.colored("1", title));
  out.block(rows.render(out.table_style()));
  out.line();
  report.tables += text(title, "\n", rows.render(), "\n");
}

using Ceilings = std::vector<std::pair<at::ScalarType, std::vector<DenseSpeed>>>;

double ceiling_of(const Ceilings& ceilings, at::ScalarType type) {
  double best = 0;
  for (const auto& [of, speeds] : ceilings)
    for (const auto& speed : speeds)
      if (of == type && speed.is_chosen) best = std::max(best, speed.flops_per_second);
  return best;
}

Ceilings measure_dense(const Wish& wish, Ticker& ticker) {
  Ceilings out;
  for (const auto type : wish.types)
    if (!ticker.stopped())
      out.emplace_back(type, dense_speeds(type, wish.turns, wish.clock, ticker.of(text("dense ", type_name(type)))));
  return out;
}

void show_dense(Output& out, Report& report, const Ceilings& ceilings) {
  TextTable rows({"type", "whose loops", "GFLOP/s", "chosen here"});
  report.json["dense"] = Json::array();
  for (const auto& [type, speeds] : ceilings)
    for (const auto& s : speeds) {
      rows.row({type_name(type), s.who, fixed_text(s.flops_per_second * 1e-9, 0), s.is_chosen ? "yes" : ""});
      report.json["dense"].push_back({{"type", type_name(type)},
                                      {"who", s.who},
                                      {"flops_per_second", s.flops_per_second},
                                      {"chosen", s.is_chosen}});
    }
  put_table(out, report, "Dense products, the fastest of three sizes", rows);
}

void measure_experts(Output& out, Report& report, const Wish& wish, const Ceilings& ceilings, Ticker& ticker) {
  TextTable rows(
      {"shape", "type", "load", "pass", "ours, ms", "GFLOP/s", "of dense", "grouped_mm / ours", "loop / ours"});
  for (size_t column = 4; column < 9; ++column) rows.align(column, Align::right);
  report.json["experts"] = Json::array();
  for (const auto& shape : expert_shapes())
    for (const auto type : wish.types)
      for (const auto skew : wish.skews) {
        if (ticker.stopped()) continue;
        const auto problem = make_problem(shape, skew, type);
        for (const bool backward : {false, true}) {
          if (ticker.stopped() || (backward && !shape.trains)) continue;
          const auto label =
              text(shape.name(), " ", type_name(type), " ", skew_name(skew), backward ? " fwd+bwd" : " fwd");
          const auto timed = take_turns(expert_contenders(problem, backward), wish.turns, wish.clock, ticker.of(label));
          if (timed[0].seconds.empty()) continue;
          const double seconds = timed[0].median(), speed = problem.flops(backward) / seconds,
                       ceiling = ceiling_of(ceilings, type);
          std::vector<std::string> cells = {shape.name(),
                                            type_name(type),
                                            std::string(skew_name(skew)),
                                            backward ? "fwd+bwd" : "fwd",
                                            fixed_text(1e3 * seconds, 3),
                                            fixed_text(speed * 1e-9, 0),
                                            ceiling > 0 ? text(fixed_text(100 * speed / ceiling, 0), " %") : "-"};
          Json row = {{"experts", shape.experts},
                      {"k", shape.k},
                      {"hidden", shape.hidden},
                      {"width", shape.width},
                      {"tokens", shape.tokens},
                      {"type", type_name(type)},
                      {"skew", skew_name(skew)},
                      {"pass", backward ? "fwd+bwd" : "fwd"},
                      {"seconds", seconds},
                      {"flops_per_second", speed},
                      {"dense_flops_per_second", ceiling}};
          PictureRow picture{label, {}};
          for (const auto* rival : {"grouped_mm", "loop"}) {
            const auto found =
                std::find_if(timed.begin(), timed.end(), [&](const Timed& t) { return t.name == rival; });
            if (found == timed.end()) {
              cells.emplace_back("-");
              continue;
            }
            const auto ratio = ratio_of(*found, timed[0]);
            cells.push_back(ratio_text(ratio));
            row["ratios"][rival] = ratio_json(ratio);
            picture.bars.push_back({rival, ratio});
          }
          rows.row(cells);
          report.json["experts"].push_back(row);
          report.picture.push_back(picture);
        }
      }
  put_table(out, report, "Expert layers: time of the other / time of ours, median [quartiles]", rows);
}

struct RouterSize {
  int64_t experts, k;
};
constexpr RouterSize kRouterSizes[] = {{8, 2}, {64, 8}, {256, 8}};

void measure_routers(Output& out, Report& report, const Wish& wish, Ticker& ticker) {
  TextTable rows({"router", "E", "k", "scorer", "selector", "decision", "capacity", "gate", "balancers", "whole",
                  "transformers / ours"});
  for (size_t column = 1; column < 11; ++column) rows.align(column, Align::right);
  report.json["routers"] = Json::array();
  for (const auto size : kRouterSizes)
    for (const auto name : bench_routers()) {
      if (ticker.stopped()) continue;
      const auto label = text(name, " E", size.experts, " k", size.k);
      const auto t = time_router(name, size.experts, size.k, wish.turns, wish.clock, ticker.of(label));
      if (t.whole.seconds.empty()) continue;
      const auto micros = [&](const Timed& timed) { return 1e6 * timed.median() / static_cast<double>(t.tokens); };
      const auto ratio = ratio_of(t.rival, t.whole);
      std::vector<std::string> cells = {t.router, text(t.experts), text(t.k)};
      Json row = {{"router", t.router}, {"experts", t.experts}, {"k", t.k}, {"tokens", t.tokens}};
      for (const auto& stage : t.stages) {
        cells.push_back(fixed_text(micros(stage), 3));
        row["microseconds_per_token"][stage.name] = micros(stage);
      }
      cells.push_back(fixed_text(micros(t.whole), 3));
      cells.push_back(ratio_text(ratio));
      row["microseconds_per_token"]["whole"] = micros(t.whole);
      row["ratios"]["transformers"] = ratio_json(ratio);
      rows.row(cells);
      report.json["routers"].push_back(row);
      report.picture.push_back({label, {{"softmax, top-k, normalise", ratio}}});
    }
  put_table(out, report, "Routers, microseconds a token, float32; the rival gives ids and weights only", rows);
}

std::vector<at::ScalarType> types_of(std::string_view word) {
  if (word == "float32") return {at::kFloat};
  if (word == "bfloat16") return {at::kBFloat16};
  return {at::kFloat, at::kBFloat16};
}

std::vector<Skew> skews_of(std::string_view word) {
  std::vector<Skew> out;
  for (const auto skew : {Skew::uniform, Skew::zipf, Skew::hot})
    if (word == "all" || word == skew_name(skew)) out.push_back(skew);
  return out;
}

void check_out(const std::string& path) {
  if (path.empty()) return;
  const auto ending = std::filesystem::path(path).extension();
  require(ending == ".svg" || ending == ".html", "--out ", path, ": a name that ends in .svg or .html wanted");
  const auto folder = std::filesystem::path(path).parent_path();
  require(folder.empty() || std::filesystem::is_directory(folder), "--out ", path, ": there is no folder ",
          folder.string());
}

int run_bench(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  const Wish wish{types_of(arguments.text("type")), skews_of(arguments.text("skew")), arguments.integer("turns"),
                  arguments.text("clock") == "cpu" ? BenchClock::cpu : BenchClock::wall};
  require(wish.turns >= 1 && wish.turns <= 10000, "--turns ", wish.turns, ": 1 to 10000 wanted");
  const auto path = arguments.text("out");
  check_out(path);
  const auto& parts = arguments.positionals("PART");
  const auto wants = [&](std::string_view part) {
    return parts.empty() || std::find(parts.begin(), parts.end(), part) != parts.end();
  };

  require(!path.ends_with(".svg") || wants("experts") || wants("routers"), "--out ", path,
          ": dense products have no picture; name an .html");

  int64_t n_stretches = 0;
  if (wants("dense") || wants("experts")) n_stretches += 3 * static_cast<int64_t>(wish.types.size());
  if (wants("experts"))
    for (const auto& shape : expert_shapes())
      n_stretches += static_cast<int64_t>(wish.types.size() * wish.skews.size()) * (shape.trains ? 2 : 1);
  if (wants("routers")) n_stretches += static_cast<int64_t>(std::size(kRouterSizes) * bench_routers().size());

  const InterruptFlag interrupt;
  const auto progress = arguments.progress();
  Ticker ticker(*progress, interrupt, n_stretches * wish.turns);
  Report report;
  const auto head =
      text(read_cpu("/").model, ", ", at::get_num_threads(), " threads, torch ", TORCH_VERSION, ", kernels ",
           kernels::chosen_isa().name, ", ", wish.turns, " turns, ", arguments.text("clock"), " clock");
  report.tables = head + "\n\n";
  report.json = {{"machine", read_cpu("/").model},
                 {"threads", at::get_num_threads()},
                 {"torch", TORCH_VERSION},
                 {"torch_cpu_capability", at::get_cpu_capability()},
                 {"kernels", kernels::chosen_isa().name},
                 {"turns", wish.turns},
                 {"clock", arguments.text("clock")}};
  out.line(head);
  out.line();
  // Experts are given as a share of the dense speed, so that is measured with them.
  const auto ceilings = wants("dense") || wants("experts") ? measure_dense(wish, ticker) : Ceilings();
  if (wants("dense")) show_dense(out, report, ceilings);
  if (wants("experts")) measure_experts(out, report, wish, ceilings, ticker);
  if (wants("routers")) measure_routers(out, report, wish, ticker);
  progress->finish();
  if (interrupt.raised()) out.warn("stopped early: the last rows have fewer turns, and some are missing");
  if (!path.empty()) {
    const auto svg = bench_svg(report.picture, head);
    const auto page = path.ends_with(".svg") ? svg : bench_html(svg, report.tables);
    io::write_atomically(io::real_file_system(), path, io::as_bytes(page));
    out.line(text("picture: ", path));
    report.json["picture"] = path;
  }
  out.note("Beside transformers itself, called from Python: `make bench` in the source folder.");
  out.json(report.json);
  return interrupt.raised() ? static_cast<int>(ErrorKind::interrupted) : 0;
}

}  // namespace

extern constinit const Command bench_command = {
    .name = "bench",
    .summary = "speed against rivals on this machine",
    .help =
        "Expert layers beside torch's grouped product and a loop over the experts, routers stage by stage beside "
        "softmax and top-k, and dense products of every instruction set as the ceiling. Contenders take turns in one "
        "process, so a busy machine slows all alike; a ratio above 1 says that Collegium is faster.\n\n"
        "COLLEGIUM_ISA forces an instruction set of ours, ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA those of torch. "
        "What needs Python (transformers itself, whole training steps) is run by `make bench`.",
    .group = "this program",
    .positionals = kBenchArguments,
    .options = kBenchOptions,
    .examples = kBenchExamples,
    .run = run_bench,
};

}  // namespace collegium::cli
