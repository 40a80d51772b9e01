// A decoder language model: RMSNorm, and in each layer attention of some kind and a feed-forward place that is dense or
// a mixture of experts.
//
// B sequences, T tokens each, N = B T, D model width, H query heads, G key-value heads, V vocabulary.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/norm.h"
#include "collegium/layer/attention.h"
#include "collegium/model/language_model.h"

namespace collegium::model {
namespace {

struct DecoderConfig {
  int64_t d_model = 256, n_layers = 4, n_heads = 4, n_kv_heads = 0;
  double rope_theta = 10000, norm_epsilon = 1e-6, init_std = 0.02;
  bool tie_embeddings = true;
  Named attention{.name = "full"};
  Named dense{.name = "dense"};
  Named moe{.name = "routed"};
  int64_t moe_first = 0, moe_every = 1;
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
  int64_t d_head = 0;
  bool has_experts = false, needs_attention = false;
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
      const bool is_moe =
          config_.moe_every > 0 && i >= config_.moe_first && (i - config_.moe_first) % config_.moe_every == 0;
      const auto& named = is_moe ? config_.moe : config_.dense;
      l.feed_forward = find(layer::layers(), named, "layer")
                           .make(named, {.d_model = D,
                                         .random = random.at("feed_forward"),
                                         .options = in.options,
                                         .corpus = {.vocabulary = in.vocabulary, .count_V = in.count_V}});
      const auto facts = l.feed_forward->facts();
      const auto read = l.attention->facts(1);
      l.has_experts = facts.n_experts > 0, l.needs_attention = facts.needs.attention, l.d_head = read.d_head;
      reads_other_tokens_ = reads_other_tokens_ || facts.reads_other_tokens || read.reads_other_tokens;
      accept(config_.attention, "attention", read.is_causal, "attention");
      accept(named, "layer", facts.is_causal, "router");
      require(!l.needs_attention || read.gives_probabilities, "decoder: ", named.path.empty() ? "layer" : named.path,
              ": its router reads attention probabilities, which attention '", config_.attention.name,
              "' does not give");
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
    if (cache && cache->layers.empty()) cache->layers.resize(layers_.size());

    route::Context routing{.phase = context.phase,
                           .token_id_N = token_BT.reshape({-1}),
                           .mask_N = context.mask_BT.defined() ? context.mask_BT.reshape({-1}) : Tensor(),
                           .sequence_N = at::arange(B, token_BT.options()).repeat_interleave(T),
                           .n_sequences = B,
                           .record = context.record};
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
      const auto random = context.random.at("layer").at(i);
      routing.random = random.at("attention");
      if (l.d_head != turned) {
        reading.rotation = kernels::rotation(past, T, l.d_head, config_.rope_theta, embedding_VD_.options());
        turned = l.d_head;
      }
      reading.cache = cache ? &cache->layers[i] : nullptr;
      reading.needs_probabilities = l.needs_attention;
      routing.attention_BTT.reset();
      auto read = l.attention->forward(norm(x_ND, l.attention_norm_D), routing, reading);
      routing.attention_BTT = read.attention_BTT;
      x_ND = x_ND + read.y_ND;
      for (auto& term : read.losses) {
        term.name = text("layer ", i, ": attention ", term.name);
        out.losses.push_back(std::move(term));
      }
      const auto input_ND = norm(x_ND, l.feed_forward_norm_D);
      routing.random = random;
      auto done = l.feed_forward->forward(input_ND, routing);
      x_ND = x_ND + done.y_ND;
      if (l.has_experts) routing.carried_NH = done.carried_NH;
      if (context.record && l.has_experts) out.records.push_back({input_ND.detach(), done.score_NE, done.bias_E});
      for (auto& term : done.losses) {
        term.name = text("layer ", i, ": ", term.name);
        out.losses.push_back(std::move(term));
      }
      if (done.decision) out.decisions.push_back(std::move(*done.decision));
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
    ModelFacts f{.n_layers = config_.n_layers, .d_model = config_.d_model, .vocabulary = vocabulary_};
    for (const auto& p : parameters_of(*this))
      if (p.trained()) f.parameters_total += static_cast<double>(p.tensor->numel());
    const auto D = static_cast<double>(config_.d_model), V = static_cast<double>(vocabulary_);
    f.parameters_active = D + (config_.tie_embeddings ? V * D : V * D + D);
    f.flops_per_token = 2 * V * D;
    for (int64_t i = 0; i < config_.n_layers; ++i) {
      const auto& l = layers_[i];
      const auto mixed = l.feed_forward->facts();
      const auto read = l.attention->facts(context_length);
      f.parameters_active += read.parameters_active + 2 * D + mixed.parameters_active;
      f.flops_per_token += read.flops_per_token + mixed.flops_per_token;
      f.activation_bytes_per_token += 4 * (6 * D + read.activations_per_token + 3 * mixed.parameters_active / D);
      f.cache_bytes_per_token += read.cache_bytes_per_token;
      f.is_causal = f.is_causal && mixed.is_causal && read.is_causal;
      f.needs = f.needs | mixed.needs | read.needs;
      f.reads_other_tokens = f.reads_other_tokens || mixed.reads_other_tokens || read.reads_other_tokens;
      if (l.has_experts) f.moe_layers.push_back(i), f.n_experts.push_back(mixed.n_experts);
    }
    f.activation_bytes_per_token += 4 * 3 * V;  // logits, their log-softmax and its gradient
    return f;
  }

  void collect(ParameterList& list) override {
    list.parameter("embedding", embedding_VD_, ParameterKind::embedding);
    for (size_t i = 0; i < layers_.size(); ++i) {
      struct Shown {
        DecoderLayer& l;
        void collect(ParameterList& inner) {
          inner.parameter("attention_norm", l.attention_norm_D, ParameterKind::vector);
          l.attention->collect(inner);
          inner.parameter("feed_forward_norm", l.feed_forward_norm_D, ParameterKind::vector);
          inner.child("feed_forward", *l.feed_forward);
        }
      } shown{layers_[i]};
      list.child(text("layers.", i), shown);
    }
    list.parameter("final_norm", final_norm_D_, ParameterKind::vector);
    if (!config_.tie_embeddings) list.parameter("output", output_VD_, ParameterKind::embedding);
  }

 private:
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
     .summary = "decoder language model whose attention and feed-forward layers may be mixtures of experts"});

}  // namespace collegium::model
