// Running another program without a shell.
#pragma once
#include <string>
#include <vector>

namespace collegium::data {

struct ProcessResult {
  bool started = false;  ///< false when the program was not found
  int exit_code = -1;    ///< 128 + signal when a signal ended it
  std::string output;    ///< standard output and error together
};

/// Runs `arguments` (the first is the program, searched in PATH) with closed input and waits for its end.
/// Throws Error(io) only when no pipe or process could be made for another reason than a missing program.
ProcessResult run_process(const std::vector<std::string>& arguments);

}  // namespace collegium::data
