#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/bench/child.h"
#include "cli/bench/experts.h"
#include "cli/bench/isas.h"
#include "cli/bench/memory.h"
#include "cli/bench/picture.h"
#include "cli/bench/routers.h"
#include "cli/bench/steps.h"
#include "cli/bench/turns.h"
#include "collegium/base/error.h"
#include "tests/cli/support.h"

using namespace collegium;
using namespace collegium::cli;
using collegium::cli::test::holds;
using collegium::cli::test::run;

TEST_CASE("medians and quartiles lie between the values, ratios are taken within a turn") {
  const auto spread = spread_of({4, 1, 3, 2, 5});
  CHECK(spread.middle == 3);
  CHECK(spread.low == 2);
  CHECK(spread.high == 4);
  CHECK(spread_of({1, 2}).middle == 1.5);
  CHECK(spread_of({}).middle == 0);
  const auto ratio = ratio_of({"other", {2, 8}}, {"ours", {1, 2}});
  CHECK(ratio.middle == 3);
}

TEST_CASE("contenders take turns, once to warm up, and stop when asked to") {
  std::string order;
  const std::vector<Contender> both = {{"a", [&] { order += 'a'; }}, {"b", [&] { order += 'b'; }}};
  const auto timed = take_turns(both, 2, BenchClock::wall, [] { return true; });
  CHECK(order == "ababab");
  CHECK(timed[1].seconds.size() == 2);
  const auto stopped = take_turns(both, 5, BenchClock::cpu, [] { return false; });
  CHECK(stopped[0].seconds.size() == 1);
}

TEST_CASE("every contender of the expert layers computes the same") {
  for (const auto skew : {Skew::uniform, Skew::zipf, Skew::hot}) {
    const auto problem = make_problem({20, 32, 16, 4, 2, true}, skew, at::kFloat);
    CHECK(worst_difference(problem) < 1e-5);
    for (const bool backward : {false, true})
      for (const auto& contender : expert_contenders(problem, backward)) contender.run();
  }
  const auto hot = make_problem({20, 32, 16, 4, 2, true}, Skew::hot, at::kFloat);
  CHECK(hot.expert_Tk.eq(0).sum().item<int64_t>() == 20);
  CHECK(hot.flops(true) == 3 * hot.flops(false));
}

TEST_CASE("a pass of ours keeps less for the backward pass than the rivals") {
  const ExpertShape shape{256, 128, 64, 8, 4, true};
  const auto ours = pass_memory(shape, at::kFloat, "collegium"), loop = pass_memory(shape, at::kFloat, "loop");
  // Pre-activations of 256 x 4 rows and 128 columns, and what sorting leaves.
  const double pre_activations = 256.0 * 4 * 128 * 4;
  CHECK(ours.saved_bytes >= pre_activations);
  CHECK(ours.saved_bytes < 1.2 * pre_activations);
  CHECK(loop.saved_bytes > 2 * ours.saved_bytes);
  CHECK(ours.peak_bytes >= 0);
  CHECK_THROWS_WITH_AS(pass_memory(shape, at::kFloat, "eager"), doctest::Contains("no contender 'eager'"), Error);
}

TEST_CASE("the decoders whose training steps are timed compute the same") {
  for (const auto& shape : step_shapes(true)) {
    const auto race = make_step_race(shape);
    const auto losses = race->first_losses();
    const auto contenders = race->contenders();
    REQUIRE(losses.size() == contenders.size());
    CHECK(contenders[0].name == "collegium");
    for (const double loss : losses) CHECK(loss == doctest::Approx(losses[0]).epsilon(1e-5));
    for (const auto& contender : contenders) contender.run();
  }
}

TEST_CASE("a child's lines arrive, its errors are kept, and it gets one SIGINT") {
  std::vector<std::string> lines;
  const auto keep = [&](const std::string& line) { lines.push_back(line); };
  const auto never = [] { return false; };
  const auto end = run_child({"sh", "-c", "echo a; echo $WORD; echo no >&2; exit 3"}, {{"WORD", "b"}}, keep, never);
  CHECK(end.started);
  CHECK(end.exit_code == 3);
  CHECK(lines == std::vector<std::string>{"a", "b"});
  CHECK(end.errors == "no\n");
  CHECK(!run_child({"/no/such/program"}, {}, keep, never).started);
  lines.clear();
  const auto told = run_child({"sh", "-c", "trap 'echo told; exit 5' INT; while :; do sleep 0.05; done"}, {}, keep,
                              [n = 0]() mutable { return ++n > 2; });
  CHECK(told.exit_code == 5);
  CHECK(lines == std::vector<std::string>{"told"});
  CHECK_THROWS_AS(
      run_child(
          {"sh", "-c", "echo x; sleep 60"}, {}, [](const std::string&) { fail(ErrorKind::data, "x"); }, never),
      Error);
}

struct CollectingSink final : BenchSink {
  BenchSection kept;
  std::string said;
  void stretch(int64_t turns) override { said += text("stretch ", turns, ";"); }
  bool turn(std::string_view what) override { return said += text("turn ", what, ";"), true; }
  bool stopped() const override { return false; }
  void section(BenchSection empty) override { kept = std::move(empty); }
  void row(BenchRow row) override { kept.rows.push_back(std::move(row)); }
  void skip(std::string_view what, std::string_view why) override { said += text("skip ", what, ": ", why); }
};

TEST_CASE("events are read back as they were written") {
  CollectingSink sink;
  feed(sink, event_of(BenchSection{"a b", "a", "T", "N", "GB/s", 2, {"x", "y"}, {}}).dump());
  const BenchRow row{"l", {"1", "2"}, {{"loop", {2, 1, 3}}}, "aside", {{"k", 1}}};
  feed(sink, event_of(row).dump());
  feed(sink, R"({"event": "stretch", "turns": 3})");
  feed(sink, R"({"event": "turn", "what": "w"})");
  feed(sink, R"({"event": "skip", "what": "cuda", "why": "none"})");
  CHECK(event_of(sink.kept) == event_of(BenchSection{"a b", "a", "T", "N", "GB/s", 2, {"x", "y"}, {}}));
  REQUIRE(sink.kept.rows.size() == 1);
  CHECK(event_of(sink.kept.rows[0]) == event_of(row));
  CHECK(sink.said == "stretch 3;turn w;skip cuda: none");
  CHECK_THROWS_WITH_AS(feed(sink, "{\"event\": 1"), doctest::Contains("not an event"), Error);
  CHECK_THROWS_WITH_AS(feed(sink, R"({"event": "row"})"), doctest::Contains("label"), Error);
  CHECK_THROWS_WITH_AS(feed(sink, R"({"event": "rows"})"), doctest::Contains("unknown event 'rows'"), Error);
}

TEST_CASE("instruction sets: all has those with loops of their own, a wrong name names the right one") {
  const auto all = wanted_isas("all");
  REQUIRE(!all.empty());
  CHECK(wanted_isas("").size() == 1);
  for (const auto& isa : all) CHECK(wanted_isas(isa) == std::vector<std::string>{isa});
  CHECK(isa_variables("avx2").size() == 4);
  CHECK_THROWS_WITH_AS(wanted_isas("avx22"), doctest::Contains("did you mean 'avx2'?"), Error);
}

TEST_CASE("bench measures what is asked for, and writes a page and the figures") {
  const auto folder = std::filesystem::temp_directory_path();
  const auto page = (folder / "collegium_bench_test.html").string(),
             figures = (folder / "collegium_bench_test.json").string();
  const auto ran = run(
      all_commands(), {"bench", "routers", "--quick", "-n", "1", "--json", "--quiet", "--out", page, "--out", figures});
  REQUIRE(ran.code == 0);
  const auto json = nlohmann::json::parse(ran.out);
  const auto routers = bench_routers(router_sizes(true)[0]);
  CHECK(std::find(routers.begin(), routers.end(), "top_k") != routers.end());
  CHECK(json["routers"].size() == routers.size());
  CHECK(json["routers"][0]["microseconds_per_token"]["scorer"].get<double>() > 0);
  CHECK(!json.contains("experts"));
  CHECK(std::filesystem::file_size(page) > 1000);
  CHECK(nlohmann::json::parse(std::ifstream(figures))["routers"] == json["routers"]);
  std::filesystem::remove(page), std::filesystem::remove(figures);
}

TEST_CASE("bench refuses what it cannot do before it measures") {
  const auto error = [](std::vector<std::string> words) {
    words.insert(words.begin(), "bench");
    const auto ran = run(all_commands(), words);
    CHECK(ran.code == 2);
    return ran.err;
  };
  CHECK(holds(error({"--turns", "0"}), "--turns 0: 1 to 10000 wanted"));
  CHECK(holds(error({"--turns", "many"}), "turns"));
  CHECK(holds(error({"--out", "a.png"}), ".html, .svg or .json"));
  CHECK(holds(error({"--out", "/no/such/folder/a.svg"}), "there is no folder /no/such/folder"));
  CHECK(holds(error({"expert"}), "experts"));
  CHECK(holds(error({"--type", "float16"}), "bfloat16"));
  CHECK(holds(error({"--isa", "axv2"}), "did you mean 'avx2'?"));
  CHECK(holds(error({"cuda", "--events"}), "python -m collegium.bench"));
  CHECK(holds(error({"routers", "--events", "--out", "a.svg"}), "neither --json nor --out"));
  const auto none = error({"transformers-models", "--python", "/no/such/python"});
  CHECK(holds(none, "/no/such/python: there is no such program"));
  CHECK(holds(none, "pip install"));
}

TEST_CASE("the picture has a bar and a figure for each ratio") {
  BenchDocument document;
  document.head = "a & b";
  BenchSection section{"e", "e", "Experts <k>", "", "", 1, {"x"}, {}};
  section.rows = {
      {"E8 <k2>", {"1 < 2"}, {{"grouped_mm", {2, 1.5, 2.5}}, {"loop", {0.5, 0.4, 0.6}}}, "72 % of dense", {}}};
  document.sections = {section};
  document.skipped = {{"cuda", "no <device>"}};
  const auto svg = bench_svg(document), html = bench_html(document);
  for (const auto& drawn : {svg, html}) {
    CHECK(holds(drawn, "E8 &lt;k2>"));
    CHECK(holds(drawn, "a &amp; b"));
    CHECK(holds(drawn, ">2.00</text>"));
    CHECK(holds(drawn, ">0.50</text>"));
    CHECK(holds(drawn, "72 % of dense"));
    CHECK(holds(drawn, "prefers-color-scheme:dark"));
  }
  CHECK(holds(html, "1 &lt; 2"));
  CHECK(holds(html, "no &lt;device>"));
  CHECK(holds(bench_svg({}), "</svg>"));
}
