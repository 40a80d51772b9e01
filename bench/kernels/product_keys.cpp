// Cost of choosing k of N experts, by rows and columns of a grid (two tables of sqrt(N) scores, product_top_k) and by
// one table of all N scores (router_linear, top_k), in turns in one process. The second stops where its table takes too
// much memory.
//
//   bench_kernels_product_keys [turns] [threads] [wall|cpu] [out.json]
//
// bench/product_keys.py draws the file.
//
// Legend: T tokens, D model width, N experts, S = sqrt(N), k choices.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/base/random.h"
#include "collegium/kernels/isa.h"
#include "collegium/kernels/product_top_k.h"
#include "collegium/kernels/router_linear.h"
#include "collegium/kernels/top_k.h"

namespace {

using at::Tensor;
namespace kernels = collegium::kernels;

double seconds(bool is_cpu_time) {
  if (is_cpu_time) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int turns = argc > 1 ? std::atoi(argv[1]) : 9;
  if (argc > 2) at::set_num_threads(std::atoi(argv[2]));
  const bool is_cpu_time = argc > 3 && std::string(argv[3]) == "cpu";
  constexpr int64_t T = 1024, D = 256, k = 16, largest_table = 65536;
  std::printf("%s; %d threads, %d turns, float, %s time; T = %ld, D = %ld, k = %ld\n\n", kernels::isa_report().c_str(),
              at::get_num_threads(), turns, is_cpu_time ? "processor" : "wall", T, D, k);
  std::printf("%8s %5s  %14s %14s  %14s %14s\n", "N", "S", "scores us/tok", "search us/tok", "grid us/tok",
              "table us/tok");
  std::string rows;
  const at::NoGradGuard no_grad;
  const collegium::Random random(3);
  const auto x_TD = random.at("x").normal({T, D}, 1, at::kFloat);
  for (const int64_t S : {32, 64, 128, 256, 512, 1024}) {
    const auto key_GD = random.at("key").normal({2 * S, D}, 0.06, at::kFloat);
    const auto table_ND = S * S <= largest_table ? random.at("table").normal({S * S, D}, 0.06, at::kFloat) : Tensor();
    std::vector<double> scoring, searching, grid, table;
    for (int turn = -1; turn < turns; ++turn) {
      const double begin = seconds(is_cpu_time);
      const auto score_TG = kernels::router_linear(x_TD, key_GD);
      const double scored = seconds(is_cpu_time);
      kernels::product_top_k(score_TG.slice(1, 0, S), score_TG.slice(1, S), k);
      const double found = seconds(is_cpu_time);
      if (table_ND.defined()) kernels::top_k(kernels::router_linear(x_TD, table_ND), k);
      const double end = seconds(is_cpu_time);
      if (turn < 0) continue;
      scoring.push_back((scored - begin) * 1e6 / T), searching.push_back((found - scored) * 1e6 / T);
      grid.push_back((found - begin) * 1e6 / T), table.push_back((end - found) * 1e6 / T);
    }
    std::printf("%8ld %5ld  %14.3f %14.3f  %14.3f ", S * S, S, median(scoring), median(searching), median(grid));
    if (table_ND.defined())
      std::printf("%14.3f\n", median(table));
    else
      std::printf("%14s\n", "-");
    std::fflush(stdout);
    rows += collegium::text(rows.empty() ? "" : ",\n  ", "{\"n\": ", S * S, ", \"scores\": ", median(scoring),
                            ", \"search\": ", median(searching), ", \"grid\": ", median(grid),
                            ", \"table\": ", table_ND.defined() ? std::to_string(median(table)) : "null", "}");
  }
  if (argc <= 4) return 0;
  std::ofstream file(argv[4]);
  file << "{\"tokens\": " << T << ", \"width\": " << D << ", \"k\": " << k << ", \"turns\": " << turns
       << ", \"threads\": " << at::get_num_threads() << ", \"time\": \"" << (is_cpu_time ? "processor" : "wall")
       << "\", \"unit\": \"microseconds a token\",\n \"rows\": [\n  " << rows << "\n ]}\n";
  if (file.flush()) return 0;
  std::fprintf(stderr, "cannot write %s\n", argv[4]);
  return 1;
}
