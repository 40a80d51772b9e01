// Rectify-Router: a fixed number of slots per expert, and two repairs. Intra-device rectification sends what finds no
// slot to the best expert with a free slot on the device where its token already is, so that nothing crosses the
// network twice. Fill-in rectification gives slots that stay empty, which would be padded with zeros, to the tokens
// that score highest there and are not there yet. P112 (Zeng 2024), sections 3.1 and 3.2.
// Devices hold contiguous blocks of the real tokens and of the experts; with one device every expert is near.
// Assumed: a rectified token needs a free slot like any other, and rectified tokens come before fill-ins. Fill-ins have
// rank = the expert's place in the token's own order, and wanted_R = -1: nobody asked for them.
//
// N tokens, E experts, R kept assignments, Q dropped ones.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "collegium/kernels/group.h"
#include "collegium/route/room_limit.h"

namespace collegium::route {
namespace {

constexpr Capacity::Claims kRectifyClaims = {.may_drop = true, .is_causal = false};

class RectifyCapacity final : public Capacity, public Makes<RectifyCapacity, Capacity> {
 public:
  using Interface = Capacity;
  struct Config {
    double factor = 1.0;
    int64_t minimum = 1;
    int64_t n_devices = 1;
    bool rectify = true;
    bool fill = true;
    Priority priority = Priority::position;
    void visit(Fields& field) {
      field("factor", factor,
            {.help = "slots per expert = factor * assignments asked / experts, rounded up", .min = 0});
      field("minimum", minimum, {.help = "slots that an expert always has", .unit = "tokens", .min = 0});
      field("n_devices", n_devices, {.help = "devices that tokens and experts are divided over, in order", .min = 1});
      field("rectify", rectify, {.help = "what finds no slot goes to the best expert with room on its device"});
      field("fill", fill, {.help = "free slots go to the tokens that score highest there"});
      field("priority", priority, {.help = "who gets the slots of the wanted expert when there are too few"});
    }
  };

  RectifyCapacity(const Config& config, const StageInputs& in) : config_(config) {
    const auto n_true = in.n_experts - in.n_null;
    require(n_true % config.n_devices == 0, "rectify: ", n_true, " experts do not divide over ", config.n_devices,
            " devices");
  }

  Decision apply(const Decision& decision, const Scores& scores, const Context& context) override {
    if (decision.n_kept() == 0) return decision;
    const auto slots = slots_per_expert(config_.factor, 0, config_.minimum, decision.n_asked(), decision.n_experts());
    const auto limited = decision.keep_only(
        fits_R(decision, at::zeros_like(decision.token_R()), {slots}, config_.priority), DropReason::capacity);
    return repair(limited, scores, context, slots);
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}}; }
  Claims claims() const override { return kRectifyClaims; }

 private:
  struct Added {
    std::vector<int64_t> token, expert, rank, wanted;
    std::vector<double> margin;
    void add(int64_t t, int64_t e, int64_t r, int64_t w, double m) {
      token.push_back(t), expert.push_back(e), rank.push_back(r), wanted.push_back(w), margin.push_back(m);
    }
  };

  Decision repair(const Decision& d, const Scores& scores, const Context& context, int64_t slots) const {
    const auto N = d.n_tokens(), E = d.n_experts();
    const auto near_NE = scores.score_NE.detach().slice(1, 0, E);  // null experts have no slots
    const auto score_NE = near_NE.to(at::kCPU, at::kDouble).contiguous();
    const auto* score = score_NE.const_data_ptr<double>();
    const auto kept_E = d.kept_E();
    const auto* kept = kept_E.const_data_ptr<int64_t>();
    const auto ints = [](const Tensor& t) {
      const auto c = t.cpu().contiguous();
      return std::vector<int64_t>(c.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>() + c.numel());
    };
    const auto real = context.mask_N.defined() ? ints(context.mask_N.nonzero().flatten()) : std::vector<int64_t>();
    const auto M = context.mask_N.defined() ? static_cast<int64_t>(real.size()) : N;
    const auto real_token = [&](int64_t i) { return real.empty() ? i : real[static_cast<size_t>(i)]; };

    std::vector<char> there(static_cast<size_t>(N * E));
    const auto is_there = [&](int64_t n, int64_t e) -> char& { return there[static_cast<size_t>(n * E + e)]; };
    const auto kept_token = ints(d.token_R()), kept_expert = ints(d.expert_R());
    for (size_t i = 0; i < kept_token.size(); ++i) is_there(kept_token[i], kept_expert[i]) = 1;
    std::vector<int64_t> room(static_cast<size_t>(E));
    for (int64_t e = 0; e < E; ++e) room[static_cast<size_t>(e)] = std::min(slots, M) - kept[e];

    const auto& gone = d.dropped();
    const auto gone_token = ints(gone.token_Q), gone_expert = ints(gone.expert_Q), gone_rank = ints(gone.rank_Q);
    Added added;
    std::vector<int64_t> moved, lost;
    std::vector<int64_t> queue(gone_token.size());
    std::iota(queue.begin(), queue.end(), 0);
    std::stable_sort(queue.begin(), queue.end(), [&](int64_t a, int64_t b) {
      return gone_token[static_cast<size_t>(a)] < gone_token[static_cast<size_t>(b)];
    });
    const auto margin_Q = gone.margin_Q.to(at::kCPU, at::kDouble).contiguous();
    for (const auto q : queue) {
      const auto n = gone_token[static_cast<size_t>(q)];
      const auto e = config_.rectify
                         ? best_near(score + n * E, device_of(n, real, N), E,
                                     [&](int64_t candidate) {
                                       return room[static_cast<size_t>(candidate)] > 0 && !is_there(n, candidate);
                                     })
                         : -1;
      if (e < 0) {
        lost.push_back(q);
        continue;
      }
      --room[static_cast<size_t>(e)], is_there(n, e) = 1;
      moved.push_back(q);
      added.add(n, e, gone_rank[static_cast<size_t>(q)], gone_expert[static_cast<size_t>(q)],
                margin_Q.const_data_ptr<double>()[q]);
    }
    if (config_.fill)
      for (int64_t e = 0; e < E; ++e) fill(added, e, room[static_cast<size_t>(e)], M, real_token, is_there, score, E);
    if (added.token.empty()) return d;
    return joined(d, near_NE, added, lost);
  }

  // The device of a token: real tokens in order, cut into equal blocks.
  int64_t device_of(int64_t n, const std::vector<int64_t>& real, int64_t N) const {
    const auto M = real.empty() ? N : static_cast<int64_t>(real.size());
    const auto place = real.empty() ? n : std::lower_bound(real.begin(), real.end(), n) - real.begin();
    return place * config_.n_devices / M;
  }

  template <class Allowed>
  int64_t best_near(const double* row, int64_t device, int64_t E, const Allowed& allowed) const {
    const auto size = E / config_.n_devices;
    int64_t best = -1;
    for (int64_t e = device * size; e < (device + 1) * size; ++e)
      if (allowed(e) && (best < 0 || row[e] > row[best])) best = e;
    return best;
  }

  // The `room` best-scoring real tokens that expert e does not have yet; earlier ones among equals.
  template <class RealToken, class IsThere>
  static void fill(Added& added, int64_t e, int64_t room, int64_t M, const RealToken& real_token,
                   const IsThere& is_there, const double* score, int64_t E) {
    if (room <= 0) return;
    std::vector<int64_t> candidates;
    for (int64_t i = 0; i < M; ++i)
      if (const auto n = real_token(i); !is_there(n, e)) candidates.push_back(n);
    const auto ahead = [&](int64_t a, int64_t b) {
      const auto x = score[a * E + e], y = score[b * E + e];
      return x != y ? x > y : a < b;
    };
    const auto taken = std::min<int64_t>(room, static_cast<int64_t>(candidates.size()));
    std::partial_sort(candidates.begin(), candidates.begin() + taken, candidates.end(), ahead);
    const auto next =
        taken < static_cast<int64_t>(candidates.size())
            ? std::max_element(
                  candidates.begin() + taken, candidates.end(), [&](int64_t a, int64_t b) { return ahead(b, a); })
            : candidates.end();
    const auto rival = next == candidates.end() ? -std::numeric_limits<double>::infinity() : score[*next * E + e];
    for (int64_t i = 0; i < taken; ++i) {
      const auto n = candidates[static_cast<size_t>(i)];
      const auto* row = score + n * E;
      int64_t rank = 0;
      for (int64_t other = 0; other < E; ++other) rank += row[other] > row[e] || (row[other] == row[e] && other < e);
      added.add(n, e, rank, -1, row[e] - rival);
      is_there(n, e) = 1;
    }
  }

  static Decision joined(const Decision& d, const Tensor& score_NE, const Added& added,
                         const std::vector<int64_t>& lost) {
    const auto E = d.n_experts();
    const auto device = d.token_R().device();
    const auto index = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
    const auto token_A = index(added.token), expert_A = index(added.expert);
    const auto token_R = at::cat({d.token_R(), token_A}), expert_R = at::cat({d.expert_R(), expert_A});
    const auto score_A = score_NE.reshape({-1}).index_select(0, token_A * E + expert_A).to(d.score_R());
    const auto margin_A = at::tensor(added.margin, at::kDouble).to(d.margin_R());
    const auto order_R = kernels::group_by_expert(expert_R, E).order_R;
    const auto sorted = [&](const Tensor& before, const Tensor& more) {
      return at::cat({before, more}).index_select(0, order_R);
    };
    const auto& gone = d.dropped();
    const auto lost_L = index(lost);
    return Decision::from_parts(
        {.n_tokens = d.n_tokens(),
         .n_experts = E,
         .token_R = token_R.index_select(0, order_R),
         .expert_R = expert_R.index_select(0, order_R),
         .gate_R = {},
         .rank_R = sorted(d.rank_R(), index(added.rank)),
         .slot_R = {},
         .score_R = sorted(d.score_R(), score_A),
         .margin_R = sorted(d.margin_R(), margin_A),
         .wanted_R = sorted(d.wanted_R(), index(added.wanted)),
         .dropped = {gone.token_Q.index_select(0, lost_L), gone.expert_Q.index_select(0, lost_L),
                     gone.rank_Q.index_select(0, lost_L), gone.score_Q.index_select(0, lost_L),
                     gone.margin_Q.index_select(0, lost_L), gone.reason_Q.index_select(0, lost_L)}});
  }

  Config config_;
};

}  // namespace

extern constinit const Entry<Capacity> capacity_rectify = entry<RectifyCapacity>(
    {.name = "rectify",
     .paper = 112,
     .source = "Zeng 2024 (Turn Waste into Worth: Rectify-Router), section 3",
     .taxonomy = "system/capacity/reroute",
     .summary = "dropped tokens move to experts on their device, free slots take the best tokens",
     .claims = kRectifyClaims});

}  // namespace collegium::route
