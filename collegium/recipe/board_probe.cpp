// Board state properties, coverage and reconstruction: Karvonen 2024 (Measuring Progress in Dictionary Learning for
// Language Model Interpretability with Board Game Models), section 3; used by Yang 2025 (MoE-X, P022), section 3, on
// the hidden units of language models of chess. Here a property is a kind of piece of one colour on one square (768),
// or one of a few facts of the game (a right to castle, a check, a side without its queen); a choice of units and its
// score never see the same game, and properties that nearly always hold are left out.
//
// P positions, F hidden units, G properties.
#include "collegium/recipe/board_probe.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "collegium/data/chess.h"

namespace collegium {
namespace {

namespace chess = data::chess;

constexpr int64_t kPieces = 12, kFacts = 8, kProperties = 64 * kPieces + kFacts;
constexpr int kThresholds = 10;
constexpr double kPrecise = 0.95, kRarest = 0.01, kCommonest = 0.5;
constexpr double kFewest = 10;  // positions in which a precise unit must be on

void write_properties(const chess::Position& position, float* out) {
  std::fill_n(out, kProperties, 0.0f);
  bool has_queen[2] = {false, false};
  for (int s = 0; s < 64; ++s) {
    const auto piece = position.piece(s);
    if (piece == chess::none) continue;
    out[s * kPieces + (piece > 0 ? piece - 1 : 5 - piece)] = 1;
    if (std::abs(piece) == chess::queen) has_queen[piece < 0] = true;
  }
  auto* facts = out + 64 * kPieces;
  for (const bool white : {true, false})
    for (const bool king_side : {true, false}) *facts++ = position.may_castle(white, king_side);
  *facts++ = position.in_check();
  *facts++ = !has_queen[0];
  *facts++ = !has_queen[1];
  *facts++ = !has_queen[0] && !has_queen[1];
}

struct Counts {
  Tensor both_FG, on_F1;
};

// How often each unit is on, and on together with each property.
Counts counts(const Tensor& on_PF, const Tensor& holds_PG) {
  return {at::matmul(on_PF.t(), holds_PG), on_PF.sum(0).unsqueeze(1)};
}

Tensor f1(const Tensor& both, const Tensor& said, const Tensor& held) {
  return 2 * both / (said + held).clamp_min(1);
}

}  // namespace

BoardScores score_units(const Tensor& fit_PF, const Tensor& fit_PG, const Tensor& test_PF, const Tensor& test_PG) {
  const at::NoGradGuard no_grad;
  const auto base_G = fit_PG.to(at::kFloat).mean(0);
  const auto chosen = base_G.ge(kRarest).logical_and(base_G.le(kCommonest)).nonzero().flatten();
  BoardScores out{.n_properties = chosen.size(0)};
  if (out.n_properties == 0) return out;
  const auto fit = fit_PG.to(at::kFloat).index_select(1, chosen), test = test_PG.to(at::kFloat).index_select(1, chosen);
  const auto largest_F = std::get<0>(fit_PF.max(0)).clamp_min(0);
  const auto held_fit_G = fit.sum(0), held_test_G = test.sum(0);

  auto best_G = at::full({out.n_properties}, -1.0, at::kFloat), score_G = at::zeros({out.n_properties}, at::kFloat);
  auto said_PG = at::zeros(test.sizes(), at::kBool);
  for (int i = 0; i < kThresholds; ++i) {
    const auto threshold_F = largest_F * (i / static_cast<double>(kThresholds));
    const auto is_on = [&](const Tensor& units_PF) { return units_PF.gt(threshold_F).to(at::kFloat); };
    const auto on_fit = is_on(fit_PF), on_test = is_on(test_PF);
    const auto c = counts(on_fit, fit);
    const auto [top_G, unit_G] = f1(c.both_FG, c.on_F1, held_fit_G).max(0);
    const auto here_PG = on_test.index_select(1, unit_G);
    const auto new_G = f1((here_PG * test).sum(0), here_PG.sum(0), held_test_G);
    const auto is_better_G = top_G.gt(best_G);
    best_G = at::where(is_better_G, top_G, best_G), score_G = at::where(is_better_G, new_G, score_G);
    const auto precise_FG = c.both_FG.ge(kPrecise * c.on_F1).logical_and(c.on_F1.ge(kFewest)).to(at::kFloat);
    said_PG.logical_or_(at::matmul(on_test, precise_FG).gt(0));
  }
  out.coverage = score_G.mean().item<double>();
  const auto said = said_PG.to(at::kFloat);
  const auto truth_P = test.sum(1);
  const auto said_P = said.sum(1);
  // Of a board without any of the properties, silence says all.
  const auto f1_P = at::where((said_P + truth_P).eq(0), 1, f1((said * test).sum(1), said_P, truth_P));
  out.reconstruction = f1_P.mean().item<double>();
  return out;
}

nlohmann::json score_boards(model::LanguageModel& model, const data::Tokenizer& tokenizer,
                            const data::TokenSet& held_out, int64_t most, int64_t layer, int64_t context,
                            at::Device device) {
  if (most < 2 || held_out.n_documents() < 2) return nullptr;
  const at::NoGradGuard no_grad;
  const auto n_layers = model.facts(context).n_layers;
  const auto units_of = layer < 0 ? n_layers / 2 : layer;
  const auto spans = held_out.documents();
  const auto n = std::min(static_cast<size_t>(most), spans.size());
  std::vector<Tensor> units[2], holds[2];
  for (size_t i = 0; i < n; ++i) {
    const auto& span = spans[i * spans.size() / n];
    const auto T = std::min(span.n_tokens, context);
    std::vector<int64_t> tokens(static_cast<size_t>(T));
    held_out.copy(span.begin, T, tokens.data());
    std::string text;
    std::vector<int64_t> end;  // of each token, in bytes
    for (const auto token : tokens) {
      text += tokenizer.token_bytes(static_cast<int32_t>(token));
      end.push_back(static_cast<int64_t>(text.size()));
    }
    const auto readings = chess::read_game(text);
    if (readings.size() < 2) continue;  // prose may begin with "1.", too; a second reading needs a legal move
    auto rows = at::empty({static_cast<int64_t>(readings.size())}, at::kLong);
    auto holds_PG = at::empty({static_cast<int64_t>(readings.size()), kProperties}, at::kFloat);
    for (size_t r = 0; r < readings.size(); ++r) {
      rows.mutable_data_ptr<int64_t>()[r] = std::upper_bound(end.begin(), end.end(), readings[r].offset) - end.begin();
      write_properties(readings[r].position,
                       holds_PG.mutable_data_ptr<float>() + static_cast<int64_t>(r) * kProperties);
    }
    const auto out = model.forward(at::tensor(tokens, at::kLong).unsqueeze(0).to(device),
                                   {.random = Random(0).at("boards").at(i), .units_of = units_of});
    if (!out.units_NF.defined()) return nullptr;
    units[i % 2].push_back(out.units_NF.index_select(0, rows.to(device)).to(at::kCPU, at::kFloat));
    holds[i % 2].push_back(holds_PG);
  }
  if (units[0].empty() || units[1].empty()) return nullptr;
  const auto fit_PF = at::cat(units[0]), test_PF = at::cat(units[1]);
  const auto scores = score_units(fit_PF, at::cat(holds[0]), test_PF, at::cat(holds[1]));
  return {{"board_coverage", scores.coverage}, {"board_reconstruction", scores.reconstruction},
          {"properties", scores.n_properties}, {"positions", fit_PF.size(0) + test_PF.size(0)},
          {"units", fit_PF.size(1)},           {"layer", units_of}};
}

}  // namespace collegium
