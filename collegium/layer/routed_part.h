// What every layer with a router is made of: experts, the router that sends tokens to them, and how both show up in
// the layer's output and facts.
//
// N tokens, D model width, E experts.
#pragma once
#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"

namespace collegium::layer {

/// `kind` of experts in the layer's own stream of first weights, `stream`.
std::unique_ptr<Experts> make_experts(const Named& kind, int64_t n_experts, int64_t d_expert,
                                      const MoeLayer::Inputs& in, std::string_view stream = "experts");

/// `named` router over n_experts in the layer's own stream of first weights, `random`.
std::unique_ptr<route::Router> make_router(const Named& named, int64_t n_experts, const MoeLayer::Inputs& in,
                                           const Random& random);

/// Experts and their router, from the streams "experts" and "router" of `in`.
struct RoutedPart {
  RoutedPart(const Named& expert, const Named& router, int64_t n_experts, int64_t d_expert, const MoeLayer::Inputs& in);

  /// Routes with the experts at hand, for stages that ask them.
  route::Routing route(const Tensor& x_ND, const route::Context& context);
  /// Parameters of the experts that a token meets on average.
  double parameters_working() const;

  std::unique_ptr<Experts> experts;
  std::unique_ptr<route::Router> router;
};

/// Facts of a layer that does what `router` decides with `working` parameters a token besides the router's.
LayerFacts routed_facts(const route::Router& router, double working);

/// The decision and the state for the next layer go into the output; with context.record also what was compared.
void show_routing(LayerOutput& out, route::Routing& routing, const route::Context& context);

}  // namespace collegium::layer
