// A bias per expert, moved by a fixed step against its recent load, used for selection only. P084 (Loss-Free
// Balancing), algorithm 1: no auxiliary gradient flows, by construction: the bias never meets a weight.
//
// E experts.
#include <ATen/ATen.h>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

class LossFreeBias final : public Balancer, public Makes<LossFreeBias, Balancer> {
 public:
  using Interface = Balancer;
  struct Config {
    double rate = 0.001;
    void visit(Fields& field) {
      field("rate", rate, {.help = "how far a bias moves per optimiser step", .unit = "score", .min = 0});
    }
  };
  LossFreeBias(const Config& config, const StageInputs& in) : rate_(config.rate) {
    const auto options = at::TensorOptions().dtype(at::kDouble).device(in.options.device_opt());
    bias_E_ = at::zeros({in.n_experts}, options);
    pending_E_ = at::zeros({in.n_experts}, options);
  }

  // Load as asked: what was dropped for lack of room still shows whom the tokens want.
  void observe(const Decision& decision, const Context&) override { pending_E_ += decision.asked_E().to(pending_E_); }
  void step() override {
    bias_E_ += rate_ * (pending_E_.mean() - pending_E_).sign();
    pending_E_.zero_();
  }
  Tensor bias_E() const override { return bias_E_; }
  Needs needs() const override {
    return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}, .selection_bias = true};
  }
  void collect(ParameterList& list) override {
    list.buffer("bias", bias_E_);
    list.buffer("pending_load", pending_E_);
  }

 private:
  double rate_;
  Tensor bias_E_, pending_E_;
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
