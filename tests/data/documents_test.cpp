#include "collegium/data/documents.h"

#include "collegium/io/sha256.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

std::string udhr_page(const std::string& code, const std::string& language, const std::string& body) {
  return "<html data-code=\"" + code + "\" data-iso6393=\"" + language + "\"><head><title>Name of " + code +
         "</title></head><body><h1>Head</h1><p>" + body + "</p></body></html>";
}

}  // namespace

TEST_CASE("a text file is one document, a folder one a file") {
  const Scratch scratch;
  const auto file = scratch.write("a.txt", "caf\xc3\xa9\n");
  const auto one = read_local(file);
  REQUIRE(one.documents.size() == 1);
  CHECK(one.documents[0].id == "a");
  CHECK(one.documents[0].text == "caf\xc3\xa9\n");

  scratch.write("f/z.txt", "\xef\xbb\xbfz");
  scratch.write("f/sub/b.TXT", "b");
  scratch.write("f/c.md", "not read");
  const auto folder = read_local(scratch.path() / "f");
  REQUIRE(folder.documents.size() == 2);
  CHECK(folder.documents[0].id == "sub/b");
  CHECK(folder.documents[1].text == "z");
  CHECK(folder.record.name == (scratch.path() / "f").string());

  const auto hash = folder.record.sha256;
  scratch.write("f/z.txt", "changed");
  CHECK(read_local(scratch.path() / "f").record.sha256 != hash);
}

TEST_CASE("wrong local text says file, place and byte") {
  const Scratch scratch;
  const auto read = [&](const std::string& name, const std::string& bytes) {
    return error_of(scratch, [&] { read_local(scratch.write(name, bytes)); });
  };
  CHECK(read("bad.txt", "abc\xe9 def") ==
        "4: SCRATCH/bad.txt: not UTF-8: byte 0xE9 at offset 3 [convert the file, for instance with 'iconv -f LATIN1 -t "
        "UTF-8']");
  CHECK(read("cut.txt", "abc\xe2\x82") ==
        "4: SCRATCH/cut.txt: not UTF-8: byte 0xE2 at offset 3 [convert the file, for instance with 'iconv -f LATIN1 -t "
        "UTF-8']");
  CHECK(read("empty.txt", "") == "4: SCRATCH/empty.txt: the file is empty");
  CHECK(read("mark.txt", "\xef\xbb\xbf") == "4: SCRATCH/mark.txt: the file is empty");
  CHECK(read("binary.txt", std::string("PK\0\0", 4)) ==
        "4: SCRATCH/binary.txt: binary content, not text: NUL byte at offset 2 [give plain text files in UTF-8]");
  CHECK(read("a.md", "text") == "2: SCRATCH/a.md: a text source must be a .txt file or a folder of them");
  std::filesystem::create_directory(scratch.path() / "none");
  CHECK(error_of(scratch, [&] { read_local(scratch.path() / "none"); }) ==
        "4: SCRATCH/none: no .txt file in this folder [give a .txt file, or a folder with .txt files]");
  CHECK(error_of(scratch, [&] { read_local(scratch.path() / "gone.txt"); }) ==
        "5: SCRATCH/gone.txt: no such file or folder");
}

TEST_CASE("an unknown source names the nearest and all known ones") {
  CHECK(error_of([] { read_source("shakespear", {}); }) ==
        "2: unknown source 'shakespear'; did you mean 'shakespeare'? (known: shakespeare, milton, sotu, udhr, gramps, "
        "chess, stockfish; or the path of a .txt file or a folder of them)");
}

TEST_CASE("a declaration page becomes a document") {
  const auto page = read_udhr_page(udhr_page("fuv2", "fuv", "One &lt; two"), "page");
  CHECK(page.id == "fuv2");
  CHECK(page.title == "Name of fuv2");
  CHECK(page.language == "fuv");
  CHECK(page.group == "fuv");
  CHECK(page.text == "Head\nOne < two\n");
  CHECK(read_udhr_page(udhr_page("013", "und", "x"), "page").group.empty());
  CHECK(error_of([] { read_udhr_page("<html data-code='a'><body>x</body></html>", "p.html"); }) ==
        "4: p.html: <html> has no attribute 'data-iso6393'");
  CHECK(error_of([] { read_udhr_page("<html data-code='a' data-iso6393='a'><body></body></html>", "p.html"); }) ==
        "4: p.html: the page has no text");
}

TEST_CASE("documents that share a long line fall into one group, also through a third") {
  const std::string common(90, 'x'), other(90, 'y');
  std::vector<Document> documents = {{.id = "a", .text = common + "\n"},
                                     {.id = "b", .text = "short\n"},
                                     {.id = "c", .text = "short\n" + other + "\n" + common},
                                     {.id = "d", .text = other + "\n", .group = "D"},
                                     {.id = "e", .text = "alone\n", .group = "D"}};
  join_groups_that_share_lines(documents);
  CHECK(documents[0].group == "a");
  CHECK(documents[1].group == "b");
  for (const size_t i : {2, 3, 4}) CHECK(documents[i].group == "a");
}

TEST_CASE("the documents of a source: ids, only the files that belong, and their number") {
  const Scratch scratch;
  const auto file = scratch.path() / "s.tgz";
  write_archive(file, {{"p/lear_gut.txt", "KING LEAR\n\nNothing.\n"},
                       {"p/lear_gut_f.txt", "the same again"},
                       {"p/deep/x_gut.txt", "below"},
                       {"p/_gut.txt", "no id"},
                       {"q/john_gut.txt", "elsewhere"},
                       {"p/ado_gut.txt", "MUCH ADO\n"}});
  const std::vector<SharedWork> shared = {{"ado", "both"}};
  Source source{.name = "s",
                .archive = "s.tgz",
                .folder = "p/",
                .suffix = "_gut.txt",
                .shared = shared,
                .reader = SourceReader::gutenberg,
                .language = "eng",
                .n_documents = 2};
  const auto documents = read_documents(source, file);
  REQUIRE(documents.size() == 2);
  CHECK(documents[0].id == "ado");
  CHECK(documents[0].group == "both");
  CHECK(documents[1].title == "KING LEAR");
  CHECK(documents[1].language == "eng");
  CHECK(documents[1].text == "KING LEAR\n\nNothing.\n");
  source.n_documents = 3;
  CHECK(error_of(scratch, [&] { read_documents(source, file); }) ==
        "4: SCRATCH/s.tgz: 's' has 3 documents, but this archive has 2");
}
