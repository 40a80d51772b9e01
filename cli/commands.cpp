// The list of commands, in the order of `collegium --help`: the only shared file that a new command touches.
#include <array>

#include "cli/command.h"

namespace collegium::cli {

extern const Command bench_command;
extern const Command bench_memory_command;
extern const Command compare_command;
extern const Command completion_command;
extern const Command data_command;
extern const Command docs_command;
extern const Command doctor_command;
extern const Command evidence_command;
extern const Command explain_command;
extern const Command generate_command;
extern const Command help_command;
extern const Command inspect_command;
extern const Command list_command;
extern const Command plan_command;
extern const Command report_command;
extern const Command runs_command;
extern const Command show_command;
extern const Command train_command;

namespace {

constexpr std::array kCommands = {
    &plan_command,    &train_command,    &generate_command,   &report_command, &compare_command, &inspect_command,
    &explain_command, &evidence_command, &runs_command,       &list_command,   &show_command,    &data_command,
    &doctor_command,  &bench_command,    &completion_command, &help_command,   &docs_command,    &bench_memory_command,
};

}  // namespace

Commands all_commands() {
  return kCommands;
}

}  // namespace collegium::cli
