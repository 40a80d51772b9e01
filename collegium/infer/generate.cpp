#include "collegium/infer/generate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

namespace collegium::infer {
namespace {

Tensor row_of(const std::vector<int64_t>& tokens, size_t begin, at::Device device) {
  const std::vector<int64_t> part(tokens.begin() + static_cast<int64_t>(begin), tokens.end());
  return at::tensor(part, at::kLong).unsqueeze(0).to(device);
}

}  // namespace

int64_t sample_token(const Tensor& logit_V, const SampleConfig& config, double draw) {
  const auto logit = logit_V.detach().to(at::kCPU, at::kDouble);
  const auto [sorted, order] = logit.sort(/*stable=*/true, -1, /*descending=*/true);
  if (config.temperature == 0) return order[0].item<int64_t>();
  const auto probability = (sorted / config.temperature).softmax(-1).contiguous();
  const auto* p = probability.const_data_ptr<double>();
  const auto V = probability.size(0);
  const auto most = config.top_k > 0 ? std::min(config.top_k, V) : V;
  // The nucleus: the shortest prefix whose probability reaches top_p.
  int64_t kept = 0;
  double mass = 0;
  while (kept < most && (kept == 0 || mass < config.top_p)) mass += p[kept++];
  double left = draw * mass;
  int64_t at = 0;
  while (at + 1 < kept && left >= p[at]) left -= p[at++];
  return order[at].item<int64_t>();
}

std::vector<int64_t> generate(model::LanguageModel& model, const std::vector<int64_t>& prompt,
                              const SampleConfig& config, int64_t end_token, int64_t context, at::Device device,
                              const std::function<bool(int64_t)>& on_token) {
  require(!prompt.empty(), "generate: the prompt has no tokens");
  const at::NoGradGuard no_grad;
  const Random random(static_cast<uint64_t>(config.seed));
  std::vector<int64_t> all = prompt, made;
  model::KeyValueCache cache;
  // A prompt longer than the context: its newest part.
  size_t first_unseen = all.size() > static_cast<size_t>(context) ? all.size() - static_cast<size_t>(context) : 0;
  // Routers that mix tokens need the whole sequence each time.
  const bool is_cached = !model.facts(context).reads_other_tokens;
  while (static_cast<int64_t>(made.size()) < config.tokens) {
    if (!is_cached) first_unseen = all.size() - std::min(all.size(), static_cast<size_t>(context));
    if (cache.length + static_cast<int64_t>(all.size() - first_unseen) > context) {
      cache = {};
      first_unseen = all.size() - static_cast<size_t>(std::max<int64_t>(1, context / 2));
    }
    // Routers that draw draw anew for each token.
    const model::ModelContext context_here{.random = random.at("routing").at(all.size()), .losses = false};
    const auto out = model.forward(row_of(all, first_unseen, device), context_here, is_cached ? &cache : nullptr);
    first_unseen = all.size();
    const auto logit_V = model.logits(out.hidden_ND.slice(0, out.hidden_ND.size(0) - 1)).squeeze(0);
    const auto token = sample_token(logit_V, config, random.uniform(made.size()));
    if (token == end_token) break;
    all.push_back(token), made.push_back(token);
    if (on_token && !on_token(token)) break;
  }
  return made;
}

void trace_batch(route::RoutingTrace& trace, model::LanguageModel& model, const Tensor& token_BT,
                 const model::ModelContext& context, int64_t context_length, int64_t step, int64_t pass) {
  const at::NoGradGuard no_grad;
  auto recorded = context;
  recorded.record = true;
  const auto out = model.forward(token_BT, recorded);
  const auto facts = model.facts(context_length);
  ensure(out.decisions.size() == facts.moe_layers.size(), "a recorded pass has a decision for each MoE layer");
  for (size_t i = 0; i < out.decisions.size(); ++i)
    trace.records.push_back({.step = step,
                             .pass = pass,
                             .layer = facts.moe_layers[i],
                             .token_id_N = token_BT.reshape({-1}).cpu(),
                             .decision = out.decisions[i]});
}

route::RoutingTrace trace_tokens(model::LanguageModel& model, const std::vector<int64_t>& tokens, at::Device device) {
  route::RoutingTrace trace;
  trace_batch(trace, model, row_of(tokens, 0, device), {}, static_cast<int64_t>(tokens.size()));
  return trace;
}

}  // namespace collegium::infer
