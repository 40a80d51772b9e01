// Progress of long work, told to a sink: a redrawn bar on a terminal, plain lines in a log, or nothing.
//
// The work says what is so; the sink decides how often and how to show it. Nothing here reads the environment
// or a clock: both are arguments, so that a test sees exact text.
#pragma once
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace collegium {

/// What an output can show. The command line fills it in from the environment.
struct Terminal {
  bool is_tty = false;  ///< a person's terminal that can redraw a line; false for pipes, TERM=dumb and CI
  int width = 80;       ///< columns
  bool color = false;   ///< colour codes are welcome
  bool unicode = true;  ///< UTF-8 can be shown
  bool operator==(const Terminal&) const = default;
};

/// Seconds from any fixed point, never going back.
using Clock = std::function<double()>;

/// The machine's steady clock.
Clock steady_clock();

/// One measured thing, formatted by who measured it: {"loss", "2.31"}, {"speed", "12.3k tok/s"}.
struct ProgressField {
  std::string label;  ///< may be empty: then only the value is shown
  std::string value;
};

/// Where long work reports to. Calls come from one thread.
class Progress {
 public:
  virtual ~Progress() = default;
  /// Begins a stretch of `total` units (0 = unknown) of which `done` were done before, by an earlier run.
  virtual void start(int64_t total, std::string_view unit, std::string_view title, int64_t done = 0) = 0;
  /// `done` units of the total are done. `fields`, most important first, give way from the last when there is no
  /// room. `load_E`: each expert's share of the tokens (sums to 1) for the sparkline; may be empty.
  virtual void update(int64_t done, const std::vector<ProgressField>& fields = {},
                      const std::vector<double>& load_E = {}) = 0;
  /// A line that stays: a checkpoint written, a validation result.
  virtual void note(std::string_view line) = 0;
  /// Ends the stretch, showing its last state. `start` may follow.
  virtual void finish() = 0;
};

struct ProgressOptions {
  Terminal terminal;
  bool quiet = false;              ///< show nothing at all
  double redraw_seconds = 0.1;     ///< the bar is redrawn at most this often
  double line_seconds = 10;        ///< without a terminal: one line this often
  std::function<int()> width_now;  ///< the width after a resize; empty = terminal.width for good
};

/// Bar, plain lines or silence, as `options` say. Writes to `out`, which must outlive it.
std::unique_ptr<Progress> make_progress(std::ostream& out, const ProgressOptions& options, Clock clock);

/// Expert load as one character an expert: the middle height is the even share 1/E, the top twice that or more,
/// the bottom next to nothing. With more experts than `max_cells`, neighbours share a cell that shows the one
/// furthest from even. Shares need not sum to 1; they are divided by their sum. Empty for no experts.
std::string load_sparkline(const std::vector<double>& load_E, const Terminal& terminal, size_t max_cells);

/// "0:07", "12:34", "1:02:03", "3d 04:05"; "--" for what is not finite or negative.
std::string duration_text(double seconds);

}  // namespace collegium
