#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Balancer> balancer_adaptive_l1;
extern const Entry<Balancer> balancer_balance_loss;
extern const Entry<Balancer> balancer_cluster_variance;
extern const Entry<Balancer> balancer_coupling_loss;
extern const Entry<Balancer> balancer_entropy_loss;
extern const Entry<Balancer> balancer_locality_loss;
extern const Entry<Balancer> balancer_loss_free_bias;
extern const Entry<Balancer> balancer_null_balance_loss;
extern const Entry<Balancer> balancer_primal_dual_bias;
extern const Entry<Balancer> balancer_z_loss;

Entries<Balancer> balancers() {
  static constexpr const Entry<Balancer>* kAll[] = {
      &balancer_adaptive_l1,      &balancer_balance_loss,  &balancer_cluster_variance, &balancer_coupling_loss,
      &balancer_entropy_loss,     &balancer_locality_loss, &balancer_loss_free_bias,   &balancer_null_balance_loss,
      &balancer_primal_dual_bias, &balancer_z_loss,
  };
  return kAll;
}

}  // namespace collegium::route
