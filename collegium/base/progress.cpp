#include "collegium/base/progress.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <numeric>
#include <optional>
#include <ostream>

#include "collegium/base/error.h"
#include "collegium/base/text_table.h"

namespace collegium {
namespace {

constexpr std::string_view kProgressReset = "\x1b[0m";
constexpr std::string_view kProgressClear = "\r\x1b[K";

std::string two_digits(int64_t n) {
  return text(n < 10 ? "0" : "", n);
}

std::string field_text(const ProgressField& field) {
  return field.label.empty() ? field.value : field.label + " " + field.value;
}

// Time left, from the speed of the last minute: an average since the start would believe in a slow warm-up, or in
// a pause for validation, for the rest of the run.
class Pace {
 public:
  void start(double now, int64_t done) {
    samples_.clear();
    samples_.push_back({now, done});
  }
  void add(double now, int64_t done) {
    if (now - samples_.back().at >= 0.5 || samples_.size() == 1) samples_.push_back({now, done});
    while (samples_.size() > 2 && now - samples_[1].at >= kWindowSeconds) samples_.pop_front();
  }
  /// Seconds until `total`; NaN when nothing is known.
  double left(double now, int64_t done, int64_t total) const {
    const auto units = static_cast<double>(done - samples_.front().done);
    const auto seconds = now - samples_.front().at;
    if (total <= 0 || units <= 0 || seconds <= 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(std::max<int64_t>(total - done, 0)) * seconds / units;
  }

 private:
  static constexpr double kWindowSeconds = 60;
  struct Sample {
    double at;
    int64_t done;
  };
  std::deque<Sample> samples_;
};

// What both sinks remember of the stretch.
struct Stretch {
  std::string title, unit;
  int64_t total = 0, done = 0;
  double began = 0;
  Pace pace;
  std::vector<ProgressField> fields;
  std::vector<double> load_E;

  double share() const { return std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0); }
  // 100 only when all is done: 999 of 1000 reads 99 %.
  int64_t percent() const { return std::clamp<int64_t>(done, 0, total) * 100 / total; }
  std::string count() const {
    const auto of = total > 0 ? text("/", total) : std::string();
    return unit.empty() ? text(done, of) : text(done, of, " ", unit);
  }
};

Stretch new_stretch(int64_t total, std::string_view unit, std::string_view title, int64_t done, double now) {
  Stretch s;
  s.title = title, s.unit = unit, s.total = total, s.done = done, s.began = now;
  s.pace.start(now, done);
  return s;
}

class SilentProgress final : public Progress {
 public:
  void start(int64_t, std::string_view, std::string_view, int64_t) override {}
  void update(int64_t, const std::vector<ProgressField>&, const std::vector<double>&) override {}
  void note(std::string_view) override {}
  void finish() override {}
};

class LineProgress final : public Progress {
 public:
  LineProgress(std::ostream& out, const ProgressOptions& options, Clock clock)
      : out_(out), options_(options), clock_(std::move(clock)) {}

  void start(int64_t total, std::string_view unit, std::string_view title, int64_t done) override {
    stretch_ = new_stretch(total, unit, title, done, clock_());
    printed_at_.reset();
  }
  void update(int64_t done, const std::vector<ProgressField>& fields, const std::vector<double>& load_E) override {
    if (!stretch_) return;
    const auto now = clock_();
    stretch_->done = done, stretch_->fields = fields, stretch_->load_E = load_E;
    stretch_->pace.add(now, done);
    if (!printed_at_ || now - *printed_at_ >= options_.line_seconds) print(now, false);
  }
  void note(std::string_view line) override { out_ << line << "\n" << std::flush; }
  void finish() override {
    if (!stretch_) return;
    print(clock_(), true);
    stretch_.reset();
  }

 private:
  void print(double now, bool last) {
    const auto& s = *stretch_;
    std::string line = s.title.empty() ? s.count() : s.title + ": " + s.count();
    if (s.total > 0) line += text(" (", s.percent(), "%)");
    for (const auto& field : s.fields) line += ", " + field_text(field);
    if (last)
      line += ", took " + duration_text(now - s.began);
    else if (const auto left = s.pace.left(now, s.done, s.total); std::isfinite(left))
      line += ", " + duration_text(left) + " left";
    out_ << line << "\n" << std::flush;
    printed_at_ = now;
  }

  std::ostream& out_;
  ProgressOptions options_;
  Clock clock_;
  std::optional<Stretch> stretch_;
  std::optional<double> printed_at_;
};

class BarProgress final : public Progress {
 public:
  BarProgress(std::ostream& out, const ProgressOptions& options, Clock clock)
      : out_(out), options_(options), clock_(std::move(clock)) {}
  BarProgress(const BarProgress&) = delete;
  BarProgress& operator=(const BarProgress&) = delete;
  // An exception must not leave the error message on the bar's own line.
  ~BarProgress() override {
    if (drawn_) out_ << "\n" << std::flush;
  }

  void start(int64_t total, std::string_view unit, std::string_view title, int64_t done) override {
    stretch_ = new_stretch(total, unit, title, done, clock_());
    draw(clock_(), false);
  }
  void update(int64_t done, const std::vector<ProgressField>& fields, const std::vector<double>& load_E) override {
    if (!stretch_) return;
    const auto now = clock_();
    stretch_->done = done, stretch_->fields = fields, stretch_->load_E = load_E;
    stretch_->pace.add(now, done);
    if (now - drawn_at_ >= options_.redraw_seconds) draw(now, false);
  }
  void note(std::string_view line) override {
    if (drawn_) out_ << kProgressClear;
    drawn_ = false;
    out_ << line << "\n" << std::flush;
    if (stretch_) draw(clock_(), false);
  }
  void finish() override {
    if (!stretch_) return;
    draw(clock_(), true);
    out_ << "\n" << std::flush;
    drawn_ = false;
    stretch_.reset();
  }

 private:
  const Terminal& terminal() const { return options_.terminal; }

  std::string colored(std::string_view code, const std::string& what) const {
    return terminal().color && !what.empty() ? text("\x1b[", code, "m", what, kProgressReset) : what;
  }

  std::string bar(size_t cells) const {
    static constexpr std::array<std::string_view, 8> kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const auto eighths = static_cast<size_t>(std::floor(stretch_->share() * static_cast<double>(cells * 8)));
    std::string full, rest;
    size_t used = eighths / 8;
    for (size_t i = 0; i < used; ++i) full += terminal().unicode ? "█" : "#";
    if (terminal().unicode && eighths % 8 != 0) full += kEighths[eighths % 8], ++used;
    for (; used < cells; ++used) rest += terminal().unicode ? "░" : "-";
    return colored("32", full) + colored("2", rest);
  }

  // Pieces in order of importance; the first that does not fit ends the line, so it is cut from the right. The load
  // stands last but gives way to the first field only: a starving expert matters more than a third number.
  std::string line(double now, bool last, size_t width) const {
    const auto& s = *stretch_;
    std::vector<std::string> pieces;
    if (!s.title.empty())
      pieces.push_back(colored("1", shorten(s.title, std::max<size_t>(width / 3, 4), terminal().unicode ? "…" : "~")));
    if (s.total > 0) {
      // The bar's size hangs on the width alone: one that follows the fields' lengths would twitch.
      pieces.push_back(bar(std::clamp<size_t>((width + 1) / 6, 4, 30)));
      pieces.push_back(text(s.percent(), "%"));
    }
    pieces.push_back(s.count());
    if (last)
      pieces.push_back("in " + duration_text(now - s.began));
    else if (const auto left = s.pace.left(now, s.done, s.total); std::isfinite(left))
      pieces.push_back("ETA " + duration_text(left));
    const auto n_before_load = pieces.size() + 1;
    for (const auto& field : s.fields)
      pieces.push_back(field.label.empty() ? field.value : colored("2", field.label) + " " + field.value);

    const auto load_room = s.load_E.empty() ? size_t{0} : 1 + std::min<size_t>(s.load_E.size(), 8);
    std::string out;
    size_t used = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const auto cells = display_width(pieces[i]) + (out.empty() ? 0 : 1);
      if (used + cells + (i >= n_before_load ? load_room : 0) > width) {
        if (i < n_before_load) return out;
        break;
      }
      out += (out.empty() ? "" : " ") + pieces[i];
      used += cells;
    }
    if (load_room > 0 && used + load_room <= width)
      out += " " + load_sparkline(s.load_E, terminal(), std::min<size_t>(width - used - 1, 32));
    return out;
  }

  void draw(double now, bool last) {
    const auto columns = options_.width_now ? options_.width_now() : terminal().width;
    // The last column stays free: a character there would wrap on some terminals.
    const auto width = static_cast<size_t>(std::max(columns - 1, 1));
    out_ << kProgressClear << line(now, last, width) << std::flush;
    drawn_ = true, drawn_at_ = now;
  }

  std::ostream& out_;
  ProgressOptions options_;
  Clock clock_;
  std::optional<Stretch> stretch_;
  bool drawn_ = false;
  double drawn_at_ = -std::numeric_limits<double>::infinity();
};

}  // namespace

Clock steady_clock() {
  return [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
}

std::unique_ptr<Progress> make_progress(std::ostream& out, const ProgressOptions& options, Clock clock) {
  if (options.quiet) return std::make_unique<SilentProgress>();
  if (options.terminal.is_tty) return std::make_unique<BarProgress>(out, options, std::move(clock));
  return std::make_unique<LineProgress>(out, options, std::move(clock));
}

std::string load_sparkline(const std::vector<double>& load_E, const Terminal& terminal, size_t max_cells) {
  static constexpr std::array<std::string_view, 8> kBlocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr std::array<std::string_view, 8> kAscii = {"_", ".", ":", "-", "=", "+", "*", "#"};
  const auto E = load_E.size();
  const auto sum = std::accumulate(load_E.begin(), load_E.end(), 0.0);
  if (E == 0 || max_cells == 0) return {};
  const auto cells = std::min(E, max_cells);
  std::string out;
  for (size_t cell = 0; cell < cells; ++cell) {
    double load = 1;  // of the even share
    for (auto e = cell * E / cells; e < (cell + 1) * E / cells; ++e) {
      const auto one = sum > 0 ? load_E[e] / sum * static_cast<double>(E) : 0.0;
      if (e == cell * E / cells || std::abs(one - 1) > std::abs(load - 1)) load = one;
    }
    const auto level = std::isfinite(load) ? std::clamp(std::lround(load * 4) - 1, 0L, 7L) : 0L;
    const auto glyph = (terminal.unicode ? kBlocks : kAscii)[static_cast<size_t>(level)];
    const auto* code = load >= 2 ? "31" : load <= 0.25 ? "33" : "36";
    out += terminal.color ? text("\x1b[", code, "m", glyph, kProgressReset) : std::string(glyph);
  }
  return out;
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "--";
  const auto s = std::llround(seconds);
  if (s < 3600) return text(s / 60, ":", two_digits(s % 60));
  if (s < 86400) return text(s / 3600, ":", two_digits(s / 60 % 60), ":", two_digits(s % 60));
  return text(s / 86400, "d ", two_digits(s / 3600 % 24), ":", two_digits(s / 60 % 60));
}

}  // namespace collegium
