#include <doctest/doctest.h>

#include "collegium/data/gutenberg.h"
#include "collegium/data/html.h"

using namespace collegium::data;

TEST_CASE("a Gutenberg text of today loses header, credit and trailer") {
  const std::string_view file =
      "\xef\xbb\xbfThe Project Gutenberg EBook of Lear\r\n\r\nThis eBook is for the use of anyone\r\n\r\n"
      "*** START OF THIS PROJECT GUTENBERG EBOOK LEAR ***\r\n\r\n\r\nProduced by A. Reader and\r\nB. Reader\r\n\r\n\r\n"
      "KING LEAR  \r\n\r\n\r\n\r\n\r\nAct I\r\nNothing will come of nothing.\r\n\r\n"
      "End of the Project Gutenberg EBook of Lear\r\n*** END OF THIS PROJECT GUTENBERG EBOOK LEAR ***\r\nlicence\r\n";
  CHECK(clean_gutenberg(file) == "KING LEAR\n\n\nAct I\nNothing will come of nothing.\n");
}

TEST_CASE("an old Gutenberg text loses its small print") {
  const std::string_view file =
      "Project Gutenberg Etext of Lear\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this"
      " here?\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\nKING LEAR\nby Shakespeare\n\n\n"
      "End of Project Gutenberg Etext of Lear\n\n";
  CHECK(clean_gutenberg(file) == "KING LEAR\nby Shakespeare\n");
}

TEST_CASE("a text without boilerplate keeps every line") {
  CHECK(clean_gutenberg("KING JOHN\n\nby William Shakespeare\nEnd of the matter. Prepared by none.") ==
        "KING JOHN\n\nby William Shakespeare\nEnd of the matter. Prepared by none.\n");
  CHECK(clean_gutenberg("") == "");
  CHECK(clean_gutenberg("\r\n \r\n") == "");
}

TEST_CASE("verse numbers in the margin, dot leaders and end-of-file marks go; numbers in the text stay") {
  CHECK(clean_gutenberg(
            "  And brought'st him thence        10\nIn 1645  2\n42\n   7\n............Of Cerberus...\n\x1a") ==
        "  And brought'st him thence\nIn 1645  2\n42\n   7\nOf Cerberus...\n");
  CHECK(first_line("\n\n  THE END \nx") == "THE END");
}

TEST_CASE("HTML becomes lines: entities, white space, head, comments and scripts") {
  const auto page = read_html(
      "<!doctype html>\n<html data-code=\"eng\" lang='en' hidden>\n<head><title>English &amp; more</title>"
      "<style>p{}</style></head>\n<body>\n  <h1>Uni\n  versal</h1><!-- <p>no</p> -->\n<script>if (a<b) x();</script>"
      "<article data-number=\"1\"><h2>Article&#x20;1</h2><p>All <em>human</em> beings &#60;free&#62;</p>"
      "<ol><li>one</li><li>two &unknown; &amp;lt;</li></ol></article></body></html>");
  CHECK(page.title == "English & more");
  CHECK(page.html.at("data-code") == "eng");
  CHECK(page.html.at("lang") == "en");
  CHECK(page.html.count("hidden") == 1);
  CHECK(page.text == "Uni versal\n\nArticle 1\nAll human beings <free>\none\ntwo &unknown; &lt;\n");
}

TEST_CASE("entities") {
  CHECK(decode_entities("&lt;&gt;&quot;&apos;&amp;&nbsp;") == "<>\"'&\xc2\xa0");
  CHECK(decode_entities("&#233;&#xE9;&#x1F600;") == "\xc3\xa9\xc3\xa9\xf0\x9f\x98\x80");
  CHECK(decode_entities("R&D; & &; &#; &#x; &#xZZ; AT&T") == "R&D; & &; &#; &#x; &#xZZ; AT&T");
}

TEST_CASE("broken HTML ends, it does not hang") {
  CHECK(read_html("<p>one<").text == "one\n");
  CHECK(read_html("<p>one<!-- never closed").text == "one\n");
  CHECK(read_html("<html a= b='unclosed>x").text == "x\n");
  CHECK(read_html("a<script>never closed").text == "a\n");
  CHECK(read_html("").text.empty());
}
