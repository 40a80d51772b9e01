// A router: scorer, selector, capacity, gate and balancers composed, and checked when built.
#pragma once
#include <optional>

#include "collegium/route/stages.h"

namespace collegium::route {

/// A composition as data: what a preset gives and a recipe may write out.
struct Composition {
  Named scorer{.name = "linear"};
  Named selector{.name = "top_k"};
  Named capacity{.name = "unlimited"};
  Named gate{.name = "normalised"};
  std::vector<Named> balancers;
  int64_t null_experts = 0;
  void visit(Fields& field);

  /// Adds a loss of this weight; a weight of 0 adds nothing.
  void add_loss(std::string_view name, double coefficient);
};

/// Everything one routing gives.
struct Routing {
  Scores scores;
  Decision decision;
  std::vector<LossTerm> losses;
  Tensor bias_E;    ///< what balancers added for selection; undefined = nothing
  Reasons reasons;  ///< over all candidates, null experts too; only if context.explain
};

/// The stages as objects. C++ users may bring stages that no list knows.
struct Stages {
  std::unique_ptr<Scorer> scorer;
  std::unique_ptr<Selector> selector;
  std::unique_ptr<Capacity> capacity;
  std::unique_ptr<Gate> gate;
  std::vector<std::unique_ptr<Balancer>> balancers;
  std::vector<std::string> names;  ///< scorer, selector, capacity, gate, balancers…: for errors
};

/// Facts of the whole router, composed from those of its stages.
struct RouterFacts {
  Chooser chooser = Chooser::token;
  bool is_exactly_balanced = false, may_drop = false;
  bool is_causal = true;              ///< when evaluating: held-out loss and generation look at no later token
  bool is_causal_in_training = true;  ///< and when training
  bool chooses_any_set = true, is_random = false;
  bool reads_other_tokens = false;  ///< decoding token by token would decide otherwise
  bool learns_from_task = true;     ///< gates carry a gradient of the scores
  ContextNeeds needs;
  double choices_per_token = 0, flops_per_token = 0, flops_per_pair = 0;
  int64_t n_null = 0;        ///< null experts, beside those that work
  double fixed_choices = 0;  ///< what every token asks for, null experts among it; 0 = not the same for all
};

class Router {
 public:
  using Interface = Router;
  using Inputs = StageInputs;
  /// What a preset promises; the contract tests hold the built router to it.
  struct Claims {
    Chooser chooser = Chooser::token;
    bool is_exactly_balanced = false;
    bool is_causal = true;
    ContextNeeds needs;
    bool is_causal_in_training = true;
    std::vector<std::pair<std::string, std::string>> describe() const;
  };

  /// Refuses a composition that makes no sense, with the reason.
  /// `stages` see n_experts + n_null experts; null experts do no work and are in no decision that leaves the router
  /// (AdaMoE, P087).
  Router(Stages stages, int64_t n_experts, int64_t n_null = 0);
  static std::unique_ptr<Router> compose(const Composition& composition, const Inputs& inputs, std::string_view path);

  /// The same around a scorer that no list knows, called `scorer_name` in errors; composition.scorer is not read, and
  /// the router has no composition() of its own.
  static std::unique_ptr<Router> compose(std::unique_ptr<Scorer> scorer, std::string_view scorer_name,
                                         const Composition& composition, const Inputs& inputs);

  /// Routes x_ND: [N, D] of any floating dtype; scores are of router_dtype(x_ND). Balancers observe in Phase::train
  /// only. Throws an Error where the context lacks what the stages need (facts().needs), naming them, and where a
  /// tensor of it has not one entry a token.
  Routing route(const Tensor& x_ND, const Context& context);

  /// After each optimiser step: balancers move their state.
  void step();

  RouterFacts facts() const;
  /// Why a scorer that is trained learns nothing from the task in this composition, or "".
  std::string untaught() const;
  int64_t n_experts() const { return n_experts_; }
  /// The composition with every field written out; empty for stages built by hand.
  const std::optional<Composition>& composition() const { return composition_; }
  void collect(ParameterList& list);

 private:
  std::string stages_with_needs() const;
  bool weighs_scores() const;  ///< the gate's weights depend on the scores
  bool route_at_once(const Tensor& x_ND, const Context& context, Routing& out);

  Stages stages_;
  ContextNeeds needs_;
  int64_t n_experts_, n_null_;
  std::optional<Composition> composition_;
};

/// Every preset router.
Entries<Router> routers();

/// A preset: T has a Config and `static Composition compose(const Config&, const StageInputs&)`.
template <class T>
struct Preset {
  using Interface = Router;
  template <class Config>
  static std::unique_ptr<Router> make(const Config& config, const StageInputs& inputs) {
    return Router::compose(T::compose(config, inputs), inputs, "");
  }
};

}  // namespace collegium::route
