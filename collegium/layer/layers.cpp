#include "collegium/layer/layer.h"

namespace collegium::layer {

extern const Entry<MoeLayer> layer_autonomous;
extern const Entry<MoeLayer> layer_cartesian;
extern const Entry<MoeLayer> layer_dense;
extern const Entry<MoeLayer> layer_merged;
extern const Entry<MoeLayer> layer_routed;
extern const Entry<MoeLayer> layer_soft;
extern const Entry<MoeLayer> layer_stochastic;
extern const Entry<MoeLayer> layer_vector_quantised;

Entries<MoeLayer> layers() {
  static constexpr const Entry<MoeLayer>* kAll[] = {
      &layer_autonomous, &layer_cartesian, &layer_dense,      &layer_merged,
      &layer_routed,     &layer_soft,      &layer_stochastic, &layer_vector_quantised,
  };
  return kAll;
}

}  // namespace collegium::layer
