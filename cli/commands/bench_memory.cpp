// `collegium bench-memory`: one pass through an expert layer in a process of its own, for `collegium bench`.
#include <ATen/core/ScalarType.h>

#include <charconv>

#include "cli/bench/memory.h"
#include "cli/setting.h"
#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

constexpr Positional kBenchMemoryArguments[] = {
    {.name = "WORD", .help = "tokens, width, hidden, experts, choices, type, contender", .min = 7, .max = 7}};
constexpr Option kBenchMemoryOptions[] = {kThreadsOption};

int64_t size_from(const std::string& word) {
  int64_t out = 0;
  const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), out);
  require(problem == std::errc() && end == word.data() + word.size() && out >= 1, "bench-memory: ", word,
          ": a whole number above 0 wanted");
  return out;
}

int run_bench_memory(const Arguments& arguments) {
  apply_threads(arguments);
  const auto& words = arguments.positionals("WORD");
  ExpertShape shape{size_from(words[0]), size_from(words[1]), size_from(words[2]),
                    size_from(words[3]), size_from(words[4]), true};
  require(shape.k <= shape.experts, "bench-memory: ", shape.k, " choices of ", shape.experts, " experts");
  require(words[5] == "float32" || words[5] == "bfloat16", "bench-memory: ", words[5], ": float32 or bfloat16 wanted");
  const auto memory = pass_memory(shape, words[5] == "float32" ? at::kFloat : at::kBFloat16, words[6]);
  auto& out = arguments.out();
  out.line(text("peak ", memory.peak_bytes, " bytes, saved ", memory.saved_bytes));
  out.json({{"peak_bytes", memory.peak_bytes}, {"saved_bytes", memory.saved_bytes}});
  return 0;
}

}  // namespace

extern constinit const Command bench_memory_command = {
    .name = "bench-memory",
    .summary = "memory of one pass through an expert layer",
    .positionals = kBenchMemoryArguments,
    .options = kBenchMemoryOptions,
    .hidden = true,
    .run = run_bench_memory,
};

}  // namespace collegium::cli
