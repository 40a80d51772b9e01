// A bias per expert, moved by a fixed step against its recent load, used for selection only. P084 (Loss-Free
// Balancing), algorithm 1: no auxiliary gradient flows, by construction: the bias never meets a weight.
//
// E experts.
#include <ATen/ATen.h>

#include "collegium/route/load_bias.h"

namespace collegium::route {
namespace {

class LossFreeBias final : public LoadBias, public Makes<LossFreeBias, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double rate = 0.001;
    void visit(Fields& field) {
      field("rate", rate, {.help = "how far a bias moves per optimiser step", .unit = "score", .min = 0});
    }
  };
  LossFreeBias(const Config& config, const StageInputs& in) : LoadBias(in), rate_(config.rate) {}

  void step() override {
    bias_E_ += rate_ * (pending_E_.mean() - pending_E_).sign();
    pending_E_.zero_();
  }

 private:
  double rate_;
};

}  // namespace

extern constinit const Entry<Balancer> balancer_loss_free_bias = entry<LossFreeBias>(
    {.name = "loss_free_bias",
     .paper = 84,
     .source = "Wang 2024 (Auxiliary-Loss-Free Load Balancing), algorithm 1",
     .taxonomy = "training/balance/bias",
     .summary = "a selection bias per expert, moved against its recent load",
     .equation = "b_e ← b_e + rate · sign(mean_j n_j - n_e) after each step,  n_e = assignments asked of e\n"
                 "selection by s + b, weights by s"});

}  // namespace collegium::route
