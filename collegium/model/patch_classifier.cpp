// A small convolutional classifier of images: filters as large as a patch embed each patch, one layer (a mixture of
// experts, or dense for the single network) works on the patches, their mean is normalised and read by a linear head.
// With a mixture that gives each expert its l best patches, this is pMoE of two-layer CNNs (P089, Chowdhury
// 2023); with a dense layer, the single CNN it is compared with. Patches that nobody takes leave no trace in the mean,
// so the layer has no path around it.
//
// B images of C channels, H x W pixels, patches of S x S pixels, P patches an image, N = B P, D model width, K classes.
#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/norm.h"
#include "collegium/model/feed_forward.h"
#include "collegium/model/image_model.h"

namespace collegium::model {
namespace {

struct PatchClassifierConfig {
  int64_t patch = 28, d_model = 32;
  double norm_epsilon = 1e-6, init_std = 0.02;
  Named moe{.name = "routed"};
  void visit(Fields& field) {
    field("patch", patch, {.help = "side of a patch; it divides height and width", .unit = "pixels", .min = 1});
    field("d_model", d_model, {.help = "filters that embed a patch", .min = 1});
    field("norm_epsilon", norm_epsilon, {.help = "added to the mean square in RMSNorm", .min = 0});
    field("init_std", init_std, {.help = "standard deviation of the head's first weights", .min = 0});
    field("moe", moe, {.help = "what works on the patches; dense = a single network", .catalogue = "layers"});
  }
};

class PatchClassifier final : public ImageModel, public Makes<PatchClassifier, ImageModel> {
 public:
  using Interface = ImageModel;
  using Config = PatchClassifierConfig;

  PatchClassifier(const Config& config, const Inputs& in) : config_(config), in_(in) {
    const auto S = config.patch, D = config.d_model;
    require(in.height % S == 0 && in.width % S == 0, "patch_classifier: images of ", in.height, " x ", in.width,
            " pixels do not divide into patches of ", S, " x ", S);
    const auto pixels = in.n_channels * S * S;
    filter_DX_ = in.random.at("filter")
                     .normal({D, pixels}, 1 / std::sqrt(static_cast<double>(pixels)), in.options)
                     .requires_grad_(true);
    layer_ = find(layer::layers(), config.moe, "layer")
                 .make(config.moe, {.d_model = D,
                                    .random = in.random.at("layer"),
                                    .options = in.options,
                                    .corpus = {.sequence_length = patches_per_image()}});
    const auto needs = layer_->facts().needs;
    require(!needs.token_ids && !needs.attention,
            "patch_classifier: ", config.moe.path.empty() ? "layer" : config.moe.path, ": its router needs ",
            needs.missing({.experts = true, .unit_predictions = true}), ", which patches of an image do not have");
    norm_D_ = at::ones({D}, in.options).requires_grad_(true);
    head_KD_ = in.random.at("head").normal({in.n_classes, D}, config.init_std, in.options).requires_grad_(true);
  }

  ModelOutput forward(const Tensor& image_BCHW, const ModelContext& context) override {
    require(image_BCHW.dim() == 4 && image_BCHW.size(1) == in_.n_channels && image_BCHW.size(2) == in_.height &&
                image_BCHW.size(3) == in_.width,
            "patch_classifier: images must be [images, ", in_.n_channels, ", ", in_.height, ", ", in_.width, "], got ",
            image_BCHW.sizes());
    const auto B = image_BCHW.size(0), C = in_.n_channels, S = config_.patch, P = patches_per_image();
    const auto patch_NX = image_BCHW.to(context.compute)
                              .view({B, C, in_.height / S, S, in_.width / S, S})
                              .permute({0, 2, 4, 1, 3, 5})
                              .reshape({B * P, C * S * S});
    const auto x_ND = kernels::linear(patch_NX, filter_DX_.to(context.compute));
    const route::Context routing{
        .phase = context.phase,
        .sequence_N = at::arange(B, at::TensorOptions().dtype(at::kLong).device(x_ND.device())).repeat_interleave(P),
        .n_sequences = B,
        .record = context.record,
        .routing_noise = context.routing_noise,
        .explain = context.explain,
        .losses = context.losses,
        .random = context.random.at("layer")};
    auto done = forward_named(*layer_, x_ND, routing);
    ModelOutput out;
    const auto mean_BD = done.y_ND.view({B, P, config_.d_model}).mean(1);
    out.hidden_ND = kernels::rms_norm(mean_BD, norm_D_, config_.norm_epsilon);
    if (context.record && layer_->facts().n_experts > 0)
      out.records.push_back({x_ND.detach(), done.score_NE, done.bias_E, done.reasons});
    if (context.record) out.statistics.push_back(std::move(done.statistics));
    for (auto& term : done.losses) {
      term.name = "layer 0: " + term.name;
      out.losses.push_back(std::move(term));
    }
    if (done.decision) out.decisions.push_back(std::move(*done.decision));
    return out;
  }

  Tensor logits(const Tensor& hidden_BD) const override {
    return kernels::linear(hidden_BD, head_KD_.to(hidden_BD.scalar_type()));
  }
  int64_t patches_per_image() const override { return (in_.height / config_.patch) * (in_.width / config_.patch); }
  void step() override { layer_->step(); }

  ModelFacts facts(int64_t) override {
    ModelFacts f{.n_layers = 1, .d_model = config_.d_model};
    const auto mixed = layer_->facts();
    const auto filters = static_cast<double>(filter_DX_.numel()), head = static_cast<double>(head_KD_.numel());
    const auto D = static_cast<double>(config_.d_model);
    f.costs = {{.parts = config_.moe.name,
                .layer = 0,
                .n_experts = mixed.n_experts,
                .parameters_total = numbers_of(*layer_),
                .parameters_active = mixed.parameters_active,
                .flops_per_token = mixed.flops_at(patches_per_image())},
               {.parts = "filters, head",
                .parameters_total = filters + D + head,
                .parameters_active = filters + D + head,
                .flops_per_token = 2 * filters + 2 * head / static_cast<double>(patches_per_image())}};
    for (const auto& cost : f.costs) {
      f.parameters_total += cost.parameters_total, f.parameters_active += cost.parameters_active;
      f.flops_per_token += cost.flops_per_token;
    }
    f.activation_bytes_per_token = 4 * (2 * filters / D + 4 * D + 3 * mixed.parameters_active / D);
    f.is_causal = mixed.is_causal, f.needs = mixed.needs, f.reads_other_tokens = mixed.reads_other_tokens;
    if (mixed.n_experts > 0) f.add_layer(0, mixed);
    return f;
  }

  void collect(ParameterList& list) override {
    list.parameter("filter", filter_DX_);
    list.child("layer", *layer_);
    list.parameter("norm", norm_D_, ParameterKind::vector);
    list.parameter("head", head_KD_, ParameterKind::embedding);
  }

 private:
  Config config_;
  Inputs in_;
  Tensor filter_DX_, norm_D_, head_KD_;
  std::unique_ptr<layer::MoeLayer> layer_;
};

}  // namespace

extern constinit const Entry<ImageModel> image_model_patch_classifier = entry<PatchClassifier>(
    {.name = "patch_classifier",
     .paper = 89,
     .source = "Chowdhury 2023 (pMoE): mixtures of two-layer CNNs and the single CNN",
     .taxonomy = "architecture/vision",
     .summary = "image classifier whose layer over patches may be a mixture of experts",
     .equation = "logits = W norm(mean over patches of Layer(F · patch)),  norm(x) = γ ⊙ x / √(mean x² + ε)"});

}  // namespace collegium::model
