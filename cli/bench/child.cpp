#include "cli/bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

constexpr size_t kKeptErrors = 4096;

struct Pipe {
  std::array<int, 2> ends{-1, -1};
  Pipe() {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail(ErrorKind::io, "bench: no pipe: ", std::strerror(errno));
  }
  ~Pipe() {
    for (const int end : ends)
      if (end >= 0) ::close(end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_writer() { ::close(std::exchange(ends[1], -1)); }
};

std::vector<std::string> environment_with(const Variables& variables) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view line = *entry;
    bool is_replaced = false;
    for (const auto& [name, value] : variables)
      is_replaced = is_replaced || (line.starts_with(name) && line.substr(name.size()).starts_with('='));
    if (!is_replaced) out.emplace_back(line);
  }
  for (const auto& [name, value] : variables) out.push_back(text(name, "=", value));
  return out;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (auto& one : texts) out.push_back(one.data());
  out.push_back(nullptr);
  return out;
}

// In a group of its own: Ctrl-C of the terminal reaches the parent only, which passes it on once.
std::optional<pid_t> spawn(std::vector<std::string> arguments, const Variables& variables, int out, int err) {
  auto environment = environment_with(variables);
  const auto argv = pointers_to(arguments), envp = pointers_to(environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  posix_spawn_file_actions_adddup2(&actions, err, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t child = 0;
  const int code = ::posix_spawnp(&child, argv[0], &actions, &attributes, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (code == 0) return child;
  if (code == ENOENT || code == EACCES) return std::nullopt;
  fail(ErrorKind::io, arguments[0], ": cannot be started: ", std::strerror(code));
}

// Ends and reaps the child on every way out.
class Reaper {
 public:
  explicit Reaper(pid_t child) : child_(child) {}
  ~Reaper() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    wait();
  }
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;
  int wait() {
    int status = 0;
    while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
    }
    child_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t child_;
};

// What is there to read now, into `into`; false at the end.
bool read_some(int descriptor, std::string& into) {
  std::array<char, 4096> block{};
  const auto n = ::read(descriptor, block.data(), block.size());
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  into.append(block.data(), static_cast<size_t>(n));
  return n > 0;
}

}  // namespace

ChildEnd run_child(const std::vector<std::string>& arguments, const Variables& variables,
                   const std::function<void(const std::string&)>& on_line, const std::function<bool()>& stopped) {
  Pipe out, err;
  const auto child = spawn(arguments, variables, out.ends[1], err.ends[1]);
  if (!child) return {};
  out.close_writer(), err.close_writer();
  Reaper reaper(*child);
  ChildEnd end{.started = true};
  std::string said;
  bool was_told = false, out_open = true, err_open = true;
  while (out_open || err_open) {
    if (!was_told && stopped()) {
      ::kill(*child, SIGINT);
      was_told = true;
    }
    // Short waits: a signal that came just before poll must not be noticed only when the child says something.
    std::array<pollfd, 2> ready = {
        {{out_open ? out.ends[0] : -1, POLLIN, 0}, {err_open ? err.ends[0] : -1, POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), 200) <= 0) continue;
    if (ready[0].revents != 0) out_open = read_some(out.ends[0], said);
    if (ready[1].revents != 0) err_open = read_some(err.ends[0], end.errors);
    if (end.errors.size() > kKeptErrors) end.errors.erase(0, end.errors.size() - kKeptErrors);
    size_t from = 0;
    for (auto to = said.find('\n'); to != std::string::npos; from = to + 1, to = said.find('\n', from))
      on_line(said.substr(from, to - from));
    said.erase(0, from);
  }
  end.exit_code = reaper.wait();
  return end;
}

std::string own_program() {
  std::error_code problem;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", problem);
  if (problem) fail(ErrorKind::io, "bench: the path of this program is not known: ", problem.message());
  return path.string();
}

}  // namespace collegium::cli
