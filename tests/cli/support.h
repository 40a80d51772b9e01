// A command line run inside the test: what it printed and how it ended.
#pragma once
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "cli/command.h"

namespace collegium::cli::test {

struct Ran {
  int code;
  std::string out, err;
};

/// Runs `args` on `commands` with just these environment variables.
inline Ran run(Commands commands, const std::vector<std::string>& args,
               const std::map<std::string, std::string>& variables = {}, const Terminal& terminal = {}) {
  std::ostringstream out, err;
  const Streams streams = {.out = out,
                           .err = err,
                           .out_terminal = terminal,
                           .err_terminal = terminal,
                           .environment = [&variables](std::string_view name) {
                             const auto found = variables.find(std::string(name));
                             return found == variables.end() ? std::string() : found->second;
                           }};
  const auto code = run_command_line(commands, args, streams);
  return {code, out.str(), err.str()};
}

/// Whether `text` holds `part`.
inline bool holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace collegium::cli::test
