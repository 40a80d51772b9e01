// A scorer around another one: what it does not change is the inner one's.
#pragma once
#include <memory>

#include "collegium/route/stages.h"

namespace collegium::route {

class WrappedScorer : public Scorer {
 public:
  ScoreKind kind() const override { return inner_->kind(); }
  Needs needs() const override { return inner_->needs(); }
  Claims claims() const override { return inner_->claims(); }
  bool has_prototypes() const override { return inner_->has_prototypes(); }
  void step() override { inner_->step(); }
  double flops_per_token() const override { return inner_->flops_per_token(); }
  double flops_per_pair() const override { return inner_->flops_per_pair(); }
  void collect(ParameterList& list) override { list.child("of", *inner_); }

 protected:
  explicit WrappedScorer(std::unique_ptr<Scorer> inner) : inner_(std::move(inner)) {}
  WrappedScorer(const Named& of, const StageInputs& in) : WrappedScorer(find(scorers(), of, "scorer").make(of, in)) {}

  /// The same inputs with the random stream "of", for wrappers that draw first weights of their own.
  static StageInputs below(StageInputs in) {
    in.random = in.random.at("of");
    return in;
  }

  std::unique_ptr<Scorer> inner_;
};

}  // namespace collegium::route
