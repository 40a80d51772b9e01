// MoEC's router: experts in clusters, held together by a variance constraint and thinned out by dropout in training.
// P100.
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class ClustersRouter final : public Preset<ClustersRouter> {
 public:
  struct Config {
    int64_t k = 2;
    int64_t clusters = 2;
    double variance_loss = 0.01;
    double dropout = 0.5;
    double balance_loss = 0.01;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per token", .unit = "experts", .min = 1});
      field("clusters", clusters, {.help = "groups of neighbouring experts", .min = 1});
      field("variance_loss", variance_loss, {.help = "weight of the variance constraint", .min = 0});
      field("dropout", dropout, {.help = "share of each cluster that is out in a training step", .min = 0, .max = 1});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs&) {
    Composition out;
    out.scorer = {.name = "cluster_dropout", .fields = table({{"clusters", c.clusters}, {"share", c.dropout}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    out.balancers.push_back(
        {.name = "cluster_variance", .fields = table({{"coefficient", c.variance_loss}, {"clusters", c.clusters}})});
    out.add_loss("balance_loss", c.balance_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_clusters = entry<ClustersRouter>(
    {.name = "clusters",
     .paper = 100,
     .source = "Xie 2022 (MoEC)",
     .taxonomy = "gating/sparse/token choice",
     .summary = "top-k over clusters of experts, with a variance constraint and expert dropout",
     .equation =
         "p = softmax(W x) over the experts that dropout leaves;  y = Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x)\n"
         "T = top-k(p);  L = α balance_loss + β V_in / V,  V: variance of softmax(W x), in clusters and whole"});

}  // namespace collegium::route
