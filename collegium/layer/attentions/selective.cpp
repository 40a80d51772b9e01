// Selective multi-head attention: the heads are experts of one attention block cut as tensor parallelism cuts it, a
// router sends each token to some of them, and a head reads and answers its own tokens only. With all heads on for
// every token, the sum of the heads is the block. P074 (Yang 2025, Union of Experts), SMHA; authors' code,
// language_modeling/model/attention/SMHA_v2.py.
//
// Among its tokens a head attends causally: a token sees the earlier ones that chose the same head, at their places in
// the whole sequence (rotary positions; the authors' code adds none). As in their code a token that no head takes
// passes by on the residual path. Assumed: as many key-value heads as heads; weights and data selection of the router
// `union`, see there (the authors add outputs unweighed and let each head keep 60% of a sequence, which looks ahead).
// Heads keep different tokens, and no cache of them is made: sequences are read whole.
//
// B sequences, T tokens each, N = B T, D model width, H heads, d head width, R assignments sorted by head, G = B H
// groups of tokens that attend among themselves, W wings of groups of about equal size, C tokens of the largest group
// of a wing, S seats of a wing.
#include <ATen/ATen.h>

#include <algorithm>

#include "collegium/kernels/experts.h"
#include "collegium/layer/attend.h"
#include "collegium/layer/show_choice.h"

namespace collegium::layer {
namespace {

class SelectiveAttention final : public Attention, public Makes<SelectiveAttention, Attention> {
 public:
  using Interface = Attention;
  struct Config {
    Named router{.name = "union"};
    void visit(Fields& field) {
      field("router", router, {.help = "who chooses a token's heads", .catalogue = "routers"});
    }
  };

  SelectiveAttention(const Config& config, const Inputs& in)
      : D_(in.d_model), H_(in.n_heads), d_(in.d_model / in.n_heads) {
    require(in.n_kv_heads == H_,
            "selective: a head that chooses its tokens has its own keys and values, but n_kv_heads = ", in.n_kv_heads,
            " is not n_heads = ", H_);
    router_ = make_head_router("selective", config.router, H_, in.random.at("router"), in);
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes, double std) {
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    qkv_HXD_ = normal("qkv", {H_, 3 * d_, D_}, in.init_std);
    out_HDd_ = normal("out", {H_, D_, d_}, in.branch_std);
  }

  AttentionOutput forward(const Tensor& x_ND, const route::Context& routing, const AttentionContext& here) override {
    const auto dtype = x_ND.scalar_type();
    auto routed = router_->route(x_ND, routing);
    const auto& decision = routed.decision;
    const auto& token_R = decision.token_R();
    const auto& offset_H1 = decision.offset_E1();

    const auto qkv_RX = kernels::grouped_linear(kernels::gather_rows(x_ND, token_R), qkv_HXD_.to(dtype), offset_H1);
    // Rotary positions are those of the whole sequence.
    const auto turned = [&](const Tensor& t_Rd) {
      return kernels::rotate(t_Rd.view({1, -1, 1, d_}), here.rotation.of(token_R)).view({-1, d_});
    };
    const auto seats = seats_of(decision, here);
    Tensor attended_Rd;
    if (token_R.size(0) > 0) {
      const auto seated = [&](const Tensor& t_Rd) {
        return at::zeros({seats.n, d_}, t_Rd.options().requires_grad(false))
            .index_copy(0, seats.seat_R, t_Rd)
            .split_with_sizes(seats.size_W);
      };
      const auto query = seated(turned(qkv_RX.slice(1, 0, d_))), key = seated(turned(qkv_RX.slice(1, d_, 2 * d_))),
                 value = seated(qkv_RX.slice(1, 2 * d_));
      std::vector<Tensor> attended;
      for (size_t w = 0; w < query.size(); ++w) {
        // Tokens of a group sit in order from its first seat on, so no key is empty where a real query looks.
        const auto by_group = [&](const Tensor& t_Sd) { return t_Sd.view({-1, 1, seats.C_W[w], d_}); };
        attended.push_back(at::scaled_dot_product_attention(by_group(query[w]), by_group(key[w]), by_group(value[w]),
                                                            std::nullopt, 0.0, /*is_causal=*/true)
                               .reshape({-1, d_}));
      }
      attended_Rd = at::cat(attended).index_select(0, seats.seat_R);
    } else {
      attended_Rd = qkv_RX.slice(1, 2 * d_);
    }
    const auto y_RD = kernels::grouped_linear(attended_Rd.contiguous(), out_HDd_.to(dtype), offset_H1);

    AttentionOutput out{.y_ND = kernels::combine(y_RD, decision.gate_R(), token_R, x_ND.size(0)),
                        .losses = std::move(routed.losses)};
    show_choice(out, routed, routing);
    return out;
  }
  void step() override { router_->step(); }
  AttentionFacts facts(int64_t context_length, at::ScalarType dtype) const override {
    const auto router = router_->facts();
    const auto d = static_cast<double>(d_), D = static_cast<double>(D_), H = static_cast<double>(H_);
    const auto k = router.choices_per_token;
    return {.d_head = d_,
            .n_experts = H_,
            .parameters_active = 4 * k * d * D + router.flops_per_token / 2,
            // A head has k / H of the context, of which a token looks at half: scores and mixing.
            .flops_per_token = 8 * k * d * D + router.flops_per_token +
                               (router.flops_per_pair + 2 * k * d * k / H) * static_cast<double>(context_length),
            .cache_bytes_per_token = 2 * k * d * static_cast<double>(c10::elementSize(dtype)),
            .activations_per_token = 6 * k * d,
            .is_causal = router.is_causal,
            .reads_other_tokens = true,
            .gives_probabilities = false,
            .needs = router.needs,
            .n_null = router.n_null,
            .fixed_choices = router.fixed_choices};
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("head_router", *router_);
    list.parameter("qkv", qkv_HXD_);
    list.parameter("out", out_HDd_);
  }

 private:
  struct Seats {
    Tensor seat_R;                     // row of each assignment among all seats
    std::vector<int64_t> size_W, C_W;  // of each wing: seats, and how many of them a group has
    int64_t n = 0;
  };

  // Each assignment's place among those of its sequence and head, in order of position. Groups of about equal size sit
  // together in wings, whose groups have as many seats as the largest of them needs: seats that stay free cost work.
  Seats seats_of(const route::Decision& decision, const AttentionContext& here) const {
    const auto token_R = decision.token_R(), head_R = decision.expert_R();
    Seats out{.seat_R = token_R};
    if (token_R.size(0) == 0) return out;
    const auto group_R = token_R.floor_divide(here.T) * H_ + head_R;
    const auto order_R = (group_R * here.T + token_R.remainder(here.T)).argsort();
    const auto sorted_R = group_R.index_select(0, order_R);
    const auto count_G = at::bincount(sorted_R, {}, here.B * H_);
    const auto start_G = count_G.cumsum(0) - count_G;
    const auto place_R = at::arange(token_R.size(0), token_R.options()) - start_G.index_select(0, sorted_R);

    const auto count = count_G.to(at::kCPU);
    const auto largest_G = count.argsort(/*stable=*/true, 0, /*descending=*/true);
    const auto G = count.size(0), wing = (G + kWings - 1) / kWings;
    auto first_G = at::empty({G}, at::kLong);  // first seat of each group
    const auto* tokens = count.const_data_ptr<int64_t>();
    const auto* group = largest_G.const_data_ptr<int64_t>();
    auto* first = first_G.mutable_data_ptr<int64_t>();
    for (int64_t from = 0; from < G && tokens[group[from]] > 0; from += wing) {
      const auto to = std::min(G, from + wing), C = tokens[group[from]];
      for (auto i = from; i < to; ++i) first[group[i]] = out.n + (i - from) * C;
      out.size_W.push_back((to - from) * C), out.C_W.push_back(C);
      out.n += (to - from) * C;
    }
    const auto seat_R = first_G.to(token_R.device()).index_select(0, sorted_R) + place_R;
    out.seat_R = at::empty_like(token_R).index_copy_(0, order_R, seat_R);
    return out;
  }

  static constexpr int64_t kWings = 8;

  int64_t D_, H_, d_;
  std::unique_ptr<route::Router> router_;
  Tensor qkv_HXD_, out_HDd_;
};

}  // namespace

extern constinit const Entry<Attention> attention_selective = entry<SelectiveAttention>(
    {.name = "selective",
     .paper = 74,
     .source = "Yang 2025 (Union of Experts), SMHA; authors' code, SMHA_v2.py",
     .taxonomy = "architecture/attention/decomposed block",
     .summary = "heads are experts: each token chooses some, each head reads its own tokens",
     .equation = "y_t = Σ_{h ∈ T_t} g_th O_h Σ_{u ≤ t, h ∈ T_u} softmax_u(⟨q_th, k_uh⟩ / √d) v_uh\n"
                 "T and g by the router over heads;  q and k turned by their positions"});

}  // namespace collegium::layer
