#include <doctest/doctest.h>

#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include <sys/wait.h>

#include "cli/doctor.h"
#include "cli/interrupt.h"
#include "cli/terminal.h"
#include "collegium/base/error.h"
#include "tests/cli/support.h"

using namespace collegium;
using namespace collegium::cli;

namespace fs = std::filesystem;

namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// A made-up file system below a folder that goes away with it.
class FakeRoot {
 public:
  FakeRoot() : path_(fs::temp_directory_path() / text("collegium-machine-", getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~FakeRoot() { fs::remove_all(path_); }
  FakeRoot(const FakeRoot&) = delete;
  FakeRoot& operator=(const FakeRoot&) = delete;
  void put(const std::string& name, const std::string& content) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << content;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Environment environment_of(const std::map<std::string, std::string>& variables) {
  return [variables](std::string_view name) {
    const auto found = variables.find(std::string(name));
    return found == variables.end() ? std::string() : found->second;
  };
}

DoctorFacts healthy() {
  DoctorFacts facts;
  facts.cpu = {.model = "Processor X", .flags = {"avx2", "fma"}, .n_online = 8, .quota = 0};
  facts.memory = {.total = 32 * kGiB, .available = 16 * kGiB};
  facts.disk_folder = "/work", facts.disk_free = 100 * kGiB;
  facts.torch_version = "2.13.0", facts.torch_capability = "AVX2", facts.n_threads = 8;
  facts.kernels = "avx2", facts.kernels_report = "avx2: the best that this processor has";
  facts.programs = {{"python3", "/usr/bin/python3", "Python"}};
  facts.data_cache = "/home/cache";
  return facts;
}

std::string problem_of(const DoctorFacts& facts) {
  const auto problems = problems_of(facts);
  CHECK(problems.size() == 1);
  if (problems.empty()) return "none";
  return text(problems[0].serious ? "problem: " : "remark: ", problems[0].what, " / ", problems[0].fix);
}

bool begins(const std::string& text, std::string_view beginning) {
  return text.starts_with(beginning);
}

}  // namespace

TEST_CASE("the processor and its quota are read") {
  const FakeRoot root;
  CHECK(read_cpu(root.path()).n_online == 0);
  root.put("proc/cpuinfo",
           "processor\t: 0\nmodel name\t: Processor X\nflags\t\t: fpu sse4_2 avx2 avx512f nonsense\n\n"
           "processor\t: 1\nmodel name\t: Processor X\nflags\t\t: fpu\n");
  const auto free = read_cpu(root.path());
  CHECK(free.model == "Processor X");
  CHECK(free.n_online == 2);
  CHECK(free.flags == std::vector<std::string>{"sse4_2", "avx2", "avx512f"});
  CHECK(free.quota == 0);
  root.put("sys/fs/cgroup/cpu.max", "max 100000\n");
  CHECK(read_cpu(root.path()).quota == 0);
  root.put("sys/fs/cgroup/cpu.max", "150000 100000\n");
  CHECK(read_cpu(root.path()).quota == 1.5);
}

TEST_CASE("version 1 control groups are read too") {
  const FakeRoot root;
  root.put("proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\n");
  root.put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  root.put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  root.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(read_cpu(root.path()).quota == 2);
  CHECK(read_memory(root.path()).limit == 0);
  root.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
  root.put("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n");
  CHECK(read_memory(root.path()).usable() == kGiB);
}

TEST_CASE("memory is the smaller of the machine's and the control group's") {
  const FakeRoot root;
  root.put("proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\n");
  CHECK(read_memory(root.path()).usable() == 4 * kGiB);
  root.put("sys/fs/cgroup/memory.max", "max\n");
  CHECK(read_memory(root.path()).usable_total() == 8 * kGiB);
  root.put("sys/fs/cgroup/memory.max", "3221225472\n");
  root.put("sys/fs/cgroup/memory.current", "1073741824\n");
  const auto memory = read_memory(root.path());
  CHECK(memory.usable_total() == 3 * kGiB);
  CHECK(memory.usable() == 2 * kGiB);
}

TEST_CASE("programs are found in PATH, folders and plain files are not programs") {
  const FakeRoot root;
  root.put("a/tool", "");
  root.put("b/tool", "");
  fs::create_directories(root.path() / "c/tool");
  fs::permissions(root.path() / "b/tool", fs::perms::owner_all);
  const auto in = [&](const std::string& path) { return environment_of({{"PATH", path}}); };
  const auto p = root.path().string();
  CHECK(find_program("tool", in(p + "/c:" + p + "/a::" + p + "/b")) == p + "/b/tool");
  CHECK(find_program("tool", in(p + "/a")) == "");
  CHECK(find_program("tool", in("")) == "");
}

TEST_CASE("doctor finds nothing wrong with a healthy machine and one thing wrong with each ill one") {
  CHECK(problems_of(healthy()).empty());
  auto facts = healthy();
  facts.memory.limit = 1 * kGiB;
  CHECK(begins(problem_of(facts), "problem: only 1.0 GiB of memory is free / "));
  facts = healthy(), facts.disk_free = 1000;
  CHECK(begins(problem_of(facts), "problem: only 1000 B is free on the disk of /work / "));
  facts = healthy(), facts.cpu.quota = 1.5;
  CHECK(problem_of(facts) ==
        "problem: torch uses 8 threads where 1.5 processors are allowed: they wait for each other "
        "/ set OMP_NUM_THREADS=2");
  facts = healthy(), facts.cpu.flags = {"sse4_2"};
  CHECK(begins(problem_of(facts), "problem: this processor has no AVX2"));
  facts = healthy(), facts.kernels = "", facts.kernels_report = "unknown 'fast'";
  CHECK(problem_of(facts) ==
        "problem: the hand-written kernels cannot be chosen: unknown 'fast' "
        "/ unset COLLEGIUM_ISA, or name one of those");
  facts = healthy(), facts.is_pool_refused = true, facts.memory_pool = "COLLEGIUM_POOL_MIB: not 'x'";
  CHECK(begins(problem_of(facts), "problem: COLLEGIUM_POOL_MIB: not 'x' / unset COLLEGIUM_POOL_MIB"));
  facts = healthy(), facts.data_folders = {{"/gone", false}};
  CHECK(begins(problem_of(facts), "problem: COLLEGIUM_DATA names a folder that is not there: /gone / make it"));
  facts = healthy(), facts.nvidia_driver = true;
  CHECK(begins(problem_of(facts), "remark: the machine has a GPU"));
  facts = healthy(), facts.programs.push_back({"npm", "", "fetching"});
  CHECK(begins(problem_of(facts), "remark: npm is not in PATH; it is for fetching / install npm"));
  facts = healthy(), facts.terminal.unicode = false;
  CHECK(begins(problem_of(facts), "remark: the locale is not UTF-8"));
  facts.memory.limit = 1 * kGiB;
  CHECK(problems_of(facts).front().serious);
}

TEST_CASE("doctor shows what it found, as text and as JSON") {
  auto facts = healthy();
  facts.cpu.quota = 1.5;
  const auto problems = problems_of(facts);
  const auto shown = doctor_text(facts, problems, {});
  for (const auto* part : {"Processor X", "avx2 fma", "8, of which this process may use 1.5",
                           "16.0 GiB free of 32.0 GiB", "2.13.0, processor level AVX2, 8 threads",
                           "the best that this processor has", "problem: torch uses", "  fix:   set OMP_NUM_THREADS=2"})
    CHECK_MESSAGE(shown.find(part) != std::string::npos, part);
  CHECK(doctor_text(healthy(), {}, {}).find("No problems found.") != std::string::npos);
  const auto json = doctor_json(facts, problems);
  CHECK(json["cpu"]["allowed_processors"] == 1.5);
  CHECK(json["problems"][0]["fix"] == "set OMP_NUM_THREADS=2");
}

TEST_CASE("doctor can look at this machine") {
  const auto ran = test::run(all_commands(), {"doctor", "--json"}, {{"HOME", "/nonexistent"}});
  CHECK(ran.code == 0);
  const auto json = Json::parse(ran.out);
  CHECK(json["memory"]["total_bytes"] > 0);
  CHECK(json["torch"]["threads"] > 0);
  CHECK(!json["kernels"]["chosen"].get<std::string>().empty());
  // No PATH: nothing is found, and each missing program comes with a remark.
  CHECK(json["programs"]["python3"].is_null());
  const auto forced = test::run(all_commands(), {"doctor", "--json"}, {{"COLLEGIUM_ISA", "no_such_isa"}});
  CHECK(forced.code == 0);
  CHECK(Json::parse(forced.out)["kernels"]["chosen"] == "");
}

TEST_CASE("the terminal is what the environment says") {
  const auto of = [](StreamFacts facts, const std::map<std::string, std::string>& variables) {
    return terminal_from(facts, environment_of(variables));
  };
  const StreamFacts tty = {.is_tty = true, .columns = 120};
  CHECK(of(tty, {{"TERM", "xterm"}}) == Terminal{.is_tty = true, .width = 120, .color = true, .unicode = true});
  CHECK(!of(tty, {{"TERM", "xterm"}, {"NO_COLOR", "1"}}).color);
  CHECK(of(tty, {{"TERM", "xterm"}, {"NO_COLOR", "1"}}).is_tty);
  CHECK(!of(tty, {{"TERM", "dumb"}}).is_tty);
  CHECK(!of(tty, {{"TERM", "dumb"}}).color);
  CHECK(!of(tty, {}).is_tty);
  CHECK(!of(tty, {{"TERM", "xterm"}, {"CI", "true"}}).is_tty);
  CHECK(of(tty, {{"TERM", "xterm"}, {"CI", "false"}}).is_tty);
  CHECK(!of({}, {{"TERM", "xterm"}}).color);
  CHECK(of({}, {{"CLICOLOR_FORCE", "1"}}).color);
  CHECK(!of({}, {{"CLICOLOR_FORCE", "1"}, {"NO_COLOR", "1"}}).color);
  CHECK(of({}, {}).width == 80);
  CHECK(of({}, {{"COLUMNS", "100"}}).width == 100);
  CHECK(of({}, {{"COLUMNS", "wide"}}).width == 80);
  CHECK(of({}, {{"LANG", "de_DE.UTF-8"}}).unicode);
  CHECK(!of({}, {{"LANG", "de_DE.UTF-8"}, {"LC_ALL", "C"}}).unicode);
  CHECK(!of({}, {{"LANG", "POSIX"}}).unicode);
}

TEST_CASE("the first interrupt sets the flag, and the earlier handler comes back") {
  struct sigaction before = {}, after = {};
  sigaction(SIGINT, nullptr, &before);
  {
    const InterruptFlag interrupt;
    CHECK(!interrupt.raised());
    CHECK_THROWS_AS(InterruptFlag(), std::logic_error);
    std::raise(SIGTERM);
    CHECK(interrupt.raised());
  }
  sigaction(SIGINT, nullptr, &after);
  CHECK((before.sa_handler == after.sa_handler));
  const InterruptFlag again;
  CHECK(!again.raised());
}

TEST_CASE("the second interrupt ends the program with 130") {
  const auto child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const InterruptFlag interrupt;
    std::raise(SIGINT);
    if (!interrupt.raised()) _exit(1);
    std::raise(SIGINT);
    _exit(2);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 130);
}
