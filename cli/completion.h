// Completion scripts for bash, zsh and fish, written from the tables.
//
// Commands, options and choices stand in the script; names that change (recipes, runs, entries, data sets) are asked
// for when the user presses Tab: recipes from the folders recipes/ and presets/, the others from the program itself.
#pragma once
#include "cli/command.h"

namespace collegium::cli {

std::string bash_completion(Commands commands);
std::string zsh_completion(Commands commands);
std::string fish_completion(Commands commands);

}  // namespace collegium::cli
