// What must hold for every command of the program, and the commands that need nothing but the tables.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/command.h"
#include "cli/completion.h"
#include "cli/parse.h"
#include "collegium/base/error.h"
#include "tests/cli/support.h"

using namespace collegium;
using namespace collegium::cli;
using collegium::cli::test::holds;
using collegium::cli::test::run;

namespace {

bool is_name(std::string_view name) {
  const auto fits = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  return !name.empty() && std::all_of(name.begin(), name.end(), fits);
}

void check_phrase(std::string_view phrase) {
  CAPTURE(phrase);
  CHECK(!phrase.empty());
  CHECK(!phrase.ends_with('.'));
  CHECK(phrase.find('\n') == std::string_view::npos);
}

void check_value_kind(const Option& option) {
  CAPTURE(option.name);
  if (option.is_flag()) {
    CHECK(option.kind == ValueKind::text);
    CHECK(option.default_text.empty());
    CHECK(option.choices.empty());
    CHECK(!option.repeatable);
  }
  if (!option.environment.empty()) CHECK(option.environment.starts_with("COLLEGIUM_"));
  if (!option.choices.empty() && !option.default_text.empty())
    CHECK(std::find(option.choices.begin(), option.choices.end(), option.default_text) != option.choices.end());
}

}  // namespace

TEST_CASE("every command's record is in order") {
  std::set<std::string_view> names;
  for (const auto* command : all_commands()) {
    CAPTURE(command->name);
    CHECK(is_name(command->name));
    CHECK(names.insert(command->name).second);
    CHECK((command->run != nullptr));
    check_phrase(command->summary);
    // Nobody is shown a hidden command.
    CHECK((command->hidden || !command->group.empty()));
    CHECK((command->hidden || !command->examples.empty()));

    std::set<std::string> taken;
    for (const auto& option : common_options()) {
      taken.insert(std::string(option.name));
      if (option.letter != 0) taken.insert(std::string(1, option.letter));
    }
    for (const auto& option : command->options) {
      CHECK(is_name(option.name));
      check_phrase(option.help);
      check_value_kind(option);
      CHECK_MESSAGE(taken.insert(std::string(option.name)).second, option.name);
      if (option.letter != 0) CHECK(taken.insert(std::string(1, option.letter)).second);
    }
    for (size_t i = 0; i < command->positionals.size(); ++i) {
      const auto& positional = command->positionals[i];
      check_phrase(positional.help);
      CHECK(positional.min >= 0);
      CHECK((positional.max == kUnlimited || positional.max >= std::max(positional.min, 1)));
      if (i + 1 < command->positionals.size()) CHECK((positional.min == 1 && positional.max == 1));
    }
  }
}

TEST_CASE("every example parses") {
  std::ostringstream out, err;
  const Streams streams = {.out = out, .err = err};
  Output output(streams, false, false);
  for (const auto* command : all_commands())
    for (const auto& example : command->examples) {
      CAPTURE(example.line);
      // What follows a pipe or a redirection is the shell's.
      std::istringstream line{std::string(example.line.substr(0, example.line.find_first_of("|>")))};
      std::vector<std::string> words;
      for (std::string word; line >> word;) words.push_back(word);
      REQUIRE(words.size() >= 2);
      CHECK(words[0] == "collegium");
      CHECK(words[1] == command->name);
      Arguments arguments(*command, all_commands(), streams, output);
      CHECK_NOTHROW(parse_words({words.begin() + 2, words.end()}, arguments));
    }
}

TEST_CASE("help of every command can be asked for in each way") {
  for (const auto* command : all_commands()) {
    const std::string name(command->name);
    const auto help = run(all_commands(), {name, "--help"});
    CHECK(help.code == 0);
    CHECK(holds(help.out, "usage: collegium " + name));
    CHECK(run(all_commands(), {"help", name}).out == help.out);
  }
  CHECK(run(all_commands(), {"help"}).out == run(all_commands(), {"--help"}).out);
  CHECK(run(all_commands(), {"help", "doctr"}).code == 2);
}

TEST_CASE("completion scripts name every command and option") {
  for (const auto& [shell, script] :
       {std::pair{"bash", bash_completion(all_commands())}, std::pair{"zsh", zsh_completion(all_commands())},
        std::pair{"fish", fish_completion(all_commands())}}) {
    CAPTURE(shell);
    CHECK(run(all_commands(), {"completion", shell}).out == script);
    for (const auto* command : all_commands()) {
      if (command->hidden) continue;
      CHECK(holds(script, command->name));
      for (const auto& option : command->options)
        CHECK_MESSAGE(holds(script, shell == std::string("fish") ? text("-l ", option.name) : text("--", option.name)),
                      option.name);
    }
    CHECK(!holds(script, "docs PAGE"));
  }
  CHECK(run(all_commands(), {"completion", "tcsh"}).code == 2);
}

TEST_CASE("every name that list prints can be shown") {
  std::istringstream names(run(all_commands(), {"list", "--names"}).out);
  int n_names = 0;
  for (std::string name; std::getline(names, name); ++n_names)
    CHECK_MESSAGE(run(all_commands(), {"show", name}).code == 0, name);
  CHECK(n_names > 0);
}

TEST_CASE("docs cli is the Markdown of the tables") {
  const auto page = run(all_commands(), {"docs", "cli"});
  CHECK(page.code == 0);
  for (const auto* command : all_commands())
    CHECK(holds(page.out, text("## collegium ", command->name, "\n")) == !command->hidden);
}

TEST_CASE("data lists, explains and locates what is here, and fetches nothing unasked") {
  const std::map<std::string, std::string> nowhere = {{"HOME", "/nonexistent"},
                                                      {"COLLEGIUM_DATA", "/nonexistent/data"}};
  const auto list = run(all_commands(), {"data", "list", "--json"}, nowhere);
  CHECK(list.code == 0);
  const auto sources = Json::parse(list.out);
  REQUIRE(sources.size() > 0);
  for (const auto& source : sources) {
    CHECK(source["file"].is_null());
    CHECK(source["sha256"].get<std::string>().size() == 64);
    CHECK(!source["licence"].get<std::string>().empty());
  }
  const auto name = sources[0]["name"].get<std::string>();
  CHECK(holds(run(all_commands(), {"data", "list", "--names"}, nowhere).out, name + "\n"));
  CHECK(holds(run(all_commands(), {"data", "list"}, nowhere).out, "not here"));
  CHECK(holds(run(all_commands(), {"data", "info", name}, nowhere).out, "collegium data get " + name));
  CHECK(run(all_commands(), {"data", "path"}, nowhere).out == "/nonexistent/.cache/collegium\n/nonexistent/data\n");
  CHECK(run(all_commands(), {"data", "path", name}, nowhere).code == 5);
  CHECK(run(all_commands(), {"data", "get", name, "--offline"}, nowhere).code == 5);
  CHECK(run(all_commands(), {"data", "get", name}, {{"HOME", "/nonexistent"}, {"COLLEGIUM_OFFLINE", "1"}}).code == 5);
  const auto missing = run(all_commands(), {"data", "get"}, nowhere);
  CHECK(missing.code == 2);
  const auto mistyped = run(all_commands(), {"data", "info", name + "x"}, nowhere);
  CHECK(mistyped.code == 2);
  CHECK(holds(mistyped.err, "did you mean '" + name + "'?"));
}
