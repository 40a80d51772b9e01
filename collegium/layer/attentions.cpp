#include "collegium/layer/attention.h"

namespace collegium::layer {

extern const Entry<Attention> attention_full;
extern const Entry<Attention> attention_moa;
extern const Entry<Attention> attention_mosa;
extern const Entry<Attention> attention_selective;

Entries<Attention> attentions() {
  static constexpr const Entry<Attention>* kAll[] = {
      &attention_full,
      &attention_moa,
      &attention_mosa,
      &attention_selective,
  };
  return kAll;
}

}  // namespace collegium::layer
