#include "cli/bench/record.h"

#include "collegium/base/error.h"
#include "collegium/base/text_table.h"

namespace collegium::cli {
namespace {

Spread spread_from(const Json& json) {
  return {json.at("median"), json.at("quartiles").at(0), json.at("quartiles").at(1)};
}

}  // namespace

std::function<bool()> turns_of(BenchSink& sink, std::string what) {
  return [&sink, what = std::move(what)] { return sink.turn(what); };
}

std::string spread_text(const Spread& spread) {
  return text(fixed_text(spread.middle, 2), " [", fixed_text(spread.low, 2), ", ", fixed_text(spread.high, 2), "]");
}

Json spread_json(const Spread& spread) {
  return {{"median", spread.middle}, {"quartiles", {spread.low, spread.high}}};
}

Json event_of(const BenchSection& s) {
  return {{"event", "section"}, {"id", s.id},     {"name", s.name},       {"title", s.title},
          {"note", s.note},     {"unit", s.unit}, {"labels", s.n_labels}, {"columns", s.columns}};
}

Json event_of(const BenchRow& row) {
  auto bars = Json::array();
  for (const auto& bar : row.bars) {
    auto one = spread_json(bar.value);
    one["who"] = bar.who;
    bars.push_back(std::move(one));
  }
  return {{"event", "row"}, {"label", row.label}, {"cells", row.cells},
          {"bars", bars},   {"aside", row.aside}, {"facts", row.facts}};
}

void feed(BenchSink& sink, std::string_view line) {
  try {
    const auto e = Json::parse(line);
    const auto event = e.at("event").get<std::string>();
    if (event == "stretch") {
      sink.stretch(e.at("turns"));
    } else if (event == "turn") {
      sink.turn(e.at("what").get<std::string>());
    } else if (event == "skip") {
      sink.skip(e.at("what").get<std::string>(), e.at("why").get<std::string>());
    } else if (event == "section") {
      sink.section(
          {e.at("id"), e.at("name"), e.at("title"), e.at("note"), e.at("unit"), e.at("labels"), e.at("columns"), {}});
    } else if (event == "row") {
      BenchRow row{e.at("label"), e.at("cells"), {}, e.at("aside"), e.at("facts")};
      for (const auto& bar : e.at("bars")) row.bars.push_back({bar.at("who"), spread_from(bar)});
      sink.row(std::move(row));
    } else {
      fail(ErrorKind::data, "bench: unknown event '", event, "'");
    }
  } catch (const Json::exception& problem) {
    fail(ErrorKind::data, "bench: not an event (", problem.what(), "): ", line.substr(0, 200));
  }
}

}  // namespace collegium::cli
