// What every layer with a router is made of: experts, the router that sends tokens to them, and how both show up in
// the layer's output and facts.
//
// N tokens, D model width, E experts.
#pragma once
#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"

namespace collegium::layer {

/// `kind` of experts in the layer's own stream of first weights, `stream`; see Experts::Inputs for n_together.
std::unique_ptr<Experts> make_experts(const Named& kind, int64_t n_experts, int64_t d_expert,
                                      const MoeLayer::Inputs& in, std::string_view stream = "experts",
                                      int64_t n_together = 1);

/// `named` router over n_experts in the layer's own stream of first weights, `random`; see StageInputs for n_own.
std::unique_ptr<route::Router> make_router(const Named& named, int64_t n_experts, const MoeLayer::Inputs& in,
                                           const Random& random, int64_t n_own = 0);

/// Refuses a router that asks of its experts what `probe`, experts of this kind, cannot say.
void require_answers(const route::Router& router, const Named& named_router, const route::ExpertProbe& probe,
                     const Named& expert);

/// Experts and their router, from the streams "experts" and "router" of `in`.
struct RoutedPart {
  /// With a pool, the layer's own experts are in it and the router chooses among all of it, its own first.
  RoutedPart(const Named& expert, const Named& router, int64_t n_experts, int64_t d_expert, const MoeLayer::Inputs& in,
             int64_t n_together = 1, ExpertPool* pool = nullptr);

  /// Routes with the experts at hand, for stages that ask them. Experts have the numbers that they have in `experts`.
  route::Routing route(const Tensor& x_ND, const route::Context& context);
  /// Parameters of the experts that a token meets on average.
  double parameters_working() const;
  /// "router", and "experts" unless another layer lists them.
  void collect(ParameterList& list);

  std::shared_ptr<Experts> experts;
  std::unique_ptr<route::Router> router;

 private:
  int64_t n_candidates_, first_ = 0;  ///< the router's expert c is number first_ + c in `experts`, modulo n_candidates_
  bool lists_experts_ = true;
};

/// Facts of a layer that does what `router` decides with `working` parameters a token besides the router's.
LayerFacts routed_facts(const route::Router& router, double working);

/// The decision and the state for the next layer go into the output; with context.record also what was compared.
void show_routing(LayerOutput& out, route::Routing& routing, const route::Context& context);

}  // namespace collegium::layer
