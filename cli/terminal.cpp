#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace collegium::cli {
namespace {

bool is_set(const std::string& value) {
  return !value.empty() && value != "0" && value != "false";
}

bool speaks_utf8(const Environment& environment) {
  for (const auto* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    auto value = environment(name);
    if (value.empty()) continue;
    std::transform(value.begin(), value.end(), value.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return value.find("utf-8") != std::string::npos || value.find("utf8") != std::string::npos;
  }
  return true;  // containers set no locale, and what shows their output is nearly always UTF-8
}

}  // namespace

StreamFacts stream_facts(int descriptor) {
  StreamFacts facts;
  facts.is_tty = isatty(descriptor) == 1;
  winsize size = {};
  if (facts.is_tty && ioctl(descriptor, TIOCGWINSZ, &size) == 0) facts.columns = size.ws_col;
  return facts;
}

Terminal terminal_from(const StreamFacts& facts, const Environment& environment) {
  const auto term = environment("TERM");
  const bool dumb = term == "dumb" || term.empty();
  Terminal t;
  t.is_tty = facts.is_tty && !dumb && !is_set(environment("CI"));
  t.color = environment("NO_COLOR").empty() && ((facts.is_tty && !dumb) || is_set(environment("CLICOLOR_FORCE")));
  t.unicode = speaks_utf8(environment);
  t.width = facts.columns;
  if (t.width <= 0) {
    const auto columns = environment("COLUMNS");
    std::from_chars(columns.data(), columns.data() + columns.size(), t.width);
  }
  if (t.width <= 0) t.width = 80;
  return t;
}

Environment process_environment() {
  return [](std::string_view name) {
    const auto* value = std::getenv(std::string(name).c_str());
    return std::string(value ? value : "");
  };
}

}  // namespace collegium::cli
