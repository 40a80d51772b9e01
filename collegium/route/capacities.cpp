#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Capacity> capacity_factor;
extern const Entry<Capacity> capacity_rectify;
extern const Entry<Capacity> capacity_reroute;
extern const Entry<Capacity> capacity_unlimited;

Entries<Capacity> capacities() {
  static constexpr const Entry<Capacity>* kAll[] = {
      &capacity_factor,
      &capacity_rectify,
      &capacity_reroute,
      &capacity_unlimited,
  };
  return kAll;
}

}  // namespace collegium::route
