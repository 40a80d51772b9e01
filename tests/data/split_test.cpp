#include "collegium/data/split.h"

#include <set>

#include "collegium/data/utf8.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

std::vector<Document> made_documents(int n, size_t bytes = 1000) {
  std::vector<Document> out;
  for (int i = 0; i < n; ++i)
    out.push_back({.id = "d" + std::to_string(i), .text = std::string(bytes + static_cast<size_t>(i * 37 % 400), 'x')});
  return out;
}

std::set<std::string> ids(const std::vector<Document>& documents) {
  std::set<std::string> out;
  for (const auto& document : documents) out.insert(document.id);
  return out;
}

double bytes(const std::vector<Document>& documents) {
  double sum = 0;
  for (const auto& document : documents) sum += static_cast<double>(document.text.size());
  return sum;
}

}  // namespace

TEST_CASE("the split is a partition, near the share, and depends on seed and ids alone") {
  const auto documents = made_documents(60);
  std::set<std::set<std::string>> distinct;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    CAPTURE(seed);
    const auto split = split_documents(documents, {.held_out = 0.1, .seed = seed});
    CHECK(split.train.size() + split.held_out.size() == documents.size());
    auto together = ids(split.train);
    together.merge(ids(split.held_out));
    CHECK(together.size() == documents.size());
    CHECK(bytes(split.held_out) / bytes(documents) == doctest::Approx(0.1).epsilon(0.1));
    CHECK(split.notes.empty());
    auto reversed = documents;
    std::reverse(reversed.begin(), reversed.end());
    CHECK(ids(split_documents(reversed, {.held_out = 0.1, .seed = seed}).held_out) == ids(split.held_out));
    distinct.insert(ids(split.held_out));
  }
  CHECK(distinct.size() == 8);
}

TEST_CASE("the split of known documents never changes") {
  std::string held;
  for (const auto& id : ids(split_documents(made_documents(12), {.held_out = 0.2, .seed = 1}).held_out))
    held += id + " ";
  CHECK(held == "d11 d3 d5 ");
}

TEST_CASE("a group stays together") {
  auto documents = made_documents(40);
  for (size_t i = 0; i < documents.size(); ++i) documents[i].group = "g" + std::to_string(i / 4);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto split = split_documents(documents, {.held_out = 0.3, .seed = seed});
    std::set<std::string> held;
    for (const auto& document : split.held_out) held.insert(document.group);
    for (const auto& document : split.train) CHECK(held.count(document.group) == 0);
    CHECK(split.held_out.size() == held.size() * 4);
  }
}

TEST_CASE("both sides have a document, whatever the share") {
  for (const double share : {1e-6, 0.5, 0.999999}) {
    CAPTURE(share);
    const auto split = split_documents(made_documents(2), {.held_out = share});
    CHECK(split.train.size() == 1);
    CHECK(split.held_out.size() == 1);
  }
}

TEST_CASE("one document is cut at its tail with a gap, and a note says so") {
  std::string text;
  while (text.size() < 20000) text += "caf\xc3\xa9 ";
  const auto split = split_documents({{.id = "only", .text = text}}, {.held_out = 0.25, .gap = 100});
  REQUIRE(split.train.size() == 1);
  REQUIRE(split.held_out.size() == 1);
  const auto& head = split.train[0].text;
  const auto& tail = split.held_out[0].text;
  CHECK(text.starts_with(head));
  CHECK(text.ends_with(tail));
  CHECK_FALSE(utf8_fault(head).has_value());
  CHECK_FALSE(utf8_fault(tail).has_value());
  CHECK(text.size() - head.size() - tail.size() >= 100);
  CHECK(text.size() - head.size() - tail.size() <= 103);
  CHECK(split.held_out[0].id == "only#tail");
  CHECK(split.notes ==
        std::vector<std::string>{"one document only ('only'): its last 5001 bytes are held out, and 100 bytes "
                                 "before them are left out; held-out text is from the same work as "
                                 "training text"});
}

TEST_CASE("what cannot be split says so") {
  CHECK(error_of([] { split_documents({}, {}); }) == "4: no documents to split");
  CHECK(
      error_of([] { split_documents({{.id = "a", .text = "short"}}, {}); }) ==
      "4: the only document, 'a' with 5 bytes, is too short to hold out 0.1 of it after a gap of 4096 bytes [give more "
      "text, or a smaller gap]");
  CHECK(error_of([] { split_documents(made_documents(3), {.held_out = 1}); }) ==
        "2: held_out must lie between 0 and 1, got 1");
  auto same = made_documents(3);
  for (auto& document : same) document.group = "g";
  CHECK(error_of([&] { split_documents(same, {}); }) ==
        "4: all 3 documents share text (group 'g'), so none can be held out [add documents of another kind]");
  CHECK(error_of([] { split_documents({{.id = "a", .text = std::string(99999, 'x'), .n_prompt_bytes = 5}}, {}); }) ==
        "4: the only document, 'a', begins with a prompt and cannot be cut in two");
}
