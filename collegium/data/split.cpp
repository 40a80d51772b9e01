#include "collegium/data/split.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "collegium/base/error.h"
#include "collegium/base/random.h"
#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

struct SplitGroup {
  uint64_t hash = 0;
  std::string name;
  double bytes = 0;
  std::vector<size_t> members;
};

std::vector<SplitGroup> groups_in_hash_order(const std::vector<Document>& documents, uint64_t seed) {
  std::map<std::string, SplitGroup> by_name;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto& document = documents[i];
    // A document on its own and a group of the same name must not meet.
    auto& group = by_name[document.group.empty() ? "d:" + document.id : "g:" + document.group];
    group.bytes += static_cast<double>(document.text.size());
    group.members.push_back(i);
  }
  const auto random = Random(seed).at("split");
  std::vector<SplitGroup> out;
  for (auto& [name, group] : by_name) {
    group.name = name;
    group.hash = random.at(name).bits(0);
    out.push_back(std::move(group));
  }
  std::sort(out.begin(), out.end(),
            [](const auto& a, const auto& b) { return std::tie(a.hash, a.name) < std::tie(b.hash, b.name); });
  return out;
}

// The next line start at or after `at`, if one is near, else the start of the character at `at`.
size_t cut_point(std::string_view text, size_t at) {
  const auto newline = text.find('\n', at);
  if (newline != std::string_view::npos && newline - at < 200) return newline + 1;
  return utf8_floor(text, at);
}

Split cut_tail(Document document, const SplitOptions& options) {
  if (document.n_prompt_bytes > 0)
    fail(ErrorKind::data, "the only document, '", document.id, "', begins with a prompt and cannot be cut in two");
  const auto size = static_cast<double>(document.text.size());
  const auto tail = cut_point(document.text, static_cast<size_t>(size * (1 - options.held_out)));
  const auto gap = static_cast<size_t>(std::max<int64_t>(options.gap, 0));
  const auto head = tail > gap ? utf8_floor(document.text, tail - gap) : 0;
  if (head == 0 || tail >= document.text.size())
    throw Error(ErrorKind::data,
                text("the only document, '", document.id, "' with ", document.text.size(),
                     " bytes, is too short to hold out ", options.held_out, " of it after a gap of ", gap, " bytes"),
                "give more text, or a smaller gap");
  Split out;
  out.held_out.push_back(document);
  out.held_out[0].text = document.text.substr(tail);
  out.held_out[0].id += "#tail";
  out.notes.push_back(text("one document only ('", document.id, "'): its last ", document.text.size() - tail,
                           " bytes are held out, and ", tail - head,
                           " bytes before them are left out; held-out text is from the same work as training text"));
  document.text.resize(head);
  out.train.push_back(std::move(document));
  return out;
}

}  // namespace

Split split_documents(std::vector<Document> documents, const SplitOptions& options) {
  require(options.held_out > 0 && options.held_out < 1, "held_out must lie between 0 and 1, got ", options.held_out);
  if (documents.empty()) fail(ErrorKind::data, "no documents to split");
  if (documents.size() == 1) return cut_tail(std::move(documents[0]), options);

  const auto groups = groups_in_hash_order(documents, options.seed);
  if (groups.size() == 1)
    throw Error(ErrorKind::data,
                text("all ", documents.size(), " documents share text (group '", groups[0].name.substr(2),
                     "'), so none can be held out"),
                "add documents of another kind");
  double total = 0, held = 0;
  for (const auto& group : groups) total += group.bytes;
  const double target = options.held_out * total;
  std::vector<bool> is_held(groups.size(), false);
  for (size_t i = 0; i < groups.size(); ++i) {
    // Groups that would overshoot are passed over, so a long work early in the order does not spoil the share.
    if (std::abs(held + groups[i].bytes - target) >= std::abs(held - target)) continue;
    is_held[i] = true;
    held += groups[i].bytes;
  }
  const auto smallest =
      std::min_element(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  const auto n_held = std::count(is_held.begin(), is_held.end(), true);
  if (n_held == 0) is_held[static_cast<size_t>(smallest - groups.begin())] = true;
  if (n_held == static_cast<int64_t>(groups.size())) is_held[static_cast<size_t>(smallest - groups.begin())] = false;

  std::vector<bool> document_held(documents.size(), false);
  for (size_t i = 0; i < groups.size(); ++i)
    for (const auto member : groups[i].members) document_held[member] = is_held[i];
  Split out;
  for (size_t i = 0; i < documents.size(); ++i)
    (document_held[i] ? out.held_out : out.train).push_back(std::move(documents[i]));
  return out;
}

}  // namespace collegium::data
