// What a subcommand of `collegium` is: one constant record, from which follow parsing, --help, docs/cli.md and the
// completion scripts.
//
// A new command is one file below cli/commands/ and two lines in cli/commands.cpp:
//
//   namespace collegium::cli {
//   namespace {
//   constexpr Positional kGreetArguments[] = {{.name = "NAME", .help = "whom to greet", .complete = Complete::runs}};
//   constexpr Option kGreetOptions[] = {
//       {.name = "times", .letter = 'n', .value = "N", .kind = ValueKind::integer, .help = "how often",
//        .default_text = "1", .environment = "COLLEGIUM_TIMES"},
//       {.name = "loud", .help = "in capitals"},                       // no value name: a flag
//   };
//   constexpr Example kGreetExamples[] = {{"collegium greet Ada -n 3", "greet Ada three times"}};
//
//   int run_greet(const Arguments& arguments) {
//     auto& out = arguments.out();
//     for (int64_t i = 0; i < arguments.integer("times"); ++i) out.line("hello " + arguments.positional("NAME"));
//     out.json({{"greeted", arguments.positional("NAME")}});
//     return 0;
//   }
//   }  // namespace
//
//   extern constinit const Command greet_command = {
//       .name = "greet", .summary = "greet someone", .help = "…", .positionals = kGreetArguments,
//       .options = kGreetOptions, .examples = kGreetExamples, .run = run_greet};
//   }  // namespace collegium::cli
//
// Errors: throw Error (base/error.h); the exit code and the hint come from it. Every command also takes --json,
// --quiet, --no-color, --debug and --help without saying so.
#pragma once
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/progress.h"
#include "collegium/base/text_table.h"

namespace collegium::cli {

/// JSON whose keys keep the order in which they were written.
using Json = nlohmann::ordered_json;

/// How the text of a value is checked before the command runs.
enum class ValueKind { text, integer, number };

/// What a completion script offers for a value.
enum class Complete {
  nothing,
  choices,     ///< the record's own `choices` (chosen by itself when there are any)
  files,       ///< any file
  folders,     ///< any folder
  recipes,     ///< recipes/**/*.toml and presets/**/*.toml, else any file
  runs,        ///< `collegium runs --ids`
  catalogues,  ///< `collegium list --catalogues`
  entries,     ///< `collegium list --names`
  datasets,    ///< `collegium data list --names`
  commands     ///< the names of the commands
};

struct Option {
  std::string_view name;        ///< without dashes: "seed"
  char letter = 0;              ///< short form, 0 = none
  std::string_view value = "";  ///< name of the value in help, "N"; empty makes the option a flag
  ValueKind kind = ValueKind::text;
  std::string_view help;                           ///< a phrase, lower case, without a full stop
  std::string_view default_text = "";              ///< the value when none is given, as typed; shown in help
  std::string_view environment = "";               ///< COLLEGIUM_…: read when the option is not on the command line
  bool repeatable = false;                         ///< may come more than once: `all` gives every value
  std::span<const std::string_view> choices = {};  ///< the only values allowed
  Complete complete = Complete::nothing;
  bool is_flag() const { return value.empty(); }
};

inline constexpr int kUnlimited = -1;

/// An argument without dashes. Only the last one may be optional or take several.
struct Positional {
  std::string_view name;  ///< in capitals: "RECIPE"
  std::string_view help;
  int min = 1;
  int max = 1;  ///< kUnlimited: any number
  std::span<const std::string_view> choices = {};
  Complete complete = Complete::nothing;
};

/// A command line that works, shown in help and parsed by a test.
struct Example {
  std::string_view line;
  std::string_view what;
};

class Arguments;

struct Command {
  std::string_view name;
  std::string_view summary;     ///< one line, lower case, without a full stop
  std::string_view help = "";   ///< sentences; a blank line parts paragraphs
  std::string_view group = "";  ///< heading in `collegium --help`
  std::span<const Positional> positionals = {};
  std::span<const Option> options = {};
  std::span<const Example> examples = {};
  bool hidden = false;                               ///< not in lists or completion
  int (*run)(const Arguments& arguments) = nullptr;  ///< 0 or an exit code of ErrorKind
};

using Commands = std::span<const Command* const>;

/// Every command, in the order of `collegium --help`: cli/commands.cpp.
Commands all_commands();

/// --json, --quiet, --no-color, --debug, --help.
std::span<const Option> common_options();

/// The value of an environment variable, "" when unset.
using Environment = std::function<std::string(std::string_view name)>;

/// Where a command talks to, and what is known of the two ends.
struct Streams {
  std::ostream& out;  ///< results
  std::ostream& err;  ///< progress, notes, errors
  Terminal out_terminal = {};
  Terminal err_terminal = {};
  Environment environment = [](std::string_view) { return std::string(); };
  std::function<int()> err_width = {};  ///< the width of err now, after a resize; empty = as at the start
};

/// What a command prints. Text and JSON are both given; the one that the user asked for is printed, so that a
/// command needs no branch.
class Output {
 public:
  Output(const Streams& streams, bool json, bool color);

  /// A line of the result on stdout; nothing with --json. A failing stdout throws Error (io), a closed pipe
  /// ClosedPipe.
  void line(std::string_view text = "");
  /// Text of several lines, as it is.
  void block(std::string_view text);
  /// The result on stdout, with --json only. One document a command: a second call is a std::logic_error.
  void json(const Json& document);
  /// A remark on stderr; nothing with --quiet.
  void note(std::string_view text);
  /// "collegium: warning: TEXT" on stderr, also with --quiet.
  void warn(std::string_view text);

  bool wants_json() const { return json_; }
  bool quiet() const { return quiet_; }
  /// For the parser: no notes from here on.
  void be_quiet() { quiet_ = true; }
  /// stdout as commands should draw on it: color and width already decided.
  const Terminal& terminal() const { return terminal_; }
  /// How a TextTable should be drawn on stdout: fitted to a terminal, one row a line in a pipe.
  TableStyle table_style() const;
  /// `text` in the colour of an ANSI code ("1" bold, "31" red) when stdout shows colours.
  std::string colored(std::string_view code, std::string_view text) const;

 private:
  void print(std::string_view what);

  std::ostream& out_;
  std::ostream& err_;
  Terminal terminal_, err_terminal_;
  bool json_, quiet_ = false, printed_json_ = false;
};

/// Thrown by Output when the reader of stdout went away (`collegium list | head -1`): ends the program in silence.
struct ClosedPipe {};

/// A parsed command line. Names are those of the record; asking for one that the record lacks is a
/// std::logic_error, as is asking a flag for a value.
class Arguments {
 public:
  /// Where an option's value came from.
  enum class Source { none, default_text, environment, command_line };
  struct Value {
    std::vector<std::string> all;
    Source source = Source::none;
  };

  Arguments(const Command& command, Commands commands, const Streams& streams, Output& out);

  const Command& command() const { return command_; }
  Commands commands() const { return commands_; }
  const Streams& streams() const { return streams_; }
  Output& out() const { return out_; }
  bool debug() const { return flag("debug"); }

  /// Whether a flag is set.
  bool flag(std::string_view name) const;
  /// Whether the option came from the command line or the environment.
  bool given(std::string_view name) const;
  Source source(std::string_view name) const;
  /// The last value, or the default, or "".
  std::string text(std::string_view name) const;
  /// The value, or nothing when it was not given and has no default.
  std::optional<std::string> maybe(std::string_view name) const;
  /// Every value of a repeatable option in order. From the environment, values are parted by ';'.
  const std::vector<std::string>& all(std::string_view name) const;
  /// For ValueKind::integer; a usage Error when there is neither a value nor a default.
  int64_t integer(std::string_view name) const;
  /// For ValueKind::number or integer; as `integer`.
  double number(std::string_view name) const;

  /// The first value of a positional, "" when it was left out.
  std::string positional(std::string_view name) const;
  const std::vector<std::string>& positionals(std::string_view name) const;

  /// Progress on stderr as the terminal, --quiet, --no-color and CI ask for; steady clock.
  std::unique_ptr<Progress> progress() const;

  /// For the parser.
  void set_option(std::string_view name, Value value);
  void set_positional(std::string_view name, std::vector<std::string> values);

 private:
  const Value& option(std::string_view name) const;

  const Command& command_;
  Commands commands_;
  const Streams& streams_;
  Output& out_;
  struct NamedValue {
    std::string_view name;
    Value value;
  };
  std::vector<NamedValue> options_, positionals_;
};

/// Runs the command line `args` (without the program's name) and returns the exit code. Every exception ends here:
/// Error as "collegium: error: …" with its exit code, a usage mistake as 2, anything else as an internal error, 70.
/// With --json an error is also {"error": {…}} on stdout.
int run_command_line(Commands commands, const std::vector<std::string>& args, const Streams& streams);

/// Exit codes beside those of ErrorKind.
inline constexpr int kExitInternal = 70;
inline constexpr int kExitClosedPipe = 141;  ///< what a shell reports for SIGPIPE

}  // namespace collegium::cli
