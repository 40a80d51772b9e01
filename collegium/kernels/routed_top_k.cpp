#include "collegium/kernels/routed_top_k.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/kernels/chosen_row.h"
#include "collegium/kernels/counting_sort.h"
#include "collegium/kernels/flops.h"
#include "collegium/kernels/router_blocks.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

void check_routed(const Tensor& x_ND, const Tensor& weight_ED, const GroupRule& rule, const Tensor& bias_E) {
  require(x_ND.dim() == 2 && weight_ED.dim() == 2 && x_ND.size(1) == weight_ED.size(1) &&
              x_ND.scalar_type() == weight_ED.scalar_type(),
          "routed_top_k: x [N, D] and weight [E, D] of one type wanted, got ", x_ND.scalar_type(), " ", x_ND.sizes(),
          " and ", weight_ED.scalar_type(), " ", weight_ED.sizes());
  check_group_rule(rule, weight_ED.size(0));
  require(!bias_E.defined() || (bias_E.dim() == 1 && bias_E.size(0) == weight_ED.size(0)), "routed_top_k: a bias of [",
          weight_ED.size(0), "] wanted, got ", bias_E.defined() ? bias_E.sizes() : at::IntArrayRef());
}

// What the first pass leaves of a token's choices, best first.
template <class C>
struct Chosen {
  int64_t expert;
  C compared, score, margin;
};

// The sum of a token's scores in ascending order of their experts, which is the order of its rows.
template <class C>
C sum_by_expert(const Chosen<C>* of, int64_t k, int64_t* order) {
  if (k <= 2) return k == 1 ? of[0].score : of[0].score + of[1].score;
  for (int64_t j = 0; j < k; ++j) {
    int64_t at = j;
    for (; at > 0 && of[order[at - 1]].expert > of[j].expert; --at) order[at] = order[at - 1];
    order[at] = j;
  }
  C sum = 0;
  for (int64_t j = 0; j < k; ++j) sum += of[order[j]].score;
  return sum;
}

template <template <class> class Row, class C>
void routed_rows(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function, const GroupRule& rule,
                 const Tensor& bias_E, const ChoiceWeight& weight, RoutedTopK& out) {
  const int64_t N = x_ND.size(0), D = x_ND.size(1), E = weight_ED.size(0), k = rule.per_token();
  const C *x = data<C>(x_ND), *w = data<C>(weight_ED), *bias = bias_E.defined() ? data<C>(bias_E) : nullptr;
  C *logit = mutable_data<C>(out.scores.logit_NE), *score = mutable_data<C>(out.scores.score_NE);
  const auto& loop = score_loops<C>();
  count_flops(2.0 * static_cast<double>(x_ND.numel()) * static_cast<double>(E));
  const int64_t chunks = std::clamp<int64_t>(N / (1 + router_grain(D, E)), 1, at::get_num_threads());
  const auto first = [&](int64_t c) { return N * c / chunks; };
  std::vector<int64_t> next(static_cast<size_t>(chunks * E));
  const Scratch<Chosen<C>> chosen(N * k);

  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    Row<C> row(rule, E);
    const Scratch<C> compared(k), margin(k);
    const Scratch<int64_t> expert(k);
    for (int64_t c = begin; c < end; ++c) {
      auto* count = next.data() + c * E;
      logits_in_blocks(x, w, D, E, first(c), first(c + 1), logit, [&](int64_t from, int64_t m) {
        if (function == ScoreFunction::sigmoid) loop.logistic(logit + from * E, m * E, score + from * E);
        for (int64_t n = from; n < from + m; ++n) {
          if (function == ScoreFunction::softmax) loop.softmax(logit + n * E, E, score + n * E);
          row.choose(score + n * E, bias, expert.get(), compared.get(), margin.get());
          auto* to = chosen.get() + n * k;
          for (int64_t j = 0; j < k; ++j) {
            const auto e = expert.get()[j];
            to[j] = {e, compared.get()[j], score[n * E + e], margin.get()[j]};
            ++count[e];
          }
        }
      });
    }
  });

  place_chunks(next.data(), chunks, E, mutable_data<int64_t>(out.rows.offset_E1));
  const auto* offset = data<int64_t>(out.rows.offset_E1);
  auto& rows = out.rows.sorted;
  auto *to_token = mutable_data<int64_t>(rows.token_R), *to_expert = mutable_data<int64_t>(rows.expert_R),
       *to_rank = mutable_data<int64_t>(rows.rank_R), *to_slot = mutable_data<int64_t>(out.rows.slot_R);
  C *to_score = mutable_data<C>(rows.score_R), *to_margin = mutable_data<C>(rows.margin_R),
    *to_gate = mutable_data<C>(out.gate_R);
  const auto scale = static_cast<C>(weight.scale), epsilon = static_cast<C>(weight.epsilon);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<int64_t> order(k);
    for (int64_t c = begin; c < end; ++c) {
      auto* place = next.data() + c * E;
      for (int64_t n = first(c); n < first(c + 1); ++n) {
        const auto* of = chosen.get() + n * k;
        const C sum = weight.is_share ? sum_by_expert(of, k, order.get()) + epsilon : C{1};
        for (int64_t j = 0; j < k; ++j) {
          const auto e = of[j].expert, to = place[e]++;
          to_token[to] = n, to_expert[to] = e, to_rank[to] = j, to_slot[to] = to - offset[e];
          to_score[to] = of[j].compared, to_margin[to] = of[j].margin;
          const C share = weight.is_share ? of[j].score / sum : of[j].score;
          to_gate[to] = weight.scale == 1 ? share : share * scale;
        }
      }
    }
  });
}

}  // namespace

bool has_routed_top_k(const Tensor& x_ND, const Tensor& weight_ED) {
  const auto type = x_ND.scalar_type();
  return has_loops(x_ND) && has_loops(weight_ED) && (type == at::kFloat || type == at::kDouble);
}

RoutedTopK routed_top_k(const Tensor& x_in, const Tensor& weight_in, ScoreFunction function, const GroupRule& rule,
                        const Tensor& bias_in, const ChoiceWeight& weight) {
  check_routed(x_in, weight_in, rule, bias_in);
  if (!has_routed_top_k(x_in, weight_in)) return plain::routed_top_k(x_in, weight_in, function, rule, bias_in, weight);
  const auto x_ND = x_in.detach().contiguous(), weight_ED = weight_in.detach().contiguous();
  const auto bias_E = bias_in.defined() ? bias_in.detach().to(x_ND).contiguous() : Tensor();
  const int64_t N = x_ND.size(0), E = weight_ED.size(0), R = N * rule.per_token();
  const auto real = x_ND.options();
  const auto ints = [&] { return fresh({R}, at::kLong); };
  RoutedTopK out{{fresh({N, E}, real), fresh({N, E}, real)},
                 {{ints(), ints(), ints(), fresh({R}, real), fresh({R}, real)}, ints(), fresh({E + 1}, at::kLong)},
                 fresh({R}, real)};
  const auto run = [&]<class C>(std::type_identity<C>) {
    return rule.groups == 1 ? routed_rows<TopRow, C>(x_ND, weight_ED, function, rule, bias_E, weight, out)
                            : routed_rows<GroupedRow, C>(x_ND, weight_ED, function, rule, bias_E, weight, out);
  };
  x_ND.scalar_type() == at::kFloat ? run(std::type_identity<float>{}) : run(std::type_identity<double>{});
  return out;
}

namespace plain {

RoutedTopK routed_top_k(const Tensor& x_ND, const Tensor& weight_ED, ScoreFunction function, const GroupRule& rule,
                        const Tensor& bias_E, const ChoiceWeight& weight) {
  check_routed(x_ND, weight_ED, rule, bias_E);
  const at::NoGradGuard no_grad;
  const int64_t N = x_ND.size(0), E = weight_ED.size(0), k = rule.per_token();
  const auto scores = plain::router_scores(x_ND, weight_ED, function);
  const auto best = plain::grouped_top_k(scores.score_NE, rule, bias_E);
  const auto ints = best.expert_NK.options();
  const auto flat = [&](const Tensor& t_NK) { return t_NK.expand({N, k}).reshape({-1}); };
  RoutedTopK out{scores,
                 plain::sort_assignments({flat(at::arange(N, ints).unsqueeze(1)), flat(best.expert_NK),
                                          flat(at::arange(k, ints)), flat(best.score_NK), flat(best.margin_NK)},
                                         N, E),
                 {}};
  const auto& rows = out.rows.sorted;
  out.gate_R = scores.score_NE.reshape({-1}).index_select(0, rows.token_R * E + rows.expert_R);
  if (weight.is_share) {
    const auto sum_N = at::zeros({N}, out.gate_R.options()).index_add(0, rows.token_R, out.gate_R);
    out.gate_R = out.gate_R / (sum_N.index_select(0, rows.token_R) + weight.epsilon);
  }
  if (weight.scale != 1) out.gate_R = out.gate_R * weight.scale;
  return out;
}

}  // namespace plain
}  // namespace collegium::kernels
