// Text from a language model, token by token, with a key-value cache.
#pragma once
#include <functional>
#include <vector>

#include "collegium/base/config.h"
#include "collegium/model/language_model.h"
#include "collegium/route/trace.h"

namespace collegium::infer {

using at::Tensor;

struct SampleConfig {
  int64_t tokens = 200;
  double temperature = 0.8, top_p = 0.95;
  int64_t top_k = 0, seed = 0;
  void visit(Fields& field) {
    field("tokens", tokens, {.help = "at most so many new tokens", .unit = "tokens", .min = 1});
    field("temperature", temperature, {.help = "divides the scores; 0 = always the likeliest token", .min = 0});
    field("top_p", top_p,
          {.help = "only the likeliest tokens that together have this probability", .min = 1e-6, .max = 1});
    field("top_k", top_k, {.help = "only so many of the likeliest tokens; 0 = all", .min = 0});
    field("seed", seed, {.help = "another seed, another text"});
  }
};

/// The next token from scores of shape [V]; `draw` in [0, 1). Ties go to the lower id.
int64_t sample_token(const Tensor& logit_V, const SampleConfig& config, double draw);

/// Continues `prompt` (not empty). `on_token` gets each new token and returns false to stop. Stops by itself at
/// `end_token` (not passed on). `context` limits how many tokens the model looks back at: beyond it, the cache is
/// rebuilt from the newest half.
std::vector<int64_t> generate(model::LanguageModel& model, const std::vector<int64_t>& prompt,
                              const SampleConfig& config, int64_t end_token, int64_t context, at::Device device,
                              const std::function<bool(int64_t)>& on_token = {});

/// One recorded pass over token_BT, with every layer's decision, appended to `trace` under this step and pass.
void trace_batch(route::RoutingTrace& trace, model::LanguageModel& model, const Tensor& token_BT,
                 const model::ModelContext& context, int64_t context_length, int64_t step = 0, int64_t pass = 0);

/// One pass over `tokens`, with every layer's decision: for the map of a sample and for `explain`.
route::RoutingTrace trace_tokens(model::LanguageModel& model, const std::vector<int64_t>& tokens, at::Device device);

}  // namespace collegium::infer
