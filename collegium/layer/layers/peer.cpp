// PEER: a token's feed-forward network is put together from a pool of up to a million networks of one hidden unit,
// found by several heads with product keys:
//
//   y = sum over heads h, over the k best (a, b) of h, of g_hab(x) act(<up_ab, x>) down_ab
//   score_hab = <q_h1(x), key_ha> + <q_h2(x), key'_hb>,   g = softmax over the head's k best
//
// He 2024 (Mixture of a Million Experts), section 2: query halves, experts shared by the heads, softmax over the
// retrieved, GELU, queries normalised over the batch (Lample 2019). Keys of each head's own are those of Lample's code,
// to which He 2024 refers; by its text the heads share one set. The rival of P027, whose token-centric gather is the
// default here; `schedule = "expert"` gives the same numbers without it.
// Assumed: the normalisation of queries learns no gain or shift; first weights; an expert found by several heads is
// computed once and their weights are added, which changes no value.
//
// N tokens, D model width, E experts.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "collegium/layer/atomic_experts.h"
#include "collegium/layer/product_keys.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

class PeerLayer final : public MoeLayer, public Makes<PeerLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 1024;
    int64_t heads = 2;
    int64_t k = 0;
    int64_t d_key = 0;
    AtomicActivation activation = AtomicActivation::gelu;
    bool batch_norm = true;
    double scale = 1;
    double up_std = 0, down_std = 1;
    Schedule schedule = Schedule::token;
    void visit(Fields& field) {
      field("n_experts", n_experts,
            {.help = "experts of one hidden unit; a square number", .unit = "experts", .min = 1});
      field("heads", heads, {.help = "queries of a token, each choosing for itself", .min = 1});
      field(
          "k", k,
          {.help = "experts per head; 0 = the square root of n_experts, over the heads", .unit = "experts", .min = 0});
      field("d_key", d_key, {.help = "width of one half of a query; 0 = d_model / 2", .min = 0});
      field("activation", activation, {.help = "between an expert's two vectors"});
      field("batch_norm", batch_norm,
            {.help = "queries are normalised over the batch, when evaluating by running statistics"});
      field("scale", scale, {.help = "sum of the weights of what one head chose", .min = 0});
      field("up_std", up_std, {.help = "first reading vectors' standard deviation; 0 = 1 / sqrt(d_model)", .min = 0});
      field("down_std", down_std,
            {.help = "first writing vectors' standard deviation; 0 = 1 / sqrt(d_model)", .min = 0});
      field("schedule", schedule, {.help = "who gathers: tokens their experts, or experts their tokens (faster)"});
    }
  };

  PeerLayer(const Config& config, const Inputs& in)
      : experts_({.activation = config.activation,
                  .up_std = config.up_std,
                  .down_std = config.down_std,
                  .schedule = config.schedule},
                 config.n_experts, in.d_model, in.random.at("experts"), in.options),
        router_(product_key_router({.who = "peer",
                                    .n_experts = config.n_experts,
                                    .heads = config.heads,
                                    .k = config.k > 0 ? config.k : even_k(config),
                                    .d_key = config.d_key > 0 ? config.d_key : std::max<int64_t>(1, in.d_model / 2),
                                    .batch_norm = config.batch_norm,
                                    .scale = config.scale},
                                   in)) {}

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = router_->route(x_ND, context);
    LayerOutput out{.y_ND = experts_.forward(x_ND, routing.decision), .losses = std::move(routing.losses)};
    show_routing(out, routing, context);
    return out;
  }
  void step() override { router_->step(); }
  LayerFacts facts() const override {
    // Where no two heads choose the same expert.
    const auto each = static_cast<double>(experts_.parameters_per_expert());
    return routed_facts(*router_, router_->facts().choices_per_token * each);
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *router_);
    list.child("experts", experts_);
  }

 private:
  static int64_t even_k(const Config& config) {
    return std::max<int64_t>(1, std::llround(std::sqrt(config.n_experts)) / config.heads);
  }

  AtomicExperts experts_;
  std::unique_ptr<route::Router> router_;
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_peer = entry<PeerLayer>(
    {.name = "peer",
     .source = "He 2024 (Mixture of a Million Experts), section 2; Lample 2019 (product keys)",
     .taxonomy = "architecture/sparse/atomic experts",
     .summary = "experts of one hidden unit each, found by several heads with product keys",
     .equation = "y = Σ_h Σ_{(a, b) ∈ T_h} g_hab act(⟨u_ab, x⟩) d_ab,  T_h = top-k of s_h,  g_h = softmax in T_h\n"
                 "s_hab = ⟨q_h(x), κ_ha⟩ + ⟨q'_h(x), κ'_hb⟩,  q_h, q'_h = normalised queries of head h"});

}  // namespace collegium::layer
