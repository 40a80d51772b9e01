// From words to Arguments. CLI11 splits the words; what they mean, and every message, is decided here from the tables.
#pragma once
#include "cli/command.h"

namespace collegium::cli {

/// The words of a command line apart from the command's own.
struct Split {
  std::string command;                 ///< "" when there is none
  std::vector<std::string> words;      ///< for the command; common flags before its name are moved here
  bool help = false, version = false;  ///< asked for before a command's name
};

/// Finds the command's name. A usage Error for an option that is not common, with the nearest named.
Split split_command_line(const std::vector<std::string>& args);

/// The command called `name`; a usage Error names the nearest.
const Command& find_command(Commands commands, std::string_view name);

/// Whether `words` hold the common flag "--name" before a "--". Decides about --json, --help, --debug and colours
/// before (and even when) parsing fails.
bool has_common_flag(const std::vector<std::string>& words, std::string_view name);

/// Fills `arguments` from `words`, then the environment, then the defaults. Throws a usage Error for an unknown
/// option, a missing or surplus argument, a value of the wrong kind or not among the choices.
void parse_words(const std::vector<std::string>& words, Arguments& arguments);

/// "collegium train [options] RECIPE [OUT]".
std::string usage_line(const Command& command);

}  // namespace collegium::cli
