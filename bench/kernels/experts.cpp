// Expert feed-forward networks: ours against the path that transformers takes (its integrations/moe.py,
// grouped_mm_experts_forward, transcribed call by call onto at::_grouped_mm) and against the plain loop.
//
// The contenders take turns in one process, so that a busy machine slows all of them alike; the table gives the
// median time of ours, and the median and quartiles of the ratios within a turn. Each contender starts from the
// router's output (expert ids and weights [T, k]) and so pays for its own sorting.
//
//   bench_kernels_experts [turns] [threads] [wall|cpu]
//
// On a busy machine, 1 thread and `cpu` (the processor's time, which other programs' turns do not count towards)
// give steadier figures than the clock on the wall.
//
// Legend: T tokens, D model width, I expert hidden width, E experts, k choices, R = T k assignments.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "collegium/base/random.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/group.h"
#include "collegium/kernels/isa.h"

namespace {

using at::Tensor;
namespace kernels = collegium::kernels;

struct Shape {
  int64_t tokens, width, hidden, experts, k;
};

struct Problem {
  Shape is;
  Tensor x_TD, weight_Tk, expert_Tk, gate_up_EHD, down_EDI, grad_TD;
};

enum class Skew { uniform, zipf, one_hot };

// k different experts for each token, drawn by weight; one hot gives expert 0 to every token and the rest uniformly.
Tensor draw_experts(const Shape& is, Skew skew, const collegium::Random& random) {
  auto expert_Tk = at::empty({is.tokens, is.k}, at::kLong);
  auto* out = expert_Tk.mutable_data_ptr<int64_t>();
  std::vector<std::pair<double, int64_t>> key(static_cast<size_t>(is.experts));
  uint64_t draw = 0;
  for (int64_t t = 0; t < is.tokens; ++t) {
    for (int64_t e = 0; e < is.experts; ++e) {
      double weight = 1;
      if (skew == Skew::zipf) weight = 1.0 / static_cast<double>(e + 1);
      if (skew == Skew::one_hot && e == 0) weight = 1e9;
      // The k largest of log(u) / weight are a weighted sample without replacement.
      key[static_cast<size_t>(e)] = {std::log(random.uniform(draw++) + 1e-300) / weight, e};
    }
    std::partial_sort(key.begin(), key.begin() + is.k, key.end(), std::greater<>());
    for (int64_t j = 0; j < is.k; ++j) out[t * is.k + j] = key[static_cast<size_t>(j)].second;
  }
  return expert_Tk;
}

Problem make_problem(const Shape& is, Skew skew) {
  const collegium::Random random(7);
  const auto normal = [&](const char* name, at::IntArrayRef sizes, double std) {
    return random.at(name).normal(sizes, std, at::kFloat).requires_grad_();
  };
  return {is,
          normal("x", {is.tokens, is.width}, 1),
          random.at("weight").uniform({is.tokens, is.k}, 0.1, 1, at::kFloat).requires_grad_(),
          draw_experts(is, skew, random.at("experts")),
          normal("gate_up", {is.experts, 2 * is.hidden, is.width}, 1 / std::sqrt(static_cast<double>(is.width))),
          normal("down", {is.experts, is.width, is.hidden}, 1 / std::sqrt(static_cast<double>(is.hidden))),
          random.at("grad").normal({is.tokens, is.width}, 1, at::kFloat)};
}

template <class Experts>
Tensor run_grouped(const Problem& p, const Experts& experts) {
  const auto grouped = kernels::group_by_expert(p.expert_Tk.flatten(), p.is.experts);
  const auto gate_R = p.weight_Tk.flatten().index_select(0, grouped.order_R);
  const auto token_R = grouped.order_R.div(p.is.k, "floor");
  return experts(p.x_TD, gate_R, token_R, grouped.offset_E1, p.gate_up_EHD, p.down_EDI);
}

Tensor run_ours(const Problem& p) {
  return run_grouped(p, kernels::swiglu_experts);
}
Tensor run_plain(const Problem& p) {
  return run_grouped(p, kernels::plain::swiglu_experts);
}

Tensor run_transformers(const Problem& p) {
  const auto weight_R = p.weight_Tk.reshape(-1);
  const auto [expert_R, perm_R] = at::sort(p.expert_Tk.reshape(-1));
  const auto x_RD = p.x_TD.index({perm_R.div(p.is.k, "floor")});
  const auto count_E = at::histc(expert_R.to(at::kFloat), p.is.experts, 0, p.is.experts - 1);
  const auto offset_E = count_E.cumsum(0, at::kInt);
  const auto h_RH = at::_grouped_mm(x_RD, p.gate_up_EHD.transpose(-2, -1), offset_E);
  const auto halves = h_RH.chunk(2, -1);
  const auto y_RD = at::_grouped_mm(at::silu(halves[0]) * halves[1], p.down_EDI.transpose(-2, -1), offset_E);
  const auto weighted_RD = y_RD * weight_R.index({perm_R}).unsqueeze(-1);
  auto inverse_R = at::empty_like(perm_R);
  inverse_R.index_put_({perm_R}, at::arange(perm_R.size(0)));
  return weighted_RD.index({inverse_R}).view({p.is.tokens, p.is.k, p.is.width}).sum(1);
}

using Contender = Tensor (*)(const Problem&);

using Clock = double (*)();

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

double seconds_of(Contender contender, const Problem& p, bool backward, Clock clock) {
  const double begin = clock();
  if (backward) {
    const auto out = contender(p);
    torch::autograd::grad({out}, {p.x_TD, p.weight_Tk, p.gate_up_EHD, p.down_EDI}, {p.grad_TD});
  } else {
    const at::NoGradGuard no_grad;
    contender(p);
  }
  return clock() - begin;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

void print_ratio(const std::vector<double>& ratios) {
  std::printf("  %6.2f [%5.2f, %6.2f]", quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75));
}

// Ours and one other by turns; two turns to warm up. Returns our seconds and the ratios.
struct Turns {
  std::vector<double> ours, ratios;
};
Turns take_turns(const Problem& p, Contender other, bool backward, int turns, Clock clock) {
  Turns out;
  for (int turn = -2; turn < turns; ++turn) {
    const double ours = seconds_of(run_ours, p, backward, clock), theirs = seconds_of(other, p, backward, clock);
    if (turn < 0) continue;
    out.ours.push_back(ours);
    out.ratios.push_back(theirs / ours);
  }
  return out;
}

void measure(const Problem& p, const char* skew, bool backward, int turns, Clock clock) {
  const auto [ours, to_transformers] = take_turns(p, run_transformers, backward, turns, clock);
  // Apart and less often: with many experts a turn of the plain loop takes minutes and frees so much memory that
  // a virtual machine may hand it back to its host, which then slows whoever touches it next.
  const auto to_plain = take_turns(p, run_plain, backward, std::max(1, turns / 5), clock).ratios;
  const auto& is = p.is;
  const double gflop = static_cast<double>(6 * is.tokens * is.k * is.width * is.hidden) * (backward ? 3 : 1) * 1e-9;
  const double median = quantile(ours, 0.5);
  std::printf("%5ld %5ld %5ld %4ld %2ld  %-8s %-8s %9.3f %7.0f", is.tokens, is.width, is.hidden, is.experts, is.k, skew,
              backward ? "fwd+bwd" : "fwd", 1e3 * median, gflop / median);
  print_ratio(to_transformers);
  print_ratio(to_plain);
  std::printf("\n");
  std::fflush(stdout);
}

double worst_difference(const Problem& p) {
  const auto inputs = std::vector<Tensor>{p.x_TD, p.weight_Tk, p.gate_up_EHD, p.down_EDI};
  double worst = 0;
  const auto ours = run_ours(p), theirs = run_transformers(p);
  const auto compare = [&](const Tensor& a, const Tensor& b) {
    worst = std::max(worst, ((a - b).abs().max() / b.abs().max()).item<double>());
  };
  compare(ours.detach(), theirs.detach());
  const auto our_grads = torch::autograd::grad({ours}, inputs, {p.grad_TD});
  const auto their_grads = torch::autograd::grad({theirs}, inputs, {p.grad_TD});
  for (size_t i = 0; i < inputs.size(); ++i) compare(our_grads[i], their_grads[i]);
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  const int turns = argc > 1 ? std::atoi(argv[1]) : 15;
  if (argc > 2) at::set_num_threads(std::atoi(argv[2]));
  const bool is_cpu_time = argc > 3 && std::string(argv[3]) == "cpu";
  std::printf("%s; %d threads, %d turns, float, %s time\n", kernels::isa_report().c_str(), at::get_num_threads(), turns,
              is_cpu_time ? "processor" : "wall");
  std::printf("ratios: time of the other / time of ours, median [quartiles]; above 1, ours is faster\n\n");
  std::printf("%5s %5s %5s %4s %2s  %-8s %-8s %9s %7s  %-22s  %-22s\n", "T", "D", "I", "E", "k", "skew", "pass",
              "ours ms", "GFLOP/s", "grouped_mm / ours", "plain / ours");
  const std::vector<Shape> shapes = {{2048, 256, 256, 8, 2},
                                     {1024, 512, 256, 64, 8},
                                     {512, 512, 128, 256, 8},
                                     {16, 512, 256, 64, 8},
                                     {1, 512, 256, 64, 8}};
  const std::vector<std::pair<const char*, Skew>> skews = {
      {"uniform", Skew::uniform}, {"zipf", Skew::zipf}, {"one hot", Skew::one_hot}};
  double worst = 0;
  for (const auto& shape : shapes)
    for (const auto& [name, skew] : skews) {
      const auto problem = make_problem(shape, skew);
      worst = std::max(worst, worst_difference(problem));
      for (const bool backward : {false, true})
        measure(problem, name, backward, turns, is_cpu_time ? cpu_seconds : wall_seconds);
    }
  std::printf("\nlargest difference from grouped_mm, results and gradients, relative to the largest value: %.1e\n",
              worst);
}
