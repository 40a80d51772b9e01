// The program: fills in what the process knows of itself, and hands over to the framework.
#include <unistd.h>
#include <clocale>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <locale>

#include "cli/command.h"
#include "cli/terminal.h"

int main(int argc, char** argv) {
  using namespace collegium::cli;
  // Numbers read and print the same everywhere, whatever LANG says.
  std::setlocale(LC_ALL, "C");
  std::locale::global(std::locale::classic());
  // A reader that goes away must not kill a training run; Output notices it on its next write.
  std::signal(SIGPIPE, SIG_IGN);
  std::ios::sync_with_stdio(false);

  const auto environment = process_environment();
  const auto err_facts = stream_facts(STDERR_FILENO);
  Streams streams = {.out = std::cout,
                     .err = std::cerr,
                     .out_terminal = terminal_from(stream_facts(STDOUT_FILENO), environment),
                     .err_terminal = terminal_from(err_facts, environment),
                     .environment = environment};
  if (err_facts.columns > 0) streams.err_width = [] { return stream_facts(STDERR_FILENO).columns; };
  const auto code = run_command_line(all_commands(), std::vector<std::string>(argv + 1, argv + argc), streams);
  std::cout.flush(), std::cerr.flush();
#ifndef __SANITIZE_ADDRESS__
  // What is left is the libraries' own undoing, which the system does anyway: with a CUDA build of torch it would take
  // half a second and more memory than small runs themselves.
  std::_Exit(code);
#endif
  return code;
}
