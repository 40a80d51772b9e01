#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Gate> gate_choice_softmax;
extern const Entry<Gate> gate_group_product;
extern const Entry<Gate> gate_group_share;
extern const Entry<Gate> gate_normalised;
extern const Entry<Gate> gate_one;
extern const Entry<Gate> gate_score;

Entries<Gate> gates() {
  static constexpr const Entry<Gate>* kAll[] = {
      &gate_choice_softmax, &gate_group_product, &gate_group_share, &gate_normalised, &gate_one, &gate_score,
  };
  return kAll;
}

}  // namespace collegium::route
