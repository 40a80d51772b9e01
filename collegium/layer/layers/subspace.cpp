// CDSP-MoE: one shared backbone, more of it than any expert uses, and experts that are subspaces of it. A learned
// topology says how strongly expert i is connected to block j of the backbone; its m strongest blocks are the expert,
// and their mean strength scales its output, which is how the task's gradient reaches the topology:
//
//   S_i = top-m of A_i,   y = sum_i gate_i s_i V[S_i]^T act(U[S_i] x),   s_i = mean over S_i of sigmoid(A_ij)
//
// Lagged gradient game: where two experts that both work now pulled the blocks they share in opposite directions in the
// step before, the connection between them is punished,
//
//   L = conflict * sum_{i != j} sigmoid(A_ij) max(0, -cos(g_i, g_j)),   g: gradients by U over S_i and S_j in common,
//
// so that the topology prunes itself and no load balancing is needed. Besides, mean |A| (fewer connections) and mean
// sigmoid(A) (1 - sigmoid(A)) (decided ones).
//
// P111 (CDSP-MoE), sections 3 and 4, and the authors' code (topology.py, conflict.py, regularization.py, layer.py): E
// blocks, block j starting as expert j's own, A_ii = 1 and A_ij = 0.1 with noise of 0.02; a rank of B / sqrt(E) units,
// here the sqrt(E) blocks that it amounts to; weights of the other two 1e-3 and 1e-2; ten times the learning rate and
// no decay for A (here A is kept as `topology_rate` times a parameter, which is the same for optimisers of unit step
// such as Adam); only the first matrix's gradients count. Its router reads tokens and, sometimes, a task's label; here
// there are never labels, the paper's blind protocol. What has to be remembered of the step before is the matrix of
// conflicts. The authors' weight of the conflict is 10. In our runs a topology with such gradients takes the whole of a
// clipped global norm from the weights, whose steps then vanish; Adam's steps hardly depend on the weight, so that 0.1
// is the default. Assumed: gradients of a step's micro-batches are added before they are compared; first weights are
// normal where the paper's are orthogonal.
//
// N tokens, D model width, E experts and blocks, m blocks of one expert, I hidden width of a block, P parts of the
// first matrix (2 for gated networks), J = m I, R assignments.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/top_k.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {
namespace {

enum class SubspaceNetwork { silu, gelu, swiglu };
std::span<const std::string_view> enum_names(SubspaceNetwork) {
  static constexpr std::array<std::string_view, 3> names = {"silu", "gelu", "swiglu"};
  return names;
}

// Gradients by the experts' own copies of their blocks, since the last step, and which blocks these were.
struct BlockGradients {
  Tensor sum_QPID, block_Em;  // Q = E m
};

class SubspaceLayer final : public MoeLayer, public Makes<SubspaceLayer, MoeLayer> {
 public:
  using Interface = MoeLayer;
  struct Config {
    int64_t n_experts = 8;
    int64_t d_expert = 0;
    int64_t n_blocks = 0;
    SubspaceNetwork network = SubspaceNetwork::silu;
    Named router{.name = "top_k", .fields = table({{"balance_loss", 0.0}, {"z_loss", 0.0}})};
    double conflict = 0.1;
    double sparsity = 1e-3;
    double determinism = 1e-2;
    double topology_rate = 10;
    double connection = 0.1;
    double noise = 0.02;
    double init_scale = 0.3;
    void visit(Fields& field) {
      field("n_experts", n_experts, {.help = "experts, and blocks of the backbone", .unit = "experts", .min = 1});
      field("d_expert", d_expert,
            {.help = "hidden width of one block of the backbone; 0 = 4 * d_model over all blocks", .min = 0});
      field("n_blocks", n_blocks,
            {.help = "blocks that make up one expert; 0 = the square root of n_experts", .unit = "blocks", .min = 0});
      field("network", network, {.help = "activation between the backbone's matrices; swiglu has a third one"});
      field("router", router, {.help = "who chooses", .catalogue = "routers"});
      field("conflict", conflict, {.help = "weight of connections whose experts' last gradients conflict", .min = 0});
      field("sparsity", sparsity, {.help = "weight of the connections' mean absolute value", .min = 0});
      field("determinism", determinism, {.help = "weight of the connections' mean p (1 - p)", .min = 0});
      field("topology_rate", topology_rate,
            {.help = "steps of the topology are so many times those of the weights", .min = 1e-6});
      field("connection", connection,
            {.help = "first value of connections to the other experts' blocks; 1 to the own"});
      field("noise", noise, {.help = "standard deviation added to that", .min = 0});
      field("init_scale", init_scale, {.help = "variance of the first weights, times their fan-in", .min = 0});
    }
  };

  SubspaceLayer(const Config& config, const Inputs& in) : config_(config) {
    const auto E = config.n_experts, D = in.d_model, P = parts();
    const auto I = config.d_expert > 0 ? config.d_expert : std::max<int64_t>(1, 4 * D / E);
    if (config_.n_blocks == 0) config_.n_blocks = std::max<int64_t>(1, std::llround(std::sqrt(static_cast<double>(E))));
    require(config_.n_blocks <= E, "subspace: an expert of ", config_.n_blocks, " blocks wants more than the ", E,
            " there are");
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes, int64_t fan_in) {
      const auto std = std::sqrt(config.init_scale / static_cast<double>(fan_in));
      return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    up_EPID_ = normal("up", {E, P, I, D}, D);
    down_EDI_ = normal("down", {E, D, I}, config_.n_blocks * I);
    auto first_EE = in.random.at("topology").normal({E, E}, config.noise, in.options) + config.connection;
    topology_EE_ = (first_EE.fill_diagonal_(1) / config.topology_rate).requires_grad_(true);
    conflict_EE_ = at::zeros({E, E}, in.options);
    router_ = make_router(config.router, E, in, in.random.at("router"));
  }

  LayerOutput forward(const Tensor& x_ND, const route::Context& context) override {
    auto routing = router_->route(x_ND, context);
    const auto alpha_EE = topology_EE_.to(route::router_dtype(x_ND)) * config_.topology_rate;
    const auto connected_EE = alpha_EE.sigmoid();
    const auto block_Em = strongest();
    const auto strength_E = connected_EE.gather(1, block_Em).mean(1);
    const auto& d = routing.decision;
    routing.decision = d.with_gates(d.gate_R() * strength_E.index_select(0, d.expert_R()).to(d.gate_R()));

    LayerOutput out{.y_ND = network(x_ND, routing.decision, block_Em, context), .losses = std::move(routing.losses)};
    if (context.losses) add_losses(out.losses, alpha_EE, connected_EE, block_Em, routing.decision);
    show_routing(out, routing, context);
    return out;
  }

  void step() override {
    router_->step();
    const at::NoGradGuard no_grad;
    const auto last = std::move(*gradients_);
    *gradients_ = {};
    if (last.sum_QPID.defined())
      conflict_EE_.copy_(conflicts(last.sum_QPID.reshape({config_.n_experts, config_.n_blocks, -1}), last.block_Em));
    else
      conflict_EE_.zero_();
  }

  LayerFacts facts() const override {
    const auto E = static_cast<double>(config_.n_experts), chosen = router_->facts().choices_per_token;
    const auto block = static_cast<double>(up_EPID_.numel() + down_EDI_.numel()) / E;
    const auto blocks = chosen * static_cast<double>(config_.n_blocks);
    auto out = routed_facts(*router_, blocks * block);
    // Experts share blocks, of which there are E; each has a row of the topology.
    out.parameters_active += (std::min(blocks, E) - blocks) * block + chosen * E;
    return out;
  }
  route::Router* router() override { return router_.get(); }
  void collect(ParameterList& list) override {
    list.child("router", *router_);
    list.parameter("up", up_EPID_);
    list.parameter("down", down_EDI_);
    list.parameter("topology", topology_EE_, ParameterKind::vector);
    list.buffer("conflict", conflict_EE_);
  }

 private:
  int64_t parts() const { return config_.network == SubspaceNetwork::swiglu ? 2 : 1; }

  // Each expert's blocks, the strongest first; the lower block among equals.
  Tensor strongest() const { return kernels::top_k(topology_EE_.detach(), config_.n_blocks).expert_NK; }

  Tensor network(const Tensor& x_ND, const route::Decision& d, const Tensor& block_Em,
                 const route::Context& context) const {
    const auto dtype = x_ND.scalar_type();
    const auto E = block_Em.size(0), m = block_Em.size(1), P = up_EPID_.size(1), I = up_EPID_.size(2), D = x_ND.size(1);
    const auto block_Q = block_Em.reshape({-1});
    const auto up_QPID = up_EPID_.index_select(0, block_Q);
    const bool is_training = route::trains(context);
    if (is_training && config_.conflict > 0 && up_QPID.requires_grad())
      up_QPID.register_hook([to = gradients_, block_Em](const Tensor& grad) {
        to->sum_QPID = to->sum_QPID.defined() ? to->sum_QPID + grad.detach() : grad.detach().clone();
        to->block_Em = block_Em;
      });
    const auto up_EHD = up_QPID.to(dtype).view({E, m, P, I, D}).transpose(1, 2).reshape({E, P * m * I, D});
    const auto down_EDJ =
        down_EDI_.index_select(0, block_Q).to(dtype).view({E, m, D, I}).transpose(1, 2).reshape({E, D, m * I});
    if (config_.network == SubspaceNetwork::gelu)
      return kernels::gelu_experts(x_ND, d.gate_R(), d.token_R(), d.offset_E1(), up_EHD, down_EDJ);
    if (config_.network == SubspaceNetwork::swiglu)
      return kernels::swiglu_experts(x_ND, d.gate_R(), d.token_R(), d.offset_E1(), up_EHD, down_EDJ);
    const auto h_RJ = kernels::grouped_linear(kernels::gather_rows(x_ND, d.token_R()), up_EHD, d.offset_E1());
    return kernels::combine(kernels::grouped_linear(at::silu(h_RJ), down_EDJ, d.offset_E1()), d.gate_R(), d.token_R(),
                            x_ND.size(0));
  }

  void add_losses(std::vector<route::LossTerm>& losses, const Tensor& alpha_EE, const Tensor& connected_EE,
                  const Tensor& block_Em, const route::Decision& d) const {
    const auto add = [&](const char* name, double weight, const Tensor& raw) {
      if (weight > 0) losses.push_back({.name = name, .value = weight * raw, .raw = raw.item<double>()});
    };
    const auto works_E = d.kept_E().gt(0).to(connected_EE.options());
    add("conflict", config_.conflict,
        (connected_EE * conflict_EE_.to(connected_EE) * works_E.unsqueeze(1) * works_E.unsqueeze(0)).sum());
    add("sparsity", config_.sparsity, alpha_EE.abs().mean());
    add("determinism", config_.determinism, (connected_EE * (1 - connected_EE)).mean());
    // For people: of one expert's blocks, the share that another one has, too.
    const auto E = block_Em.size(0), m = block_Em.size(1);
    const auto has_EE = at::zeros({E, E}, connected_EE.options().requires_grad(false)).scatter_(1, block_Em, 1);
    const auto shared = at::matmul(has_EE, has_EE.t()).sum().item<double>() - static_cast<double>(E * m);
    losses.push_back({.name = "overlap",
                      .value = at::zeros({}, has_EE.options()),
                      .raw = E > 1 ? shared / static_cast<double>(E * (E - 1) * m) : 0.0});
  }

  // max(0, -cos) of the gradients by the blocks that two experts share; 0 without shared blocks or gradients.
  static Tensor conflicts(const Tensor& grad_EmF, const Tensor& block_Em) {
    const auto E = grad_EmF.size(0);
    // [block, expert, F]: zero where the expert has not got the block.
    const auto where = block_Em.unsqueeze(2).expand_as(grad_EmF);
    const auto grad_BEF =
        at::zeros({E, E, grad_EmF.size(2)}, grad_EmF.options()).scatter_(1, where, grad_EmF).transpose(0, 1);
    const auto dot_EE = at::matmul(grad_BEF, grad_BEF.transpose(1, 2)).to(at::kDouble).sum(0);
    const auto square_EB = grad_BEF.to(at::kDouble).square().sum(2).t();
    const auto has_EB = at::zeros({E, E}, square_EB.options()).scatter_(1, block_Em, 1);
    const auto common_EE = at::matmul(square_EB, has_EB.t());  // |g_i|^2 over what i shares with j
    const auto scale_EE = (common_EE * common_EE.t()).sqrt();
    return at::where(scale_EE.gt(0), -dot_EE / scale_EE.clamp_min(1e-300), at::zeros_like(dot_EE))
        .clamp_min(0)
        .fill_diagonal_(0);
  }

  Config config_;
  Tensor up_EPID_, down_EDI_, topology_EE_, conflict_EE_;
  std::unique_ptr<route::Router> router_;
  std::shared_ptr<BlockGradients> gradients_ = std::make_shared<BlockGradients>();
};

}  // namespace

extern constinit const Entry<MoeLayer> layer_subspace = entry<SubspaceLayer>(
    {.name = "subspace",
     .paper = 111,
     .source = "CDSP-MoE (arXiv 2512.20291), sections 3 and 4; authors' code",
     .taxonomy = "architecture/sparse/shared backbone",
     .summary = "experts are learned subspaces of one backbone; conflicting gradients part them",
     .equation = "y = Σ_{e ∈ T} g_e s_e V[S_e]ᵀ act(U[S_e] x),  S_e = top-m of A_e,  s_e = mean σ(A_e) over S_e\n"
                 "L = α Σ_{i ≠ j} σ(A_ij) relu(-cos(∇_i, ∇_j)) + β mean |A| + γ mean σ(A) (1 - σ(A)),  σ = sigmoid"});

}  // namespace collegium::layer
