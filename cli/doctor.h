// What `collegium doctor` finds, and what it makes of it. Finding and judging are apart, so that a test can judge a
// machine that is not there.
#pragma once
#include "cli/machine.h"

namespace collegium::cli {

struct ProgramFacts {
  std::string name;
  std::string path;     ///< "" when it was not found
  std::string purpose;  ///< what it would be needed for
};

struct FolderFacts {
  std::string path;
  bool exists = false;
};

struct DoctorFacts {
  CpuFacts cpu;
  MemoryFacts memory;
  std::string disk_folder;
  int64_t disk_free = 0;                        ///< bytes
  std::string torch_version, torch_capability;  ///< "2.13.0", "AVX512"
  int64_t n_threads = 0;                        ///< of torch
  bool torch_has_cuda = false;
  int64_t n_cuda_devices = 0;
  bool nvidia_driver = false;    ///< the machine has a GPU's driver, whatever torch was built for
  std::string kernels;           ///< the chosen instruction set, "" when the choice is refused
  std::string kernels_report;    ///< why, or why not
  std::string products;          ///< what runs the products of experts here, by element type, and why
  std::string cuda_products;     ///< what would run them on the first CUDA device, and why
  std::string memory_pool;       ///< how much memory the kernels keep for the next pass
  bool is_pool_refused = false;  ///< COLLEGIUM_POOL_MIB is no number; memory_pool says so
  std::vector<ProgramFacts> programs;
  std::string data_cache;
  std::vector<FolderFacts> data_folders;  ///< from COLLEGIUM_DATA
  Terminal terminal;
};

/// Asks the system. `terminal` is stdout's.
DoctorFacts examine(const Environment& environment, const Terminal& terminal);

struct Problem {
  bool serious;  ///< work will fail or be much slower; else a remark
  std::string what, fix;
};

/// Everything in `facts` that stands in the way, the serious first.
std::vector<Problem> problems_of(const DoctorFacts& facts);

std::string doctor_text(const DoctorFacts& facts, const std::vector<Problem>& problems, const TableStyle& style);
Json doctor_json(const DoctorFacts& facts, const std::vector<Problem>& problems);

}  // namespace collegium::cli
