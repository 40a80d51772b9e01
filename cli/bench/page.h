// The result of `collegium bench` as it grows: tables on the terminal, a document for programs, a page or a picture.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench/record.h"
#include "cli/interrupt.h"

namespace collegium::cli {

/// Everything that was measured.
struct BenchDocument {
  std::string head;  ///< machine, threads, versions, in one line
  Json machine;      ///< the same for programs
  std::vector<BenchSection> sections;
  std::vector<std::pair<std::string, std::string>> skipped;  ///< what, why
  bool stopped_early = false;
};

/// Facts of all rows, by the sections' names.
Json bench_json(const BenchDocument& document);

/// Collects sections and shows progress. Rows that arrived are kept whatever ends the measurement.
class PageSink final : public BenchSink {
 public:
  /// `after_row` keeps what there is so far.
  PageSink(BenchDocument& document, Progress& progress, const InterruptFlag& interrupt, std::function<void()> after_row)
      : document_(document), progress_(progress), interrupt_(interrupt), after_row_(std::move(after_row)) {}
  void stretch(int64_t turns) override;
  bool turn(std::string_view what) override;
  bool stopped() const override { return interrupt_.raised(); }
  void section(BenchSection empty) override { document_.sections.push_back(std::move(empty)); }
  void row(BenchRow row) override;
  void skip(std::string_view what, std::string_view why) override;
  /// Ends the bar, and prints the sections that were not printed yet.
  void show(Output& out);

 private:
  BenchDocument& document_;
  Progress& progress_;
  const InterruptFlag& interrupt_;
  std::function<void()> after_row_;
  int64_t done_ = 0;
  bool is_running_ = false;
  size_t n_shown_ = 0, n_skips_shown_ = 0;
};

/// One JSON line an event on stdout.
class EventSink final : public BenchSink {
 public:
  EventSink(std::ostream& out, const InterruptFlag& interrupt) : out_(out), interrupt_(interrupt) {}
  void stretch(int64_t turns) override { say({{"event", "stretch"}, {"turns", turns}}); }
  bool turn(std::string_view what) override;
  bool stopped() const override { return interrupt_.raised(); }
  void section(BenchSection empty) override { say(event_of(empty)); }
  void row(BenchRow row) override { say(event_of(row)); }
  void skip(std::string_view what, std::string_view why) override;

 private:
  void say(const Json& event);

  std::ostream& out_;
  const InterruptFlag& interrupt_;
};

}  // namespace collegium::cli
