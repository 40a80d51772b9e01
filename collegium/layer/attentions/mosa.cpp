// MoSA: attention heads that choose their own tokens. Beside a few dense heads, each of many sparse heads scores all
// tokens with a router of its own, takes the k best, and works for these alone: only they are projected, and they
// attend to each other, in the order of the text and with rotary positions of the places they have in it. What a head
// gives a token counts by the token's score, which is how the router learns:
//
//   r = sigmoid(x w_r),   I = the k tokens that the head takes
//   y[I] += r[I] * (softmax(Q_I K_I^T / sqrt(d), causal) V_I) W_o
//
// P026 (Piekos 2025), section 2; authors' code (mosa/MoSA.py): k = T / sparsity, at least 2, and the best of the whole
// sequence (expert choice) in training as in evaluation. That selection is not causal: whether a head works for token t
// depends on later tokens' scores, so held-out loss with it is flattered, and a decoder cannot repeat it. `evaluation`
// says what held-out loss and generation use, and is `so_far` unless told otherwise: a token is taken when it is among
// the k(n) best of the n tokens up to it while fewer than k(n) were taken, k(n) as above; decided once, so keys and
// values of the tokens that were not taken are never kept. `training = "so_far"` trains with the same rule.
//
// Different from the code: rotary positions turn all of a head's width (it turns half), as in our dense heads. Its
// option to give every head the first token is not here; with `so_far` the first tokens are always taken.
//
// Cost of a sparse head: T D for its router, 4 k D d for projections, k^2 d for attention. Nothing has size T x T.
//
// B sequences, T tokens each, N = B T, D model width, E sparse heads, d head width, K tokens a head, R = E B K, P
// tokens before (generation), S of them kept.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/layer/attend.h"
#include "collegium/layer/choose_tokens.h"

namespace collegium::layer {
namespace {

// What is kept of a layer for generation, behind the dense heads' two tensors.
enum Kept : size_t { kept_key = 2, kept_value, kept_count, kept_score, kept_all };

class MosaAttention final : public Attention, public Makes<MosaAttention, Attention> {
 public:
  using Interface = Attention;
  struct Config {
    int64_t n_sparse = 16, n_dense = 2, n_dense_kv = 0, d_head = 0;
    double sparsity = 16;
    TokenChoice training = TokenChoice::sequence, evaluation = TokenChoice::so_far;
    void visit(Fields& field) {
      field("n_sparse", n_sparse, {.help = "heads that choose their tokens", .unit = "heads", .min = 1});
      field("n_dense", n_dense, {.help = "heads that read every token, besides", .unit = "heads", .min = 0});
      field("n_dense_kv", n_dense_kv,
            {.help = "key-value heads of the dense ones; 0 = as many", .unit = "heads", .min = 0});
      field("d_head", d_head, {.help = "width of a head; 0 = d_model / n_heads", .min = 0});
      field("sparsity", sparsity, {.help = "a sparse head takes one token in so many, at least two", .min = 1});
      field("training", training,
            {.help = "whom a token is compared with in training: expert choice, or tokens before"});
      field("evaluation", evaluation,
            {.help = "the same for held-out loss and generation; sequence looks at later tokens"});
    }
  };

  MosaAttention(const Config& config, const Inputs& in)
      : config_(config),
        d_(config.d_head > 0 ? config.d_head : in.d_model / in.n_heads),
        quota_{.sparsity = config.sparsity, .least = 2} {
    require(d_ % 2 == 0, "mosa: the head width ", d_, " must be even for rotary positions");
    const auto H = config.n_dense, G = config.n_dense_kv > 0 ? config.n_dense_kv : H;
    require(H == 0 || H % G == 0, "mosa: n_dense = ", H, " is not a multiple of n_dense_kv = ", G);
    if (H > 0) dense_.emplace(H, G, d_, in);
    const auto E = config.n_sparse, D = in.d_model;
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes, double std) {
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    router_ED_ = normal("token_router", {E, D}, in.init_std);
    qkv_EXD_ = normal("sparse_qkv", {E, 3 * d_, D}, in.init_std);
    out_EDd_ = normal("sparse_out", {E, D, d_}, in.branch_std);
  }

  AttentionOutput forward(const Tensor& x_ND, const route::Context& routing, const AttentionContext& here) override {
    AttentionOutput out;
    out.y_ND = sparse(x_ND, routing, here);
    if (dense_) out.y_ND = dense_->forward(x_ND, here, out.attention_BTT) + out.y_ND;
    return out;
  }

  AttentionFacts facts(int64_t context_length, at::ScalarType dtype) const override {
    AttentionFacts f = dense_ ? dense_->facts(context_length, dtype) : AttentionFacts{};
    const auto T = static_cast<double>(context_length), K = static_cast<double>(quota_.of(context_length));
    const auto D = static_cast<double>(router_ED_.size(1)), E = static_cast<double>(config_.n_sparse);
    const auto d = static_cast<double>(d_), heads_working = E * K / T;
    f.d_head = d_;
    f.parameters_active += E * D + heads_working * 4 * d * D;
    f.flops_per_token += 2 * E * D + heads_working * (8 * d * D + 2 * d * K);
    const auto score_bytes = dtype == at::kDouble ? 8.0 : 4.0;
    f.cache_bytes_per_token +=
        heads_working * 2 * d * static_cast<double>(c10::elementSize(dtype)) + E * (score_bytes + 8 / T);
    f.activations_per_token += 3 * E + heads_working * (2 * D + 6 * d);
    f.is_causal = config_.evaluation == TokenChoice::so_far;
    f.reads_other_tokens = !f.is_causal;
    f.gives_probabilities = dense_.has_value();  // those of the dense heads: no other head looks at every token
    return f;
  }

  void collect(ParameterList& list) override {
    if (dense_) dense_->collect(list);
    list.parameter("token_router", router_ED_, ParameterKind::embedding);
    list.parameter("sparse_qkv", qkv_EXD_);
    list.parameter("sparse_out", out_EDd_);
  }

 private:
  Tensor sparse(const Tensor& x_ND, const route::Context& routing, const AttentionContext& here) const {
    const auto E = config_.n_sparse, B = here.B, T = here.T, N = B * T;
    const auto type = route::router_dtype(x_ND);
    const auto score_NE = at::sigmoid(kernels::linear(x_ND.to(type), router_ED_.to(type)));
    const auto score_EBT = score_NE.t().reshape({E, B, T});
    const auto taken = places_of(choose(score_EBT, routing, here));
    const auto K = taken.index_EBK.size(2);
    remember_scores(score_EBT, taken, here);
    if (K == 0) return at::zeros_like(x_ND);

    const auto longs = taken.index_EBK.options();
    const auto token_R = (taken.index_EBK + at::arange(0, N, T, longs).unsqueeze(1)).reshape({-1});
    const auto offset_E1 = at::arange(E + 1, at::TensorOptions().dtype(at::kLong)) * (B * K);
    const auto dtype = x_ND.scalar_type();
    const auto qkv_RX = kernels::grouped_linear(kernels::gather_rows(x_ND, token_R), qkv_EXD_.to(dtype), offset_E1);
    const auto qkv = qkv_RX.view({1, E * B * K, 3, d_});
    const auto turned = kernels::rotate(qkv.slice(2, 0, 2), here.rotation.of(token_R));
    const auto by_head = [&](const Tensor& t_1Rd) { return t_1Rd.reshape({E * B, 1, K, d_}); };
    const auto mixed = attend_taken(by_head(turned.select(2, 0)), by_head(turned.select(2, 1)),
                                    by_head(qkv.select(2, 2)), taken, here);
    const auto y_RD = kernels::grouped_linear(mixed.reshape({E * B * K, d_}), out_EDd_.to(dtype), offset_E1);
    const auto gate_R = (score_EBT.gather(2, taken.index_EBK) * taken.live_EBK).reshape({-1});
    return kernels::combine(y_RD, gate_R, token_R, N);
  }

  Tensor choose(const Tensor& score_EBT, const route::Context& routing, const AttentionContext& here) const {
    const auto choice = route::trains(routing) ? config_.training : config_.evaluation;
    const auto mask_BT = routing.mask_N.defined() ? routing.mask_N.reshape({here.B, here.T}) : Tensor();
    if (!here.cache) return choose_tokens(choice, score_EBT, mask_BT, quota_);
    require(choice == TokenChoice::so_far, "mosa: a cache needs a causal choice of tokens (so_far)");
    if (here.past == 0) return choose_tokens(choice, score_EBT, {}, quota_);
    return choose_more(score_EBT, here.cache->tensors[kept_score], here.cache->tensors[kept_count], quota_);
  }

  // [E B, 1, K, d]: tokens in the order of the text, free places at the end, so that a causal pass sees none of them.
  Tensor attend_taken(const Tensor& query, const Tensor& key, const Tensor& value, const TakenTokens& taken,
                      const AttentionContext& here) const {
    if (!here.cache) return at::scaled_dot_product_attention(query, key, value, {}, 0.0, /*is_causal=*/true);
    const auto K = query.size(2);
    auto& kept = here.cache->tensors;
    const auto bools = query.options().dtype(at::kBool);
    auto all_key = key, all_value = value, live = taken.live_EBK.reshape({-1, K});
    std::optional<Tensor> mask;
    if (here.past > 0) {
      const auto S = kept[kept_key].size(2);
      const auto count = kept[kept_count].reshape({-1, 1}) - taken.count_EB.reshape({-1, 1});  // before this chunk
      const auto live_before = at::arange(S, count.options()).lt(count);
      all_key = at::cat({kept[kept_key], key}, 2), all_value = at::cat({kept[kept_value], value}, 2);
      // A free place sees itself, so that no row is empty.
      const auto causal = at::ones({K, K}, bools).tril();
      mask =
          at::cat({live_before.unsqueeze(1).expand({-1, K, S}), causal.expand({live.size(0), K, K})}, 2).unsqueeze(1);
      live = at::cat({live_before, live}, 1);
    }
    const auto mixed = at::scaled_dot_product_attention(query, all_key, all_value, mask, 0.0, /*is_causal=*/!mask);
    // Free places between the tokens go, so that a head's cache is as long as the largest count.
    const auto most = kept[kept_count].max().item<int64_t>();
    const auto order = live.logical_not().to(at::kByte).argsort(/*stable=*/true, 1).slice(1, 0, most);
    const auto index = order.view({-1, 1, most, 1}).expand({-1, 1, most, d_});
    kept[kept_key] = all_key.gather(2, index), kept[kept_value] = all_value.gather(2, index);
    return mixed;
  }

  void remember_scores(const Tensor& score_EBT, const TakenTokens& taken, const AttentionContext& here) const {
    if (!here.cache) return;
    auto& kept = here.cache->tensors;
    kept.resize(kept_all);
    const auto score = score_EBT.detach();
    kept[kept_score] = here.past > 0 ? at::cat({kept[kept_score], score}, 2) : score;
    kept[kept_count] = here.past > 0 ? kept[kept_count] + taken.count_EB : taken.count_EB;
  }

  Config config_;
  int64_t d_;
  TokenQuota quota_;
  std::optional<DenseHeads> dense_;
  Tensor router_ED_, qkv_EXD_, out_EDd_;
};

}  // namespace

extern constinit const Entry<Attention> attention_mosa = entry<MosaAttention>(
    {.name = "mosa",
     .paper = 26,
     .source = "Piekos 2025 (MoSA), section 2; authors' code, mosa/MoSA.py",
     .taxonomy = "architecture/attention/sparse",
     .summary = "many heads that each choose the few tokens they work for, beside dense ones",
     .equation =
         "y[I] += r[I] ⊙ softmax(Q_I K_Iᵀ / √d, causal) V_I O for each sparse head,  r = sigmoid(⟨w, x⟩)\n"
         "I = the max(2, ⌊T / sparsity⌋) tokens of largest r, of the sequence or so far;  dense heads besides"});

}  // namespace collegium::layer
