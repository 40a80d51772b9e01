#include "cli/entries.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "collegium/base/error.h"

using namespace collegium;
using namespace collegium::cli;

namespace {

// Made up: what is rendered must not hang on which mechanisms the product has.
std::vector<EntryInfo> made_up() {
  FieldInfo k = {.name = "k", .type = "integer", .default_text = "2", .help = "experts per token", .unit = "experts"};
  k.min = 1, k.max = 64;
  FieldInfo mode = {.name = "mode", .type = "choice", .default_text = "\"soft\"", .help = "how"};
  mode.choices = {"soft", "hard"};
  FieldInfo rate = {.name = "rate", .type = "float", .default_text = "0.5", .help = "how fast", .unit = "1/s"};
  rate.min = 0;
  FieldInfo noise = {.name = "noise", .type = "table", .help = "noise"};
  noise.children = {rate};
  return {{.catalogue = "routers",
           .name = "alpha",
           .source = "paper A, eq. 4",
           .taxonomy = "gating/Sparse/token",
           .summary = "tokens choose",
           .equation = "p = softmax(W x),  T = top-k(p)\ny = Σ_{e ∈ T} p_e f_e(x)",
           .paper = 12,
           .fields = {k, mode, noise},
           .claims = {{"chooser", "token"}, {"balance", "none"}}},
          {.catalogue = "routers",
           .name = "both",
           .source = "paper B",
           .taxonomy = "gating/dense",
           .summary = "a name | twice",
           .paper = 0},
          {.catalogue = "balancers",
           .name = "both",
           .source = "paper C",
           .taxonomy = "balance",
           .summary = "the other one",
           .paper = 12}};
}

std::string error_of(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::usage);
    return text(error.what(), " / ", error.hint());
  }
  return "no error";
}

}  // namespace

TEST_CASE("entries are filtered by catalogue, paper and taxonomy") {
  const auto all = made_up();
  CHECK(catalogues_of(all) == std::vector<std::string>{"routers", "balancers"});
  CHECK(filtered(all, {}).size() == 3);
  CHECK(filtered(all, {.catalogue = "routers"}).size() == 2);
  CHECK(filtered(all, {.paper = 12}).size() == 2);
  CHECK(filtered(all, {.catalogue = "balancers", .paper = 12}).front().summary == "the other one");
  CHECK(filtered(all, {.taxonomy = "sparse"}).front().name == "alpha");
  CHECK(filtered(all, {.paper = 99}).empty());
  CHECK(error_of([&] { filtered(all, {.catalogue = "router"}); }) ==
        "unknown catalogue 'router' (known: routers, balancers) / did you mean 'routers'?");
}

TEST_CASE("an entry is found by its name, and a shared name asks for the catalogue") {
  const auto all = made_up();
  CHECK(find_entry(all, "alpha").paper == 12);
  CHECK(find_entry(all, "balancers/both").summary == "the other one");
  CHECK(error_of([&] { find_entry(all, "both"); }) ==
        "'both' stands in 2 catalogues / say which: routers/both, balancers/both");
  CHECK(error_of([&] { find_entry(all, "alhpa"); }) == "no mechanism is called 'alhpa' / did you mean 'alpha'?");
  CHECK(error_of([&] { find_entry(all, "routers/alhpa"); }) ==
        "no mechanism is called 'routers/alhpa' / did you mean 'routers/alpha'?");
}

TEST_CASE("names are printed as they must be typed") {
  const auto all = made_up();
  CHECK(names_to_type(all, all) == std::vector<std::string>{"alpha", "routers/both", "balancers/both"});
  // Still shared with an entry that the filter left out.
  CHECK(names_to_type(filtered(all, {.catalogue = "balancers"}), all) == std::vector<std::string>{"balancers/both"});
}

TEST_CASE("the list is a table") {
  CHECK(entries_text(made_up(), {.unicode = false}) ==
        "catalogue  name   paper  summary\n"
        "---------  -----  -----  --------------\n"
        "routers    alpha     12  tokens choose\n"
        "routers    both          a name | twice\n"
        "balancers  both      12  the other one\n");
}

TEST_CASE("one entry shows its origin, its claims and its fields, nested ones dotted") {
  const auto shown = entry_text(made_up()[0], {.unicode = false});
  CHECK(shown ==
        "routers/alpha\n"
        "\n"
        "summary     tokens choose\n"
        "equation    p = softmax(W x),  T = top-k(p)\n"
        "            y = Σ_{e ∈ T} p_e f_e(x)\n"
        "paper       number 12\n"
        "source      paper A, eq. 4\n"
        "taxonomy    gating/Sparse/token\n"
        "claims      chooser: token\n"
        "            balance: none\n"
        "\n"
        "field       type     default  unit     allowed      meaning\n"
        "----------  -------  -------  -------  -----------  -----------------\n"
        "k           integer  2        experts  1 to 64      experts per token\n"
        "mode        choice   \"soft\"            soft | hard  how\n"
        "noise.rate  float    0.5      1/s      >= 0         how fast\n");
  CHECK(entry_text(made_up()[1], {}).find("none of the catalogue's own") != std::string::npos);
  CHECK(entry_text(made_up()[1], {}).find("It has no fields.") != std::string::npos);
}

TEST_CASE("a long line of an equation breaks between its formulas, then at words") {
  auto entry = made_up()[0];
  entry.equation = "p = softmax(W x),  T = top-k(p);  E = number of experts\ny = p x";
  entry.fields.clear(), entry.claims.clear();
  const auto shown = [&](size_t width) {
    const auto all = entry_text(entry, {.width = width, .unicode = false});
    const auto from = all.find("equation"), to = all.find("paper ");
    return all.substr(from, to - from);
  };
  CHECK(shown(80) ==
        "equation    p = softmax(W x),  T = top-k(p);  E = number of experts\n"
        "            y = p x\n");
  CHECK(shown(50) ==
        "equation    p = softmax(W x),  T = top-k(p);\n"
        "              E = number of experts\n"
        "            y = p x\n");
  CHECK(shown(30) ==
        "equation    p = softmax(W x),\n"
        "              T = top-k(p);\n"
        "              E = number of\n"
        "              experts\n"
        "            y = p x\n");
}

TEST_CASE("entries as JSON keep bounds and children") {
  const auto json = entry_json(made_up()[0], true);
  CHECK(json["paper"] == 12);
  CHECK(json["equation"] == "p = softmax(W x),  T = top-k(p)\ny = Σ_{e ∈ T} p_e f_e(x)");
  CHECK(json["claims"]["chooser"] == "token");
  CHECK(json["fields"][0]["min"] == 1);
  CHECK(json["fields"][0]["max"] == 64);
  CHECK(json["fields"][1]["choices"] == Json({"soft", "hard"}));
  CHECK(json["fields"][2]["children"][0]["name"] == "rate");
  CHECK(!json["fields"][2]["children"][0].contains("max"));
  CHECK(!entry_json(made_up()[0], false).contains("fields"));
}

TEST_CASE("entries as Markdown, pipes escaped") {
  const auto page = entries_markdown(made_up());
  CHECK(page.find("## routers\n\n### alpha\n\ntokens choose\n\n```\np = softmax(W x),") != std::string::npos);
  CHECK(page.find("p_e f_e(x)\n```\n\n- Paper: number 12\n") != std::string::npos);
  CHECK(page.find("| `mode` | choice | `\"soft\"` |  | soft \\| hard | how |\n") != std::string::npos);
  CHECK(page.find("| `noise.rate` | float |") != std::string::npos);
  CHECK(page.find("## balancers\n\n### both\n\nthe other one\n\n- Paper") != std::string::npos);
}
