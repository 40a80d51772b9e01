// The comparisons that need Python: `python -m collegium.bench` in an interpreter that has transformers.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/bench/child.h"
#include "cli/bench/record.h"
#include "cli/command.h"

namespace collegium::cli {

struct BenchPython {
  std::string program;
  Variables variables;   ///< PYTHONPATH, where this program's own build folder has the package
  std::string versions;  ///< "Python 3.11.2, torch 2.13.0, transformers 5.23.0"
};

struct PythonSearch {
  std::optional<BenchPython> found;
  std::vector<std::string> tried;  ///< "PATH: why not"
};

/// The first interpreter that imports torch, collegium and transformers: `wish` alone where it is not empty, else that
/// of VIRTUAL_ENV, beside this program, of .venv here and python3 in PATH.
PythonSearch find_bench_python(const std::string& wish, const Environment& environment,
                               const std::function<bool()>& stopped);

/// The comparisons, as the command names them.
std::span<const std::string_view> python_parts();

/// Runs one of python_parts into the sink, with these options of `python -m collegium.bench`. A part that fails is
/// skipped with the end of what it said.
void run_python_part(BenchSink& sink, const BenchPython& python, std::string_view part,
                     const std::vector<std::string>& options, const Variables& variables);

}  // namespace collegium::cli
