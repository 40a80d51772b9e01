#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/bench/experts.h"
#include "cli/bench/picture.h"
#include "cli/bench/turns.h"
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

TEST_CASE("bench measures what is asked for and writes a picture") {
  const auto file = (std::filesystem::temp_directory_path() / "collegium_bench_test.html").string();
  const auto ran = run(all_commands(), {"bench", "routers", "-n", "1", "--json", "--quiet", "--out", file});
  REQUIRE(ran.code == 0);
  const auto json = nlohmann::json::parse(ran.out);
  CHECK(json["routers"].size() == 9);
  CHECK(json["routers"][0]["microseconds_per_token"]["scorer"].get<double>() > 0);
  CHECK(!json.contains("experts"));
  CHECK(std::filesystem::file_size(file) > 1000);
  std::filesystem::remove(file);
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
  CHECK(holds(error({"--out", "a.png"}), ".svg or .html"));
  CHECK(holds(error({"--out", "/no/such/folder/a.svg"}), "there is no folder /no/such/folder"));
  CHECK(holds(error({"expert"}), "experts"));
  CHECK(holds(error({"--type", "float16"}), "bfloat16"));
}

TEST_CASE("the picture has a bar and a figure for each ratio") {
  const auto svg = bench_svg({{"E8 <k2>", {{"grouped_mm", {2, 1.5, 2.5}}, {"loop", {0.5, 0.4, 0.6}}}}}, "a & b");
  CHECK(holds(svg, "E8 &lt;k2>"));
  CHECK(holds(svg, "a &amp; b"));
  CHECK(holds(svg, ">2.00</text>"));
  CHECK(holds(svg, ">0.50</text>"));
  CHECK(holds(bench_html(svg, "1 < 2"), "1 &lt; 2"));
  CHECK(holds(bench_svg({}, ""), "</svg>"));
}
