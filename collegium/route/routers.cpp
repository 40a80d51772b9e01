#include "collegium/route/router.h"

namespace collegium::route {

extern const Entry<Router> router_expert_choice;
extern const Entry<Router> router_gshard;
extern const Entry<Router> router_hash;
extern const Entry<Router> router_loss_free;
extern const Entry<Router> router_relu;
extern const Entry<Router> router_stages;
extern const Entry<Router> router_switch;
extern const Entry<Router> router_top_k;

Entries<Router> routers() {
  static constexpr const Entry<Router>* kAll[] = {
      &router_expert_choice,
      &router_gshard,
      &router_hash,
      &router_loss_free,
      &router_relu,
      &router_stages,
      &router_switch,
      &router_top_k,
  };
  return kAll;
}

}  // namespace collegium::route
