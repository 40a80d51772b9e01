// Mixture of attention heads: heads are experts. A router chooses k of E heads for each token; a head has a query and
// an output projection of its own, keys and values are projected once and shared by all, so the cache is that of a
// single head and every head can read every token, whoever chose it:
//
//   y_t = sum over the heads i of token t:  gate_i,t * W_o,i softmax(W_q,i x_t (x W_k)^T / sqrt(d)) (x W_v)
//
// Zhang 2022 (MoA), section 3: router and attention experts with shared keys and values. Assumed: rotary positions, and
// whatever gates and losses our routers have; the paper's gates are the probabilities of the chosen heads over their
// sum, whose gradient it stops, with the balance loss of Switch and a z loss.
//
// B sequences, T tokens each, N = B T, D model width, E heads to choose from, d head width, R choices sorted by head,
// M most heads of one token, S = past + T.
#include <ATen/ATen.h>

#include "collegium/kernels/experts.h"
#include "collegium/layer/attend.h"
#include "collegium/layer/show_choice.h"

namespace collegium::layer {
namespace {

// Number of earlier rows of the same token, for rows in any order. [R]
Tensor place_of(const Tensor& token_R, const Tensor& count_N) {
  const auto order_R = token_R.argsort(/*stable=*/true, 0);
  const auto sorted_R = token_R.index_select(0, order_R);
  const auto first_N = count_N.cumsum(0) - count_N;
  const auto place_R = at::arange(token_R.size(0), token_R.options()) - first_N.index_select(0, sorted_R);
  return at::empty_like(token_R).scatter(0, order_R, place_R);
}

class MoaAttention final : public Attention, public Makes<MoaAttention, Attention> {
 public:
  using Interface = Attention;
  struct Config {
    int64_t n_experts = 8, d_head = 0;
    Named router{.name = "top_k"};
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "heads to choose from", .unit = "heads", .min = 1});
      field("d_head", d_head, {.help = "width of a head; 0 = d_model / n_heads", .min = 0});
      field("router", router, {.help = "who chooses a token's heads", .catalogue = "routers"});
    }
  };

  MoaAttention(const Config& config, const Inputs& in)
      : E_(config.n_experts), d_(config.d_head > 0 ? config.d_head : in.d_model / in.n_heads) {
    require(d_ % 2 == 0, "moa: the head width ", d_, " must be even for rotary positions");
    router_ = make_head_router("moa", config.router, E_, in.random.at("head_router"), in);
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes, double std) {
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    query_EdD_ = normal("head_query", {E_, d_, in.d_model}, in.init_std);
    key_value_XD_ = normal("key_value", {2 * d_, in.d_model}, in.init_std);
    out_EDd_ = normal("head_out", {E_, in.d_model, d_}, in.branch_std);
  }

  AttentionOutput forward(const Tensor& x_ND, const route::Context& context, const AttentionContext& here) override {
    AttentionOutput out;
    const auto B = here.B, T = here.T, N = B * T;
    const auto dtype = x_ND.scalar_type();
    const auto both = kernels::linear(x_ND, key_value_XD_.to(dtype)).view({B, T, 2, d_});
    auto key_B1Sd = kernels::rotate(both.slice(2, 0, 1), here.rotation).transpose(1, 2);
    auto value_B1Sd = both.slice(2, 1, 2).transpose(1, 2);
    extend(key_B1Sd, value_B1Sd, here);

    auto routing = router_->route(x_ND, context);
    const auto& d = routing.decision;
    const auto& token_R = d.token_R();
    if (d.n_kept() == 0) {
      out.y_ND = at::zeros_like(x_ND);
    } else {
      const auto query_RX =
          kernels::grouped_linear(kernels::gather_rows(x_ND, token_R), query_EdD_.to(dtype), d.offset_E1());
      const auto turned_Rd = kernels::rotate(query_RX.view({1, -1, 1, d_}), here.rotation.of(token_R)).view({-1, d_});
      const auto count_N = at::bincount(token_R, {}, N);
      const auto M = count_N.max().item<int64_t>();
      const auto place_R = place_of(token_R, count_N);
      // A token's heads side by side; tokens with fewer leave places free, which nobody reads.
      const auto row_R = token_R * M + place_R;
      const auto query_BMTd = at::zeros({N * M, d_}, query_RX.options())
                                  .index_copy(0, row_R, turned_Rd)
                                  .view({B, T, M, d_})
                                  .transpose(1, 2);
      Tensor nobody;
      const auto mixed_NX = attend(query_BMTd, key_B1Sd, value_B1Sd, here, nobody);
      const auto mixed_Rd = mixed_NX.reshape({N * M, d_}).index_select(0, row_R);
      const auto y_RD = kernels::grouped_linear(mixed_Rd, out_EDd_.to(dtype), d.offset_E1());
      out.y_ND = kernels::combine(y_RD, d.gate_R(), token_R, N);
    }
    out.losses = std::move(routing.losses);
    show_choice(out, routing, context);
    return out;
  }

  void step() override { router_->step(); }

  AttentionFacts facts(int64_t context_length, at::ScalarType dtype) const override {
    const auto r = router_->facts();
    const auto D = static_cast<double>(key_value_XD_.size(1)), d = static_cast<double>(d_);
    const auto projections = 2 * d * D + r.choices_per_token * 2 * d * D;
    return {.d_head = d_,
            .n_experts = E_,
            .parameters_active = projections + r.flops_per_token / 2,
            .flops_per_token = 2 * projections + r.flops_per_token +
                               (r.flops_per_pair + r.choices_per_token * 2 * d) * static_cast<double>(context_length),
            .cache_bytes_per_token = 2 * d * static_cast<double>(c10::elementSize(dtype)),
            .activations_per_token = 3 * static_cast<double>(E_) + 4 * d + r.choices_per_token * (2 * D + 5 * d),
            .is_causal = r.is_causal,
            .reads_other_tokens = r.reads_other_tokens,
            .gives_probabilities = false,  // tokens have different heads, and some may have none
            .needs = r.needs,
            .n_null = r.n_null,
            .fixed_choices = r.fixed_choices};
  }
  route::Router* router() override { return router_.get(); }

  void collect(ParameterList& list) override {
    list.child("head_router", *router_);
    list.parameter("head_query", query_EdD_);
    list.parameter("key_value", key_value_XD_);
    list.parameter("head_out", out_EDd_);
  }

 private:
  int64_t E_, d_;
  std::unique_ptr<route::Router> router_;
  Tensor query_EdD_, key_value_XD_, out_EDd_;
};

}  // namespace

extern constinit const Entry<Attention> attention_moa =
    entry<MoaAttention>({.name = "moa",
                         .source = "Zhang 2022 (mixture of attention heads), section 3",
                         .taxonomy = "architecture/attention/sparse",
                         .summary = "a router chooses each token's heads; all heads share keys and values",
                         .equation = "y_t = Σ_{h ∈ T_t} g_th O_h Σ_{u ≤ t} softmax_u(⟨Q_h x_t, K x_u⟩ / √d) V x_u\n"
                                     "T and g by the router over heads;  Q_h x and K x turned by their positions"});

}  // namespace collegium::layer
