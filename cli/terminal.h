// What the environment says of stdout and stderr.
#pragma once
#include "cli/command.h"

namespace collegium::cli {

/// What is asked of the system about one of the two streams.
struct StreamFacts {
  bool is_tty = false;
  int columns = 0;  ///< 0 = unknown
};

/// isatty and the window's width of a file descriptor.
StreamFacts stream_facts(int descriptor);

/// The Terminal for a stream. A terminal redraws unless TERM is "dumb" or unset, or CI is set; colours need a terminal
/// and neither NO_COLOR nor TERM=dumb; CLICOLOR_FORCE asks for colours in a pipe; the width is the window's, else
/// COLUMNS, else 80; Unicode needs a UTF-8 locale (LC_ALL, LC_CTYPE, LANG), or none set at all.
Terminal terminal_from(const StreamFacts& facts, const Environment& environment);

/// The process's own environment.
Environment process_environment();

}  // namespace collegium::cli
