// CDSP-MoE against experts written out with weights of their own: outputs, gradients, the conflict of two experts'
// gradients, the game on the topology, and its state.
//
// N tokens, D model width, E experts and blocks, m blocks of one expert, I hidden width of a block.
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kTokens = 12, kWidth = 5, kExperts = 6, kBlocks = 3, kHidden = 2;

std::unique_ptr<MoeLayer> subspace(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", kHidden}, {"n_blocks", kBlocks}, {"noise", 0.5}});
  for (const auto& [key, value] : more) fields.set(key, value);
  auto made = make_layer({.name = "subspace", .fields = fields}, kWidth);
  scale_parameters(*made->router(), 5);
  return made;
}

Tensor alpha_of(MoeLayer& made) {
  return 10 * parameter(made, "topology");
}

std::vector<std::vector<int64_t>> blocks_of(MoeLayer& made) {
  std::vector<std::vector<int64_t>> out;
  for (int64_t e = 0; e < kExperts; ++e) out.push_back(ints(std::get<1>(alpha_of(made).detach()[e].topk(kBlocks))));
  return out;
}

// One block of one expert for rows x.
Tensor block(const std::string& network, const Tensor& x_RD, const Tensor& up_PID, const Tensor& down_DI) {
  const auto first = at::linear(x_RD, up_PID[0]);
  const auto a = network == "gelu"   ? at::gelu(first)
                 : network == "silu" ? at::silu(first)
                                     : at::silu(first) * at::linear(x_RD, up_PID[1]);
  return at::linear(a, down_DI);
}

// y as a sum over assignments and blocks; `up` gives expert e its own copy of block b's first matrix.
Tensor written_out(MoeLayer& made, const Tensor& x_ND, const std::string& network, const route::Decision& d,
                   const std::function<Tensor(int64_t, int64_t)>& up) {
  const auto score_NE = at::linear(x_ND, parameter(made, "router.scorer.weight")).softmax(1);
  const auto blocks = blocks_of(made);
  const auto token = ints(d.token_R()), expert = ints(d.expert_R());
  std::vector<Tensor> rows(static_cast<size_t>(x_ND.size(0)), at::zeros({kWidth}, at::kDouble));
  std::vector<Tensor> sums(rows.size(), at::zeros({}, at::kDouble));
  for (size_t r = 0; r < token.size(); ++r)
    sums[static_cast<size_t>(token[r])] = sums[static_cast<size_t>(token[r])] + score_NE[token[r]][expert[r]];
  for (size_t r = 0; r < token.size(); ++r) {
    const auto e = expert[r];
    auto strength = at::zeros({}, at::kDouble);
    auto y_D = at::zeros({kWidth}, at::kDouble);
    for (const auto b : blocks[static_cast<size_t>(e)]) {
      strength = strength + alpha_of(made)[e][b].sigmoid() / kBlocks;
      y_D = y_D + block(network, x_ND[token[r]].unsqueeze(0), up(e, b), parameter(made, "down")[b])[0];
    }
    auto& to = rows[static_cast<size_t>(token[r])];
    to = to + score_NE[token[r]][e] / sums[static_cast<size_t>(token[r])] * strength * y_D;
  }
  return at::stack(rows);
}

route::LossTerm term(const LayerOutput& out, const std::string& name) {
  for (const auto& l : out.losses)
    if (l.name == name) return l;
  FAIL("no loss " << name);
  return {};
}

// One training pass, and the step after it.
void learn(MoeLayer& made, const Tensor& x_ND, const Tensor& along_ND, int passes = 1) {
  for (int i = 0; i < passes; ++i) {
    const auto out = made.forward(x_ND, context_of(kTokens, 1, Phase::train));
    (out.y_ND * along_ND).sum().backward();
  }
  made.step();
}

}  // namespace

TEST_CASE("subspace: every expert is its strongest blocks, scaled by their mean strength, values and gradients") {
  for (const std::string network : {"silu", "gelu", "swiglu"}) {
    CAPTURE(network);
    const auto made = subspace({{"network", network}});
    const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
    const auto d = *made->forward(x_ND, context_of(kTokens)).decision;
    const auto run = [&](const std::function<Tensor()>& forward) {
      return values_and_gradients(*made, x_ND, forward, Unused::refused);
    };
    const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
    const auto plain = run([&] {
      return written_out(*made, x_ND, network, d, [&](int64_t, int64_t b) { return parameter(*made, "up")[b]; });
    });
    for (size_t i = 0; i < fast.size(); ++i) {
      CAPTURE(i);
      CHECK(difference(fast[i], plain[i]) < 1e-11);
    }
  }
}

TEST_CASE("subspace: conflict is the negative cosine of two experts' gradients over the blocks they share") {
  for (const std::string network : {"silu", "swiglu"}) {
    const auto made = subspace({{"network", network}});
    const auto x_ND = inputs(kTokens, kWidth), along_ND = inputs(kTokens, kWidth, 8);
    const auto d = *made->forward(x_ND, context_of(kTokens)).decision;
    std::map<std::pair<int64_t, int64_t>, Tensor> own;
    const auto y_ND = written_out(*made, x_ND, network, d, [&](int64_t e, int64_t b) {
      auto& copy = own[{e, b}];
      if (!copy.defined()) copy = weight(*made, "up")[b].clone().requires_grad_(true);
      return copy;
    });
    (y_ND * along_ND).sum().backward();
    const auto blocks = blocks_of(*made);
    auto expected_EE = at::zeros({kExperts, kExperts}, at::kDouble);
    for (int64_t i = 0; i < kExperts; ++i)
      for (int64_t j = 0; j < kExperts; ++j) {
        double dot = 0, square_i = 0, square_j = 0;
        for (const auto b : blocks[static_cast<size_t>(i)]) {
          const auto& other = blocks[static_cast<size_t>(j)];
          if (i == j || std::find(other.begin(), other.end(), b) == other.end()) continue;
          if (!own.count({i, b}) || !own.count({j, b})) continue;
          const auto a = own[{i, b}].grad(), c = own[{j, b}].grad();
          dot += (a * c).sum().item<double>();
          square_i += a.square().sum().item<double>(), square_j += c.square().sum().item<double>();
        }
        if (square_i * square_j > 0) expected_EE[i][j] = std::max(0.0, -dot / std::sqrt(square_i * square_j));
      }
    CHECK(expected_EE.max().item<double>() > 0.1);
    CHECK(weight(*made, "conflict").abs().max().item<double>() == 0);
    learn(*made, x_ND, along_ND);
    CHECK(difference(weight(*made, "conflict"), expected_EE) < 1e-11);
    // Micro-batches are added up before they are compared.
    learn(*made, x_ND, along_ND, 2);
    CHECK(difference(weight(*made, "conflict"), expected_EE) < 1e-11);
  }
}

TEST_CASE("subspace: the loss pushes conflicting connections of working experts down, and no others") {
  const auto made = subspace({{"conflict", 7.0}, {"sparsity", 0.0}, {"determinism", 0.0}});
  const auto x_ND = inputs(kTokens, kWidth);
  learn(*made, x_ND, inputs(kTokens, kWidth, 8));
  const auto conflict_EE = weight(*made, "conflict");
  const auto out = made->forward(x_ND, context_of(kTokens));
  const auto works_E = out.decision->kept_E().gt(0).to(at::kDouble);
  const auto both_EE = works_E.unsqueeze(1) * works_E.unsqueeze(0);
  const auto p_EE = alpha_of(*made).detach().sigmoid();
  const auto loss = term(out, "conflict");
  CHECK(loss.raw == doctest::Approx((p_EE * conflict_EE * both_EE).sum().item<double>()));
  CHECK(loss.value.item<double>() == doctest::Approx(7 * loss.raw));
  CHECK(loss.raw > 0);
  const auto grad_EE = torch::autograd::grad({loss.value}, {parameter(*made, "topology")})[0];
  CHECK(difference(grad_EE, 70 * conflict_EE * both_EE * p_EE * (1 - p_EE)) < 1e-11);
  CHECK(grad_EE.diagonal().abs().max().item<double>() == 0);
}

TEST_CASE("subspace: the regularisers and the overlap are what they say") {
  const auto made = subspace();
  const auto out = made->forward(inputs(kTokens, kWidth), context_of(kTokens));
  const auto alpha_EE = alpha_of(*made).detach();
  CHECK(term(out, "sparsity").raw == doctest::Approx(alpha_EE.abs().mean().item<double>()));
  const auto p_EE = alpha_EE.sigmoid();
  CHECK(term(out, "determinism").raw == doctest::Approx((p_EE * (1 - p_EE)).mean().item<double>()));
  double common = 0;
  const auto blocks = blocks_of(*made);
  for (size_t i = 0; i < kExperts; ++i)
    for (size_t j = 0; j < kExperts; ++j)
      for (const auto b : blocks[i])
        common += i != j && std::find(blocks[j].begin(), blocks[j].end(), b) != blocks[j].end() ? 1 : 0;
  CHECK(term(out, "overlap").raw == doctest::Approx(common / (kExperts * (kExperts - 1) * kBlocks)));
  CHECK(term(out, "overlap").value.item<double>() == 0);
  CHECK(subspace({{"conflict", 0.0}, {"sparsity", 0.0}, {"determinism", 0.0}})
            ->forward(inputs(kTokens, kWidth), context_of(kTokens))
            .losses.size() == 1);
}

TEST_CASE("subspace: starts with its own block first and weak connections to the rest") {
  const auto made = make_layer({.name = "subspace", .fields = table({{"n_experts", 9}, {"noise", 0.0}})}, kWidth);
  const auto alpha_EE = alpha_of(*made).detach();
  CHECK(difference(alpha_EE, at::full({9, 9}, 0.1, at::kDouble) + 0.9 * at::eye(9, at::kDouble)) < 1e-12);
  // 4 D units over nine blocks, three of them an expert.
  CHECK((weight(*made, "up").sizes() == at::IntArrayRef{9, 1, 4 * kWidth / 9, kWidth}));
  CHECK(term(made->forward(inputs(kTokens, kWidth), context_of(kTokens)), "overlap").raw > 0);
}

TEST_CASE("subspace: the memory of the last step is in the state, and evaluation leaves none") {
  const auto made = subspace(), other = subspace();
  const auto x_ND = inputs(kTokens, kWidth), along_ND = inputs(kTokens, kWidth, 8);
  learn(*made, x_ND, along_ND);
  load(*other, save(*made));
  const auto loss = [&](MoeLayer& layer) {
    return term(layer.forward(x_ND, context_of(kTokens, 1, Phase::train)), "conflict").value.detach();
  };
  CHECK(loss(*made).item<double>() > 0);
  CHECK(same_bits(loss(*made), loss(*other)));
  const auto out = made->forward(x_ND, context_of(kTokens, 1, Phase::evaluate));
  out.y_ND.sum().backward();
  made->step();
  CHECK(weight(*made, "conflict").abs().max().item<double>() == 0);
}

TEST_CASE("subspace: as many experts as blocks for the parameters of the blocks") {
  const auto made = subspace({{"network", "swiglu"}});
  const auto facts = made->facts();
  const double block = 3 * kHidden * kWidth, router = kExperts * kWidth;
  CHECK(facts.n_experts == kExperts);
  CHECK(facts.flops_per_token == 2 * (2 * kBlocks * block + router));
  CHECK(facts.parameters_active == kExperts * block + router + 2 * kExperts);  // 2 * 3 of 6 blocks
  double total = 0;
  for (const auto& p : parameters_of(*made))
    if (p.trained()) total += static_cast<double>(p.tensor->numel());
  CHECK(total == kExperts * block + router + kExperts * kExperts);
  CHECK(complaint([] { subspace({{"n_blocks", 7}}); }).find("an expert of 7 blocks wants more than the 6") !=
        std::string::npos);
}
