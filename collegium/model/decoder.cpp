// A decoder language model: RMSNorm, and in each layer attention of some kind and a feed-forward place that is dense or
// a mixture of experts. Some layers may be passed by (mixture of depths, depth.h).
//
// B sequences, T tokens each, N = B T, D model width, H query heads, G key-value heads, V vocabulary, K tokens of each
// sequence that a layer works for, M = B K.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/norm.h"
#include "collegium/layer/attention.h"
#include "collegium/layer/expert_pool.h"
#include "collegium/model/depth.h"
#include "collegium/model/feed_forward.h"
#include "collegium/model/language_model.h"
#include "collegium/model/layer_overrides.h"

namespace collegium::model {
namespace {

struct DecoderConfig {
  int64_t d_model = 256, n_layers = 4, n_heads = 4, n_kv_heads = 0;
  double rope_theta = 10000, norm_epsilon = 1e-6, init_std = 0.02;
  bool tie_embeddings = true;
  Named attention{.name = "full"};
  Named dense{.name = "dense"};
  Named moe{.name = "routed"};
  int64_t moe_first = 0, moe_every = 1, share_experts = 1;
  Table overrides;
  DepthConfig depth;
  bool allow_noncausal = false;
  void visit(Fields& field) {
    field("d_model", d_model, {.help = "width of the hidden states", .min = 2});
    field("n_layers", n_layers, {.help = "layers, each attention and feed-forward", .unit = "layers", .min = 1});
    field("n_heads", n_heads, {.help = "query heads", .unit = "heads", .min = 1});
    field("n_kv_heads", n_kv_heads, {.help = "key-value heads; 0 = as many as query heads", .unit = "heads", .min = 0});
    field("rope_theta", rope_theta, {.help = "base of the rotary frequencies", .min = 1});
    field("norm_epsilon", norm_epsilon, {.help = "added to the mean square in RMSNorm", .min = 0});
    field("init_std", init_std, {.help = "standard deviation of the first embeddings and projections", .min = 0});
    field("tie_embeddings", tie_embeddings, {.help = "the output layer is the embedding"});
    field("attention", attention, {.help = "how tokens read each other", .catalogue = "attentions"});
    field("dense", dense, {.help = "feed-forward of the layers without experts", .catalogue = "layers"});
    field("moe", moe, {.help = "feed-forward of the layers with experts", .catalogue = "layers"});
    field("moe_first", moe_first, {.help = "first layer with experts, counted from 0", .min = 0});
    field("moe_every", moe_every, {.help = "from there on, every so many layers; 0 = no layer has experts", .min = 0});
    field("share_experts", share_experts,
          {.help = "so many neighbouring layers with experts have them in common, each with a router of its own",
           .unit = "layers",
           .min = 1});
    field("override", overrides,
          {.help = "feed-forwards of single layers by number: { 0 = \"dense\", 2-5 = { n_experts = 32 } }"});
    field("depth", depth, {.help = "mixture of depths: layers that work for some tokens only"});
    field("allow_noncausal", allow_noncausal,
          {.help =
               "accept a router or attention that looks at later tokens (held-out loss is then too good to be true)"});
  }
};

// Whether a masked token stands before a real one.
bool has_gaps(const Tensor& mask_BT) {
  return mask_BT.slice(1, 1).logical_and(mask_BT.slice(1, 0, -1).logical_not()).any().item<bool>();
}

struct DecoderLayer {
  Tensor attention_norm_D, feed_forward_norm_D;
  std::unique_ptr<layer::Attention> attention;
  std::unique_ptr<layer::MoeLayer> feed_forward;
  std::optional<DepthRouter> depth;
  int64_t d_head = 0;
  bool has_experts = false, needs_attention = false;
  std::string parts;  // names of what stands in it

  void collect(ParameterList& list) {
    list.parameter("attention_norm", attention_norm_D, ParameterKind::vector);
    attention->collect(list);
    list.parameter("feed_forward_norm", feed_forward_norm_D, ParameterKind::vector);
    list.child("feed_forward", *feed_forward);
    if (depth) list.child("depth", *depth);
  }
};

class Decoder final : public LanguageModel, public Makes<Decoder, LanguageModel> {
 public:
  using Interface = LanguageModel;
  using Config = DecoderConfig;

  Decoder(const Config& config, const Inputs& in) : config_(config), vocabulary_(in.vocabulary) {
    if (config_.n_kv_heads == 0) config_.n_kv_heads = config_.n_heads;
    const auto D = config_.d_model, H = config_.n_heads, G = config_.n_kv_heads;
    require(D % H == 0, "decoder: d_model = ", D, " is not a multiple of n_heads = ", H);
    require((D / H) % 2 == 0, "decoder: the head width d_model / n_heads = ", D / H,
            " must be even for rotary positions");
    require(H % G == 0, "decoder: n_heads = ", H, " is not a multiple of n_kv_heads = ", G);
    const auto normal = [&](const Random& random, at::IntArrayRef sizes, double std) {
      return random.normal(sizes, std, in.options).requires_grad_(true);
    };
    const auto ones = [&] { return at::ones({D}, in.options).requires_grad_(true); };
    embedding_VD_ = normal(in.random.at("embedding"), {in.vocabulary, D}, config_.init_std);
    // Residual branches start small, so that depth does not blow up the first activations (Radford 2019).
    const auto branch_std = config_.init_std / std::sqrt(2.0 * static_cast<double>(config_.n_layers));
    const auto places = feed_forwards(in.random.at("layer"));
    const auto shared = std::make_shared<route::SharedParts>();
    for (int64_t i = 0; i < config_.n_layers; ++i) {
      const auto random = in.random.at("layer").at(static_cast<uint64_t>(i));
      DecoderLayer l;
      l.attention_norm_D = ones();
      l.attention = find(layer::attentions(), config_.attention, "attention")
                        .make(config_.attention, {.d_model = D,
                                                  .n_heads = H,
                                                  .n_kv_heads = G,
                                                  .init_std = config_.init_std,
                                                  .branch_std = branch_std,
                                                  .random = random,
                                                  .options = in.options,
                                                  .corpus = {.vocabulary = in.vocabulary, .count_V = in.count_V}});
      l.feed_forward_norm_D = ones();
      const auto& [named, pool] = places[static_cast<size_t>(i)];
      l.parts = text(config_.attention.name, ", ", named.name, pool ? " with experts in common" : "");
      const auto n_joined = pool ? pool->n_joined() : 0;
      l.feed_forward = find(layer::layers(), named, "layer")
                           .make(named, {.d_model = D,
                                         .random = random.at("feed_forward"),
                                         .options = in.options,
                                         .corpus = {.vocabulary = in.vocabulary, .count_V = in.count_V},
                                         .pool = pool,
                                         .shared = shared});
      require(!pool || pool->n_joined() == n_joined + 1, "decoder: share_experts = ", config_.share_experts,
              ", but layers of kind '", named.name, "' keep their experts to themselves");
      const auto facts = l.feed_forward->facts();
      const auto read = l.attention->facts(1);
      l.has_experts = facts.n_experts > 0, l.needs_attention = facts.needs.attention, l.d_head = read.d_head;
      reads_other_tokens_ = reads_other_tokens_ || facts.reads_other_tokens || read.reads_other_tokens;
      accept(config_.attention, "attention", read.is_causal, "attention");
      accept(named, "layer", facts.is_causal, "router");
      require(!l.needs_attention || read.gives_probabilities, "decoder: ", named.path.empty() ? "layer" : named.path,
              ": its router reads attention probabilities, which attention '", config_.attention.name,
              "' does not give");
      if (config_.depth.is_routed(i)) {
        l.depth.emplace(config_.depth, D, config_.init_std, random.at("depth"), in.options);
        require(l.depth->is_causal() || config_.allow_noncausal,
                "decoder: depth.evaluation = 'sequence' lets a token depend on later ones; choose 'predicted' or "
                "'so_far', or set model.allow_noncausal = true to accept this");
        require(!l.needs_attention && read.n_experts == 0, "decoder: layer ", i,
                " is a mixture of depths, in which routers can neither read attention nor choose its heads");
        reads_other_tokens_ = reads_other_tokens_ || !l.depth->is_causal();
      }
      layers_.push_back(std::move(l));
    }
    final_norm_D_ = ones();
    if (!config_.tie_embeddings) output_VD_ = normal(in.random.at("output"), {in.vocabulary, D}, config_.init_std);
  }

  ModelOutput forward(const Tensor& token_BT, const ModelContext& context, KeyValueCache* cache) override {
    require(token_BT.dim() == 2, "decoder: tokens must be [sequences, length], got ", token_BT.sizes());
    const auto B = token_BT.size(0), T = token_BT.size(1);
    const auto past = cache ? cache->length : 0;
    require(!cache || !reads_other_tokens_,
            "decoder: a router mixes tokens, so whole sequences must go through; a cache cannot stand for them");
    if (cache && cache->layers.empty()) cache->layers.resize(layers_.size()), cache->passed.resize(layers_.size());

    route::Context routing{.phase = context.phase,
                           .token_id_N = token_BT.reshape({-1}),
                           .mask_N = context.mask_BT.defined() ? context.mask_BT.reshape({-1}) : Tensor(),
                           .sequence_N = at::arange(B, token_BT.options()).repeat_interleave(T),
                           .n_sequences = B,
                           .record = context.record,
                           .routing_noise = context.routing_noise,
                           .explain = context.explain,
                           .losses = context.losses};
    layer::AttentionContext reading{.B = B, .T = T, .past = past};
    if (context.mask_BT.defined() && has_gaps(context.mask_BT)) {
      require(!cache, "decoder: with a cache, padding must come last in each sequence");
      reading.key_mask_BT = context.mask_BT;
    }
    int64_t turned = 0;  // head width that `reading.rotation` is for

    ModelOutput out;
    auto x_ND = at::embedding(embedding_VD_, routing.token_id_N).to(context.compute);
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto& l = layers_[i];
      routing.random = context.random.at("layer").at(i);
      if (l.d_head != turned) {
        reading.rotation = kernels::rotation(past, T, l.d_head, config_.rope_theta, embedding_VD_.options());
        turned = l.d_head;
      }
      reading.cache = cache ? &cache->layers[i] : nullptr;
      const auto wants_units = context.units_of == static_cast<int64_t>(i);
      x_ND = l.depth ? routed_block(i, x_ND, routing, reading, cache ? &cache->passed[i] : nullptr, out, wants_units)
                     : block(i, x_ND, routing, reading, out, wants_units);
    }
    if (cache) cache->length += T;
    out.hidden_ND = norm(x_ND, final_norm_D_);
    return out;
  }

  Tensor logits(const Tensor& hidden_ND) const override {
    const auto& weight_VD = config_.tie_embeddings ? embedding_VD_ : output_VD_;
    return kernels::linear(hidden_ND, weight_VD.to(hidden_ND.scalar_type()));
  }

  void step() override {
    for (auto& l : layers_) l.attention->step(), l.feed_forward->step();
  }

  ModelFacts facts(int64_t context_length) override {
    std::map<std::string, std::vector<std::string>> untaught;
    ModelFacts f{.n_layers = config_.n_layers, .d_model = config_.d_model, .vocabulary = vocabulary_};
    for (int64_t i = 0; i < config_.n_layers; ++i) {
      const auto& l = layers_[i];
      const auto mixed = l.feed_forward->facts();
      const auto read = l.attention->facts(taken_of(l, context_length));
      f.costs.push_back(cost_of(i, mixed, read, context_length));
      const auto D = static_cast<double>(config_.d_model);
      f.activation_bytes_per_token +=
          4 * f.costs.back().share * (6 * D + read.activations_per_token + 3 * mixed.parameters_active / D);
      f.is_causal = f.is_causal && mixed.is_causal && read.is_causal && (!l.depth || l.depth->is_causal());
      f.needs = f.needs | mixed.needs | read.needs;
      if (read.n_experts > 0) f.add_layer(config_.n_layers + i, read);
      if (l.has_experts) f.add_layer(i, mixed);
      const auto* router = l.feed_forward->router();
      if (const auto why = router ? router->untaught() : ""; !why.empty()) untaught[why].push_back(std::to_string(i));
    }
    for (const auto& [why, layers] : untaught)
      f.notes.push_back(text(layers.size() > 1 ? "layers " : "layer ", join(layers), ": router: ", why));
    f.costs.push_back(cost_around());
    for (const auto& cost : f.costs) {
      f.parameters_total += cost.parameters_total, f.parameters_active += cost.parameters_active;
      f.flops_per_token += cost.flops_per_token, f.cache_bytes_per_token += cost.cache_bytes_per_token;
    }
    f.reads_other_tokens = reads_other_tokens_;
    // Logits, their log-softmax and its gradient.
    f.activation_bytes_per_token += 4 * 3 * static_cast<double>(vocabulary_);
    return f;
  }

  void collect(ParameterList& list) override {
    list.parameter("embedding", embedding_VD_, ParameterKind::embedding);
    for (size_t i = 0; i < layers_.size(); ++i) {
      list.child(text("layers.", i), layers_[i]);
    }
    list.parameter("final_norm", final_norm_D_, ParameterKind::vector);
    if (!config_.tie_embeddings) list.parameter("output", output_VD_, ParameterKind::embedding);
  }

 private:
  // Tokens of a sequence that the layer works for.
  static int64_t taken_of(const DecoderLayer& l, int64_t context_length) {
    return l.depth ? l.depth->quota(context_length) : context_length;
  }

  LayerCost cost_of(int64_t i, const layer::LayerFacts& mixed, const layer::AttentionFacts& read,
                    int64_t context_length) {
    auto& l = layers_[static_cast<size_t>(i)];
    const auto taken = taken_of(l, context_length);
    const auto share = static_cast<double>(taken) / static_cast<double>(std::max<int64_t>(1, context_length));
    LayerCost out{.parts = l.parts,
                  .layer = i,
                  .n_experts = mixed.n_experts,
                  .n_heads = read.n_experts,
                  .share = share,
                  .parameters_total = numbers_of(l),
                  .parameters_active = share * (read.parameters_active + mixed.parameters_active) +
                                       2 * static_cast<double>(config_.d_model),
                  .flops_per_token = share * (read.flops_per_token + mixed.flops_at(taken)),
                  .cache_bytes_per_token = share * read.cache_bytes_per_token};
    if (l.depth) {
      out.parameters_active += l.depth->parameters(), out.flops_per_token += 2 * l.depth->parameters();
      out.cache_bytes_per_token += l.depth->cache_bytes_per_token();
    }
    return out;
  }

  // Embedding, last norm and output layer.
  LayerCost cost_around() const {
    const auto D = static_cast<double>(config_.d_model), table = static_cast<double>(vocabulary_) * D;
    const bool is_tied = config_.tie_embeddings;
    return {.parts = is_tied ? "embedding, which is the output, too" : "embedding, output",
            .parameters_total = D + (is_tied ? table : 2 * table),
            .parameters_active = D + (is_tied ? table : table + D),  // one row is looked up
            .flops_per_token = 2 * table};
  }

  // Attention, then feed-forward, each added to x.
  Tensor block(size_t i, const Tensor& before_ND, route::Context& routing, layer::AttentionContext& reading,
               ModelOutput& out, bool wants_units) const {
    const auto& l = layers_[i];
    const auto attended_ND = attend(i, norm(before_ND, l.attention_norm_D), routing, reading, out);
    const auto x_ND = before_ND + attended_ND;
    return x_ND + feed(i, norm(x_ND, l.feed_forward_norm_D), routing, out, wants_units);
  }

  // The same for the tokens that the layer takes, among themselves; the others pass by.
  Tensor routed_block(size_t i, const Tensor& x_ND, route::Context& routing, const layer::AttentionContext& reading,
                      PassedTokens* before, ModelOutput& out, bool wants_units) const {
    const auto& l = layers_[i];
    const auto B = reading.B, N = x_ND.size(0);
    require(!before || B == 1, "decoder: with a mixture of depths a cache is for one sequence, got ", B);
    const auto taken_before = before && before->count_1B.defined() ? before->count_1B.item<int64_t>() : 0;
    const auto input_ND = norm(x_ND, l.attention_norm_D);
    auto taken = l.depth->take(input_ND, routing, B, reading.T, before);
    add_losses(out, taken.losses, text("layer ", i, ": "));
    const auto& token_M = taken.token_M;
    const auto K = taken.tokens.index_EBK.size(2);

    // Their own contexts: shorter sequences, with the places of the text.
    auto inner = routing;
    inner.token_id_N = routing.token_id_N.index_select(0, token_M);
    inner.sequence_N = routing.sequence_N.index_select(0, token_M);
    inner.mask_N = taken.live_M;
    layer::AttentionContext among{
        .B = B, .T = K, .past = taken_before, .rotation = reading.rotation.of(token_M), .cache = reading.cache};
    auto added_MD = x_ND.index_select(0, token_M);
    const auto taken_MD = added_MD;
    if (K > 0) added_MD = attend(i, kernels::gather_rows(input_ND, token_M), inner, among, out);
    const auto fed_MD = norm(taken_MD + added_MD, l.feed_forward_norm_D);
    if (l.has_experts)
      added_MD = added_MD + feed_taken(i, fed_MD, taken, inner, routing, out, wants_units);
    else if (K > 0 || wants_units)
      added_MD = added_MD + feed(i, fed_MD, inner, out, wants_units);
    if (wants_units) out.units_NF = of_taken(out.units_NF, taken);  // who passes by meets none
    return K > 0 ? x_ND + kernels::combine(added_MD, taken.gate_M, token_M, N) : x_ND;
  }

  Tensor attend(size_t i, const Tensor& input_ND, route::Context& routing, layer::AttentionContext& reading,
                ModelOutput& out) const {
    const auto& l = layers_[i];
    const auto random = routing.random;
    routing.random = random.at("attention");
    reading.needs_probabilities = l.needs_attention;
    routing.attention_BTT.reset();
    // What the router of the experts before left is not for a router of heads.
    const auto carried_NH = std::exchange(routing.carried_NH, {});
    auto read = l.attention->forward(input_ND, routing, reading);
    routing.attention_BTT = read.attention_BTT, routing.random = random, routing.carried_NH = carried_NH;
    add_losses(out, read.losses, text("layer ", i, ": attention "));
    if (read.decision) {
      if (routing.record) out.records.push_back({input_ND.detach(), read.score_NE, read.bias_E, read.reasons});
      out.decisions.push_back(std::move(*read.decision));
    }
    return read.y_ND;
  }

  Tensor feed(size_t i, const Tensor& input_ND, route::Context& routing, ModelOutput& out,
              bool wants_units = false) const {
    const auto& l = layers_[i];
    auto done = forward_named(*l.feed_forward, input_ND, routing);
    if (wants_units) out.units_NF = l.feed_forward->units(input_ND, done);
    if (l.has_experts) routing.carried_NH = done.carried_NH;
    if (routing.record && l.has_experts)
      out.records.push_back({input_ND.detach(), done.score_NE, done.bias_E, done.reasons});
    if (routing.record) out.statistics.resize(i + 1), out.statistics[i] = std::move(done.statistics);
    add_losses(out, done.losses, text("layer ", i, ": "));
    if (done.decision) out.decisions.push_back(std::move(*done.decision));
    return done.y_ND;
  }

  // The same for taken tokens alone. What is told of it is about all tokens of the text: those that passed by have no
  // experts, and what the router before left of them stays for the next.
  Tensor feed_taken(size_t i, const Tensor& input_MD, const DepthRouter::Taken& taken, route::Context& inner,
                    route::Context& routing, ModelOutput& out, bool wants_units) const {
    const auto& token_M = taken.token_M;
    const auto N = taken.taken_N.size(0);
    const auto n_before = out.decisions.size(), n_recorded = out.records.size();
    if (routing.carried_NH.defined()) inner.carried_NH = routing.carried_NH.index_select(0, token_M);
    const auto y_MD = feed(i, input_MD, inner, out, wants_units);
    const auto live_M1 = taken.live_M.unsqueeze(1);
    if (const auto& left_MH = inner.carried_NH; left_MH.defined()) {
      if (!routing.carried_NH.defined()) routing.carried_NH = at::zeros({N, left_MH.size(1)}, left_MH.options());
      const auto before_MH = routing.carried_NH.index_select(0, token_M);
      routing.carried_NH = routing.carried_NH.index_copy(0, token_M, at::where(live_M1, left_MH, before_MH));
    } else {
      routing.carried_NH.reset();
    }
    for (auto k = n_before; k < out.decisions.size(); ++k) out.decisions[k] = of_text(out.decisions[k], token_M, N);
    for (auto k = n_recorded; k < out.records.size(); ++k) {
      out.records[k].input_ND = of_taken(out.records[k].input_ND, taken);
      out.records[k].score_NE = of_taken(out.records[k].score_NE, taken);
    }
    return y_MD;
  }

  // Rows of taken tokens among zeros for the others. Undefined stays so.
  static Tensor of_taken(const Tensor& of_MX, const DepthRouter::Taken& taken) {
    if (!of_MX.defined()) return of_MX;
    const auto nothing_NX = at::zeros({taken.taken_N.size(0), of_MX.size(1)}, of_MX.options());
    return nothing_NX.index_copy(0, taken.token_M, of_MX.masked_fill(taken.live_M.unsqueeze(1).logical_not(), 0));
  }

  // A decision about some tokens as one about all N of the text.
  static route::Decision of_text(const route::Decision& d, const Tensor& token_M, int64_t N) {
    const auto named = [&](const Tensor& token) { return token.defined() ? token_M.index_select(0, token) : token; };
    auto dropped = d.dropped();
    dropped.token_Q = named(dropped.token_Q);
    return route::Decision::from_parts({.n_tokens = N,
                                        .n_experts = d.n_experts(),
                                        .token_R = named(d.token_R()),
                                        .expert_R = d.expert_R(),
                                        .gate_R = d.gate_R(),
                                        .rank_R = d.rank_R(),
                                        .slot_R = d.slot_R(),
                                        .score_R = d.score_R(),
                                        .margin_R = d.margin_R(),
                                        .wanted_R = d.is_rerouted() ? d.wanted_R() : Tensor(),
                                        .dropped = dropped});
  }

  static void add_losses(ModelOutput& out, std::vector<route::LossTerm>& terms, const std::string& prefix) {
    for (auto& term : terms) {
      term.name = prefix + term.name;
      out.losses.push_back(std::move(term));
    }
  }

  struct Place {
    Named named;
    std::shared_ptr<layer::ExpertPool> pool;  // where neighbours share their experts
  };

  // What stands in the feed-forward place of each layer. Layers that an override gives another mechanism share nothing.
  std::vector<Place> feed_forwards(const Random& layers) const {
    const auto n = config_.n_layers;
    require(config_.moe_every == 0 || config_.moe_first < n, "decoder: moe_first = ", config_.moe_first, ", but of ", n,
            " layers the last is number ", n - 1, "; moe_every = 0 is a model without experts");
    check_overrides(config_.overrides, n, "model.override");
    std::vector<Place> out;
    const std::array known = {config_.moe, config_.dense};
    std::vector<size_t> sharing;
    for (int64_t i = 0; i < n; ++i) {
      const bool is_moe =
          config_.moe_every > 0 && i >= config_.moe_first && (i - config_.moe_first) % config_.moe_every == 0;
      out.push_back(
          {overridden(is_moe ? config_.moe : config_.dense, known, config_.overrides, i, n, "model.override"), {}});
      if (is_moe && out.back().named.name == config_.moe.name) sharing.push_back(static_cast<size_t>(i));
    }
    const auto group = static_cast<size_t>(config_.share_experts);
    for (size_t first = 0; group > 1 && first < sharing.size(); first += group) {
      const auto last = std::min(first + group, sharing.size());
      std::vector<Random> streams;
      for (auto i = first; i < last; ++i) streams.push_back(layers.at(sharing[i]).at("feed_forward"));
      if (streams.size() < 2) continue;
      const auto pool = std::make_shared<layer::ExpertPool>(std::move(streams));
      for (auto i = first; i < last; ++i) out[sharing[i]].pool = pool;
    }
    return out;
  }

  Tensor norm(const Tensor& x_ND, const Tensor& gain_D) const {
    return kernels::rms_norm(x_ND, gain_D, config_.norm_epsilon);
  }

  void accept(const Named& part, std::string_view what, bool is_causal, std::string_view choice) const {
    if (is_causal || config_.allow_noncausal) return;
    throw Error(ErrorKind::usage,
                text("decoder: ", part.path.empty() ? what : part.path, ": '", part.name,
                     "' with these settings lets a token depend on later ones, so held-out loss would be too good "
                     "to be true and generation would differ from training"),
                text("choose a causal ", choice, ", or set model.allow_noncausal = true to accept this"));
  }

  Config config_;
  int64_t vocabulary_;
  bool reads_other_tokens_ = false;
  Tensor embedding_VD_, output_VD_, final_norm_D_;
  std::vector<DecoderLayer> layers_;
};

}  // namespace

extern constinit const Entry<LanguageModel> language_model_decoder = entry<Decoder>(
    {.name = "decoder",
     .source = "Vaswani 2017; Zhang 2019 (RMSNorm); Su 2021 (rotary positions)",
     .taxonomy = "architecture/language",
     .summary = "decoder language model whose attention and feed-forward layers may be mixtures of experts",
     .equation = "x ← x + Attention(norm(x)), x ← x + FFN(norm(x)) in each layer;  logits = W norm(x)\n"
                 "norm(x) = γ ⊙ x / √(mean x² + ε);  FFN dense or a mixture"});

}  // namespace collegium::model
