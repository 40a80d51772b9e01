// The five stages of a router. A paper's router is a composition of them; a stage never asks which other stage
// it stands beside. What a stage needs and gives is stated as facts, and `Router` checks them when it is built.
//
// N tokens, D model width, E experts, R kept assignments, G groups (sequences).
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/TensorBody.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"
#include "collegium/base/random.h"
#include "collegium/kernels/routed_top_k.h"
#include "collegium/route/context.h"
#include "collegium/route/decision.h"
#include "collegium/route/places.h"
#include "collegium/route/shared_parts.h"

namespace collegium::route {

/// What stages may know of the data before training; a model that is loaded has it in its buffers instead.
struct Corpus {
  int64_t vocabulary = 0;       ///< 0 = unknown
  Tensor count_V;               ///< int64, how often each token id occurs in the training text; undefined = unknown
  int64_t sequence_length = 0;  ///< tokens of every sequence, where they are as many (patches of an image); 0 = unknown
};

/// What every stage is built from.
struct StageInputs {
  int64_t d_model = 0, n_experts = 0;
  Random random{0};
  at::TensorOptions options;  ///< dtype and device of the parameters
  int64_t n_null = 0;         ///< of n_experts, the last ones that do no work
  Corpus corpus;              ///< what is known of the text before training
  int64_t n_own = 0;  ///< of n_experts, the first ones that belong to the layer itself, where others are reused from
                      ///< its neighbours; 0 = all
  std::shared_ptr<SharedParts> shared;  ///< of the model's layers; none = the layer stands alone
};

/// The dtype a router computes in: double stays double, everything else is float32, however the model computes
/// (selective precision, P106 section 2.4).
at::ScalarType router_dtype(const Tensor& x);

/// What scores mean; losses and selectors may insist on one.
enum class ScoreKind { none, softmax, sigmoid, relu };
std::span<const std::string_view> enum_names(ScoreKind);

/// One auxiliary loss of a layer: `value` is weighted and carries a gradient, `raw` is for people.
struct LossTerm {
  std::string name;
  Tensor value;  ///< scalar, coefficient applied
  double raw = 0;
};

/// The logit of an expert that a token may not be given: far below any other, and still a number for sums and squares.
constexpr double kClosedLogit = -1e9;

/// How well each expert suits each token.
struct Scores {
  Tensor logit_NE;      ///< before the score function; undefined when the scorer has none
  Tensor score_NE;      ///< after it, >= 0, in router_dtype; undefined when the scorer has none
  Tensor prototype_ED;  ///< one embedding per expert in the space of x, with gradient; undefined when there is none
  Tensor carried_NH;    ///< state for the router of the next layer; undefined when there is none
  Tensor open_NE;       ///< bool: experts that the token may be given; undefined = all (Claims::closes_experts)
  int64_t n_open = 0;   ///< only the first so many experts are candidates at all now; 0 = all are
  std::vector<LossTerm> losses;  ///< of scorers that learn apart from the task
  ScoreKind kind = ScoreKind::none;
  int64_t n_tokens = 0, n_experts = 0;
};

/// Facts of a built stage that composition is checked by.
struct Needs {
  std::vector<ScoreKind> scores;  ///< kinds of score the stage can work with; empty = it reads none
  ContextNeeds context;
  bool prototypes = false;      ///< the scorer must have an embedding per expert
  bool selection_bias = false;  ///< a balancer that moves a bias which the selector must read
  bool expert_choice = false;   ///< experts must choose: what is made of one token's choice depends on other tokens
};

// --- Scorer -------------------------------------------------------------------------------------------------------

class Scorer {
 public:
  using Interface = Scorer;
  using Inputs = StageInputs;
  struct Claims {
    bool is_causal = true;              ///< when evaluating, a token's scores do not depend on later tokens
    bool reads_other_tokens = false;    ///< they depend on earlier ones, so decoding needs the whole sequence
    bool is_causal_in_training = true;  ///< and when training; false = the tokens of a training batch are balanced
                                        ///< against each other, which evaluation and generation do not repeat
    bool closes_experts = false;        ///< some tokens may not be given some experts: Scores::open_NE says which
    bool learns_from_task = true;       ///< false = scores carry no gradient; the scorer has a loss of its own
    std::vector<std::pair<std::string, std::string>> describe() const;
  };
  virtual ~Scorer() = default;
  /// x_ND of any floating dtype.
  virtual Scores score(const Tensor& x_ND, const Context& context) = 0;
  virtual ScoreKind kind() const = 0;
  virtual Needs needs() const { return {}; }
  virtual Claims claims() const { return {}; }
  virtual bool has_prototypes() const { return false; }
  /// After each optimiser step, for schedules and running statistics; state is in buffers.
  virtual void step() {}
  /// Per token, multiply and add counted as two, for the plan.
  virtual double flops_per_token() const { return 0; }
  /// The same per token and token of its sequence, for scorers that compare tokens.
  virtual double flops_per_pair() const { return 0; }
  /// What a token's scores are follows from its hidden state alone, and nothing is counted, handed on or learned in
  /// passing: tokens whose scores nobody needs may be left out.
  virtual bool is_per_token() const { return false; }
  /// [E, D] where scores of an evaluated pass are kind() of x W^T and nothing else (see Router::route); undefined where
  /// they are more.
  virtual Tensor linear_weight() const { return {}; }
  virtual void collect(ParameterList&) {}
};

// --- Selector -----------------------------------------------------------------------------------------------------

enum class Chooser { token, expert, nobody };
std::span<const std::string_view> enum_names(Chooser);

/// What the choices about each token turn on, for people. Each number is about one score while all others stay.
struct Reasons {
  Tensor compared_NE;  ///< what the selector compares, bias included; undefined where it compares nothing
  /// The value of compared_NE at which the choice turns: above it the expert is chosen for the token, below it is not.
  /// -inf = chosen and +inf = not chosen, whatever it is; undefined = no score of one token decides.
  Tensor turns_at_NE;
  std::string_view compares = "score";  ///< or "logit"
  std::vector<int64_t> group_E;         ///< of each expert; empty = there are no groups
  Tensor group_taken_NE;                ///< bool, the token takes the expert's group; undefined = there are no groups
  std::string rule;                     ///< who chooses and by what: "each token takes its 2 best experts"
  PlaceRule places;                     ///< the capacity's
};

class Selector {
 public:
  using Interface = Selector;
  using Inputs = StageInputs;
  struct Claims {
    Chooser chooser = Chooser::token;
    bool reads_bias = false;            ///< adds the balancers' bias before it compares
    bool is_exactly_balanced = false;   ///< loads differ by at most one by construction
    bool is_causal = true;              ///< when evaluating, a token's choice does not depend on later tokens
    bool asks_fixed_number = true;      ///< every token asks for as many experts, whatever the scores
    bool is_causal_in_training = true;  ///< and when training; see Scorer::Claims
    bool chooses_any_set = true;        ///< no rule forbids two experts to be chosen together (groups do)
    bool is_random = false;             ///< Context::random chooses, by the token's place in the batch
    bool reads_other_tokens = false;    ///< a choice depends on earlier tokens, so decoding needs the whole sequence
    bool respects_closed = false;       ///< never asks for an expert that Scores::open_NE closes
    std::vector<std::pair<std::string, std::string>> describe() const;
  };
  virtual ~Selector() = default;
  /// bias_E is undefined or [E]; it changes who is chosen, never how much the choice counts.
  virtual Assignments select(const Scores& scores, const Tensor& bias_E, const Context& context) = 0;
  /// Of what `select` makes of the same arguments. Selectors that no list knows may leave it out.
  virtual Reasons reasons(const Scores&, const Tensor& /*bias_E*/, const Context&) { return {}; }
  virtual Needs needs() const = 0;
  virtual Claims claims() const = 0;
  /// Mean number of experts asked for per token, for the plan.
  virtual double choices_per_token() const = 0;
  /// The rule, where each token takes its best by score and bias, of all experts or of its best groups, and nothing
  /// else decides.
  virtual std::optional<kernels::GroupRule> choice_rule() const { return std::nullopt; }
  virtual void collect(ParameterList&) {}
};

// --- Gate ---------------------------------------------------------------------------------------------------------

class Gate {
 public:
  using Interface = Gate;
  using Inputs = StageInputs;
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  virtual ~Gate() = default;
  /// Weight of each kept assignment, [R], with the gradient of the scores.
  virtual Tensor weigh(const Scores& scores, const Decision& decision, const Context& context) = 0;
  /// Whether the weights depend on the scores where every token has so many choices of its own. Without that a scorer
  /// learns nothing from the task.
  virtual bool weighs_scores(double /*choices_per_token*/) const { return true; }
  /// What `weigh` computes where all that was asked for is kept, if that is so simple.
  virtual std::optional<kernels::ChoiceWeight> choice_weight() const { return std::nullopt; }
  virtual Needs needs() const = 0;
  virtual void collect(ParameterList&) {}
};

// --- Capacity -----------------------------------------------------------------------------------------------------

class Capacity {
 public:
  using Interface = Capacity;
  using Inputs = StageInputs;
  struct Claims {
    bool may_drop = false;
    bool is_causal = true;         ///< a token's place does not depend on later tokens
    bool respects_closed = false;  ///< never gives a token an expert that Scores::open_NE closes
    std::vector<std::pair<std::string, std::string>> describe() const;
  };
  virtual ~Capacity() = default;
  /// May drop (with a reason), reroute, or give free slots to tokens that did not ask (wanted_R = -1, counted by
  /// n_filled). What was asked for stays what it was: kept, moved and dropped assignments together are `decision`.
  virtual Decision apply(const Decision& decision, const Scores& scores, const Context& context) = 0;
  virtual bool keeps_all() const { return false; }  ///< `apply` returns what it is given
  /// How `apply` gives away the places of the same decision. Without an order nothing is said of queues.
  virtual PlaceRule places(const Decision&) const { return {}; }
  virtual Needs needs() const { return {}; }
  virtual Claims claims() const = 0;
};

// --- Balancer -----------------------------------------------------------------------------------------------------

/// A life cycle: loss and observe in each forward pass (observe only in Phase::train), step once per optimiser step.
/// All state is in buffers, so it is in the checkpoint.
class Balancer {
 public:
  using Interface = Balancer;
  using Inputs = StageInputs;
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  virtual ~Balancer() = default;
  virtual std::vector<LossTerm> loss(const Scores&, const Decision&, const Context&) { return {}; }
  virtual void observe(const Decision&, const Context&) {}
  virtual void step() {}
  /// Added to the scores for selection only; undefined = none.
  virtual Tensor bias_E() const { return {}; }
  virtual Needs needs() const = 0;
  virtual void collect(ParameterList&) {}
};

// The lists: a new stage adds its address to one of them (scorers.cpp, selectors.cpp, …).
Entries<Scorer> scorers();
Entries<Selector> selectors();
Entries<Gate> gates();
Entries<Capacity> capacities();
Entries<Balancer> balancers();

}  // namespace collegium::route
