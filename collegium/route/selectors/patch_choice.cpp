// Each expert takes its l best tokens of every sequence: its l best patches of every image (P089). Loads are equal by
// construction, image by image; a patch may be taken by any number of experts, none included, and then takes no part in
// what follows. A sequence with fewer than l real tokens gives all of them. Ties go to the earlier token.
//
// N tokens, B sequences of at most T tokens, E experts, M real tokens, K = min(l, T) tokens an expert takes.
#include <ATen/ATen.h>

#include <limits>

#include "collegium/kernels/top_k.h"
#include "collegium/route/stages.h"
#include "collegium/route/turning.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kPatchChoiceClaims = {
    .chooser = Chooser::expert, .is_exactly_balanced = true, .is_causal = false};

class PatchChoiceSelector final : public Selector, public Makes<PatchChoiceSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    int64_t l = 4;
    void visit(Fields& field) {
      field("l", l, {.help = "patches that each expert takes of each image", .unit = "patches", .min = 1});
    }
  };

  PatchChoiceSelector(const Config& config, const StageInputs& in)
      : l_(config.l), n_experts_(in.n_experts), length_(in.corpus.sequence_length) {
    require(length_ == 0 || l_ <= length_, "patch_choice: l = ", l_, " is more than the ", length_,
            " patches of an image");
  }

  // A bias per expert could not change which patches an expert likes best, so none is read.
  Assignments select(const Scores& scores, const Tensor&, const Context& context) override {
    const auto compared_NE = scores.score_NE.detach();
    const auto N = compared_NE.size(0), E = compared_NE.size(1);
    const auto ints = compared_NE.options().dtype(at::kLong);
    const auto real_M = context.mask_N.defined() ? context.mask_N.nonzero().flatten() : at::arange(N, ints);
    const auto M = real_M.size(0);
    if (M == 0) {
      const auto none = at::empty({0}, ints), no_score = at::empty({0}, compared_NE.options());
      return {none, none, none, no_score, no_score};
    }
    const auto [B, T, place_M] = places(real_M, context);
    const auto K = std::min(l_, T);
    const auto token_X = at::full({B * T}, -1, ints).index_put({place_M}, real_M);
    const auto chosen = kernels::top_k(rows(compared_NE, real_M, {B, T, place_M}), K);
    const auto row_Y1 = at::arange(B * E, ints).unsqueeze(1);
    const auto first_Y1 = row_Y1.floor_divide(E) * T;
    const auto token_A = token_X.index_select(0, (first_Y1 + chosen.expert_NK).flatten());
    const auto expert_A = row_Y1.remainder(E).expand({B * E, K}).reshape({-1});
    const auto rank_A = at::arange(K, ints).unsqueeze(0).expand({B * E, K}).reshape({-1});
    const auto score_A = chosen.score_NK.flatten();
    const auto margin_A = (chosen.score_NK - chosen.runner_up_N.unsqueeze(1)).flatten();
    const auto kept = token_A.ge(0).nonzero().flatten();
    const auto only = [&](const Tensor& t_A) { return t_A.index_select(0, kept); };
    return {only(token_A), only(expert_A), only(rank_A), only(score_A), only(margin_A)};
  }
  Reasons reasons(const Scores& scores, const Tensor&, const Context& context) override {
    const auto compared_NE = scores.score_NE.detach();
    const auto N = compared_NE.size(0), E = compared_NE.size(1);
    const auto ints = compared_NE.options().dtype(at::kLong);
    const auto real_M = context.mask_N.defined() ? context.mask_N.nonzero().flatten() : at::arange(N, ints);
    Reasons out{.compared_NE = compared_NE,
                .rule = text("experts choose: each takes its ", best_of(l_, "token"), " of the sequence")};
    out.turns_at_NE = at::full_like(compared_NE, std::numeric_limits<double>::infinity());
    if (real_M.size(0) == 0) return out;
    const auto where = places(real_M, context);
    const auto turns_XE = kth_of_others(rows(compared_NE, real_M, where), l_)
                              .view({where.B, E, where.T})
                              .transpose(1, 2)
                              .reshape({where.B * where.T, E});
    out.turns_at_NE.index_copy_(0, real_M, turns_XE.index_select(0, where.place_M));
    return out;
  }
  // Not ReLU: its zeros tie, and an expert would take patches it does not want in the order of their position.
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid}}; }
  Claims claims() const override { return kPatchChoiceClaims; }
  // Where the length of a sequence is not known, as if it were twice l: for the plan only.
  double choices_per_token() const override {
    const auto length = length_ > 0 ? length_ : 2 * l_;
    return static_cast<double>(n_experts_ * l_) / static_cast<double>(length);
  }

 private:
  // Sequences are rows of T places: where each real token sits.
  struct Places {
    int64_t B, T;
    Tensor place_M;
  };
  static Places places(const Tensor& real_M, const Context& context) {
    const auto M = real_M.size(0);
    const auto sequence_M =
        context.sequence_N.defined() ? context.sequence_N.index_select(0, real_M) : at::zeros_like(real_M);
    const auto B = context.sequence_N.defined() ? context.n_sequences : 1;
    const auto length_B = at::zeros({B}, real_M.options()).index_add(0, sequence_M, at::ones_like(real_M));
    const auto T = length_B.max().item<int64_t>();
    const auto start_B = length_B.cumsum(0) - length_B;
    return {B, T, sequence_M * T + at::arange(M, real_M.options()) - start_B.index_select(0, sequence_M)};
  }
  // What each expert sees of each sequence; places that a short one leaves empty score -inf. [B E, T]
  static Tensor rows(const Tensor& compared_NE, const Tensor& real_M, const Places& where) {
    const auto E = compared_NE.size(1);
    return at::full({where.B * where.T, E}, -std::numeric_limits<double>::infinity(), compared_NE.options())
        .index_put({where.place_M}, compared_NE.index_select(0, real_M))
        .view({where.B, where.T, E})
        .transpose(1, 2)
        .reshape({where.B * E, where.T});
  }

  int64_t l_, n_experts_, length_;
};

}  // namespace

extern constinit const Entry<Selector> selector_patch_choice =
    entry<PatchChoiceSelector>({.name = "patch_choice",
                                .paper = 89,
                                .source = "Chowdhury 2023 (pMoE): l patches to each expert by priority",
                                .taxonomy = "gating/sparse/expert choice",
                                .summary = "each expert takes its l best patches of every image",
                                .equation = "T_e = the l tokens of largest s_te, of each sequence",
                                .claims = kPatchChoiceClaims});

}  // namespace collegium::route
