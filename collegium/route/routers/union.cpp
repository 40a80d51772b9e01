// Union of Experts' two levels of routing: pieces of the input choose their experts (expert selection), and each
// expert keeps the best-scored share of every sequence among what chose it (data selection). P074 (Yang 2025);
// authors' code, language_modeling/model/mlp/UoME_DS.py and UoME_ES.py.
//
// Experts are slices of one block there, so their outputs add up: weights sum to the number of chosen experts, and with
// all experts chosen alike every weight is one and the sum is the block. The authors' code adds what experts give
// unweighed (weighed = false), which leaves its gate without a gradient; weights are the default here.
// Data selection looks at the whole sequence, so it is off (data_share = 0) unless asked for.
#include "collegium/route/room_limit.h"
#include "collegium/route/router.h"

namespace collegium::route {
namespace {

class UnionRouter final : public Preset<UnionRouter> {
 public:
  struct Config {
    int64_t k = 2;
    int64_t patch = 1;
    double data_share = 0;
    Priority priority = Priority::score;
    bool weighed = true;
    double balance_loss = 0.01;
    double z_loss = 0.001;
    void visit(Fields& field) {
      field("k", k, {.help = "experts per patch", .unit = "experts", .min = 1});
      field("patch", patch,
            {.help = "neighbouring tokens that choose together; 0 = the whole sequence, by its first token",
             .unit = "tokens",
             .min = 0});
      field("data_share", data_share,
            {.help = "share of a sequence's tokens that an expert may keep; 0 = all that chose it",
             .unit = "share",
             .min = 0,
             .max = 1});
      field("priority", priority, {.help = "which tokens an expert keeps: score looks ahead, position does not"});
      field("weighed", weighed, {.help = "outputs are weighed by the scores' shares times k, or added as they are"});
      field("balance_loss", balance_loss, {.help = "weight of the load-balancing loss", .min = 0});
      field("z_loss", z_loss, {.help = "weight of the z-loss", .min = 0});
    }
  };

  static Composition compose(const Config& c, const StageInputs& in) {
    Composition out;
    out.scorer = {.name = "patch", .fields = table({{"patch", c.patch}})};
    out.selector = {.name = "top_k", .fields = table({{"k", c.k}})};
    if (c.data_share > 0) {
      // k of E experts are asked by each token: this factor leaves data_share * tokens to each.
      const auto factor = c.data_share * static_cast<double>(in.n_experts) / static_cast<double>(c.k);
      const std::string priority(enum_names(c.priority)[static_cast<size_t>(c.priority)]);
      out.capacity = {.name = "factor",
                      .fields = table({{"factor", factor}, {"priority", priority}, {"scope", "sequence"}})};
    }
    out.gate = {.name = c.weighed ? "normalised" : "one", .fields = table({{"scale", static_cast<double>(c.k)}})};
    out.add_loss("balance_loss", c.balance_loss);
    out.add_loss("z_loss", c.z_loss);
    return out;
  }
};

}  // namespace

extern constinit const Entry<Router> router_union = entry<UnionRouter>(
    {.name = "union",
     .paper = 74,
     .source = "Yang 2025 (Union of Experts), hierarchical routing; authors' code, UoME_DS.py",
     .taxonomy = "gating/sparse/hierarchical",
     .summary = "patches choose experts, experts keep their best share of the data; weights sum to k",
     .equation = "y = k Σ_{e ∈ T} p_e / Σ_T p · FFN_e(x),  p = softmax(W x_f),  T = top-k(p),  f = patch's first\n"
                 "data_share q: an expert keeps ⌈q n⌉ tokens of a sequence of n;  L = α balance_loss + β z_loss"});

}  // namespace collegium::route
