#include "collegium/data/gettext.h"

#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

std::string wrong(const std::string& catalogue) {
  return error_of([&] { read_gettext(catalogue, "fr", "fr.po"); });
}

}  // namespace

TEST_CASE("a catalogue becomes pairs, with the English as a prompt") {
  const auto pairs = read_gettext(
      "# header\n"
      "msgid \"\"\n"
      "msgstr \"\"\n"
      "\"Language: fr\\n\"\n"
      "\n"
      "#: ../a.py:1\n"
      "#, python-format\n"
      "msgid \"Place of birth: %s\"\n"
      "msgstr \"Lieu de naissance : %s\"\n"
      "\n"
      "msgid \"\"\n"
      "\"Two \"\n"
      "\"lines\\n\"\n"
      "msgstr \"\"\n"
      "\"Deux \\\"lignes\\\"\"\n",
      "fr", "fr.po");
  REQUIRE(pairs.size() == 2);
  CHECK(pairs[0].id == "fr/000008");
  CHECK(pairs[0].title == "Place of birth: %s");
  CHECK(pairs[0].language == "fr");
  CHECK(pairs[0].text == "fr: Place of birth: %s\nLieu de naissance : %s");
  CHECK(pairs[0].text.substr(0, static_cast<size_t>(pairs[0].n_prompt_bytes)) == "fr: Place of birth: %s\n");
  CHECK(pairs[1].text == "fr: Two lines\n\nDeux \"lignes\"");
  CHECK(pairs[1].n_prompt_bytes == 15);
}

TEST_CASE("messages that teach no translation are left out") {
  const auto kept = [](const std::string& entry) { return read_gettext(entry, "fr", "fr.po").size(); };
  CHECK(kept("msgid \"Open\"\nmsgstr \"Ouvrir\"\n") == 1);
  CHECK(kept("#, python-format, fuzzy\nmsgid \"Open\"\nmsgstr \"Fermer\"\n") == 0);
  CHECK(kept("msgctxt \"door\"\nmsgid \"Open\"\nmsgstr \"Ouvrir\"\n") == 0);
  CHECK(kept("msgid \"%d day\"\nmsgid_plural \"%d days\"\nmsgstr[0] \"%d jour\"\nmsgstr[1] \"%d jours\"\n") == 0);
  CHECK(kept("msgid \"Open\"\nmsgstr \"\"\n") == 0);
  CHECK(kept("msgid \"Open\"\nmsgstr \"Open\"\n") == 0);
  CHECK(kept("msgid \"12:30\"\nmsgstr \"12h30\"\n") == 0);
  CHECK(kept("#~ msgid \"Open\"\n#~ msgstr \"Ouvrir\"\n") == 0);
  const std::string most(kLongestMessage, 'a'), longer(kLongestMessage + 1, 'a');
  CHECK(kept("msgid \"" + most + "\"\nmsgstr \"b\"\n") == 1);
  CHECK(kept("msgid \"" + longer + "\"\nmsgstr \"b\"\n") == 0);
  CHECK(kept("msgid \"b\"\nmsgstr \"" + longer + "\"\n") == 0);
  // Without blank lines between them, and with Windows' line ends.
  CHECK(kept("msgid \"a\"\r\nmsgstr \"b\"\r\n#, fuzzy\r\nmsgid \"c\"\r\nmsgstr \"d\"\r\nmsgid \"e\"\nmsgstr \"f\"") ==
        2);
}

TEST_CASE("messages that differ in case and punctuation share a group") {
  const auto pairs = read_gettext(
      "msgid \"_Open file…\"\nmsgstr \"a\"\n\nmsgid \"open FILE:\"\nmsgstr \"b\"\n\nmsgid \"open files\"\nmsgstr "
      "\"c\"\n",
      "fr", "fr.po");
  REQUIRE(pairs.size() == 3);
  CHECK(pairs[0].group != pairs[1].group);  // the ellipsis is no ASCII punctuation
  CHECK(pairs[1].group == "openfile");
  CHECK(pairs[2].group == "openfiles");
}

TEST_CASE("what is no catalogue says where") {
  CHECK(wrong("msgid \"a\"\nmsgstr \"b\"\nhello\n") ==
        "4: fr.po:3: not a gettext catalogue: a keyword and a quoted text were wanted");
  CHECK(wrong("\"a\"\n") == "4: fr.po:1: not a gettext catalogue: a text without a keyword before it");
  CHECK(wrong("msgid \"a\n") == "4: fr.po:1: not a gettext catalogue: a keyword and a quoted text were wanted");
  CHECK(wrong("msgid \"\n") == "4: fr.po:1: not a gettext catalogue: a quote is not closed");
  CHECK(wrong("msgid \"a\"b\"\n") == "4: fr.po:1: not a gettext catalogue: a quote inside a text");
  CHECK(wrong("msgid \"a\\q\"\n") == "4: fr.po:1: not a gettext catalogue: unknown escape '\\q'");
  CHECK(wrong("msgid \"a\\\"\n") == "4: fr.po:1: not a gettext catalogue: an escape without its letter");
  CHECK(wrong("msgword \"a\"\n") == "4: fr.po:1: not a gettext catalogue: unknown keyword 'msgword'");
  CHECK(wrong("msgstr \"a\"\n") == "4: fr.po:1: not a gettext catalogue: a translation without its message");
  CHECK(wrong("msgid \"a\"\n\nmsgid \"b\"\n") ==
        "4: fr.po:2: not a gettext catalogue: a message without a translation");
  CHECK(wrong("msgid \"a\"\nmsgid \"b\"\n") ==
        "4: fr.po:2: not a gettext catalogue: a message without a translation before it");
}

TEST_CASE("an archive of catalogues becomes one list of pairs, counted") {
  const Scratch scratch;
  const auto archive = scratch.path() / "po.tar.gz";
  write_archive(archive, {{"x/po/fr.po", "msgid \"Open\"\nmsgstr \"Ouvrir\"\n"},
                          {"x/po/de.po", "msgid \"Open\"\nmsgstr \"Öffnen\"\n"},
                          {"x/po/sub/it.po", "not read"}});
  Source source{.name = "small", .folder = "x/po/", .suffix = ".po", .reader = SourceReader::gettext, .n_documents = 2};
  const auto documents = read_documents(source, archive);
  REQUIRE(documents.size() == 2);
  CHECK(documents[0].id == "de/000001");
  CHECK(documents[0].group == documents[1].group);
  source.n_documents = 3;
  CHECK(error_of(scratch, [&] { read_documents(source, archive); }) ==
        "4: SCRATCH/po.tar.gz: 'small' has 3 documents, but this archive has 2");
}
