#include "collegium/layer/layer.h"

namespace collegium::layer {

extern const Entry<MoeLayer> layer_autonomous;
extern const Entry<MoeLayer> layer_cartesian;
extern const Entry<MoeLayer> layer_chain;
extern const Entry<MoeLayer> layer_dense;
extern const Entry<MoeLayer> layer_finedeep;
extern const Entry<MoeLayer> layer_latent;
extern const Entry<MoeLayer> layer_merged;
extern const Entry<MoeLayer> layer_omni;
extern const Entry<MoeLayer> layer_peer;
extern const Entry<MoeLayer> layer_routed;
extern const Entry<MoeLayer> layer_soft;
extern const Entry<MoeLayer> layer_stochastic;
extern const Entry<MoeLayer> layer_subspace;
extern const Entry<MoeLayer> layer_union;
extern const Entry<MoeLayer> layer_vector_quantised;

Entries<MoeLayer> layers() {
  static constexpr const Entry<MoeLayer>* kAll[] = {
      &layer_autonomous, &layer_cartesian,  &layer_chain,    &layer_dense, &layer_finedeep,
      &layer_latent,     &layer_merged,     &layer_omni,     &layer_peer,  &layer_routed,
      &layer_soft,       &layer_stochastic, &layer_subspace, &layer_union, &layer_vector_quantised,
  };
  return kAll;
}

}  // namespace collegium::layer
