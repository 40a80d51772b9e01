#include "collegium/io/env.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/io/caught.h"
#include "tests/io/temp_folder.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;

namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

/// A root folder with the files that a kernel would show.
class FakeRoot {
 public:
  void put(const std::string& name, const std::string& content) {
    real_file_system().create_directories(parent_of(temp_ / name));
    write_bytes(real_file_system(), temp_ / name, as_bytes(content));
  }
  FakeRoot() { put("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"); }
  int64_t available() const { return available_memory_bytes(temp_.path()); }
  int64_t total() const { return total_memory_bytes(temp_.path()); }

 private:
  TempFolder temp_;
};

}  // namespace

TEST_CASE("the environment says what a run was made on, and not where") {
  const auto env = environment();
  for (const auto key : {"collegium", "compiler", "torch", "cpu", "threads", "memory_bytes", "os", "kernel"})
    CHECK_MESSAGE(env.contains(key), key);
  CHECK(env["collegium"].get<std::string>().find('.') != std::string::npos);
  CHECK(env["torch"].get<std::string>().starts_with("2."));
  CHECK(env["threads"].get<int64_t>() >= 1);
  CHECK(env["cpu"]["cores"].get<int64_t>() >= 1);
  CHECK(env["memory_bytes"].get<int64_t>() > 0);
  char host[256] = {};
  REQUIRE(::gethostname(host, sizeof host - 1) == 0);
  for (const auto& [key, value] : env.items())
    if (value.is_string()) CHECK(value.get<std::string>() != host);
}

TEST_CASE("the CPU is read from cpuinfo") {
  const auto cpu = describe_cpu(
      "processor\t: 0\nmodel name\t: Some CPU @ 2.5GHz: fast\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n\n"
      "processor\t: 1\nmodel name\t: Some CPU\nflags\t\t: fpu avx512_vnni\n");
  CHECK(cpu == nlohmann::json{{"model", "Some CPU @ 2.5GHz: fast"},
                              {"cores", 2},
                              {"avx2", true},
                              {"avx512f", true},
                              {"avx512_bf16", true},
                              {"avx512_vnni", false},
                              {"amx", true}});
  CHECK(describe_cpu("")["avx2"] == false);
  CHECK(describe_cpu("")["model"] == "");
}

TEST_CASE("memory without a control group is what the kernel says") {
  FakeRoot root;
  CHECK(root.available() == 8 * kGiB);
  CHECK(root.total() == 16 * kGiB);
  root.put("proc/self/cgroup", "0::/\n");
  CHECK(root.available() == 8 * kGiB);
  root.put("proc/meminfo", "MemTotal: 1 kB\n");
  CHECK(caught([&] { root.available(); }).has("cannot read MemAvailable"));
}

TEST_CASE("limits of control groups version 2 count, also those above the process") {
  FakeRoot root;
  root.put("proc/self/cgroup", "0::/slice/job\n");
  root.put("sys/fs/cgroup/slice/job/memory.max", "max\n");
  root.put("sys/fs/cgroup/slice/job/memory.current", "1000\n");
  CHECK(root.available() == 8 * kGiB);
  root.put("sys/fs/cgroup/slice/memory.max", std::to_string(4 * kGiB) + "\n");
  root.put("sys/fs/cgroup/slice/memory.current", std::to_string(3 * kGiB) + "\n");
  CHECK(root.available() == 1 * kGiB);
  CHECK(root.total() == 4 * kGiB);
  root.put("sys/fs/cgroup/slice/memory.stat", "anon 5\ninactive_file " + std::to_string(kGiB) + "\nactive_file 1\n");
  CHECK(root.available() == 2 * kGiB);
  root.put("sys/fs/cgroup/slice/job/memory.max", "500\n");
  CHECK(root.available() == 0);  // over its limit, not below zero
}

TEST_CASE("limits of control groups version 1 count, also when only the top is mounted") {
  FakeRoot root;
  root.put("proc/self/cgroup", "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n");
  root.put("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(root.available() == 8 * kGiB);
  root.put("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(2 * kGiB) + "\n");
  root.put("sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(kGiB) + "\n");
  root.put("sys/fs/cgroup/memory/memory.stat",
           "inactive_file 7\ntotal_inactive_file " + std::to_string(kGiB / 2) + "\n");
  CHECK(root.available() == 3 * kGiB / 2);
  root.put("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", std::to_string(kGiB) + "\n");
  CHECK(root.total() == kGiB);
}

TEST_CASE("this computer's memory and disk are plausible") {
  CHECK(available_memory_bytes() > 0);
  CHECK(available_memory_bytes() <= total_memory_bytes());
  TempFolder temp;
  CHECK(free_disk_bytes(temp.path()) > 0);
  CHECK(free_disk_bytes(temp / "not/there/yet") > 0);
  CHECK(free_disk_bytes("") > 0);
  CHECK(free_disk_bytes("not_there_yet") > 0);
  CHECK(caught([] { free_disk_bytes("/dev/null/x"); }).has("/dev/null/x"));
}
