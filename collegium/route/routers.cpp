#include "collegium/route/router.h"

namespace collegium::route {

extern const Entry<Router> router_ada_moe;
extern const Entry<Router> router_attention_aware;
extern const Entry<Router> router_base;
extern const Entry<Router> router_clusters;
extern const Entry<Router> router_compete;
extern const Entry<Router> router_da_moe;
extern const Entry<Router> router_domain_aware;
extern const Entry<Router> router_erc;
extern const Entry<Router> router_expert_choice;
extern const Entry<Router> router_group_limited;
extern const Entry<Router> router_gshard;
extern const Entry<Router> router_hash;
extern const Entry<Router> router_hierarchical;
extern const Entry<Router> router_hyper;
extern const Entry<Router> router_loc_moe;
extern const Entry<Router> router_loss_free;
extern const Entry<Router> router_mask_moe;
extern const Entry<Router> router_patch_choice;
extern const Entry<Router> router_progressive;
extern const Entry<Router> router_prototypes;
extern const Entry<Router> router_rectified;
extern const Entry<Router> router_recurrent;
extern const Entry<Router> router_relu;
extern const Entry<Router> router_selective_sinkhorn;
extern const Entry<Router> router_similarity_aware;
extern const Entry<Router> router_sparsity_aware;
extern const Entry<Router> router_stable;
extern const Entry<Router> router_stages;
extern const Entry<Router> router_switch;
extern const Entry<Router> router_switch_mixture;
extern const Entry<Router> router_thor;
extern const Entry<Router> router_top_k;
extern const Entry<Router> router_top_p;
extern const Entry<Router> router_union;
extern const Entry<Router> router_x_moe;
extern const Entry<Router> router_yuan;

Entries<Router> routers() {
  static constexpr const Entry<Router>* kAll[] = {
      &router_ada_moe,
      &router_attention_aware,
      &router_base,
      &router_clusters,
      &router_compete,
      &router_da_moe,
      &router_domain_aware,
      &router_erc,
      &router_expert_choice,
      &router_group_limited,
      &router_gshard,
      &router_hash,
      &router_hierarchical,
      &router_hyper,
      &router_loc_moe,
      &router_loss_free,
      &router_mask_moe,
      &router_patch_choice,
      &router_progressive,
      &router_prototypes,
      &router_rectified,
      &router_recurrent,
      &router_relu,
      &router_selective_sinkhorn,
      &router_similarity_aware,
      &router_sparsity_aware,
      &router_stable,
      &router_stages,
      &router_switch,
      &router_switch_mixture,
      &router_thor,
      &router_top_k,
      &router_top_p,
      &router_union,
      &router_x_moe,
      &router_yuan,
  };
  return kAll;
}

}  // namespace collegium::route
