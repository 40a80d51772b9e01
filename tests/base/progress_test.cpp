#include "collegium/base/progress.h"

#include <doctest/doctest.h>

#include <cmath>
#include <sstream>

#include "collegium/base/text_table.h"

using namespace collegium;

namespace {

constexpr Terminal kPlainTerminal = {.is_tty = true, .width = 80, .color = false, .unicode = true};

struct Bench {
  double now = 0;
  std::ostringstream out;
  std::unique_ptr<Progress> progress;
  explicit Bench(ProgressOptions options) : progress(make_progress(out, options, [this] { return now; })) {}

  /// What was written since the last call.
  std::string take() {
    auto written = out.str();
    out.str("");
    return written;
  }
};

}  // namespace

TEST_CASE("durations read as a clock") {
  CHECK(duration_text(0) == "0:00");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(754) == "12:34");
  CHECK(duration_text(3723) == "1:02:03");
  CHECK(duration_text(3 * 86400 + 4 * 3600 + 5 * 60) == "3d 04:05");
  CHECK(duration_text(NAN) == "--");
  CHECK(duration_text(-1) == "--");
  CHECK(duration_text(INFINITY) == "--");
}

TEST_CASE("the sparkline shows load relative to an even share") {
  CHECK(load_sparkline({}, kPlainTerminal, 8) == "");
  CHECK(load_sparkline({0.25, 0.25, 0.25, 0.25}, kPlainTerminal, 8) == "▄▄▄▄");
  CHECK(load_sparkline({1, 0, 0, 0}, kPlainTerminal, 8) == "█▁▁▁");
  CHECK(load_sparkline({0.5, 0.25, 0.125, 0.125}, kPlainTerminal, 8) == "█▄▂▂");
  CHECK(load_sparkline({2, 2, 2, 2}, kPlainTerminal, 8) == "▄▄▄▄");  // counts do as well as shares
  CHECK(load_sparkline({0, 0}, kPlainTerminal, 8) == "▁▁");
  CHECK(load_sparkline({0.75, 0.25}, {.unicode = false}, 8) == "+.");
  // Eight experts in four cells: each cell shows the one furthest from even, so the starved one stays visible.
  CHECK(load_sparkline({1, 1, 1, 0, 1, 1, 1, 1}, kPlainTerminal, 4) == "▅▁▅▅");
  CHECK(load_sparkline({1, 0}, {.color = true}, 8) == "\x1b[31m█\x1b[0m\x1b[33m▁\x1b[0m");
}

TEST_CASE("the bar shows title, share, count, time left, fields and load") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(200, "steps", "train");
  b.take();
  b.now = 10;
  b.progress->update(50, {{"loss", "2.31"}, {"", "12.3k tok/s"}}, {0.5, 0.25, 0.25, 0});
  CHECK(b.take() == "\r\x1b[Ktrain ███▎░░░░░░░░░ 25% 50/200 steps ETA 0:30 loss 2.31 12.3k tok/s █▄▄▁");
  b.now = 40;
  b.progress->update(200);
  b.progress->finish();
  CHECK(b.take().find("train █████████████ 100% 200/200 steps in 0:40\n") != std::string::npos);
}

TEST_CASE("the bar moves by eighths of a cell and reads 99 % until all is done") {
  Bench b({.terminal = {.is_tty = true, .width = 32, .unicode = true}});
  b.progress->start(1000, "", "");
  b.take();
  b.now = 1;
  b.progress->update(999);
  CHECK(b.take() == "\r\x1b[K████▉ 99% 999/1000 ETA 0:00");
}

TEST_CASE("what does not fit is left out from the right, and no line is as wide as the terminal") {
  for (int width = 1; width <= 120; ++width) {
    Bench b({.terminal = {.is_tty = true, .width = width, .color = true, .unicode = true}});
    b.progress->start(200, "steps", "a title that is far too long for a small terminal");
    b.now = 10;
    b.progress->update(50, {{"loss", "2.31"}, {"speed", "12.3k tok/s"}, {"drop", "1.5%"}},
                       std::vector<double>(64, 1.0 / 64));
    for (auto rest = b.take(); !rest.empty();) {
      const auto next = rest.find("\r\x1b[K", 1);
      const auto line = rest.substr(4, next == std::string::npos ? next : next - 4);
      CHECK(static_cast<int>(display_width(line)) <= std::max(width - 1, 1));
      rest = next == std::string::npos ? "" : rest.substr(next);
    }
  }
  Bench b({.terminal = {.is_tty = true, .width = 40, .unicode = true}});
  b.progress->start(200, "steps", "train");
  b.take();
  b.now = 10;
  b.progress->update(50, {{"loss", "2.31"}}, {0.5, 0.5});
  CHECK(b.take() == "\r\x1b[Ktrain █▌░░░░ 25% 50/200 steps ETA 0:30");
}

TEST_CASE("the load keeps its place, however many fields there are") {
  const std::vector<double> load_E = {0.5, 0.25, 0.25, 0, 0.25, 0.25, 0.25, 0.25};
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(200, "steps", "train");
  b.take();
  b.now = 10;
  b.progress->update(50, {{"loss", "2.31"}, {"speed", "12.3k tok/s"}, {"drop", "1.5%"}}, load_E);
  CHECK(b.take().ends_with(" ETA 0:30 loss 2.31 █▄▄▁▄▄▄▄"));
  b.now = 20;
  b.progress->update(100, {{"loss", "2.31"}, {"", "12.3k tok/s"}, {"drop", "1.5%"}}, load_E);
  CHECK(b.take().ends_with(" loss 2.31 12.3k tok/s █▄▄▁▄▄▄▄"));
}

TEST_CASE("the bar is redrawn at most ten times a second") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(1000, "steps", "train");
  b.take();
  int drawn = 0;
  for (int i = 1; i <= 1000; ++i) {
    b.now = i * 0.001;
    b.progress->update(i);
    drawn += b.take().empty() ? 0 : 1;
  }
  CHECK(drawn >= 9);
  CHECK(drawn <= 10);
  b.progress->finish();
  CHECK(b.take().find("1000/1000") != std::string::npos);  // the last state is never lost
}

TEST_CASE("a resumed run counts only its own steps for the time left") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(1000, "steps", "train", 900);
  b.take();
  b.now = 10;
  b.progress->update(950);
  CHECK(b.take().find("ETA 0:10") != std::string::npos);
}

TEST_CASE("time left follows the last minute, not a slow beginning") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(10000, "steps", "train");
  b.now = 600;
  b.progress->update(10);
  for (int i = 1; i <= 100; ++i) {
    b.now = 600 + i;
    b.progress->update(10 + 10 * i);
  }
  const auto written = b.take();
  // 8990 steps left at 10 a second; the mean since the start would say more than an hour and a half.
  CHECK(written.substr(written.rfind('\r')).find("ETA 14:59") != std::string::npos);
}

TEST_CASE("a note stays above the bar") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(10, "steps", "train");
  b.take();
  b.progress->note("checkpoint written");
  CHECK(b.take() == "\r\x1b[Kcheckpoint written\n\r\x1b[Ktrain ░░░░░░░░░░░░░ 0% 0/10 steps");
}

TEST_CASE("an unfinished bar ends its line when it goes away") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(10, "steps", "train");
  b.take();
  b.progress.reset();
  CHECK(b.take() == "\n");
}

TEST_CASE("an unknown total shows a count without a bar") {
  Bench b({.terminal = kPlainTerminal});
  b.progress->start(0, "tokens", "read");
  b.take();
  b.now = 1;
  b.progress->update(512);
  CHECK(b.take() == "\r\x1b[Kread 512 tokens");
}

TEST_CASE("the width is asked for anew after a resize") {
  int width = 80;
  Bench b({.terminal = kPlainTerminal, .width_now = [&width] { return width; }});
  b.progress->start(200, "steps", "train");
  width = 20;
  b.take();
  b.now = 1;
  b.progress->update(100);
  CHECK(b.take() == "\r\x1b[Ktrain ██░░ 50%");
}

TEST_CASE("without a terminal there are plain lines, one every few seconds") {
  Bench b({.terminal = {.is_tty = false}, .line_seconds = 10});
  b.progress->start(100, "steps", "train");
  CHECK(b.take() == "");
  b.now = 1;
  b.progress->update(10, {{"loss", "2.50"}});
  CHECK(b.take() == "train: 10/100 steps (10%), loss 2.50, 0:09 left\n");
  b.now = 10.9;
  b.progress->update(50);
  CHECK(b.take() == "");
  b.now = 11;
  b.progress->update(60, {{"loss", "2.25"}}, {0.5, 0.5});
  const auto line = b.take();
  CHECK(line == "train: 60/100 steps (60%), loss 2.25, 0:07 left\n");
  b.progress->note("stopped");
  b.progress->finish();
  CHECK(b.take() == "stopped\ntrain: 60/100 steps (60%), loss 2.25, took 0:11\n");
}

TEST_CASE("plain lines hold no control characters, whatever the settings") {
  Bench b({.terminal = {.is_tty = false, .color = true}, .line_seconds = 0});
  b.progress->start(3, "steps", "train");
  for (int i = 1; i <= 3; ++i) {
    b.now = i;
    b.progress->update(i, {{"loss", "1"}}, {1.0, 0.0});
  }
  b.progress->finish();
  const auto written = b.take();
  CHECK(written.size() > 50);
  CHECK(written.find_first_of("\r\x1b\b") == std::string::npos);
}

TEST_CASE("quiet shows nothing at all") {
  Bench b({.terminal = kPlainTerminal, .quiet = true});
  b.progress->start(10, "steps", "train");
  b.now = 5;
  b.progress->update(5, {{"loss", "1"}});
  b.progress->note("note");
  b.progress->finish();
  CHECK(b.take() == "");
}
