// What the commands that run something share: options, and the setting made from them and the environment.
#pragma once
#include "cli/command.h"
#include "cli/interrupt.h"
#include "collegium/recipe/run.h"

namespace collegium::cli {

inline constexpr Option kRunsOption = {.name = "runs",
                                       .value = "DIR",
                                       .help = "folder that holds the runs",
                                       .default_text = "runs",
                                       .environment = "COLLEGIUM_RUNS",
                                       .complete = Complete::folders};
inline constexpr Option kDeviceOption = {.name = "device",
                                         .value = "DEVICE",
                                         .help = "cpu, cuda or cuda:N",
                                         .default_text = "cpu",
                                         .environment = "COLLEGIUM_DEVICE"};
inline constexpr Option kSetOption = {.name = "set",
                                      .value = "PATH=VALUE",
                                      .help = "set one value of the recipe, such as train.steps=100",
                                      .repeatable = true};
inline constexpr Option kOfflineOption = {
    .name = "offline", .help = "never download; use what is on the disk", .environment = "COLLEGIUM_OFFLINE"};
inline constexpr Option kThreadsOption = {.name = "threads",
                                          .value = "N",
                                          .kind = ValueKind::integer,
                                          .help = "threads of the engine; 0 = one a core",
                                          .default_text = "0",
                                          .environment = "COLLEGIUM_THREADS"};

/// Checks and parses a device name; a usage Error when the machine lacks it.
at::Device parse_device(const std::string& name);

/// Sets torch's thread count from --threads.
void apply_threads(const Arguments& arguments);

/// The setting of a run. Options that the command does not have keep their defaults. `interrupt` and `progress` may
/// be null and must outlive the setting.
RunSetting run_setting(const Arguments& arguments, const InterruptFlag* interrupt, Progress* progress);

/// Keeps only the layer that --layer names, where it is given; a usage Error lists those that there are.
void keep_layer(const Arguments& arguments, nlohmann::json& layers);

/// The folder of the run that a person means: an id, the start of one, or a path.
io::Path run_folder(const Arguments& arguments, const std::string& word);

/// Warns about damaged checkpoints and notes on the data.
void show_warnings(const Arguments& arguments, const std::vector<std::string>& warnings);

/// Throws an Error of kind io when the folder of the file that option `name` names is not there: before the work whose
/// result goes into it.
void require_folder_for(const Arguments& arguments, std::string_view name);

/// The same, also when nothing can be written into that folder.
void require_writable_file(const Arguments& arguments, std::string_view name);

/// Makes the folder that option `name` names; an Error of kind io when it cannot be made or written into.
void require_writable_folder(const Arguments& arguments, std::string_view name);

/// "1.23M", "12.3k" and the like.
std::string count_text(double count);

}  // namespace collegium::cli
