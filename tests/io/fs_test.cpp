#include "collegium/io/fs.h"

#include <doctest/doctest.h>

#include "collegium/io/sha256.h"
#include "tests/io/caught.h"
#include "tests/io/faulty_fs.h"
#include "tests/io/temp_folder.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;

namespace {

/// The same steps on both file systems, so that the one in memory is known to behave like the real one.
void check_behaviour(FileSystem& fs, const Path& root) {
  const auto folder = root / "a/b";
  fs.create_directories(folder);
  fs.create_directories(folder);
  const auto file = folder / "file";
  const Bytes parts[] = {as_bytes("one "), as_bytes(""), as_bytes("two")};
  fs.write(file, parts);
  CHECK(read_text(fs, file) == "one two");
  fs.append(file, as_bytes("!"));
  fs.append(folder / "fresh", as_bytes("x"));
  CHECK(fs.size(file) == 8);
  CHECK(read_bytes(fs, folder / "fresh") == std::vector{std::byte{'x'}});
  std::vector<std::byte> middle(3);
  fs.read(file, 4, middle);
  CHECK(std::string(reinterpret_cast<const char*>(middle.data()), 3) == "two");
  CHECK(caught([&] { fs.read(file, 6, middle); }).kind == ErrorKind::io);
  write_bytes(fs, file, as_bytes("short"));
  CHECK(read_text(fs, file) == "short");
  fs.truncate(file, 2);
  CHECK(read_text(fs, file) == "sh");
  fs.truncate(file, 4);
  CHECK(read_text(fs, file) == std::string("sh\0\0", 4));
  fs.sync_file(file);
  fs.sync_directory(folder);
  CHECK(fs.list(folder) == std::vector<std::string>{"file", "fresh"});

  fs.rename(file, folder / "fresh");
  CHECK(fs.list(folder) == std::vector<std::string>{"fresh"});
  CHECK(fs.size(folder / "fresh") == 4);
  fs.rename(folder, root / "a/c");
  CHECK(fs.exists(root / "a/c/fresh"));
  CHECK_FALSE(fs.exists(folder));
  fs.create_directories(folder);
  const auto refused = caught([&] { fs.rename(folder, root / "a/c"); });
  CHECK(refused.kind == ErrorKind::io);
  CHECK(refused.has("not empty"));
  CHECK(fs.exists(folder));

  fs.remove(root / "a/c/fresh");
  fs.remove_all(root / "a");
  fs.remove_all(root / "a");
  CHECK_FALSE(fs.exists(root / "a"));
  for (const auto& act : std::vector<std::function<void()>>{
           [&] { fs.remove(file); }, [&] { fs.size(file); }, [&] { fs.sync_file(file); }, [&] { fs.list(folder); },
           [&] { fs.sync_directory(folder); }, [&] { fs.truncate(file, 1); }, [&] { write_bytes(fs, file, {}); },
           [&] { fs.append(file, {}); }, [&] { fs.rename(file, root / "x"); }, [&] { read_text(fs, file); }}) {
    const auto missing = caught(act);
    CHECK(missing.kind == ErrorKind::io);
    CHECK(missing.has("a/b"));
    CHECK(missing.has("No such file or directory"));
  }
}

}  // namespace

TEST_CASE("both file systems behave alike") {
  TempFolder temp;
  check_behaviour(real_file_system(), temp.path());
  FaultyFs memory;
  check_behaviour(memory, "/");
}

TEST_CASE("a real full disk and a folder in place of a file are clean Errors") {
  const auto full = caught([] { write_bytes(real_file_system(), "/dev/full", as_bytes("x")); });
  CHECK(full.message == "cannot write /dev/full: No space left on device");
  CHECK(full.hint.starts_with("the disk is full"));
  TempFolder temp;
  CHECK(caught([&] { read_text(real_file_system(), temp.path()); }).has("is not a plain file"));
  CHECK(caught([&] { write_bytes(real_file_system(), temp.path(), {}); }).has("Is a directory"));
  CHECK(caught([&] { real_file_system().create_directories("/dev/null/x"); }).has("/dev/null/x"));
}

TEST_CASE("the faulty file system drops what was not synced") {
  FaultyFs fs;
  fs.create_directories("/run");
  fs.sync_directory("/");
  write_bytes(fs, "/run/a", as_bytes("first"));
  fs.sync_file("/run/a");
  fs.lose_power(Survives::nothing);
  CHECK_FALSE(fs.exists("/run/a"));  // its bytes were safe, its name was not

  write_bytes(fs, "/run/a", as_bytes("first"));
  fs.sync_directory("/run");
  fs.lose_power(Survives::nothing);
  CHECK(fs.size("/run/a") == 0);  // its name was safe, its bytes were not

  write_bytes(fs, "/run/a", as_bytes("first"));
  fs.sync_file("/run/a");
  write_bytes(fs, "/run/a", as_bytes("second"));
  fs.lose_power(Survives::all);
  CHECK(read_text(fs, "/run/a") == "second");
  fs.sync_file("/run/a");
  write_bytes(fs, "/run/a", as_bytes("third"));
  fs.rename("/run/a", "/run/b");
  fs.lose_power(Survives::nothing);
  CHECK(read_text(fs, "/run/a") == "second");
  CHECK_FALSE(fs.exists("/run/b"));

  std::set<std::string> left;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    write_bytes(fs, "/run/a", as_bytes("second"));
    fs.sync_file("/run/a");
    fs.sync_directory("/run");
    write_bytes(fs, "/run/a", as_bytes("fourth!"));
    fs.lose_power(Survives::random, seed);
    left.insert(read_text(fs, "/run/a"));
  }
  CHECK(left.size() > 5);  // old, new, and several torn ones
}

TEST_CASE("a file replaced atomically is old or new, whatever call the power goes at") {
  FaultyFs counting;
  counting.create_directories("/run");
  counting.disarm();
  write_atomically(counting, "/run/file", as_bytes("new bytes"));
  const auto n_calls = counting.calls();
  CHECK(n_calls == 4);  // write, sync, rename, sync the folder

  for (const auto survives : {Survives::nothing, Survives::all, Survives::random})
    for (const auto done : {Done::nothing, Done::half, Done::all})
      for (int64_t k = 0; k < n_calls; ++k)
        for (uint64_t seed = 0; seed < 20; ++seed) {
          FaultyFs fs;
          fs.create_directories("/run");
          fs.sync_directory("/");
          write_atomically(fs, "/run/file", as_bytes("old"));
          fs.arm(k, Fault::crash, done);
          CHECK_THROWS_AS(write_atomically(fs, "/run/file", as_bytes("new bytes")), Crash);
          fs.lose_power(survives, seed);
          const auto left = read_text(fs, "/run/file");
          CHECK((left == "old" || left == "new bytes"));
          write_atomically(fs, "/run/file", as_bytes("next"));
          fs.lose_power(Survives::nothing);
          CHECK(read_text(fs, "/run/file") == "next");
        }
}

TEST_CASE("a failed atomic write leaves the old file and nothing beside it") {
  for (const auto fault : {Fault::no_space, Fault::io_error})
    for (int64_t k = 0; k < 3; ++k) {
      FaultyFs fs;
      fs.create_directories("/run");
      write_atomically(fs, "/run/file", as_bytes("old"));
      fs.arm(k, fault, Done::half);
      const auto error = caught([&] { write_atomically(fs, "/run/file", as_bytes("new")); });
      CHECK(error.kind == ErrorKind::io);
      CHECK(error.has("/run/file.tmp"));
      fs.disarm();
      CHECK(read_text(fs, "/run/file") == "old");
      CHECK(fs.list("/run") == std::vector<std::string>{"file"});
    }
}

TEST_CASE("durable folders survive a power cut with all folders above them") {
  FaultyFs fs;
  create_durable_directories(fs, "/a/b/c");
  fs.lose_power(Survives::nothing);
  CHECK(fs.exists("/a/b/c"));
  TempFolder temp;
  create_durable_directories(real_file_system(), temp / "x/y");
  CHECK(std::filesystem::is_directory(temp / "x/y"));
}

TEST_CASE("SHA-256 gives the published values, whole, in parts and of files") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex(as_bytes("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1'000'000, 'a');
  const std::string expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
  CHECK(sha256_hex(as_bytes(million)) == expected);
  Sha256 hash;
  for (size_t at = 0; at < million.size(); at += 777) hash.update(as_bytes(std::string_view(million).substr(at, 777)));
  CHECK(hash.hex() == expected);

  TempFolder temp;
  const std::string large((4 << 20) + 5, 'z');  // two parts
  write_bytes(real_file_system(), temp / "large", as_bytes(large));
  CHECK(sha256_hex_of_file(real_file_system(), temp / "large") == sha256_hex(as_bytes(large)));
  write_bytes(real_file_system(), temp / "empty", {});
  CHECK(sha256_hex_of_file(real_file_system(), temp / "empty") == sha256_hex(""));
}
