// The computer a run was made on: what a run folder's env.json says, and how much memory and disk there is.
// Names no person and no computer.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>

#include "collegium/io/fs.h"

namespace collegium::io {

/// {"collegium", "compiler", "torch": versions as text; "threads": torch's intra-op threads; "memory_bytes";
///  "os", "kernel": text; "cpu": {"model": text, "cores": logical CPUs in /proc/cpuinfo,
///  "avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx": booleans}}.
nlohmann::json environment();

/// The "cpu" part, read from the text of /proc/cpuinfo.
nlohmann::json describe_cpu(std::string_view cpuinfo);

/// Bytes that the process may still use: what the kernel calls available, and less where a control group
/// (version 2 or 1), or one above it, sets a limit; file pages that the group can drop count as free. At least 0.
/// `root` stands in for "/" in tests. Throws an Error of kind io when /proc/meminfo cannot be read.
int64_t available_memory_bytes(const Path& root = "/");

/// Bytes of memory in all, or the smallest limit of the control groups above the process.
int64_t total_memory_bytes(const Path& root = "/");

/// Bytes of memory that this process holds now.
int64_t resident_memory_bytes();

/// Gives memory that was freed back to the system where the allocator can, so that the next peak shows what is used.
void release_free_memory();

/// The most memory that this process held since the object was made, where the system can tell (Linux, with
/// permission to reset its own mark).
class PeakMemory {
 public:
  PeakMemory();
  /// Bytes, absent where the system does not tell.
  std::optional<int64_t> bytes() const;

 private:
  bool is_known_ = false;
};

/// Bytes that a user may still write to the disk that holds `path`, or would hold it once created.
/// Throws an Error of kind io.
int64_t free_disk_bytes(const Path& path);

}  // namespace collegium::io
