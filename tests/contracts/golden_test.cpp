// Goldens: what each router, layer, attention and kind of expert does with the same few numbers, as a text that a
// person can read and check by hand: first a pass of evaluation, then one of training, which many mechanisms work in
// alone. Numbers are compared at 1e-4. To write them anew after an intended change:
//
//   COLLEGIUM_WRITE_GOLDEN=1 test_contracts -tc="goldens*"
//
// N = 6 tokens, D = 4 features, E = 4 experts. Inputs and weights are uniform numbers of base/random.h.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>

#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"
#include "collegium/model/depth.h"
#include "collegium/model/language_model.h"
#include "tests/support/attentions.h"

namespace {

using namespace collegium;
using namespace collegium::test;
using collegium::route::Chooser;
using collegium::route::Decision;
using collegium::route::Phase;

constexpr int64_t kTokens = 6, kWidth = 4, kExperts = 4;

// --- Writing ------------------------------------------------------------------------------------------------------

std::string number(double value) {
  std::ostringstream out;
  out << std::setprecision(7) << (std::abs(value) < 1e-12 ? 0.0 : value);
  return out.str();
}

void write_rows(std::ostream& out, std::string_view what, const Tensor& t_RC) {
  const auto values = reals(t_RC);
  for (int64_t r = 0; r < t_RC.size(0); ++r) {
    out << what << ' ' << r;
    for (int64_t c = 0; c < t_RC.size(1); ++c) out << ' ' << number(values[static_cast<size_t>(r * t_RC.size(1) + c)]);
    out << '\n';
  }
}

void write_decision(std::ostream& out, const Decision& d) {
  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), rank = ints(d.rank_R()), slot = ints(d.slot_R());
  const auto gate = reals(d.gate_R()), margin = reals(d.margin_R());
  out << "# kept: token expert rank slot gate margin\n";
  for (size_t r = 0; r < token.size(); ++r)
    out << "kept " << token[r] << ' ' << expert[r] << ' ' << rank[r] << ' ' << slot[r] << ' ' << number(gate[r]) << ' '
        << number(margin[r]) << '\n';
  const auto& gone = d.dropped();
  const auto gone_token = ints(gone.token_Q), gone_expert = ints(gone.expert_Q), gone_rank = ints(gone.rank_Q);
  if (gone_token.empty()) {
    out << "# nothing dropped\n";
    return;
  }
  out << "# dropped: token expert rank\n";
  for (size_t q = 0; q < gone_token.size(); ++q)
    out << "dropped " << gone_token[q] << ' ' << gone_expert[q] << ' ' << gone_rank[q] << '\n';
}

void write_losses(std::ostream& out, const std::vector<route::LossTerm>& losses) {
  if (!losses.empty()) out << "# loss: name raw weighted\n";
  for (const auto& l : losses)
    out << "loss " << l.name << ' ' << number(l.raw) << ' ' << number(l.value.item<double>()) << '\n';
}

// Norms of the gradients of `objective` by x and every parameter.
template <class Module>
void write_gradients(std::ostream& out, Module& module, const Tensor& x_ND, const Tensor& objective) {
  if (objective.requires_grad()) objective.backward();
  const auto norm = [](const Tensor& t) { return t.grad().defined() ? t.grad().norm().template item<double>() : 0.0; };
  out << "# gradient of the sum of all outputs (times 1, 2, 3 ...) and losses: by what, norm\n";
  out << "gradient x " << number(norm(x_ND)) << '\n';
  for (const auto& p : parameters_of(module))
    if (p.trained()) out << "gradient " << p.name << ' ' << number(norm(*p.tensor)) << '\n';
}

// Every parameter gets numbers of its own, so that no generator but ours has a say.
template <class Module>
void fill(Module& module) {
  const at::NoGradGuard no_grad;
  for (const auto& p : parameters_of(module))
    if (p.trained() && p.tensor->dim() > 0)
      p.tensor->copy_(numbers(Random(1).at(p.name), p.tensor->sizes(), -1, 1, at::kDouble));
}

Tensor golden_inputs() {
  return numbers(Random(2).at("x"), {kTokens, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
}

route::Context golden_context(Phase phase) {
  route::Context context;
  context.phase = phase;
  context.token_id_N = ids(Random(2).at("ids"), kTokens, 100);
  context.attention_BTT = some_attention(1, kTokens, at::kDouble);
  context.experts = plain_probe();
  return context;
}

Tensor weighted_sum(const Tensor& t) {
  return (t.reshape({-1}) * at::arange(1, t.numel() + 1, t.options().requires_grad(false))).sum();
}

void write_head(std::ostream& out, std::string_view what, std::string_view name, std::string_view summary,
                const Table& more = {}) {
  out << "# " << what << " '" << name << "': " << summary << "\n# " << kTokens << " tokens, " << kWidth << " features, "
      << kExperts << " experts; default configuration";
  for (const auto& item : more.items)
    out << (&item == &more.items.front() ? ", but " : ", ") << item.key << " = " << to_toml(item.value);
  out << '\n';
}

// What shows a mechanism of training in a single pass, where by default chance or the number of the step decides.
Table training_of(std::string_view entry) {
  if (entry == "selective_sinkhorn") return table({{"share", 1.0}});
  if (entry == "compete") return table({{"fraction", 1.0}});
  if (entry == "stable") return table({{"freeze_at", 0}});
  if (entry == "merged") return table({{"expert_dropout", 0.3}});
  return {};
}

constexpr std::string_view kOtherwise = "training otherwise\n";

std::string difference_of(const std::string& stored, const std::string& now);

// The pass of training, where it is another one than that of evaluation.
void write_training(std::ostream& out, const std::string& evaluated, const std::string& trained,
                    const Table& settings) {
  if (difference_of(evaluated, trained).empty()) {
    out << "training as_above\n";
    return;
  }
  for (const auto& item : settings.items) out << "# with " << item.key << " = " << to_toml(item.value) << '\n';
  out << kOtherwise << trained;
}

Named with(Named named, const Table& settings) {
  for (const auto& item : settings.items) named.fields.set(item.key, item.value);
  return named;
}

std::unique_ptr<route::Router> golden_router(const Named& named) {
  auto router = make_router(named, kWidth, kExperts, 1, at::kDouble);
  fill(*router);
  return router;
}

std::string routing_of(route::Router& router, Phase phase) {
  const auto x_ND = golden_inputs();
  const auto routing = router.route(x_ND, golden_context(phase));
  std::ostringstream out;
  if (routing.scores.score_NE.defined()) {
    out << "# score: token, then one number an expert\n";
    write_rows(out, "score", routing.scores.score_NE);
  }
  write_decision(out, routing.decision);
  write_losses(out, routing.losses);
  auto objective = weighted_sum(routing.decision.gate_R());
  for (const auto& l : routing.losses) objective = objective + l.value;
  write_gradients(out, router, x_ND, objective);
  return out.str();
}

// State that the step after a pass of training moves.
void write_step(std::ostream& out, route::Router& router, const std::vector<Saved>& before) {
  router.step();
  const auto after = save(router);
  for (size_t i = 0; i < after.size(); ++i) {
    if (after[i].is_trained || same_bits(after[i].value, before[i].value)) continue;
    out << "state " << after[i].name;
    for (const auto v : reals(after[i].value)) out << ' ' << number(v);
    out << '\n';
  }
}

std::string golden_of(const Entry<route::Router>& entry) {
  const Named named{.name = std::string(entry.card.name)};
  const auto training = training_of(named.name);
  const auto router = golden_router(named), trained = golden_router(with(named, training));
  const auto facts = router->facts();
  std::ostringstream out;
  write_head(out, "router", named.name, entry.card.summary);
  out << "chosen_by " << route::enum_names(Chooser{})[static_cast<size_t>(facts.chooser)] << '\n'
      << "exactly_balanced " << facts.is_exactly_balanced << '\n'
      << "causal " << facts.is_causal << '\n'
      << "may_drop " << facts.may_drop << '\n'
      << "choices_per_token " << number(facts.choices_per_token) << '\n';
  if (facts.needs.token_ids) write_rows(out, "token_id", golden_context(Phase::evaluate).token_id_N.unsqueeze(1));
  const auto before = save(*trained);
  const auto evaluated = routing_of(*router, Phase::evaluate);
  out << evaluated;
  write_training(out, evaluated, routing_of(*trained, Phase::train), training);
  write_step(out, *trained, before);
  return out.str();
}

// What a layer or an attention gave for x: output, decision, losses, and the gradients of all of it.
template <class Made, class Done>
std::string pass_of(Made& made, const Tensor& x_ND, const Done& done) {
  std::ostringstream out;
  out << "# output: token, then one number a feature\n";
  write_rows(out, "output", done.y_ND);
  if (done.decision) write_decision(out, *done.decision);
  write_losses(out, done.losses);
  auto objective = weighted_sum(done.y_ND);
  for (const auto& l : done.losses) objective = objective + l.value;
  write_gradients(out, made, x_ND, objective);
  return out.str();
}

std::unique_ptr<layer::MoeLayer> golden_layer(const Entry<layer::MoeLayer>& entry, const Named& named) {
  auto made = entry.make(named, {.d_model = kWidth, .random = Random(1), .options = at::kDouble});
  fill(*made);
  return made;
}

std::string golden_of(const Entry<layer::MoeLayer>& entry, const Table& more = {}) {
  Named named{.name = std::string(entry.card.name)};
  for (const auto& f : entry.fields())
    if (f.name == "n_experts") named.fields.set("n_experts", kExperts);
  named = with(named, more);
  const auto training = training_of(named.name);
  const auto made = golden_layer(entry, named), trained = golden_layer(entry, with(named, training));
  const auto pass = [](layer::MoeLayer& layer, Phase phase) {
    const auto x_ND = golden_inputs();
    return pass_of(layer, x_ND, layer.forward(x_ND, golden_context(phase)));
  };
  const auto facts = made->facts();
  std::ostringstream out;
  write_head(out, "layer", named.name, entry.card.summary, more);
  out << "experts " << facts.n_experts << '\n'
      << "causal " << facts.is_causal << '\n'
      << "parameters_active " << number(facts.parameters_active) << '\n'
      << "flops_per_token " << number(facts.flops_per_token) << '\n';
  if (facts.flops_per_sequence > 0) out << "flops_per_sequence " << number(facts.flops_per_sequence) << '\n';
  const auto evaluated = pass(*made, Phase::evaluate);
  out << evaluated;
  write_training(out, evaluated, pass(*trained, Phase::train), training);
  return out.str();
}

// Two sequences of three tokens.
std::string golden_of(const Entry<layer::Attention>& entry) {
  const Named named{.name = std::string(entry.card.name)};
  const int64_t B = 2, T = kTokens / B;
  const auto pass = [&](Phase phase) {
    const auto made = make_attention(named, {.D = kWidth, .H = 2, .G = 2});
    fill(*made);
    const auto x_ND = golden_inputs();
    return pass_of(*made, x_ND, made->forward(x_ND, sequences(B, T, phase), attention_context(*made, B, T)));
  };
  const auto facts = make_attention(named, {.D = kWidth, .H = 2, .G = 2})->facts(T);
  std::ostringstream out;
  out << "# attention '" << named.name << "': " << entry.card.summary << "\n# " << B << " sequences of " << T
      << " tokens, " << kWidth << " features, 2 heads; default configuration\n"
      << "experts " << facts.n_experts << '\n'
      << "causal " << facts.is_causal << '\n'
      << "parameters_active " << number(facts.parameters_active) << '\n'
      << "flops_per_token " << number(facts.flops_per_token) << '\n'
      << "cache_bytes_per_token " << number(facts.cache_bytes_per_token) << '\n';
  const auto evaluated = pass(Phase::evaluate);
  out << evaluated;
  write_training(out, evaluated, pass(Phase::train), {});
  return out.str();
}

// Experts of three hidden units; token n goes to experts n and n + 1 (mod 4) with the weights 3/4 and 1/4.
std::string golden_of(const Entry<layer::Experts>& entry) {
  const Named named{.name = std::string(entry.card.name)};
  const auto made = entry.make(
      named, {.n_experts = kExperts, .d_model = kWidth, .d_expert = 3, .random = Random(1), .options = at::kDouble});
  fill(*made);
  const auto token_A = at::arange(2 * kTokens).div(2, "floor"), rank_A = at::arange(2 * kTokens).remainder(2);
  const auto weight_A = 0.75 - 0.5 * rank_A.to(at::kDouble);
  const auto asked =
      Decision::make({token_A, (token_A + rank_A).remainder(kExperts), rank_A, weight_A, weight_A}, kTokens, kExperts);
  const auto gate_R = asked.score_R().clone().requires_grad_(true);
  const auto x_ND = golden_inputs();
  const auto y_ND = made->forward(x_ND, asked.with_gates(gate_R));
  std::ostringstream out;
  out << "# experts '" << named.name << "': " << entry.card.summary << "\n# " << kTokens << " tokens, " << kWidth
      << " features, " << kExperts << " experts of 3 hidden units; default configuration\n"
      << "parameters_per_expert " << made->parameters_per_expert() << '\n'
      << "parameters_shared " << made->parameters_shared() << '\n'
      << "parameters_working_of_two " << number(made->parameters_working(2)) << '\n'
      << "# each expert alone, for token 0: expert, then one number a feature\n";
  std::vector<Tensor> alone;
  for (int64_t e = 0; e < kExperts; ++e) alone.push_back(made->one(x_ND.slice(0, 0, 1), e).detach());
  write_rows(out, "alone", at::cat(alone));
  out << "# output of 3/4 of expert n and 1/4 of expert n + 1 for token n: token, then one number a feature\n";
  write_rows(out, "output", y_ND);
  write_gradients(out, *made, x_ND, weighted_sum(y_ND));
  out << "gradient gate " << number(gate_R.grad().norm().item<double>()) << '\n';
  return out.str();
}

// Who a block of a mixture of depths works for, by each of its rules; two sequences of three tokens, every second
// taken.
std::string golden_of_depth() {
  std::ostringstream out;
  out << "# mixture of depths: tokens that a block takes\n# 2 sequences of 3 tokens, " << kWidth << " features\n";
  const int64_t B = 2, T = kTokens / B;
  const auto x_ND = golden_inputs();
  for (const auto* rule : {"training", "sequence", "so_far", "predicted"}) {
    const bool trains = std::string_view(rule) == "training";
    const auto config = read_config<model::DepthConfig>(
        table({{"sparsity", 1.5}, {"predictor", 1.0}, {"evaluation", trains ? "predicted" : rule}}));
    model::DepthRouter router(config, kWidth, 1, Random(1), at::kDouble);
    fill(router);
    const auto taken = router.take(x_ND, sequences(B, T, trains ? Phase::train : Phase::evaluate), B, T);
    out << "# " << rule << ": token gate\n";
    for (int64_t m = 0; m < taken.token_M.size(0); ++m)
      if (taken.live_M[m].item<bool>())
        out << rule << ' ' << taken.token_M[m].item<int64_t>() << ' ' << number(taken.gate_M[m].item<double>()) << '\n';
    write_losses(out, taken.losses);
  }
  return out.str();
}

// One block of a decoder that works for every second token, feed-forward and attention, so that the others pass by.
std::string golden_of_depth_block() {
  const auto moe = table({{"name", "routed"}, {"n_experts", 2}, {"d_expert", 3}, {"router", table({{"k", 1}})}});
  const Named named{.name = "decoder",
                    .fields = table({{"d_model", kWidth},
                                     {"n_layers", 1},
                                     {"n_heads", 2},
                                     {"depth", table({{"first", 0}, {"sparsity", 1.5}, {"evaluation", "so_far"}})},
                                     {"moe", moe}})};
  const auto model = find(model::language_models(), named, "model")
                         .make(named, {.vocabulary = 10, .random = Random(1), .options = at::kDouble});
  fill(*model);
  const int64_t B = 2, T = kTokens / B;
  const auto token_BT = ids(Random(4).at("ids"), kTokens, 10).view({B, T});
  std::ostringstream out;
  out << "# mixture of depths: a decoder's only block, attention and two experts, works for the tokens that it "
         "takes\n# "
      << B << " sequences of " << T << " tokens, " << kWidth << " features, vocabulary of 10\n";
  write_rows(out, "token_id", token_BT.reshape({-1, 1}));
  for (const auto phase : {Phase::train, Phase::evaluate}) {
    const auto done = model->forward(token_BT, {.phase = phase, .random = Random(5), .compute = at::kDouble});
    out << (phase == Phase::train ? "# training: the best of each sequence\n" : "# evaluation: the best so far\n")
        << "# hidden: token, then one number a feature; without a decision the token passed by\n";
    write_rows(out, "hidden", done.hidden_ND);
    write_decision(out, done.decisions.at(0));
    write_losses(out, done.losses);
  }
  return out.str();
}

// --- Comparing ----------------------------------------------------------------------------------------------------

std::vector<std::vector<std::string>> words_of(const std::string& golden) {
  std::vector<std::vector<std::string>> out;
  std::istringstream lines(golden);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    out.emplace_back();
    for (std::string word; words >> word;) out.back().push_back(word);
  }
  return out;
}

bool is_same_word(const std::string& a, const std::string& b) {
  if (a == b) return true;
  char *end_a = nullptr, *end_b = nullptr;
  const auto x = std::strtod(a.c_str(), &end_a), y = std::strtod(b.c_str(), &end_b);
  if (end_a == a.c_str() || *end_a || end_b == b.c_str() || *end_b) return false;
  return std::abs(x - y) <= 1e-4 * std::max(std::abs(x), std::abs(y)) + 1e-9;
}

// The first line that differs, or "".
std::string difference_of(const std::string& stored, const std::string& now) {
  const auto a = words_of(stored), b = words_of(now);
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const auto line_a = i < a.size() ? join(a[i], " ") : "(nothing)",
               line_b = i < b.size() ? join(b[i], " ") : "(nothing)";
    bool same = i < a.size() && i < b.size() && a[i].size() == b[i].size();
    for (size_t w = 0; same && w < a[i].size(); ++w) same = is_same_word(a[i][w], b[i][w]);
    if (!same) return text("stored: ", line_a, "\n   now: ", line_b);
  }
  return "";
}

void check_golden(const std::filesystem::path& path, const std::string& now) {
  CHECK(std::count(now.begin(), now.end(), '\n') < 80);
  if (const auto* write = std::getenv("COLLEGIUM_WRITE_GOLDEN"); write && *write) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << now;
  }
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.good(), "no golden: run with COLLEGIUM_WRITE_GOLDEN=1 and read what it wrote");
  std::stringstream stored;
  stored << file.rdbuf();
  const auto off = difference_of(stored.str(), now);
  CHECK_MESSAGE(off.empty(), off);
}

// What a layer does beside its defaults, as files of their own: ENTRY_NAME.txt.
struct GoldenVariant {
  std::string_view entry, name;
  Table fields;
};

std::vector<GoldenVariant> variants_of_layers() {
  const auto router = [](int64_t k) { return table({{"name", "top_k"}, {"k", k}}); };
  return {{"routed", "shared", table({{"n_shared", 2}})},
          {"routed", "shared_gated", table({{"n_shared", 1}, {"shared_mix", "gated"}})},
          {"routed", "shared_averaged", table({{"n_shared", 1}, {"shared_mix", "averaged"}})},
          {"routed", "residual", table({{"n_shared", 1}, {"shared_mix", "softmax"}, {"router", "switch"}})},
          {"routed", "segments", table({{"segments", 2}, {"d_expert", 4}, {"router", router(1)}})}};
}
template <class Interface>
void check_goldens(Entries<Interface> entries, std::string_view catalogue) {
  const auto folder = std::filesystem::path(COLLEGIUM_SOURCE) / "tests/golden" / catalogue;
  std::set<std::string> names;
  for (const auto* e : entries) {
    CAPTURE(e->card.name);
    names.insert(std::string(e->card.name) + ".txt");
    check_golden(folder / (std::string(e->card.name) + ".txt"), golden_of(*e));
    if constexpr (std::is_same_v<Interface, layer::MoeLayer>)
      for (const auto& v : variants_of_layers()) {
        if (v.entry != e->card.name) continue;
        const auto file = text(v.entry, "_", v.name, ".txt");
        CAPTURE(file);
        names.insert(file);
        check_golden(folder / file, golden_of(*e, v.fields));
      }
  }
  for (const auto& file : std::filesystem::directory_iterator(folder))
    CHECK_MESSAGE(names.count(file.path().filename().string()), file.path().string() << " belongs to no entry");
}

}  // namespace

TEST_CASE("goldens of routers") {
  check_goldens(route::routers(), "routers");
}
TEST_CASE("goldens of layers") {
  check_goldens(layer::layers(), "layers");
}
TEST_CASE("goldens of attentions") {
  check_goldens(layer::attentions(), "attentions");
}

TEST_CASE("goldens of experts") {
  check_goldens(layer::experts(), "experts");
}

TEST_CASE("goldens of mixture of depths") {
  check_golden(std::filesystem::path(COLLEGIUM_SOURCE) / "tests/golden/models/depth.txt", golden_of_depth());
  check_golden(std::filesystem::path(COLLEGIUM_SOURCE) / "tests/golden/models/depth_block.txt",
               golden_of_depth_block());
}

TEST_CASE("goldens show what is done in training alone") {
  const auto shows = [](const auto& entries, std::string_view name) {
    return golden_of(find(entries, {.name = std::string(name)}, "entry")).find(kOtherwise) != std::string::npos;
  };
  for (const auto* e : route::routers())
    if (!e->card.claims.is_causal_in_training) CHECK_MESSAGE(shows(route::routers(), e->card.name), e->card.name);
  for (const auto* name : {"base", "clusters", "compete", "selective_sinkhorn", "stable"})
    CHECK_MESSAGE(shows(route::routers(), name), name);
  for (const auto* name : {"merged", "stochastic"}) CHECK_MESSAGE(shows(layer::layers(), name), name);
  CHECK_FALSE(shows(route::routers(), "top_k"));
}

TEST_CASE("a golden that says something else is noticed") {
  const std::string stored = "# words\nkept 1 2 0.500001\nloss a 3\n";
  CHECK(difference_of(stored, "kept 1 2 0.5\n# other words\nloss a 3\n") == "");
  CHECK(difference_of(stored, "kept 1 2 0.5002\nloss a 3\n") != "");
  CHECK(difference_of(stored, "kept 1 2 0.5\nloss b 3\n") != "");
  CHECK(difference_of(stored, "kept 1 2 0.5\n") != "");
  CHECK(difference_of(stored, "kept 1 2 0.5 1\nloss a 3\n") != "");
}
