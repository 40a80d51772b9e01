#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Scorer> scorer_linear;
extern const Entry<Scorer> scorer_none;

Entries<Scorer> scorers() {
  static constexpr const Entry<Scorer>* kAll[] = {
      &scorer_linear,
      &scorer_none,
  };
  return kAll;
}

}  // namespace collegium::route
