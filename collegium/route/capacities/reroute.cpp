// What finds no slot goes to the token's next-best expert that still has one ("no token left behind"); dropped only
// when no expert has room. P106 (Switch Transformer), appendix B.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "collegium/kernels/group.h"
#include "collegium/route/room_limit.h"

namespace collegium::route {
namespace {

constexpr Capacity::Claims kRerouteClaims = {.may_drop = true, .is_causal = false};

class RerouteCapacity final : public Capacity, public Makes<RerouteCapacity, Capacity> {
 public:
  using Interface = Capacity;
  struct Config {
    double factor = 1.25;
    int64_t minimum = 1;
    Priority priority = Priority::position;
    void visit(Fields& field) {
      field("factor", factor,
            {.help = "slots per expert = factor * assignments asked / experts, rounded up", .min = 0});
      field("minimum", minimum, {.help = "slots that an expert always has", .unit = "tokens", .min = 0});
      field("priority", priority, {.help = "who gets the slots of the wanted expert when there are too few"});
    }
  };

  RerouteCapacity(const Config& config, const StageInputs&) : config_(config) {}

  Decision apply(const Decision& decision, const Scores& scores, const Context&) override {
    if (decision.n_kept() == 0) return decision;
    const auto slots = slots_per_expert(config_.factor, 0, config_.minimum, decision.n_asked(), decision.n_experts());
    const auto limited = decision.keep_only(
        fits_R(decision, at::zeros_like(decision.token_R()), {slots}, config_.priority), DropReason::capacity);
    return limited.n_dropped() == decision.n_dropped() ? limited : reroute(limited, scores, slots);
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override { return kRerouteClaims; }

 private:
  // Few assignments overflow, so a plain loop over them in token order is enough.
  static Decision reroute(const Decision& d, const Scores& scores, int64_t slots) {
    // Null experts have scores, too, but no room to send a token to.
    const auto working_NE = scores.score_NE.detach().slice(1, 0, d.n_experts());
    const auto score_NE = working_NE.to(at::kCPU, at::kDouble).contiguous();
    const auto* score = score_NE.const_data_ptr<double>();
    const auto E = d.n_experts();
    const auto kept_E = d.kept_E();
    std::vector<int64_t> room(kept_E.const_data_ptr<int64_t>(), kept_E.const_data_ptr<int64_t>() + E);
    for (auto& r : room) r = slots - r;

    const auto ints = [](const Tensor& t) {
      const auto c = t.cpu().contiguous();
      return std::vector<int64_t>(c.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>() + c.numel());
    };
    const auto& gone = d.dropped();
    const auto kept_token = ints(d.token_R()), kept_expert = ints(d.expert_R());
    const auto token = ints(gone.token_Q);
    std::set<std::pair<int64_t, int64_t>> taken;
    for (size_t i = 0; i < kept_token.size(); ++i) taken.emplace(kept_token[i], kept_expert[i]);

    std::vector<int64_t> queue(token.size());
    std::iota(queue.begin(), queue.end(), 0);
    std::stable_sort(queue.begin(), queue.end(), [&](int64_t a, int64_t b) { return token[a] < token[b]; });
    std::vector<int64_t> moved, new_expert, lost;
    std::vector<int64_t> by_score(E);
    for (const auto q : queue) {
      std::iota(by_score.begin(), by_score.end(), 0);
      const auto* row = score + token[q] * E;
      std::stable_sort(by_score.begin(), by_score.end(), [&](int64_t a, int64_t b) { return row[a] > row[b]; });
      const auto free = std::find_if(by_score.begin(), by_score.end(),
                                     [&](int64_t e) { return room[e] > 0 && !taken.count({token[q], e}); });
      if (free == by_score.end()) {
        lost.push_back(q);
        continue;
      }
      --room[*free];
      taken.emplace(token[q], *free);
      moved.push_back(q), new_expert.push_back(*free);
    }
    if (moved.empty()) return d;

    const auto device = d.token_R().device();
    const auto index = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
    const auto moved_M = index(moved), lost_L = index(lost), expert_M = index(new_expert);
    const auto from = [&](const Tensor& kept, const Tensor& dropped) {
      return at::cat({kept, dropped.index_select(0, moved_M)});
    };
    const auto score_M = working_NE.reshape({-1}).index_select(0, gone.token_Q.index_select(0, moved_M) * E + expert_M);
    const auto expert_R = at::cat({d.expert_R(), expert_M});
    const auto order_R = kernels::group_by_expert(expert_R, E).order_R;
    const auto sorted = [&](const Tensor& t) { return t.index_select(0, order_R); };
    return Decision::from_parts(
        {.n_tokens = d.n_tokens(),
         .n_experts = E,
         .token_R = sorted(from(d.token_R(), gone.token_Q)),
         .expert_R = sorted(expert_R),
         .gate_R = {},
         .rank_R = sorted(from(d.rank_R(), gone.rank_Q)),
         .slot_R = {},
         .score_R = sorted(at::cat({d.score_R(), score_M.to(d.score_R())})),
         .margin_R = sorted(from(d.margin_R(), gone.margin_Q)),
         .wanted_R = sorted(at::cat({d.wanted_R(), gone.expert_Q.index_select(0, moved_M)})),
         .dropped = {gone.token_Q.index_select(0, lost_L), gone.expert_Q.index_select(0, lost_L),
                     gone.rank_Q.index_select(0, lost_L), gone.score_Q.index_select(0, lost_L),
                     gone.margin_Q.index_select(0, lost_L), gone.reason_Q.index_select(0, lost_L)}});
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Capacity> capacity_reroute =
    entry<RerouteCapacity>({.name = "reroute",
                            .paper = 106,
                            .source = "Fedus 2021 (Switch Transformer), appendix B, no token left behind",
                            .taxonomy = "system/capacity/reroute",
                            .summary = "what finds no slot goes to the next-best expert with room",
                            .claims = kRerouteClaims});

}  // namespace collegium::route
