#include "cli/command.h"

#include <c10/util/Exception.h>
#include <cxxabi.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <ostream>
#include <typeinfo>

#include "cli/help.h"
#include "cli/parse.h"
#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

constexpr Option kCommonOptions[] = {
    {.name = "json", .help = "print the result as JSON on stdout"},
    {.name = "quiet", .letter = 'q', .help = "no progress and no remarks on stderr"},
    {.name = "no-color", .help = "no colours (also: NO_COLOR=1)"},
    {.name = "debug", .help = "show the full text of internal errors"},
    {.name = "help", .letter = 'h', .help = "show this help"},
};

struct Failure {
  int code;
  std::string kind, message, hint, detail;
};

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
      return "usage";
    case ErrorKind::refused:
      return "refused";
    case ErrorKind::data:
      return "data";
    case ErrorKind::io:
      return "io";
    case ErrorKind::interrupted:
      return "interrupted";
  }
  return "internal";
}

std::string type_of(const std::exception& exception) {
  int status = 0;
  char* plain = abi::__cxa_demangle(typeid(exception).name(), nullptr, nullptr, &status);
  std::string out = status == 0 && plain ? plain : typeid(exception).name();
  std::free(plain);
  return out;
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

Failure out_of_memory(const std::exception& exception, const std::string& detail) {
  return {kExitInternal, "internal", "not enough memory",
          "make the batch, the sequence or the model smaller; 'collegium doctor' shows how much memory there is",
          text(type_of(exception), ": ", detail)};
}

// Internal errors speak of tensors and source lines, which help whoever mends the program and nobody else:
// one line of them, and all of it with --debug.
Failure internal(const std::exception& exception, const std::string& brief, const std::string& detail) {
  const auto message = first_line(brief);
  return {kExitInternal, "internal",
          message.starts_with("internal error") ? message : text("internal error: ", message),
          "this is a bug in collegium; run again with --debug for the details to report",
          text(type_of(exception), ": ", detail)};
}

Failure describe_failure(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const Error*>(&exception))
    return {error->exit_code(), std::string(kind_name(error->kind())), error->what(), error->hint(),
            text(type_of(exception), " (", kind_name(error->kind()), ")")};
  if (const auto* error = dynamic_cast<const c10::Error*>(&exception)) {
    const std::string brief = error->what_without_backtrace();
    if (dynamic_cast<const c10::OutOfMemoryError*>(error) || brief.find("CPUAllocator") != std::string::npos)
      return out_of_memory(exception, error->what());
    return internal(exception, brief, error->what());
  }
  if (dynamic_cast<const std::bad_alloc*>(&exception)) return out_of_memory(exception, exception.what());
  return internal(exception, exception.what(), exception.what());
}

void print_failure(const Failure& failure, const Streams& streams, bool json, bool color, bool debug) {
  const auto red = color ? "\x1b[1;31m" : "", dim = color ? "\x1b[2m" : "", reset = color ? "\x1b[0m" : "";
  streams.err << "collegium: " << red << "error:" << reset << " " << failure.message << "\n";
  if (!failure.hint.empty()) streams.err << dim << "  hint: " << reset << failure.hint << "\n";
  if (debug) streams.err << dim << "  debug: " << reset << failure.detail << "\n";
  streams.err << std::flush;
  if (!json) return;
  Json error = {{"kind", failure.kind}, {"message", failure.message}};
  if (!failure.hint.empty()) error["hint"] = failure.hint;
  error["exit_code"] = failure.code;
  if (debug) error["debug"] = failure.detail;
  streams.out << Json{{"error", error}}.dump(2, ' ', false, Json::error_handler_t::replace) << "\n" << std::flush;
}

int dispatch(Commands commands, const std::vector<std::string>& args, const Streams& streams) {
  const auto split = split_command_line(args);
  const bool json = has_common_flag(split.words, "json");
  const bool color = !has_common_flag(split.words, "no-color");
  Output out(streams, json, color);
  if (split.version) {
    out.line(version_text());
    out.json({{"version", version_text()}});
    return 0;
  }
  if (split.command.empty()) {
    if (split.help) {
      out.block(program_help(commands, out.terminal()));
      return 0;
    }
    throw Error(ErrorKind::usage, "no command given", "'collegium --help' lists the commands");
  }
  const auto& command = find_command(commands, split.command);
  if (split.help || has_common_flag(split.words, "help")) {
    // Help is for people even with --json, which says how to print a result.
    Output(streams, false, color).block(command_help(command, out.terminal()));
    return 0;
  }
  Arguments arguments(command, commands, streams, out);
  parse_words(split.words, arguments);
  if (arguments.flag("quiet")) out.be_quiet();
  return command.run(arguments);
}

}  // namespace

std::span<const Option> common_options() {
  return kCommonOptions;
}

Output::Output(const Streams& streams, bool json, bool color)
    : out_(streams.out),
      err_(streams.err),
      terminal_(streams.out_terminal),
      err_terminal_(streams.err_terminal),
      json_(json) {
  terminal_.color = terminal_.color && color;
  err_terminal_.color = err_terminal_.color && color;
}

void Output::print(std::string_view what) {
  errno = 0;
  if (out_ << what << std::flush) return;
  const auto problem = errno;
  out_.clear();  // the error itself may still have to be printed, as JSON
  if (problem == EPIPE) throw ClosedPipe();
  throw Error(ErrorKind::io,
              text("could not write to stdout", problem != 0 ? ": " : "", problem != 0 ? std::strerror(problem) : ""));
}

void Output::line(std::string_view text) {
  block(std::string(text) + "\n");
}

void Output::block(std::string_view text) {
  if (!json_) print(text);
}

void Output::json(const Json& document) {
  if (!json_) return;
  ensure(!printed_json_, "a command printed two JSON documents");
  printed_json_ = true;
  // Text from files need not be UTF-8; a replaced letter is better than no result.
  print(document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void Output::note(std::string_view text) {
  if (!quiet_) err_ << text << "\n" << std::flush;
}

void Output::warn(std::string_view text) {
  err_ << "collegium: " << (err_terminal_.color ? "\x1b[1;33mwarning:\x1b[0m " : "warning: ") << text << "\n"
       << std::flush;
}

std::string Output::colored(std::string_view code, std::string_view what) const {
  return terminal_.color ? text("\x1b[", code, "m", what, "\x1b[0m") : std::string(what);
}

TableStyle Output::table_style() const {
  // A pipe gets one row a line, whatever its length, so that grep finds whole rows.
  return {.width = terminal_.is_tty ? static_cast<size_t>(terminal_.width) : 0,
          .color = terminal_.color,
          .unicode = terminal_.unicode};
}

Arguments::Arguments(const Command& command, Commands commands, const Streams& streams, Output& out)
    : command_(command), commands_(commands), streams_(streams), out_(out) {}

void Arguments::set_option(std::string_view name, Value value) {
  options_.push_back({name, std::move(value)});
}

void Arguments::set_positional(std::string_view name, std::vector<std::string> values) {
  positionals_.push_back({name, {std::move(values), Source::command_line}});
}

const Arguments::Value& Arguments::option(std::string_view name) const {
  const auto found =
      std::find_if(options_.begin(), options_.end(), [&](const NamedValue& v) { return v.name == name; });
  ensure(found != options_.end(), "command ", command_.name, " has no option --", name);
  return found->value;
}

bool Arguments::flag(std::string_view name) const {
  return !option(name).all.empty();
}

bool Arguments::given(std::string_view name) const {
  return source(name) == Source::environment || source(name) == Source::command_line;
}

Arguments::Source Arguments::source(std::string_view name) const {
  return option(name).source;
}

std::string Arguments::text(std::string_view name) const {
  return maybe(name).value_or("");
}

std::optional<std::string> Arguments::maybe(std::string_view name) const {
  const auto& values = option(name).all;
  if (values.empty()) return std::nullopt;
  return values.back();
}

const std::vector<std::string>& Arguments::all(std::string_view name) const {
  return option(name).all;
}

int64_t Arguments::integer(std::string_view name) const {
  const auto value = maybe(name);
  require(value.has_value(), command_.name, ": --", name, " is needed");
  int64_t out = 0;
  const auto* begin = value->data() + (value->starts_with('+') ? 1 : 0);
  const auto [stop, problem] = std::from_chars(begin, value->data() + value->size(), out);
  ensure(problem == std::errc() && stop == value->data() + value->size(), "--", name, " is no integer option");
  return out;
}

double Arguments::number(std::string_view name) const {
  const auto value = maybe(name);
  require(value.has_value(), command_.name, ": --", name, " is needed");
  double out = 0;
  const auto* begin = value->data() + (value->starts_with('+') ? 1 : 0);
  const auto [stop, problem] = std::from_chars(begin, value->data() + value->size(), out);
  ensure(problem == std::errc() && stop == value->data() + value->size(), "--", name, " is no number option");
  return out;
}

std::string Arguments::positional(std::string_view name) const {
  const auto& values = positionals(name);
  return values.empty() ? std::string() : values.front();
}

const std::vector<std::string>& Arguments::positionals(std::string_view name) const {
  const auto found =
      std::find_if(positionals_.begin(), positionals_.end(), [&](const NamedValue& v) { return v.name == name; });
  ensure(found != positionals_.end(), "command ", command_.name, " has no argument ", name);
  return found->value.all;
}

std::unique_ptr<Progress> Arguments::progress() const {
  auto terminal = streams_.err_terminal;
  terminal.color = terminal.color && !flag("no-color");
  return make_progress(streams_.err, {.terminal = terminal, .quiet = flag("quiet"), .width_now = streams_.err_width},
                       steady_clock());
}

int run_command_line(Commands commands, const std::vector<std::string>& args, const Streams& streams) {
  // Decided from the bare words: an error in parsing must already be printed as asked.
  const bool json = has_common_flag(args, "json"), debug = has_common_flag(args, "debug");
  const bool color = streams.err_terminal.color && !has_common_flag(args, "no-color");
  Failure failure;
  try {
    return dispatch(commands, args, streams);
  } catch (const ClosedPipe&) {
    return kExitClosedPipe;
  } catch (const std::exception& exception) {
    failure = describe_failure(exception);
  } catch (...) {
    failure = {kExitInternal, "internal", "internal error of an unknown kind", "", "not a std::exception"};
  }
  print_failure(failure, streams, json, color, debug);
  return failure.code;
}

}  // namespace collegium::cli
