#include "collegium/route/stages.h"

namespace collegium::route {

extern const Entry<Scorer> scorer_attention_mixed;
extern const Entry<Scorer> scorer_cluster_dropout;
extern const Entry<Scorer> scorer_competition;
extern const Entry<Scorer> scorer_cosine;
extern const Entry<Scorer> scorer_expert_attention;
extern const Entry<Scorer> scorer_frequency_mask;
extern const Entry<Scorer> scorer_gaussian_mixture;
extern const Entry<Scorer> scorer_hierarchical;
extern const Entry<Scorer> scorer_hyper;
extern const Entry<Scorer> scorer_linear;
extern const Entry<Scorer> scorer_none;
extern const Entry<Scorer> scorer_patch;
extern const Entry<Scorer> scorer_progressive;
extern const Entry<Scorer> scorer_recurrent;
extern const Entry<Scorer> scorer_similarity_mixed;
extern const Entry<Scorer> scorer_sinkhorn;
extern const Entry<Scorer> scorer_sparsity;
extern const Entry<Scorer> scorer_two_stage;

Entries<Scorer> scorers() {
  static constexpr const Entry<Scorer>* kAll[] = {
      &scorer_attention_mixed,
      &scorer_cluster_dropout,
      &scorer_competition,
      &scorer_cosine,
      &scorer_expert_attention,
      &scorer_frequency_mask,
      &scorer_gaussian_mixture,
      &scorer_hierarchical,
      &scorer_hyper,
      &scorer_linear,
      &scorer_none,
      &scorer_patch,
      &scorer_progressive,
      &scorer_recurrent,
      &scorer_similarity_mixed,
      &scorer_sinkhorn,
      &scorer_sparsity,
      &scorer_two_stage,
  };
  return kAll;
}

}  // namespace collegium::route
