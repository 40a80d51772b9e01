#include "collegium/recipe/translation.h"

#include "collegium/infer/chrf.h"
#include "collegium/infer/generate.h"

namespace collegium {
namespace {

std::string decoded(const data::Tokenizer& tokenizer, const std::vector<int64_t>& tokens) {
  return tokenizer.decode(std::vector<int32_t>(tokens.begin(), tokens.end()));
}

}  // namespace

nlohmann::json score_translations(model::LanguageModel& model, const data::Tokenizer& tokenizer,
                                  const data::TokenSet& held_out, int64_t most, int64_t context, at::Device device) {
  std::vector<data::DocumentSpan> fitting;
  for (const auto& span : held_out.documents())
    if (span.n_prompt > 0 && span.n_tokens <= context) fitting.push_back(span);
  if (fitting.empty() || most == 0) return {};
  const auto n = std::min(static_cast<size_t>(most), fitting.size());
  nlohmann::json answers = nlohmann::json::array();
  std::vector<std::string> made, reference;
  for (size_t i = 0; i < n; ++i) {
    const auto& span = fitting[i * fitting.size() / n];
    std::vector<int64_t> prompt(static_cast<size_t>(span.n_prompt));
    std::vector<int64_t> rest(static_cast<size_t>(span.n_tokens - span.n_prompt - 1));  // without the end token
    held_out.copy(span.begin, span.n_prompt, prompt.data());
    held_out.copy(span.begin + span.n_prompt, static_cast<int64_t>(rest.size()), rest.data());
    // Twice the reference's length is more than enough; a model that never ends is cut there.
    const auto longest = 2 * static_cast<int64_t>(rest.size()) + 8;
    const infer::SampleConfig greedy{.tokens = std::min(longest, context - span.n_prompt), .temperature = 0};
    made.push_back(decoded(tokenizer, infer::generate(model, prompt, greedy, tokenizer.end_id(), context, device)));
    reference.push_back(decoded(tokenizer, rest));
    answers.push_back({{"prompt", decoded(tokenizer, prompt)}, {"reference", reference.back()}, {"made", made.back()}});
  }
  std::vector<infer::Translated> set;
  for (size_t i = 0; i < n; ++i) set.push_back({made[i], reference[i]});
  return {{"chrf", infer::chrf(set)}, {"n", n}, {"answers", answers}};
}

}  // namespace collegium
