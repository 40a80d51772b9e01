#include "cli/doctor.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/built_from.h"
#include "cli/help.h"
#include "collegium/base/bytes.h"
#include "collegium/base/error.h"
#include "collegium/data/sources.h"
#include "collegium/kernels/block_pool.h"
#include "collegium/kernels/cuda_kernels.h"
#include "collegium/kernels/grouped_mm.h"
#include "collegium/kernels/isa.h"
#include "collegium/kernels/pages.h"

namespace collegium::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kGiB = int64_t{1} << 30;

std::string cores_text(const CpuFacts& cpu) {
  return cpu.quota > 0 ? text(cpu.n_online, ", of which this process may use ", cpu.quota) : text(cpu.n_online);
}

std::string memory_text(const MemoryFacts& memory) {
  const auto limit = memory.limit > 0 ? text(" (control group: ", bytes_text(memory.limit), ")") : std::string();
  return text(bytes_text(memory.usable()), " free of ", bytes_text(memory.usable_total()), limit);
}

std::string cuda_text(const DoctorFacts& facts) {
  if (facts.n_cuda_devices > 0)
    return text(facts.n_cuda_devices, facts.n_cuda_devices == 1 ? " device" : " devices", ", the first ",
                kernels::cuda_device_name(0).value_or("without a name"));
  if (facts.torch_has_cuda) return "torch could use it, but there is no device";
  return facts.nvidia_driver ? "a GPU is here, but this torch is for CPUs only" : "none";
}

std::string terminal_text(const Terminal& terminal) {
  if (!terminal.is_tty) return text("not a terminal; ", terminal.unicode ? "Unicode" : "ASCII");
  return text(terminal.width, " columns, ", terminal.color ? "colours" : "no colours", ", ",
              terminal.unicode ? "Unicode" : "ASCII");
}

double allowed_processors(const CpuFacts& cpu) {
  const auto online = static_cast<double>(cpu.n_online);
  return cpu.quota > 0 ? std::min(cpu.quota, online) : online;
}

}  // namespace

DoctorFacts examine(const Environment& environment, const Terminal& terminal) {
  DoctorFacts facts;
  facts.cpu = read_cpu("/");
  facts.memory = read_memory("/");
  std::error_code problem;
  facts.disk_folder = fs::current_path(problem).string();
  if (const auto space = fs::space(facts.disk_folder, problem); !problem)
    facts.disk_free = static_cast<int64_t>(space.available);
  facts.torch_version = TORCH_VERSION;
  facts.torch_capability = at::get_cpu_capability();
  facts.n_threads = at::get_num_threads();
  facts.torch_has_cuda = at::hasCUDA();
  if (facts.torch_has_cuda) facts.n_cuda_devices = static_cast<int64_t>(at::getNumGPUs());
  facts.nvidia_driver = fs::exists("/proc/driver/nvidia/version", problem);
  try {
    facts.kernels = kernels::choose_isa(environment("COLLEGIUM_ISA")).name;
    facts.kernels_report = kernels::isa_report();
    facts.products = kernels::products_report();
  } catch (const Error& error) {
    facts.kernels_report = error.what();
  }
  facts.cuda_products =
      kernels::cuda_products_report(facts.n_cuda_devices > 0 ? kernels::cuda_capability(0) : std::nullopt);
  if (facts.n_cuda_devices > 0) facts.cuda_products += "; " + kernels::cuda_kernels_report(0);
  try {
    facts.memory_pool = text("at most ",
                             bytes_text(static_cast<double>(kernels::pool_limit(
                                 environment("COLLEGIUM_POOL_MIB").c_str(), kernels::usable_memory()))),
                             " of freed large blocks are kept for the next pass (COLLEGIUM_POOL_MIB)");
  } catch (const Error& error) {
    facts.memory_pool = error.what();
    facts.is_pool_refused = true;
  }
  for (const auto& [name, purpose] :
       {std::pair{"python3", "the Python package, and pip below"}, std::pair{"pip", "fetching data sets from PyPI"},
        std::pair{"npm", "fetching data sets from npm"}})
    facts.programs.push_back({name, find_program(name, environment), purpose});
  const auto paths =
      data::source_paths(environment("XDG_CACHE_HOME"), environment("HOME"), environment("COLLEGIUM_DATA"));
  facts.data_cache = paths.cache.string();
  for (const auto& folder : paths.folders)
    facts.data_folders.push_back({folder.string(), fs::is_directory(folder, problem)});
  facts.terminal = terminal;
  return facts;
}

std::vector<Problem> problems_of(const DoctorFacts& facts) {
  std::vector<Problem> out;
  const auto allowed = allowed_processors(facts.cpu);
  if (facts.kernels.empty())
    out.push_back({true, text("the hand-written kernels cannot be chosen: ", facts.kernels_report),
                   "unset COLLEGIUM_ISA, or name one of those"});
  if (facts.is_pool_refused)
    out.push_back({true, facts.memory_pool, "unset COLLEGIUM_POOL_MIB, or give a number of MiB"});
  if (facts.memory.total > 0 && facts.memory.usable() < 2 * kGiB)
    out.push_back({true, text("only ", bytes_text(facts.memory.usable()), " of memory is free"),
                   "close other programs, raise the container's limit, or train a smaller model with a smaller batch"});
  if (facts.disk_free < 1 * kGiB)
    out.push_back({true, text("only ", bytes_text(facts.disk_free), " is free on the disk of ", facts.disk_folder),
                   "free some space, or run in a folder on another disk: checkpoints are written there"});
  if (allowed > 0 && static_cast<double>(facts.n_threads) > std::ceil(allowed))
    out.push_back({true,
                   text("torch uses ", facts.n_threads, " threads where ", allowed,
                        " processors are allowed: ", "they wait for each other"),
                   text("set OMP_NUM_THREADS=", static_cast<int64_t>(std::ceil(allowed)))});
  const auto has = [&](std::string_view flag) {
    return std::find(facts.cpu.flags.begin(), facts.cpu.flags.end(), flag) != facts.cpu.flags.end();
  };
  if (facts.cpu.n_online > 0 && !has("avx2") && !has("asimd"))
    out.push_back({true, "this processor has no AVX2: the plain loops are used, which are several times slower",
                   "use a machine from 2013 or later, or a virtual machine that passes its processor's features on"});
  for (const auto& folder : facts.data_folders)
    if (!folder.exists)
      out.push_back({true, text("COLLEGIUM_DATA names a folder that is not there: ", folder.path),
                     text("make it (mkdir -p '", folder.path, "'), or correct COLLEGIUM_DATA")});
  if (facts.nvidia_driver && !facts.torch_has_cuda)
    out.push_back({false, "the machine has a GPU that this torch cannot use", "build against a torch wheel for CUDA"});
  for (const auto& program : facts.programs)
    if (program.path.empty())
      out.push_back({false, text(program.name, " is not in PATH; it is for ", program.purpose),
                     text("install ", program.name, ", or go without")});
  if (!facts.terminal.unicode)
    out.push_back({false, "the locale is not UTF-8: bars and tables are drawn in ASCII", "set LANG=C.UTF-8"});
  std::stable_partition(out.begin(), out.end(), [](const Problem& p) { return p.serious; });
  return out;
}

std::string doctor_text(const DoctorFacts& facts, const std::vector<Problem>& problems, const TableStyle& style) {
  std::string out;
  const auto put = [&](std::string_view label, const std::string& value) {
    constexpr size_t kColumn = 13;
    const auto lines = style.width == 0 ? std::vector<std::string>{value}
                                        : wrap_words(value, std::max<size_t>(style.width, kColumn + 20) - kColumn);
    out += text(style.color ? "\x1b[1m" : "", label, style.color ? "\x1b[0m" : "",
                std::string(kColumn - label.size(), ' '));
    for (size_t i = 0; i < lines.size(); ++i) out += (i == 0 ? "" : std::string(kColumn, ' ')) + lines[i] + "\n";
  };
  const auto commit = built_from().commit;
  put("collegium", text(version_text(), commit.empty() ? "" : ", commit ", commit));
  put("processor", facts.cpu.model.empty() ? "unknown" : facts.cpu.model);
  put("features", facts.cpu.flags.empty() ? "none that kernels use" : join(facts.cpu.flags, " "));
  put("cores", cores_text(facts.cpu));
  put("memory", memory_text(facts.memory));
  put("disk", text(bytes_text(facts.disk_free), " free at ", facts.disk_folder));
  put("torch", text(facts.torch_version, ", processor level ", facts.torch_capability, ", ", facts.n_threads,
                    facts.n_threads == 1 ? " thread" : " threads"));
  put("CUDA", cuda_text(facts));
  constexpr std::string_view kLabel = "kernels: ";
  put("kernels", facts.kernels_report.substr(facts.kernels_report.starts_with(kLabel) ? kLabel.size() : 0));
  if (!facts.products.empty()) put("experts", facts.products);
  if (!facts.cuda_products.empty()) put("on CUDA", facts.cuda_products);
  if (!facts.memory_pool.empty()) put("kept memory", facts.memory_pool);
  for (const auto& program : facts.programs) put(program.name, program.path.empty() ? "not found" : program.path);
  put("data cache", facts.data_cache);
  for (const auto& folder : facts.data_folders) put("data folder", folder.path + (folder.exists ? "" : " (not there)"));
  put("terminal", terminal_text(facts.terminal));
  out += "\n";
  if (problems.empty()) return out + "No problems found.\n";
  for (const auto& problem : problems) {
    const auto* code = problem.serious ? "31" : "33";
    out += text(style.color ? text("\x1b[", code, "m") : "",
                problem.serious ? "problem: " : "remark:  ", style.color ? "\x1b[0m" : "", problem.what, "\n",
                "  fix:   ", problem.fix, "\n");
  }
  return out;
}

Json doctor_json(const DoctorFacts& facts, const std::vector<Problem>& problems) {
  Json out = {{"version", version_text()}};
  out["cpu"] = {{"model", facts.cpu.model},
                {"features", facts.cpu.flags},
                {"processors", facts.cpu.n_online},
                {"allowed_processors", allowed_processors(facts.cpu)}};
  out["memory"] = {{"total_bytes", facts.memory.usable_total()}, {"free_bytes", facts.memory.usable()}};
  out["disk"] = {{"folder", facts.disk_folder}, {"free_bytes", facts.disk_free}};
  out["torch"] = {{"version", facts.torch_version},
                  {"cpu_capability", facts.torch_capability},
                  {"threads", facts.n_threads},
                  {"cuda", facts.torch_has_cuda},
                  {"cuda_devices", facts.n_cuda_devices}};
  out["kernels"] = {{"chosen", facts.kernels},
                    {"report", facts.kernels_report},
                    {"experts", facts.products},
                    {"experts_on_cuda", facts.cuda_products},
                    {"kept_memory", facts.memory_pool}};
  out["programs"] = Json::object();
  for (const auto& program : facts.programs)
    out["programs"][program.name] = program.path.empty() ? Json() : Json(program.path);
  out["data"] = {{"cache", facts.data_cache}, {"folders", Json::array()}};
  for (const auto& folder : facts.data_folders)
    out["data"]["folders"].push_back({{"path", folder.path}, {"exists", folder.exists}});
  out["terminal"] = {{"tty", facts.terminal.is_tty},
                     {"columns", facts.terminal.width},
                     {"color", facts.terminal.color},
                     {"unicode", facts.terminal.unicode}};
  out["problems"] = Json::array();
  for (const auto& problem : problems)
    out["problems"].push_back({{"serious", problem.serious}, {"what", problem.what}, {"fix", problem.fix}});
  return out;
}

}  // namespace collegium::cli
