// Locality with load balance: experts and sequences have a home device, and work that leaves its device costs
// communication. For the tokens at home on device h, with P_h the mean of their routing probabilities,
//   L = coefficient * sum over h of (share of the tokens at h) * KL(P_h || Q_h),
// where the target Q_h gives `local` to the experts on h and the rest to the others, evenly on both sides: the KL is
// least when work stays at home as wanted and the experts of each side are equally loaded. P070 (LocMoE), locality
// loss.
//
// Assumed: sequence s lives on device s mod n_devices (sequences are what data parallelism deals out; one sequence
// alone lives on device 0), experts on devices in blocks of neighbours; the paper's distributions are over the load,
// ours over the probabilities, which have a gradient.
//
// N tokens, E experts that work, G devices.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/route/losses.h"

namespace collegium::route {
namespace {

class LocalityLoss final : public Balancer, public Makes<LocalityLoss, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double coefficient = 0.01;
    int64_t n_devices = 2;
    double local = 0.8;
    void visit(Fields& field) {
      field("coefficient", coefficient, {.help = "weight of the loss", .min = 0});
      field("n_devices", n_devices, {.help = "devices that experts and sequences are spread over", .min = 1});
      field("local", local,
            {.help = "share of a token's probability that should stay on its device", .min = 0.001, .max = 0.999});
    }
  };
  LocalityLoss(const Config& config, const StageInputs& in) : config_(config), n_working_(in.n_experts - in.n_null) {
    const auto G = config.n_devices;
    require(G <= n_working_, "locality_loss: ", n_working_, " experts are too few for ", G, " devices");
    // Constants stay on the CPU; they are moved where they are used.
    device_E_ = at::empty({n_working_}, at::kLong);
    for (int64_t e = 0; e < n_working_; ++e) device_E_.mutable_data_ptr<int64_t>()[e] = e * G / n_working_;
    const auto at_home_GE = at::arange(G).unsqueeze(1).eq(device_E_.unsqueeze(0)).to(at::kDouble);
    const auto here_G1 = at_home_GE.sum(1, true), there_G1 = static_cast<double>(n_working_) - here_G1;
    target_GE_ = G == 1 ? at_home_GE / here_G1
                        : at_home_GE * (config.local / here_G1) + (1 - at_home_GE) * ((1 - config.local) / there_G1);
  }

  std::vector<LossTerm> loss(const Scores& scores, const Decision& decision, const Context& context) override {
    const auto probability_NE = probabilities(scores.score_NE.slice(1, 0, n_working_));
    const auto N = probability_NE.size(0);
    const auto options = probability_NE.options().requires_grad(false);
    const auto home_N = context.sequence_N.defined() ? context.sequence_N.remainder(config_.n_devices)
                                                     : at::zeros({N}, options.dtype(at::kLong));
    const auto real_N = real_tokens(context, N, options);
    const auto count_G = at::zeros({config_.n_devices}, options).index_add_(0, home_N, real_N);
    const auto mean_GE =
        at::zeros({config_.n_devices, n_working_}, options).index_add(0, home_N, probability_NE * real_N.unsqueeze(1)) /
        count_G.clamp_min(1).unsqueeze(1);
    const auto divergence_G = (mean_GE * (mean_GE.clamp_min(1e-30).log() - target_GE_.to(options).log())).sum(1);
    const auto raw = (divergence_G * count_G).sum() / count_G.sum().clamp_min(1);

    // For people: how much of the work stays at home.
    const auto working = decision.expert_R().lt(n_working_).nonzero().flatten();
    const auto stays_R = device_E_.to(home_N.device())
                             .index_select(0, decision.expert_R().index_select(0, working))
                             .eq(home_N.index_select(0, decision.token_R().index_select(0, working)));
    const auto share = working.size(0) > 0 ? stays_R.to(at::kDouble).mean().item<double>() : 0.0;
    return {{"locality_loss", raw * config_.coefficient, raw.item<double>()},
            {"stays_local", at::zeros({}, options), share}};
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax}}; }

 private:
  Config config_;
  int64_t n_working_;
  Tensor device_E_, target_GE_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_locality_loss = entry<LocalityLoss>(
    {.name = "locality_loss",
     .paper = 70,
     .source = "Li 2024 (LocMoE), locality loss",
     .taxonomy = "training/auxiliary loss/locality",
     .summary = "keeps work on its device and spreads it evenly there",
     .equation = "L = α Σ_h N_h / N · KL(P_h ‖ Q_h),  P_h = mean p of the N_h tokens at home on device h\n"
                 "Q_h = local / E_h for the E_h experts on h, (1 - local) / (E - E_h) for the others"});

}  // namespace collegium::route
