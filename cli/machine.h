// What this machine has, as far as the system tells: read below a root folder, so that tests can bring their own.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/command.h"

namespace collegium::cli {

struct CpuFacts {
  std::string model;               ///< "" when unknown
  std::vector<std::string> flags;  ///< only those that kernels care about: avx2, avx512f, amx_int8, asimd, …
  int64_t n_online = 0;            ///< logical processors of the machine
  double quota = 0;                ///< processors that the control group allows; 0 = no limit
};

struct MemoryFacts {
  int64_t total = 0, available = 0;  ///< bytes, of the machine
  int64_t limit = 0;                 ///< bytes that the control group allows; 0 = no limit
  int64_t used = 0;                  ///< bytes that the control group uses; 0 without a limit
  /// What a run may use: the smaller of both views.
  int64_t usable() const;
  int64_t usable_total() const;
};

/// /proc/cpuinfo and the control group's cpu.max (version 2) or cpu.cfs_quota_us (version 1).
CpuFacts read_cpu(const std::filesystem::path& root);

/// /proc/meminfo and the control group's memory.max (version 2) or memory.limit_in_bytes (version 1).
MemoryFacts read_memory(const std::filesystem::path& root);

/// The first executable file called `name` in the folders of PATH, "" when there is none.
std::string find_program(const std::string& name, const Environment& environment);

}  // namespace collegium::cli
