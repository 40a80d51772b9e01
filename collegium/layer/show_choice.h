// How a choice shows up in an output, of a layer or of an attention.
#pragma once
#include "collegium/route/router.h"

namespace collegium::layer {

/// The decision goes into the output; with context.record also what was compared, without gradient, and with
/// context.explain what the choices turn on.
template <class Output>
void show_choice(Output& out, route::Routing& routing, const route::Context& context) {
  if (context.record) {
    if (routing.scores.score_NE.defined()) out.score_NE = routing.scores.score_NE.detach();
    if (routing.bias_E.defined()) out.bias_E = routing.bias_E.detach();
  }
  out.reasons = std::move(routing.reasons);
  out.decision = std::move(routing.decision);
}

}  // namespace collegium::layer
