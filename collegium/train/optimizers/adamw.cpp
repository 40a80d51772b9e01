// Adam with decoupled weight decay, torch's fused kernel. Loshchilov 2019, algorithm 2.
#include "collegium/train/adam.h"

namespace collegium::train {
namespace {

void visit_adam(AdamOptions& o, Fields& field) {
  field("lr", o.lr, {.help = "highest learning rate", .min = 0});
  field("beta1", o.beta1, {.help = "decay of the mean gradient", .min = 0, .max = 1});
  field("beta2", o.beta2, {.help = "decay of the mean squared gradient", .min = 0, .max = 1});
  field("epsilon", o.epsilon, {.help = "added to the root mean square", .min = 0});
  field("weight_decay", o.weight_decay,
        {.help = "decay of matrices and embeddings, times the learning rate", .min = 0});
}

class AdamW final : public Optimizer, public Makes<AdamW, Optimizer> {
 public:
  using Interface = Optimizer;
  struct Config : AdamOptions {
    void visit(Fields& field) { visit_adam(*this, field); }
  };
  AdamW(const Config& config, const Inputs& in) : config_(config), adam_(in.parameters) {}
  void step(double factor) override { adam_.step(config_, factor); }
  double learning_rate() const override { return config_.lr; }
  void collect(ParameterList& list) override { list.child("adam", adam_); }

 private:
  Config config_;
  Adam adam_;
};

}  // namespace

extern constinit const Entry<Optimizer> optimizer_adamw =
    entry<AdamW>({.name = "adamw",
                  .source = "Loshchilov 2019 (AdamW), algorithm 2",
                  .taxonomy = "training/optimiser",
                  .summary = "Adam with decoupled weight decay",
                  .equation = "m ← β₁ m + (1 - β₁) ∇,  v ← β₂ v + (1 - β₂) ∇²,  θ ← θ - η (m' / (√v' + ε) + λ θ)\n"
                              "m' = m / (1 - β₁^t),  v' = v / (1 - β₂^t),  λ = 0 for vectors"});

}  // namespace collegium::train
