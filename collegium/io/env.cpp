#include "collegium/io/env.h"

#include <ATen/Parallel.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <torch/version.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

namespace collegium::io {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

/// Files of the kernel have no size to ask for, so they are read as a stream; "" when unreadable.
std::string read_kernel_file(const Path& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::string> lines_of(std::string_view content) {
  std::vector<std::string> out;
  std::istringstream in{std::string(content)};
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

std::string trimmed(std::string_view word) {
  const auto begin = word.find_first_not_of(" \t\"\n");
  if (begin == std::string_view::npos) return {};
  return std::string(word.substr(begin, word.find_last_not_of(" \t\"\n") - begin + 1));
}

/// The text after "key" and `separator` in the first line that starts so.
std::string field_of(std::string_view content, std::string_view key, char separator) {
  for (const auto& line : lines_of(content)) {
    const auto at = line.find(separator);
    if (at != std::string::npos && trimmed(line.substr(0, at)) == key) return trimmed(line.substr(at + 1));
  }
  return {};
}

/// The number at the start of `word`; nothing for "max" and the like. Numbers beyond int64 are no limit.
std::optional<int64_t> leading_number(std::string_view word) {
  uint64_t out = 0;
  const auto parsed = std::from_chars(word.data(), word.data() + word.size(), out);
  if (parsed.ec == std::errc::result_out_of_range) return kNoLimit;
  if (parsed.ec != std::errc()) return {};
  return static_cast<int64_t>(std::min(out, static_cast<uint64_t>(kNoLimit)));
}

int64_t meminfo_bytes(const Path& root, std::string_view key) {
  const auto path = root / "proc/meminfo";
  const auto kib = leading_number(field_of(read_kernel_file(path), key, ':'));
  if (!kib) fail(ErrorKind::io, "cannot read ", key, " from ", path.string());
  return *kib * 1024;
}

/// How one version of control groups names its files.
struct GroupFiles {
  Path mount;
  std::string_view limit, usage, droppable;
};

struct GroupMemory {
  int64_t limit = kNoLimit;      ///< smallest limit of the group and those above it
  int64_t available = kNoLimit;  ///< smallest rest of a limit
};

void add_group(const Path& folder, const GroupFiles& files, GroupMemory& memory) {
  const auto limit = leading_number(read_kernel_file(folder / files.limit));
  if (!limit) return;
  const auto usage = leading_number(read_kernel_file(folder / files.usage)).value_or(0);
  const auto droppable =
      leading_number(field_of(read_kernel_file(folder / "memory.stat"), files.droppable, ' ')).value_or(0);
  memory.limit = std::min(memory.limit, *limit);
  memory.available = std::min(memory.available, std::max<int64_t>(*limit - std::max<int64_t>(usage - droppable, 0), 0));
}

void add_groups(const Path& group, const GroupFiles& files, GroupMemory& memory) {
  // In a container the path may be that of the host, of which only the mounted top is there.
  for (auto path = group.relative_path(); !path.empty(); path = path.parent_path())
    add_group(files.mount / path, files, memory);
  add_group(files.mount, files, memory);
}

GroupMemory group_memory(const Path& root) {
  GroupMemory memory;
  const auto groups = root / "sys/fs/cgroup";
  const GroupFiles version_2{groups, "memory.max", "memory.current", "inactive_file"};
  const GroupFiles version_1{groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                             "total_inactive_file"};
  // Each line is "number:controllers:path"; version 2 has the number 0 and no controllers.
  for (const auto& line : lines_of(read_kernel_file(root / "proc/self/cgroup"))) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const auto controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const auto path = line.substr(second + 1);
    if (controllers == ",,") add_groups(path, version_2, memory);
    if (controllers.find(",memory,") != std::string::npos) add_groups(path, version_1, memory);
  }
  return memory;
}

/// A size in what the kernel says of this process; nothing where it does not.
std::optional<int64_t> status_bytes(std::string_view key) {
  const auto kib = leading_number(field_of(read_kernel_file("/proc/self/status"), key, ':'));
  return kib ? std::optional(*kib * 1024) : std::nullopt;
}

std::string compiler_name() {
#if defined(__clang__)
  return std::string("clang ") + __clang_version__;
#else
  return std::string("gcc ") + __VERSION__;
#endif
}

}  // namespace

nlohmann::json describe_cpu(std::string_view cpuinfo) {
  std::set<std::string> flags;
  std::istringstream words(field_of(cpuinfo, "flags", ':'));
  for (std::string word; words >> word;) flags.insert(word);
  const auto lines = lines_of(cpuinfo);
  const auto cores =
      std::count_if(lines.begin(), lines.end(), [](const auto& line) { return line.starts_with("processor"); });
  return {{"model", field_of(cpuinfo, "model name", ':')},
          {"cores", cores},
          {"avx2", flags.contains("avx2")},
          {"avx512f", flags.contains("avx512f")},
          {"avx512_bf16", flags.contains("avx512_bf16")},
          {"avx512_vnni", flags.contains("avx512_vnni")},
          {"amx", flags.contains("amx_tile")}};
}

nlohmann::json environment() {
  utsname system{};
  ::uname(&system);
  return {{"collegium", COLLEGIUM_VERSION},
          {"compiler", compiler_name()},
          {"torch", TORCH_VERSION},
          {"cpu", describe_cpu(read_kernel_file("/proc/cpuinfo"))},
          {"threads", at::get_num_threads()},
          {"memory_bytes", total_memory_bytes()},
          {"os", field_of(read_kernel_file("/etc/os-release"), "PRETTY_NAME", '=')},
          {"kernel", text(system.sysname, " ", system.release, " ", system.machine)}};
}

int64_t available_memory_bytes(const Path& root) {
  return std::min(meminfo_bytes(root, "MemAvailable"), group_memory(root).available);
}

int64_t total_memory_bytes(const Path& root) {
  return std::min(meminfo_bytes(root, "MemTotal"), group_memory(root).limit);
}

int64_t resident_memory_bytes() {
  return status_bytes("VmRSS").value_or(0);
}

void release_free_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

PeakMemory::PeakMemory() {
  // 5 sets the kernel's mark of the most memory held to what is held now.
  std::ofstream mark("/proc/self/clear_refs");
  is_known_ = static_cast<bool>(mark << "5" << std::flush);
}

std::optional<int64_t> PeakMemory::bytes() const {
  return is_known_ ? status_bytes("VmHWM") : std::nullopt;
}

int64_t free_disk_bytes(const Path& path) {
  auto folder = path.empty() ? Path(".") : path;
  struct statvfs disk{};
  while (::statvfs(folder.c_str(), &disk)) {
    const int failure = errno;
    if (failure == EINTR) continue;
    const auto above = parent_of(folder);
    if (failure != ENOENT || above == folder) throw io_error("ask for the free space at", path, failure);
    folder = above;
  }
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

}  // namespace collegium::io
