#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Selector> selector_expert_choice;
extern const Entry<Selector> selector_hash;
extern const Entry<Selector> selector_positive;
extern const Entry<Selector> selector_top_k;

Entries<Selector> selectors() {
  static constexpr const Entry<Selector>* kAll[] = {
      &selector_expert_choice,
      &selector_hash,
      &selector_positive,
      &selector_top_k,
  };
  return kAll;
}

}  // namespace collegium::route
