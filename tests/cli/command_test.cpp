#include "cli/command.h"

#include <c10/util/Exception.h>
#include <doctest/doctest.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <streambuf>

#include "cli/completion.h"
#include "cli/help.h"
#include "collegium/base/error.h"
#include "tests/cli/support.h"

using namespace collegium;
using namespace collegium::cli;
using collegium::cli::test::holds;

namespace {

constexpr std::string_view kFormats[] = {"text", "table"};
constexpr Positional kEchoArguments[] = {{.name = "FIRST", .help = "the first word"},
                                         {.name = "REST", .help = "more words", .min = 0, .max = kUnlimited}};
constexpr Option kEchoOptions[] = {
    {.name = "seed",
     .letter = 's',
     .value = "N",
     .kind = ValueKind::integer,
     .help = "a whole number",
     .default_text = "7",
     .environment = "COLLEGIUM_SEED"},
    {.name = "rate", .value = "X", .kind = ValueKind::number, .help = "a number"},
    {.name = "set", .value = "KEY=VALUE", .help = "a setting", .environment = "COLLEGIUM_SET", .repeatable = true},
    {.name = "format", .value = "FORMAT", .help = "how | it looks", .default_text = "text", .choices = kFormats},
    {.name = "loud", .help = "in capitals", .environment = "COLLEGIUM_LOUD"},
};
constexpr Example kEchoExamples[] = {{"collegium echo one two --seed 3", "echo two words"}};

std::string source_text(Arguments::Source source) {
  switch (source) {
    case Arguments::Source::none:
      return "none";
    case Arguments::Source::default_text:
      return "default";
    case Arguments::Source::environment:
      return "environment";
    case Arguments::Source::command_line:
      return "command line";
  }
  return "";
}

int run_echo(const Arguments& a) {
  auto& out = a.out();
  out.line(text("first=", a.positional("FIRST"), " rest=", join(a.positionals("REST"), ",")));
  out.line(text("seed=", a.integer("seed"), " from ", source_text(a.source("seed"))));
  out.line(text("rate=", a.given("rate") ? a.number("rate") : -1));
  out.line(text("set=", join(a.all("set"), "|"), " format=", a.text("format"), " loud=", a.flag("loud")));
  out.note("a remark");
  out.json({{"first", a.positional("FIRST")}, {"seed", a.integer("seed")}});
  return 0;
}

constexpr Positional kFailArguments[] = {{.name = "HOW", .help = "which exception"}};

int run_fail(const Arguments& a) {
  const auto how = a.positional("HOW");
  if (how == "refused") throw Error(ErrorKind::refused, "train: it does not fit", "use a smaller batch");
  if (how == "data") fail(ErrorKind::data, "broken file");
  if (how == "interrupted") fail(ErrorKind::interrupted, "stopped at step 5");
  if (how == "torch") TORCH_CHECK(false, "mat1 and mat2 shapes cannot be multiplied\nsecond line");
  if (how == "memory") TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes");
  if (how == "bug") ensure(false, "a broken invariant");
  if (how == "option") a.text("no-such-option");
  if (how == "flag") a.integer("json");
  if (how == "int") throw 5;
  return 3;
}

constexpr Command kEcho = {.name = "echo",
                           .summary = "echo words",
                           .help =
                               "Echoes words, so that the tests can see what was understood of them and where "
                               "each value came from.\n\nA second paragraph.",
                           .positionals = kEchoArguments,
                           .options = kEchoOptions,
                           .examples = kEchoExamples,
                           .run = run_echo};
constexpr Command kFail = {
    .name = "fail", .summary = "end in an error", .positionals = kFailArguments, .run = run_fail};
constexpr Command kSecret = {.name = "secret", .summary = "not listed", .hidden = true, .run = run_fail};
constexpr const Command* kTestCommands[] = {&kEcho, &kFail, &kSecret};

test::Ran run(const std::vector<std::string>& args, const std::map<std::string, std::string>& variables = {},
              const Terminal& terminal = {}) {
  return test::run(kTestCommands, args, variables, terminal);
}

// A stdout that fails as `write` would: on its way through the buffer, as long text does, or when it is flushed.
class FailingBuffer final : public std::streambuf {
 public:
  FailingBuffer(int problem, bool at_flush) : problem_(problem), at_flush_(at_flush) {}

 protected:
  std::streamsize xsputn(const char*, std::streamsize n) override {
    if (at_flush_) return n;
    errno = problem_;
    return 0;
  }
  int sync() override {
    errno = problem_;
    return -1;
  }

 private:
  int problem_;
  bool at_flush_;
};

}  // namespace

TEST_CASE("words, options and their sources") {
  const auto plain = run({"echo", "one"});
  CHECK(plain.code == 0);
  CHECK(plain.out == "first=one rest=\nseed=7 from default\nrate=-1\nset= format=text loud=0\n");
  CHECK(plain.err == "a remark\n");

  const auto full = run({"echo", "one", "--seed=3", "two", "--set", "a=[1,2]", "--rate", "-1.5e-3", "--set", "b=x",
                         "--loud", "--format", "table", "--", "--three"});
  CHECK(full.out ==
        "first=one rest=two,--three\nseed=3 from command line\nrate=-0.0015\nset=a=[1,2]|b=x format=table loud=1\n");
  CHECK(run({"echo", "one", "-s", "-4"}).out.find("seed=-4") != std::string::npos);
  CHECK(holds(run({"echo", "-s5", "one"}).out, "seed=5"));
  CHECK(holds(run({"echo", "one", "--seed", "+6"}).out, "seed=6"));
  // An option with one value does not swallow the word after it.
  CHECK(holds(run({"echo", "--set", "a=1", "one", "two"}).out, "first=one rest=two"));
  CHECK(holds(run({"echo", "[a,b]", "-"}).out, "first=[a,b] rest=-"));
}

TEST_CASE("the environment stands in for options that are not given") {
  const std::map<std::string, std::string> variables = {
      {"COLLEGIUM_SEED", "11"}, {"COLLEGIUM_SET", "a=1;b=2"}, {"COLLEGIUM_LOUD", "yes"}};
  const auto ran = run({"echo", "one"}, variables);
  CHECK(holds(ran.out, "seed=11 from environment"));
  CHECK(holds(ran.out, "set=a=1|b=2 format=text loud=1"));
  CHECK(holds(run({"echo", "one", "--seed", "2"}, variables).out, "seed=2 from command line"));
  CHECK(holds(run({"echo", "one"}, {{"COLLEGIUM_LOUD", "0"}}).out, "loud=0"));

  const auto bad = run({"echo", "one"}, {{"COLLEGIUM_SEED", "many"}});
  CHECK(bad.code == 2);
  CHECK(holds(bad.err, "echo: COLLEGIUM_SEED: must be an integer, got 'many'"));
  CHECK(holds(run({"echo", "one"}, {{"COLLEGIUM_LOUD", "perhaps"}}).err, "COLLEGIUM_LOUD: must be 1 or 0"));
}

TEST_CASE("usage mistakes end with 2 and say what was meant") {
  const auto check = [](const std::vector<std::string>& args, const std::string& message, const std::string& hint) {
    const auto ran = run(args);
    CAPTURE(message);
    CHECK(ran.code == 2);
    CHECK(ran.out == "");
    CHECK(ran.err == "collegium: error: " + message + "\n" + (hint.empty() ? "" : "  hint: " + hint + "\n"));
  };
  const std::string see = "see 'collegium echo --help'";
  check({}, "no command given", "'collegium --help' lists the commands");
  check({"ehco"}, "unknown command 'ehco'", "did you mean 'echo'?");
  check({"zzzzzzzz"}, "unknown command 'zzzzzzzz'", "'collegium --help' lists the commands");
  check({"secert"}, "unknown command 'secert'", "'collegium --help' lists the commands");
  check({"echo", "a", "--json=no"}, "echo: --json takes no value", see);
  check({"--jsno", "echo"}, "unknown option '--jsno'", "did you mean '--json'? see 'collegium --help'");
  check({"echo", "a", "--sede=3"}, "echo: unknown option '--sede'", "did you mean '--seed'? " + see);
  check({"echo", "a", "--completely-else"}, "echo: unknown option '--completely-else'", see);
  check({"echo", "a", "-x"}, "echo: unknown option '-x'", see);
  check({"echo", "--sede", "3"}, "echo: unknown option '--sede'", "did you mean '--seed'? " + see);
  check({"echo", "a", "--seed"}, "echo: --seed needs a value (N)", see);
  check({"echo", "a", "--seed=", "b"}, "echo: --seed needs a value (N)", see);
  check({"echo", "a", "--set", "--loud"}, "echo: --set needs a value (KEY=VALUE), but the option '--loud' follows",
        "write --set=--loud if that is meant to be the value");
  check({"echo", "a", "--loud=5"}, "echo: --loud takes no value", see);
  check({"echo", "a", "--seed", "3.5"}, "echo: --seed: must be an integer, got '3.5'", see);
  check({"echo", "a", "--seed", "99999999999999999999"}, "echo: --seed: must be an integer, got '99999999999999999999'",
        see);
  check({"echo", "a", "--seed", ""}, "echo: --seed: must be an integer, got ''", see);
  check({"echo", "a", "--seed", "+-3"}, "echo: --seed: must be an integer, got '+-3'", see);
  check({"echo", "a", "--rate", "nan"}, "echo: --rate: must be a number, got 'nan'", see);
  check({"echo", "a", "--format", "tabel"}, "echo: --format: must be one of text, table; got 'tabel'",
        "did you mean 'table'?");
  check({"echo", "a", "--seed", "1", "--seed", "2"}, "echo: --seed was given 2 times ('1', '2')", "give it once");
  check({"echo"}, "echo: FIRST is missing: the first word", "usage: collegium echo [options] FIRST [REST…]");
  check({"fail", "a", "b"}, "fail: unexpected argument 'b'", "usage: collegium fail [options] HOW");
}

TEST_CASE("a value that looks like an option is taken when joined by =") {
  CHECK(holds(run({"echo", "a", "--set=--loud"}).out, "set=--loud"));
}

TEST_CASE("JSON replaces the text on stdout, wherever --json stands") {
  for (const auto& args : {std::vector<std::string>{"echo", "one", "--json"}, {"--json", "echo", "one"}}) {
    const auto ran = run(args);
    CHECK(Json::parse(ran.out) == Json({{"first", "one"}, {"seed", 7}}));
    CHECK(ran.err == "a remark\n");
  }
  // After "--" it is a word like any other.
  CHECK(holds(run({"echo", "one", "--", "--json"}).out, "first=one rest=--json"));
  CHECK(run({"echo", "one", "-q"}).err == "");
  CHECK(run({"--quiet", "echo", "one"}).err == "");
  CHECK(run({"echo", "one", "-qs5"}).err == "");
}

TEST_CASE("errors end with the exit code of their kind") {
  CHECK(run({"fail", "refused"}).code == 3);
  CHECK(run({"fail", "refused"}).err == "collegium: error: train: it does not fit\n  hint: use a smaller batch\n");
  CHECK(run({"fail", "data"}).code == 4);
  CHECK(run({"fail", "interrupted"}).code == 130);
  CHECK(run({"fail", "none"}).code == 3);  // a command's own code goes through
  CHECK(run({"fail", "int"}).code == 70);
}

TEST_CASE("errors are JSON too when that was asked for") {
  const auto refused = run({"fail", "refused", "--json"});
  CHECK(refused.code == 3);
  const auto error = Json::parse(refused.out)["error"];
  CHECK(error["kind"] == "refused");
  CHECK(error["message"] == "train: it does not fit");
  CHECK(error["hint"] == "use a smaller batch");
  CHECK(error["exit_code"] == 3);
  CHECK(holds(refused.err, "collegium: error: train: it does not fit"));
  CHECK(Json::parse(run({"ehco", "--json"}).out)["error"]["exit_code"] == 2);
  CHECK(Json::parse(run({"echo", "one", "--sede", "--json"}).out)["error"]["kind"] == "usage");
  CHECK(Json::parse(run({"fail", "bug", "--json", "--debug"}).out)["error"]["debug"] ==
        "std::logic_error: internal error: a broken invariant");
}

TEST_CASE("internal errors show one line, and everything with --debug") {
  const auto brief = run({"fail", "torch"});
  CHECK(brief.code == 70);
  CHECK(holds(brief.err, "collegium: error: internal error: mat1 and mat2 shapes cannot be multiplied\n"));
  CHECK(!holds(brief.err, "second line"));
  CHECK(holds(brief.err, "--debug"));
  const auto full = run({"fail", "torch", "--debug"});
  CHECK(holds(full.err, "c10::Error: "));
  CHECK(holds(full.err, "second line"));
  CHECK(holds(run({"fail", "bug"}).err, "collegium: error: internal error: a broken invariant\n"));
  CHECK(holds(run({"fail", "memory"}).err, "collegium: error: not enough memory\n"));
  // A command that asks for what its record lacks is a bug of that command.
  CHECK(run({"fail", "option"}).code == 70);
  CHECK(holds(run({"fail", "option"}).err, "command fail has no option --no-such-option"));
}

TEST_CASE("colours follow the terminal and --no-color") {
  const Terminal colorful = {.is_tty = true, .width = 80, .color = true, .unicode = true};
  CHECK(holds(run({"fail", "data"}, {}, colorful).err, "\x1b[1;31merror:\x1b[0m broken file"));
  CHECK(!holds(run({"fail", "data", "--no-color"}, {}, colorful).err, "\x1b"));
  CHECK(!holds(run({"fail", "data"}).err, "\x1b"));
  CHECK(holds(run({"echo", "--help"}, {}, colorful).out, "\x1b[1musage:"));
  CHECK(!holds(run({"echo", "--help", "--no-color"}, {}, colorful).out, "\x1b"));
}

TEST_CASE("help shows all that the record says") {
  const auto help = run({"echo", "--help"});
  CHECK(help.code == 0);
  for (const auto* part :
       {"usage: collegium echo [options] FIRST [REST…]", "A second paragraph.", "-s, --seed N",
        "a whole number (default 7; environment COLLEGIUM_SEED)", "(one of text, table; default text)",
        "may be repeated", "--json", "collegium echo one two --seed 3"})
    CHECK_MESSAGE(holds(help.out, part), part);
  // Help wins over what else is wrong with the line.
  CHECK(run({"echo", "-h"}).out == help.out);
  CHECK(run({"--help", "echo"}).out == help.out);
  CHECK(run({"echo", "--seed", "x", "--help"}).out == help.out);
  CHECK(run({"echo", "one", "--", "--help"}).out != help.out);
}

TEST_CASE("help fits the terminal") {
  for (const int width : {40, 60, 80, 100, 200}) {
    const Terminal terminal = {.is_tty = true, .width = width, .color = true, .unicode = true};
    for (const auto& args : {std::vector<std::string>{"echo", "--help", "--no-color"}, {"--help"}}) {
      const auto help = run(args, {}, terminal).out;
      std::istringstream lines(help);
      for (std::string line; std::getline(lines, line);) CHECK_MESSAGE(display_width(line) <= size_t(width), line);
    }
  }
}

TEST_CASE("the program's help lists commands, not the hidden ones") {
  const auto help = run({"--help"});
  CHECK(help.code == 0);
  CHECK(holds(help.out, "echo words"));
  CHECK(holds(help.out, "--version"));
  CHECK(!holds(help.out, "secret"));
  CHECK(holds(run({"--version"}).out, "collegium 0."));
  CHECK(Json::parse(run({"--version", "--json"}).out)["version"] == version_text());
}

TEST_CASE("the Markdown has every command, and pipes do not break its tables") {
  const auto page = commands_markdown(kTestCommands);
  CHECK(holds(page, "## collegium echo\n\n`collegium echo [options] FIRST [REST…]`"));
  CHECK(holds(page, "| `-s`, `--seed N` | a whole number | `7` | `COLLEGIUM_SEED` |"));
  CHECK(holds(page, "how \\| it looks; one of text, table"));
  CHECK(holds(page, "# echo two words\ncollegium echo one two --seed 3\n"));
  CHECK(!holds(page, "secret"));
}

TEST_CASE("a reader that goes away ends the program in silence, a full disk does not") {
  struct Case {
    int problem;
    bool at_flush;
    int code;
  };
  for (const auto& [problem, at_flush, code] :
       {Case{EPIPE, true, 141}, Case{EPIPE, false, 141}, Case{ENOSPC, true, 5}, Case{ENOSPC, false, 5}}) {
    FailingBuffer buffer(problem, at_flush);
    std::ostream out(&buffer);
    std::ostringstream err;
    CHECK(run_command_line(kTestCommands, {"echo", "one"}, {.out = out, .err = err}) == code);
    if (problem == EPIPE)
      CHECK(err.str() == "");
    else
      CHECK(holds(err.str(), "could not write to stdout: No space left on device"));
  }
}

TEST_CASE("progress follows --quiet and the terminal") {
  std::ostringstream out, err;
  const Streams streams = {.out = out, .err = err};
  Output output(streams, false, true);
  Arguments arguments(kEcho, kTestCommands, streams, output);
  arguments.set_option("quiet", {});
  arguments.set_option("no-color", {});
  auto lines = arguments.progress();
  lines->start(2, "steps", "train");
  lines->update(1);
  const auto shown = err.str();
  CHECK(shown.starts_with("train: 1/2 steps (50%)"));
  Arguments silent(kEcho, kTestCommands, streams, output);
  silent.set_option("quiet", {{"true"}, Arguments::Source::command_line});
  silent.set_option("no-color", {});
  silent.progress()->note("nothing");
  CHECK(err.str() == shown);
}

TEST_CASE("text that is no UTF-8 still makes JSON") {
  std::ostringstream out, err;
  const Streams streams = {.out = out, .err = err};
  Output output(streams, true, false);
  output.json({{"name", "caf\xe9"}});
  CHECK(Json::parse(out.str())["name"] == "caf\xef\xbf\xbd");
  CHECK_THROWS_AS(output.json({}), std::logic_error);
}
