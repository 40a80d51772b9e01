#include "collegium/layer/layer.h"

namespace collegium::layer {

extern const Entry<MoeLayer> layer_dense;
extern const Entry<MoeLayer> layer_routed;
extern const Entry<MoeLayer> layer_soft;

Entries<MoeLayer> layers() {
  static constexpr const Entry<MoeLayer>* kAll[] = {
      &layer_dense,
      &layer_routed,
      &layer_soft,
  };
  return kAll;
}

}  // namespace collegium::layer
