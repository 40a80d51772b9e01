#include "collegium/infer/chrf.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>

namespace collegium::infer {
namespace {

constexpr size_t kLongestGram = 6;
constexpr double kBeta = 2;

// The characters of a text without white space, each as its UTF-8 bytes.
std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size();) {
    auto end = at + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    const auto one = text.substr(at, end - at);
    const bool is_space = one == " " || (one.size() == 1 && one[0] >= '\t' && one[0] <= '\r') || one == "\u00a0" ||
                          one == "\u202f" || one == "\u3000";
    if (!is_space) out.push_back(one);
    at = end;
  }
  return out;
}

using GramCounts = std::map<std::string, int64_t>;

GramCounts grams(const std::vector<std::string_view>& character, size_t n) {
  GramCounts out;
  for (size_t i = 0; i + n <= character.size(); ++i) {
    std::string gram;
    for (size_t j = i; j < i + n; ++j) gram += character[j];
    ++out[gram];
  }
  return out;
}

double total(const GramCounts& counts) {
  double sum = 0;
  for (const auto& [gram, count] : counts) sum += static_cast<double>(count);
  return sum;
}

}  // namespace

double chrf(const std::vector<Translated>& set) {
  struct Sums {
    double made = 0, reference = 0, common = 0;
  };
  std::array<Sums, kLongestGram> sums;
  for (const auto& pair : set) {
    const auto made = characters(pair.made), reference = characters(pair.reference);
    for (size_t n = 1; n <= kLongestGram; ++n) {
      const auto made_grams = grams(made, n), reference_grams = grams(reference, n);
      auto& sum = sums[n - 1];
      sum.made += total(made_grams), sum.reference += total(reference_grams);
      for (const auto& [gram, count] : made_grams)
        if (const auto found = reference_grams.find(gram); found != reference_grams.end())
          sum.common += static_cast<double>(std::min(count, found->second));
    }
  }
  double precision = 0, recall = 0;
  int64_t n_orders = 0;
  for (const auto& sum : sums) {
    if (sum.made == 0 || sum.reference == 0) continue;
    precision += sum.common / sum.made, recall += sum.common / sum.reference, ++n_orders;
  }
  if (n_orders == 0 || precision + recall == 0) return 0;
  precision /= static_cast<double>(n_orders), recall /= static_cast<double>(n_orders);
  return 100 * (1 + kBeta * kBeta) * precision * recall / (kBeta * kBeta * precision + recall);
}

}  // namespace collegium::infer
