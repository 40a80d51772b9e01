#include "cli/bench/python.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "cli/machine.h"
#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

// Cheap looks first: importing torch takes seconds. collegium.bench is imported to see that the package is one with it.
constexpr const char* kProbe = R"(
import importlib.util, json, sys
missing = [m for m in ("torch", "collegium", "transformers") if importlib.util.find_spec(m) is None]
why, versions = "", ""
if missing:
    why = "has no " + " and no ".join(missing)
else:
    try:
        import torch, transformers, collegium.transformers, collegium.bench.report
        versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}"
    except Exception as problem:
        why = f"{type(problem).__name__}: {problem}".splitlines()[0]
print(json.dumps({"why": why, "versions": versions}))
)";

constexpr std::array<std::string_view, 6> kPythonParts = {"transformers-experts",
                                                          "transformers-models",
                                                          "transformers-routers",
                                                          "transformers-demonstration",
                                                          "atomic",
                                                          "cuda"};

std::string last_line(const std::string& all) {
  const auto end = all.find_last_not_of(" \n\r\t");
  if (end == std::string::npos) return "it said nothing";
  const auto before = all.rfind('\n', end);
  return all.substr(before == std::string::npos ? 0 : before + 1, end - (before == std::string::npos ? -1 : before));
}

// A build folder has the package beside the folder of this program.
Variables package_path(const Environment& environment) {
  namespace fs = std::filesystem;
  std::error_code none;
  const auto folder = fs::path(own_program()).parent_path().parent_path() / "python";
  if (!fs::exists(folder / "collegium" / "__init__.py", none)) return {};
  const auto before = environment("PYTHONPATH");
  return {{"PYTHONPATH", before.empty() ? folder.string() : text(folder.string(), ":", before)}};
}

std::vector<std::string> candidates(const std::string& wish, const Environment& environment) {
  if (!wish.empty()) return {wish};
  namespace fs = std::filesystem;
  std::vector<std::string> out;
  const auto add = [&](const std::string& path) {
    std::error_code none;
    if (!path.empty() && fs::exists(path, none) && std::find(out.begin(), out.end(), path) == out.end())
      out.push_back(path);
  };
  if (const auto active = environment("VIRTUAL_ENV"); !active.empty()) add(active + "/bin/python");
  add((fs::path(own_program()).parent_path() / "python3").string());
  add((fs::current_path() / ".venv" / "bin" / "python").string());
  add(find_program("python3", environment));
  return out;
}

}  // namespace

PythonSearch find_bench_python(const std::string& wish, const Environment& environment,
                               const std::function<bool()>& stopped) {
  PythonSearch out;
  for (const auto& program : candidates(wish, environment)) {
    BenchPython python{program, package_path(environment), ""};
    std::string said;
    const auto end =
        run_child({program, "-c", kProbe}, python.variables, [&](const std::string& line) { said = line; }, stopped);
    if (stopped()) return out;
    if (!end.started) {
      out.tried.push_back(text(program, ": there is no such program"));
      continue;
    }
    const auto answer = Json::parse(said, nullptr, false);
    if (end.exit_code != 0 || !answer.is_object()) {
      out.tried.push_back(text(program, ": ", last_line(end.errors)));
      continue;
    }
    const auto why = answer.value("why", "");
    if (!why.empty()) {
      out.tried.push_back(text(program, " ", why));
      continue;
    }
    python.versions = answer.value("versions", "");
    out.found = std::move(python);
    return out;
  }
  return out;
}

std::span<const std::string_view> python_parts() {
  return kPythonParts;
}

void run_python_part(BenchSink& sink, const BenchPython& python, std::string_view part,
                     const std::vector<std::string>& options, const Variables& variables) {
  constexpr std::string_view prefix = "transformers-";
  const auto module = part.starts_with(prefix) ? part.substr(prefix.size()) : part;
  std::vector<std::string> command = {python.program, "-m", "collegium.bench", std::string(module), "--events"};
  command.insert(command.end(), options.begin(), options.end());
  auto all = python.variables;
  all.insert(all.end(), variables.begin(), variables.end());
  const auto end = run_child(
      command, all,
      [&](const std::string& line) {
        if (line.starts_with('{')) feed(sink, line);  // libraries print what they like
      },
      [&] { return sink.stopped(); });
  if (end.exit_code != 0 && !sink.stopped())
    sink.skip(part, text("`", join(command, " "), "` ended with code ", end.exit_code, ": ", last_line(end.errors)));
}

}  // namespace collegium::cli
