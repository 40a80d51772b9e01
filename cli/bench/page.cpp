#include "cli/bench/page.h"

#include <ostream>

#include "collegium/base/error.h"
#include "collegium/base/text_table.h"

namespace collegium::cli {

Json bench_json(const BenchDocument& document) {
  Json out = document.machine;
  for (const auto& section : document.sections) {
    auto& rows = out[section.name];
    if (rows.is_null()) rows = Json::array();
    for (const auto& row : section.rows) rows.push_back(row.facts);
  }
  out["skipped"] = Json::array();
  for (const auto& [what, why] : document.skipped) out["skipped"].push_back({{"what", what}, {"why", why}});
  out["stopped_early"] = document.stopped_early;
  return out;
}

void PageSink::stretch(int64_t turns) {
  if (is_running_) progress_.finish();
  progress_.start(turns, "turns", "bench");
  done_ = 0, is_running_ = true;
}

bool PageSink::turn(std::string_view what) {
  progress_.update(++done_, {ProgressField{"", std::string(what)}});
  return !stopped();
}

void PageSink::row(BenchRow row) {
  require(!document_.sections.empty(), "bench: a row before any section");
  auto& section = document_.sections.back();
  if (row.cells.size() > section.columns.size())
    fail(ErrorKind::data, "bench: ", section.id, ": a row of ", row.cells.size(), " cells for ", section.columns.size(),
         " columns");
  section.rows.push_back(std::move(row));
  after_row_();
}

void PageSink::skip(std::string_view what, std::string_view why) {
  document_.skipped.emplace_back(what, why);
}

void PageSink::show(Output& out) {
  if (is_running_) progress_.finish();
  is_running_ = false;
  for (; n_shown_ < document_.sections.size(); ++n_shown_) {
    const auto& section = document_.sections[n_shown_];
    TextTable rows(section.columns);
    for (size_t column = 0; column < section.columns.size(); ++column)
      rows.align(column, static_cast<int64_t>(column) < section.n_labels ? Align::left : Align::right);
    for (const auto& row : section.rows) rows.row(row.cells);
    out.line(out.colored("1", section.title));
    for (const auto& line : wrap_words(section.note, 100))
      if (!line.empty()) out.line(line);
    out.block(rows.render(out.table_style()));
    out.line();
  }
  for (; n_skips_shown_ < document_.skipped.size(); ++n_skips_shown_)
    out.note(text("not measured: ", document_.skipped[n_skips_shown_].first, ": ",
                  document_.skipped[n_skips_shown_].second));
}

bool EventSink::turn(std::string_view what) {
  say({{"event", "turn"}, {"what", what}});
  return !stopped();
}

void EventSink::skip(std::string_view what, std::string_view why) {
  say({{"event", "skip"}, {"what", what}, {"why", why}});
}

void EventSink::say(const Json& event) {
  out_ << event.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n" << std::flush;
  if (!out_) throw ClosedPipe();
}

}  // namespace collegium::cli
