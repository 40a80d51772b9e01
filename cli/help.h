// Help text and docs, both from the tables.
#pragma once
#include "cli/command.h"

namespace collegium::cli {

/// `collegium --help`: commands by group.
std::string program_help(Commands commands, const Terminal& terminal);

/// `collegium COMMAND --help`.
std::string command_help(const Command& command, const Terminal& terminal);

/// docs/cli.md: every command that is not hidden.
std::string commands_markdown(Commands commands);

/// The version of Collegium and of torch: "collegium 0.1.0 (torch 2.13.0)".
std::string version_text();

}  // namespace collegium::cli
