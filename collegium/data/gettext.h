// Parallel text from message catalogues of GNU gettext (.po): the same English messages in many languages, each
// translated by people.
#pragma once
#include <string_view>
#include <vector>

#include "collegium/data/documents.h"

namespace collegium::data {

/// Longest message or translation that becomes a document, in bytes: a sentence or two, so that a pair fits a short
/// context.
constexpr size_t kLongestMessage = 240;

/// One document for each plain translation of a catalogue of `language`:
///
///   <language>: <English>\n<translation>        (the first line is the prompt, the language its instruction)
///
/// in the catalogue's order, ids "<language>/<line of the message>", title the English message. Left out are messages
/// that the English alone does not settle (with a context or plural forms), that are not translated (empty, marked
/// fuzzy, or the same as the English), that have no letter, and long ones. Documents whose English differs only in
/// case, spaces and punctuation share a group, so that no split parts them.
/// Throws Error(data) for lines that are no catalogue's, naming `name` and the line.
std::vector<Document> read_gettext(std::string_view catalogue, std::string_view language, std::string_view name);

}  // namespace collegium::data
