#include "collegium/io/jsonl.h"

#include <doctest/doctest.h>

#include <cmath>

#include "collegium/io/json.h"
#include "tests/io/caught.h"
#include "tests/io/faulty_fs.h"
#include "tests/io/temp_folder.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;
using nlohmann::json;

namespace {

json row_of(int64_t step) {
  return {{"step", step}, {"loss", 1.0 / static_cast<double>(step + 3)}};
}

std::vector<json> rows_to(int64_t n) {
  std::vector<json> out;
  for (int64_t step = 0; step < n; ++step) out.push_back(row_of(step));
  return out;
}

}  // namespace

TEST_CASE("rows come back equal, and a log opened again goes on") {
  TempFolder temp;
  const auto path = temp / "metrics.jsonl";
  {
    JsonLines log(real_file_system(), path);
    CHECK(log.size() == 0);
    for (int64_t step = 0; step < 3; ++step) log.append(row_of(step));
    log.flush();
    CHECK(log.size() == real_file_system().size(path));
  }
  JsonLines log(real_file_system(), path);
  log.append({{"text", "two\nlines"}, {"loss", std::nan("")}});
  const auto content = read_json_lines(real_file_system(), path);
  CHECK_FALSE(content.is_torn);
  REQUIRE(content.rows.size() == 4);
  CHECK(content.rows[2] == row_of(2));
  CHECK(content.rows[3]["text"] == "two\nlines");
  CHECK(std::isnan(number_from(content.rows[3]["loss"])));
}

TEST_CASE("a log is cut back to where a checkpoint stands") {
  FaultyFs fs;
  JsonLines log(fs, "/m");
  log.append(row_of(0));
  const auto mark = log.size();
  log.append(row_of(1));
  log.truncate_to(mark);
  CHECK(log.size() == mark);
  log.append(row_of(1));
  log.append(row_of(2));
  CHECK(read_json_lines(fs, "/m").rows == rows_to(3));

  const auto error = caught([&] { log.truncate_to(mark + 1); });
  CHECK(error.kind == ErrorKind::data);
  CHECK(error.message == text("/m: no row ends at byte ", mark + 1));
  CHECK(caught([&] { log.truncate_to(log.size() + 1); }).has("/m: has "));
  CHECK(read_json_lines(fs, "/m").rows == rows_to(3));
  log.truncate_to(0);
  CHECK(read_json_lines(fs, "/m").rows.empty());
  log.flush();
  fs.lose_power(Survives::nothing);
  CHECK(fs.exists("/m"));
}

TEST_CASE("a torn last line is passed over by the reader and cut off by the writer") {
  FaultyFs fs;
  {
    JsonLines log(fs, "/m");
    log.append(row_of(0));
    log.append(row_of(1));
  }
  const auto whole = read_text(fs, "/m");
  const auto first = whole.find('\n') + 1;
  for (size_t size = 0; size <= whole.size(); ++size) {
    write_bytes(fs, "/m", as_bytes(std::string_view(whole).substr(0, size)));
    const bool is_whole_line = size == 0 || size == first || size == whole.size();
    const auto n_rows = size < first ? 0 : size < whole.size() ? 1 : 2;
    const auto content = read_json_lines(fs, "/m");
    CHECK(content.is_torn == !is_whole_line);
    CHECK(content.rows == rows_to(n_rows));
    JsonLines log(fs, "/m");
    log.append(row_of(n_rows));
    CHECK(read_json_lines(fs, "/m").rows == rows_to(n_rows + 1));
    CHECK(log.size() == fs.size("/m"));
  }
  // A torn line longer than one read from the back
  write_bytes(fs, "/m", as_bytes(whole + std::string(200'000, 'x')));
  CHECK(JsonLines(fs, "/m").size() == whole.size());
  CHECK(read_text(fs, "/m") == whole);
}

TEST_CASE("a bad line within is an Error with its number") {
  FaultyFs fs;
  write_bytes(fs, "/m", as_bytes("{\"a\":1}\n{\"a\":\n{\"a\":3}\n"));
  const auto error = caught([&] { read_json_lines(fs, "/m"); });
  CHECK(error.kind == ErrorKind::data);
  CHECK(error.has("/m:2: not JSON"));
}

TEST_CASE("a log is cut at the first row that does not belong") {
  FaultyFs fs;
  JsonLines log(fs, "/m");
  for (int64_t step = 0; step < 5; ++step) log.append(row_of(step));
  CHECK(log.keep_while([](const auto&) { return true; }) == rows_to(5));
  CHECK(log.keep_while([](const auto& row) { return row != row_of(3); }) == rows_to(3));
  log.append(row_of(3));
  CHECK(read_json_lines(fs, "/m").rows == rows_to(4));
  CHECK(log.keep_while([](const auto&) { return false; }).empty());
  CHECK(log.size() == 0);
}

TEST_CASE("a row that does not fit is not there, and the next one is whole") {
  for (const auto done : {Done::nothing, Done::half}) {
    FaultyFs fs;
    JsonLines log(fs, "/m");
    log.append(row_of(0));
    fs.arm(0, Fault::no_space, done);
    CHECK(caught([&] { log.append(row_of(9)); }).has("cannot append to /m: No space left on device"));
    fs.disarm();
    log.append(row_of(1));
    CHECK(read_json_lines(fs, "/m").rows == rows_to(2));
    CHECK(log.size() == fs.size("/m"));
  }
}

TEST_CASE("what was flushed survives any power cut, and the log can be cut back to it") {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    FaultyFs fs;
    uint64_t mark = 0;
    {
      JsonLines log(fs, "/m");
      for (int64_t step = 0; step < 5; ++step) log.append(row_of(step));
      log.flush();
      mark = log.size();
      for (int64_t step = 5; step < 9; ++step) log.append(row_of(step));
    }
    fs.lose_power(Survives::random, seed);
    JsonLines log(fs, "/m");
    log.truncate_to(mark);
    log.append(row_of(5));
    CHECK(read_json_lines(fs, "/m").rows == rows_to(6));
  }
}
