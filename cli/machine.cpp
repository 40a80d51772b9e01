#include "cli/machine.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 16> kKernelFlags = {
    "sse4_2",      "avx",      "f16c",        "fma",         "avx2",     "avx512f",  "avx512bw", "avx512vl",
    "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd",    "sve"};

// The first line of a file that holds one number, -1 when there is none ("max" means no limit).
double number_in(const fs::path& path) {
  std::ifstream in(path);
  double value = -1;
  return in >> value ? value : -1;
}

std::string trimmed(const std::string& what) {
  const auto first = what.find_first_not_of(" \t");
  return first == std::string::npos ? std::string() : what.substr(first, what.find_last_not_of(" \t") - first + 1);
}

double cpu_quota(const fs::path& root) {
  std::ifstream in(root / "sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (in) return in >> quota >> period && period > 0 ? quota / period : 0;
  quota = number_in(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  period = number_in(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us");
  return quota > 0 && period > 0 ? quota / period : 0;
}

}  // namespace

int64_t MemoryFacts::usable_total() const {
  return limit > 0 ? std::min(limit, total) : total;
}

int64_t MemoryFacts::usable() const {
  return limit > 0 ? std::clamp<int64_t>(limit - used, 0, available) : available;
}

CpuFacts read_cpu(const fs::path& root) {
  CpuFacts facts;
  std::ifstream in(root / "proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto key = trimmed(line.substr(0, colon)), value = trimmed(line.substr(colon + 1));
    if (key == "processor") ++facts.n_online;
    if ((key == "model name" || key == "Hardware") && facts.model.empty()) facts.model = value;
    if ((key != "flags" && key != "Features") || !facts.flags.empty()) continue;
    std::istringstream words(value);
    std::vector<std::string> all;
    for (std::string word; words >> word;) all.push_back(word);
    for (const auto flag : kKernelFlags)
      if (std::find(all.begin(), all.end(), flag) != all.end()) facts.flags.emplace_back(flag);
  }
  facts.quota = cpu_quota(root);
  return facts;
}

MemoryFacts read_memory(const fs::path& root) {
  MemoryFacts facts;
  std::ifstream in(root / "proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kibibytes = 0;
    if (!(words >> key >> kibibytes)) continue;
    if (key == "MemTotal:") facts.total = kibibytes * 1024;
    if (key == "MemAvailable:") facts.available = kibibytes * 1024;
  }
  const auto group = root / "sys/fs/cgroup";
  auto limit = number_in(group / "memory.max"), used = number_in(group / "memory.current");
  if (limit < 0) limit = number_in(group / "memory/memory.limit_in_bytes");
  if (used < 0) used = number_in(group / "memory/memory.usage_in_bytes");
  // Version 1 writes "no limit" as a number near 2^63.
  if (limit <= 0 || limit >= 0x1p60) return facts;
  facts.limit = static_cast<int64_t>(limit);
  facts.used = static_cast<int64_t>(std::max(used, 0.0));
  return facts;
}

std::string find_program(const std::string& name, const Environment& environment) {
  const auto path = environment("PATH");
  for (size_t at = 0; at <= path.size();) {
    const auto end = std::min(path.find(':', at), path.size());
    const auto candidate = fs::path(path.substr(at, end - at)) / name;
    std::error_code problem;
    if (end > at && fs::is_regular_file(candidate, problem) && access(candidate.c_str(), X_OK) == 0)
      return candidate.string();
    at = end + 1;
  }
  return {};
}

}  // namespace collegium::cli
