#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Selector> selector_balanced_assignment;
extern const Entry<Selector> selector_expert_choice;
extern const Entry<Selector> selector_grouped_top_k;
extern const Entry<Selector> selector_hash;
extern const Entry<Selector> selector_importance_top_k;
extern const Entry<Selector> selector_patch_choice;
extern const Entry<Selector> selector_positive;
extern const Entry<Selector> selector_random;
extern const Entry<Selector> selector_top_k;
extern const Entry<Selector> selector_top_p;

Entries<Selector> selectors() {
  static constexpr const Entry<Selector>* kAll[] = {
      &selector_balanced_assignment,
      &selector_expert_choice,
      &selector_grouped_top_k,
      &selector_hash,
      &selector_importance_top_k,
      &selector_patch_choice,
      &selector_positive,
      &selector_random,
      &selector_top_k,
      &selector_top_p,
  };
  return kAll;
}

}  // namespace collegium::route
