#include "collegium/layer/attention.h"

namespace collegium::layer {

extern const Entry<Attention> attention_full;

Entries<Attention> attentions() {
  static constexpr const Entry<Attention>* kAll[] = {
      &attention_full,
  };
  return kAll;
}

}  // namespace collegium::layer
