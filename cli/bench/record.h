// What a benchmark measured, as data, and where it goes while it is measured: onto a page, or line by line to the
// program that asked for it (`--events`). Python's comparisons send the same lines (python/collegium/bench/report.py).
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cli/bench/turns.h"
#include "cli/command.h"

namespace collegium::cli {

/// A bar of a row's picture: a rival's time over ours, or, in a section with a unit, a value.
struct BenchBar {
  std::string who;
  Spread value;
};

struct BenchRow {
  std::string label;               ///< of the picture
  std::vector<std::string> cells;  ///< of the table, one a column of the section
  std::vector<BenchBar> bars;
  std::string aside;  ///< a figure beside the bars, "72 % of dense"; may be empty
  Json facts;         ///< for programs
};

/// Rows that share columns and an axis.
struct BenchSection {
  std::string id;    ///< "experts avx2", once in a document
  std::string name;  ///< "experts": the key in JSON, where sections of one name are one list
  std::string title;
  std::string note;      ///< who the rivals are; may be empty
  std::string unit;      ///< of the bars; empty = they are ratios, above 1 where Collegium is better
  int64_t n_labels = 1;  ///< the first so many columns are words, the others figures
  std::vector<std::string> columns;
  std::vector<BenchRow> rows;
};

class BenchSink {
 public:
  virtual ~BenchSink() = default;
  /// Begins a stretch of so many turns.
  virtual void stretch(int64_t turns) = 0;
  /// One turn is done; false = measure nothing more.
  virtual bool turn(std::string_view what) = 0;
  /// Whether somebody asked for an end.
  virtual bool stopped() const = 0;
  /// Begins a section; its rows follow.
  virtual void section(BenchSection empty) = 0;
  /// A row of the newest section.
  virtual void row(BenchRow row) = 0;
  /// What was not measured, and why.
  virtual void skip(std::string_view what, std::string_view why) = 0;
};

/// For take_turns: reports turns of `what` to the sink.
std::function<bool()> turns_of(BenchSink& sink, std::string what);

/// One event as a line of JSON, and back into a sink. Throws Error (data) for a line that is no event.
Json event_of(const BenchSection& empty);
Json event_of(const BenchRow& row);
void feed(BenchSink& sink, std::string_view line);

/// "2.31 [2.20, 2.40]", and as JSON.
std::string spread_text(const Spread& spread);
Json spread_json(const Spread& spread);

}  // namespace collegium::cli
