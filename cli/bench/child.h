// A measurement in a process of its own, whose lines arrive while it runs: instruction sets are chosen once a process,
// peak memory is counted a process, and Python is another program.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace collegium::cli {

using Variables = std::vector<std::pair<std::string, std::string>>;

struct ChildEnd {
  bool started = false;  ///< false when there is no such program
  int exit_code = -1;    ///< 128 + signal when a signal ended it
  std::string errors;    ///< the last 4 kB of its standard error
};

/// Runs `arguments` (the first is the program, searched in PATH) with `variables` set over this environment, and gives
/// each line of its standard output to `on_line`. When `stopped` becomes true the child gets one SIGINT and may finish
/// what it writes. An exception of on_line ends the child and goes on.
ChildEnd run_child(const std::vector<std::string>& arguments, const Variables& variables,
                   const std::function<void(const std::string&)>& on_line, const std::function<bool()>& stopped);

/// The path of this program. Throws Error (io) where the system does not tell.
std::string own_program();

}  // namespace collegium::cli
