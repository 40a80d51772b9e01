// `collegium bench`: speed and memory beside rivals on this machine.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/bench/child.h"
#include "cli/bench/isas.h"
#include "cli/bench/measure.h"
#include "cli/bench/page.h"
#include "cli/bench/picture.h"
#include "cli/bench/python.h"
#include "cli/machine.h"
#include "cli/setting.h"
#include "collegium/io/fs.h"
#include "collegium/kernels/isa.h"

namespace collegium::cli {
namespace {

constexpr std::string_view kParts[] = {"dense",
                                       "experts",
                                       "steps",
                                       "routers",
                                       "transformers",
                                       "transformers-experts",
                                       "transformers-models",
                                       "transformers-routers",
                                       "transformers-demonstration",
                                       "atomic",
                                       "cuda"};
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
    {.name = "type",
     .value = "TYPE",
     .help = "element type; all leaves out bfloat16 with avx2, where torch has no fast products of it",
     .default_text = "all",
     .choices = kTypes},
    {.name = "skew", .value = "SKEW", .help = "load of the experts", .default_text = "uniform", .choices = kSkews},
    {.name = "isa",
     .value = "SET",
     .help = "instruction set that both sides are held to, or all: expert layers and dense products once with each; "
             "all unless COLLEGIUM_ISA says one"},
    {.name = "clock",
     .value = "CLOCK",
     .help = "wall, or cpu: this process's time, steadier on a busy machine with --threads 1",
     .default_text = "wall",
     .choices = kClocks},
    {.name = "python",
     .value = "PATH",
     .help = "interpreter with torch, collegium and transformers; otherwise one is looked for",
     .environment = "COLLEGIUM_PYTHON",
     .complete = Complete::files},
    {.name = "no-memory", .help = "leave out the memory of expert layers"},
    {.name = "quick", .help = "tiny sizes: shows that everything runs, not how fast"},
    {.name = "out",
     .letter = 'o',
     .value = "FILE",
     .help = "a page, FILE.html, a picture, FILE.svg, or the figures, FILE.json; written again with every row",
     .repeatable = true,
     .complete = Complete::files},
    {.name = "events", .help = "one JSON line for each thing as it happens, for programs; no Python"},
    kThreadsOption,
};
constexpr Example kBenchExamples[] = {
    {"collegium bench --out bench.html", "everything, and a page that draws it"},
    {"collegium bench experts --type float32 --skew all --isa all --out bench.html",
     "expert layers, with every instruction set"},
    {"collegium bench transformers --python .venv/bin/python", "beside transformers, with and without torch.compile"},
    {"collegium bench dense --threads 1 --clock cpu", "the ceiling, on a busy machine"}};

constexpr std::string_view kKernelParts[] = {"dense", "experts"};  // measured with each instruction set
constexpr std::string_view kOtherParts[] = {"steps", "routers"};   // with the last one

template <class All>
bool has(const All& all, std::string_view part) {
  return std::find(std::begin(all), std::end(all), part) != std::end(all);
}

// The parts that were asked for, in the order of kParts, "transformers" replaced by what it stands for.
std::vector<std::string> wanted_parts(const std::vector<std::string>& named) {
  std::vector<std::string> out;
  for (const auto part : kParts) {
    if (part == "transformers") continue;
    if (named.empty() || has(named, part) || (part.starts_with("transformers-") && has(named, "transformers")))
      out.emplace_back(part);
  }
  return out;
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
  const auto ending = std::filesystem::path(path).extension();
  require(ending == ".svg" || ending == ".html" || ending == ".json", "--out ", path,
          ": a name that ends in .html, .svg or .json wanted");
  const auto folder = std::filesystem::path(path).parent_path();
  require(folder.empty() || std::filesystem::is_directory(folder), "--out ", path, ": there is no folder ",
          folder.string());
  require(!std::filesystem::is_directory(path), "--out ", path, ": this is a folder");
}

void write_out(const std::string& path, const BenchDocument& document) {
  const auto made = path.ends_with(".svg") ? bench_svg(document)
                    : path.ends_with(".html")
                        ? bench_html(document)
                        : bench_json(document).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  io::write_atomically(io::real_file_system(), path, io::as_bytes(made));
}

// The parts that need no Python, in this process and with its instruction set.
void measure_here(BenchSink& sink, const BenchWish& wish, const std::vector<std::string>& parts, bool with_memory) {
  if (has(parts, "dense") || has(parts, "experts")) {
    const auto ceilings = measure_ceilings(sink, wish);
    if (has(parts, "dense")) report_dense(sink, ceilings);
    if (has(parts, "experts") && !sink.stopped()) measure_experts(sink, wish, ceilings);
    if (has(parts, "experts") && with_memory && !sink.stopped()) measure_memory(sink, wish, own_program());
  }
  if (has(parts, "steps") && !sink.stopped()) measure_steps(sink, wish);
  if (has(parts, "routers") && !sink.stopped()) measure_routers(sink, wish);
}

// The options that a process of our own and the Python module share.
std::vector<std::string> passed_on(const Arguments& arguments, const std::string& isa) {
  std::vector<std::string> out = {
      "--turns",   text(arguments.integer("turns")), "--type",  types_with(isa, arguments.text("type")),
      "--skew",    arguments.text("skew"),           "--clock", arguments.text("clock"),
      "--threads", text(at::get_num_threads())};
  if (arguments.flag("quick")) out.emplace_back("--quick");
  return out;
}

// The same in a process of its own that is held to the set.
void measure_with(BenchSink& sink, const Arguments& arguments, const std::string& isa,
                  const std::vector<std::string>& parts, bool with_memory) {
  std::vector<std::string> command = {own_program(), "bench"};
  command.insert(command.end(), parts.begin(), parts.end());
  const auto options = passed_on(arguments, isa);
  command.insert(command.end(), options.begin(), options.end());
  command.emplace_back("--events");
  if (!with_memory) command.emplace_back("--no-memory");
  const auto end = run_child(
      command, isa_variables(isa), [&](const std::string& line) { feed(sink, line); }, [&] { return sink.stopped(); });
  if (end.exit_code != 0 && !sink.stopped())
    sink.skip(text(join(parts), " with ", isa), text("ended with code ", end.exit_code, ": ", end.errors));
}

void measure_python(PageSink& sink, const Arguments& arguments, const std::vector<std::string>& isas, bool is_chosen,
                    const std::vector<std::string>& parts, bool are_named, BenchDocument& document) {
  const auto search =
      find_bench_python(arguments.text("python"), arguments.streams().environment, [&] { return sink.stopped(); });
  if (sink.stopped()) return;
  if (!search.found) {
    const auto why = text("no Python with torch, collegium and transformers was found (tried: ",
                          search.tried.empty() ? "none is here" : join(search.tried, "; "), ")");
    const auto* const hint =
        "`pip install . transformers` in the source folder installs them, --python PATH names an interpreter that has "
        "them; "
        "st-moe-pytorch and peer-pytorch are further rivals";
    if (are_named) throw Error(ErrorKind::usage, text("bench ", parts[0], ": ", why), hint);
    return sink.skip(join(parts), text(why, "; ", hint));
  }
  document.machine["python"] = search.found->program;
  document.machine["python_versions"] = search.found->versions;
  document.head += text("; ", search.found->versions);
  for (const auto& part : parts)
    for (const auto& isa : isas) {
      if (sink.stopped() || (part != "transformers-experts" && isa != isas.back())) continue;
      auto options = passed_on(arguments, isa);
      if (part == "transformers-experts" && (arguments.flag("no-memory") || isa != isas.back()))
        options.emplace_back("--no-memory");
      run_python_part(sink, *search.found, part, options, is_chosen ? Variables() : isa_variables(isa));
      sink.show(arguments.out());
    }
}

int run_bench(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  const std::string chosen(kernels::chosen_isa().name);  // measure_here is held to it
  const BenchWish wish{types_of(types_with(chosen, arguments.text("type"))), skews_of(arguments.text("skew")),
                       arguments.integer("turns"),
                       arguments.text("clock") == "cpu" ? BenchClock::cpu : BenchClock::wall, arguments.flag("quick")};
  require(wish.turns >= 1 && wish.turns <= 10000, "--turns ", wish.turns, ": 1 to 10000 wanted");
  const auto& paths = arguments.all("out");
  for (const auto& path : paths) check_out(path);
  const auto& named = arguments.positionals("PART");
  const auto parts = wanted_parts(named);
  std::vector<std::string> kernel_parts, other_parts, foreign_parts;
  for (const auto& part : parts)
    (has(kKernelParts, part) ? kernel_parts : has(kOtherParts, part) ? other_parts : foreign_parts).push_back(part);
  const auto& environment = arguments.streams().environment;
  const bool is_chosen = !arguments.given("isa") && (arguments.flag("events") || !environment("COLLEGIUM_ISA").empty());
  const auto isas = wanted_isas(arguments.given("isa") ? arguments.text("isa") : is_chosen ? "" : "all");
  const InterruptFlag interrupt;

  if (arguments.flag("events")) {
    require(foreign_parts.empty() || named.empty(), "bench --events: ", join(foreign_parts),
            " has events of its own: python -m collegium.bench … --events");
    require(!out.wants_json() && paths.empty(), "bench --events goes with neither --json nor --out");
    require(!arguments.given("isa"), "bench --events: COLLEGIUM_ISA says the instruction set, not --isa");
    EventSink sink(arguments.streams().out, interrupt);
    kernel_parts.insert(kernel_parts.end(), other_parts.begin(), other_parts.end());
    measure_here(sink, wish, kernel_parts, !arguments.flag("no-memory"));
    return interrupt.raised() ? static_cast<int>(ErrorKind::interrupted) : 0;
  }

  BenchDocument document;
  document.head =
      text(read_cpu("/").model, ", ", at::get_num_threads(), at::get_num_threads() == 1 ? " thread" : " threads",
           ", torch ", TORCH_VERSION, ", kernels ", join(isas), ", ", wish.turns, " turns, ", arguments.text("clock"),
           " clock", wish.quick ? ", tiny sizes (the figures say nothing about speed)" : "");
  document.machine = {{"machine", read_cpu("/").model},
                      {"threads", at::get_num_threads()},
                      {"torch", TORCH_VERSION},
                      {"torch_cpu_capability", at::get_cpu_capability()},
                      {"kernels", join(isas)},
                      {"turns", wish.turns},
                      {"clock", arguments.text("clock")},
                      {"quick", wish.quick}};
  out.line(document.head);
  out.line();
  const auto progress = arguments.progress();
  const auto write_all = [&] {
    for (const auto& path : paths) write_out(path, document);
  };
  PageSink sink(document, *progress, interrupt, write_all);
  const auto measure = [&](const std::string& isa, const std::vector<std::string>& which, bool with_memory) {
    if (which.empty() || sink.stopped()) return;
    if (is_chosen || runs_with(isa, environment))
      measure_here(sink, wish, which, with_memory);
    else
      measure_with(sink, arguments, isa, which, with_memory);
    sink.show(out);
  };
  // Memory does not depend on the instruction set.
  for (const auto& isa : isas) measure(isa, kernel_parts, isa == isas.back() && !arguments.flag("no-memory"));
  measure(isas.back(), other_parts, false);
  if (!foreign_parts.empty() && !sink.stopped())
    measure_python(sink, arguments, isas, is_chosen, foreign_parts, !named.empty(), document);
  sink.show(out);
  document.stopped_early = interrupt.raised();
  if (interrupt.raised()) out.warn("stopped early: the last rows have fewer turns, and some are missing");
  write_all();
  auto json = bench_json(document);
  if (!paths.empty()) out.line(text("written: ", join(paths)));
  json["out"] = paths;
  out.json(json);
  return interrupt.raised() ? static_cast<int>(ErrorKind::interrupted) : 0;
}

}  // namespace

extern constinit const Command bench_command = {
    .name = "bench",
    .summary = "speed and memory beside rivals on this machine",
    .help =
        "Contenders take turns in one process, so a busy machine slows all alike; a ratio above 1 says that Collegium "
        "is "
        "faster. Ctrl-C ends a measurement, and what was measured is shown and written.\n\n"
        "Without Python: dense products of every instruction set as the ceiling (dense); expert layers beside torch's "
        "grouped product and a loop over the experts, with the memory of each (experts); whole training steps of two "
        "small models (steps); routers stage by stage (routers).\n\n"
        "With a Python that has transformers: experts inside it, training steps of its OLMoE- and Mixtral-shaped "
        "models "
        "with and without torch.compile, its router and st-moe-pytorch's, and the demonstration's model, if this is "
        "the "
        "source folder (transformers, or one of them as transformers-…); experts of single vectors beside peer-pytorch "
        "(atomic); experts on a CUDA device (cuda). When no PART is named and there is no such Python, these are left "
        "out, and a note says so. `python -m collegium.bench PART --help` has further options.\n\n"
        "--isa all measures with each of the processor's instruction sets that has loops of its own (plain aside); the "
        "parts that are not about expert layers run with the last one. COLLEGIUM_ISA forces a set of ours alone.",
    .group = "this program",
    .positionals = kBenchArguments,
    .options = kBenchOptions,
    .examples = kBenchExamples,
    .run = run_bench,
};

}  // namespace collegium::cli
