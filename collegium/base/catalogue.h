// Catalogue entries: each mechanism is one .cpp file that ends in a constant entry, and one list per room
// names the entries' addresses. From the entry follow help, docs, Python keywords, completion and the
// contract tests. No macro, no static registration, nothing for a linker to drop.
//
// An Interface (Scorer, Router, MoeLayer, …) names
//   Inputs   what every implementation is built from (sizes, random streams, device)
//   Claims   facts that the contract tests hold each entry to
// and, if its entries need no equation, `static constexpr bool has_equation = false`.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/config.h"
#include "collegium/base/error.h"

namespace collegium {

/// What every mechanism says of itself.
template <class Claims>
struct Card {
  std::string_view name;      ///< [a-z0-9_]+; also the name of its file, recipe, golden and docs section
  int paper = 0;              ///< row of the catalogue of papers, 1 to 119; 0 for a part no single paper owns
  std::string_view source;    ///< where it is from: paper and section or equation
  std::string_view taxonomy;  ///< place in the survey's taxonomy, "gating/sparse/token choice"
  std::string_view summary;   ///< one sentence
  /// What the code computes, at most two lines of about 100 columns. x: a token's hidden state, y: the layer's output,
  /// W and other capitals: weights, E: experts, N: tokens, T: the experts chosen, L: a loss, Greek letters: fields or
  /// what the equation says; names of other entries stand for their equations.
  std::string_view equation;
  Claims claims{};
};

template <class Interface>
struct Entry {
  Card<typename Interface::Claims> card;
  std::unique_ptr<Interface> (*make)(const Named& named, const typename Interface::Inputs& inputs);
  std::vector<FieldInfo> (*fields)();
  Table (*resolve)(const Named& named);  ///< every field with its value; throws on a bad field
};

/// Whether entries of Interface must state an equation: all but those of an Interface that has `has_equation = false`.
template <class Interface>
consteval bool needs_equation() {
  if constexpr (requires { Interface::has_equation; })
    return Interface::has_equation;
  else
    return true;
}

/// The entry of mechanism T. Refused by the compiler when the card lacks a name, a source, a place, a summary, or an
/// equation where its Interface needs one.
template <class T>
consteval auto entry(Card<typename T::Interface::Claims> card) {
  if (card.name.empty() || card.source.empty() || card.summary.empty() || card.taxonomy.empty())
    throw "a card needs a name, a source, a place in the taxonomy and a summary";
  if (card.paper < 0 || card.paper > 119) throw "papers are numbered 1 to 119; 0 means none";
  using Interface = typename T::Interface;
  if (needs_equation<Interface>() && card.equation.empty()) throw "a card needs an equation";
  return Entry<Interface>{
      card,
      [](const Named& named, const typename Interface::Inputs& inputs) -> std::unique_ptr<Interface> {
        return T::make(read_config<typename T::Config>(named.fields, named.path), inputs);
      },
      [] { return list_config<typename T::Config>(); },
      [](const Named& named) { return write_config(read_config<typename T::Config>(named.fields, named.path)); }};
}

/// Makes a class with a constructor (Config, Inputs) an entry's T without further words.
template <class Self, class InterfaceType>
struct Makes {
  using Interface = InterfaceType;
  template <class Config>
  static std::unique_ptr<Interface> make(const Config& config, const typename Interface::Inputs& inputs) {
    return std::make_unique<Self>(config, inputs);
  }
};

template <class Interface>
using Entries = std::span<const Entry<Interface>* const>;

/// The entry called `named.name`; a usage Error names the nearest and lists the known ones.
template <class Interface>
const Entry<Interface>& find(Entries<Interface> all, const Named& named, std::string_view what) {
  std::vector<std::string> known;
  for (const auto* e : all) {
    if (e->card.name == named.name) return *e;
    known.emplace_back(e->card.name);
  }
  const auto near = nearest(named.name, known);
  throw config_error(named.origin, named.path.empty() ? std::string(what) : named.path,
                     text("unknown ", what, " '", named.name, "'",
                          near.empty() ? "" : text("; did you mean '", near, "'?"), " (known: ", join(known), ")"));
}

/// An entry without its types: for lists, help, docs and completion.
struct EntryInfo {
  std::string catalogue, name, source, taxonomy, summary, equation;
  int paper = 0;
  std::vector<FieldInfo> fields;
  std::vector<std::pair<std::string, std::string>> claims;
};

template <class Interface>
std::vector<EntryInfo> describe(Entries<Interface> all, std::string_view catalogue) {
  std::vector<EntryInfo> out;
  for (const auto* e : all) {
    const auto& c = e->card;
    out.push_back({std::string(catalogue), std::string(c.name), std::string(c.source), std::string(c.taxonomy),
                   std::string(c.summary), std::string(c.equation), c.paper, e->fields(), c.claims.describe()});
  }
  return out;
}

}  // namespace collegium
