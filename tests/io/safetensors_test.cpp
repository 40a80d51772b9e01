#include "collegium/io/safetensors.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cstring>

#include "tests/io/caught.h"
#include "tests/io/faulty_fs.h"
#include "tests/io/temp_folder.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;

namespace {

bool is_same(const Tensor& a, const Tensor& b) {
  const auto x = a.contiguous(), y = b.contiguous();
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() &&
         (x.nbytes() == 0 || !std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()));
}

std::vector<std::byte> file_of(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::vector<std::byte> out(8 + header.size() + data_bytes);
  std::memcpy(out.data(), &length, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  return out;
}

std::string refusal(std::string_view header, size_t data_bytes) {
  const auto file = file_of(header, data_bytes);
  const auto error = caught([&] { parse_safetensors(file, "m.safetensors"); });
  if (error.message != "no error") CHECK(error.kind == ErrorKind::data);
  const std::string start = "m.safetensors: not a valid safetensors file: ";
  return error.message.starts_with(start) ? error.message.substr(start.size()) : error.message;
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return text("\"", name, R"(":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}");
}

std::vector<NamedTensor> one_of_each() {
  std::vector<NamedTensor> out;
  for (const auto type : {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong, at::kBFloat16, at::kHalf,
                          at::kFloat, at::kDouble}) {
    const auto numbers = at::arange(6).remainder(type == at::kBool ? 2 : 100).view({2, 3}).to(type);
    out.push_back({text("of.", at::toString(type)), numbers});
  }
  return out;
}

}  // namespace

TEST_CASE("all types, odd shapes and metadata come back bitwise and in order") {
  auto tensors = one_of_each();
  tensors.push_back({"scalar", at::full({}, 3.25)});
  tensors.push_back({"empty", at::empty({3, 0, 2}, at::kHalf)});
  tensors.push_back({"turned", at::arange(12, at::kFloat).view({3, 4}).t()});
  tensors.push_back({"part", at::arange(12, at::kInt).view({3, 4}).slice(1, 1, 3)});
  tensors.push_back({"special", at::tensor({std::nan(""), -0.0, 1.0 / 0.0}, at::kDouble)});
  tensors.push_back({"named \"ü\"\n", at::ones({1}).requires_grad_()});
  const Metadata metadata = {{"format", "pt"}, {"quote \"", "line\n"}};
  const auto file = safetensors_bytes(tensors, metadata);

  const auto back = parse_safetensors(file, "memory");
  REQUIRE(back.size() == tensors.size());
  for (size_t i = 0; i < back.size(); ++i) {
    CHECK(back[i].name == tensors[i].name);
    CHECK_MESSAGE(is_same(back[i].tensor, tensors[i].tensor.detach()), back[i].name);
  }
  const auto header = parse_safetensors_header(file, file.size(), "memory");
  CHECK(header.metadata == metadata);
  for (const auto& each : header.entries) CHECK(each.begin % c10::elementSize(each.type) == 0);

  TempFolder temp;
  const auto path = temp / "m.safetensors";
  write_safetensors(real_file_system(), path, tensors, metadata);
  CHECK((read_bytes(real_file_system(), path) == file));
  const SafetensorsFile opened(real_file_system(), path);
  CHECK(opened.metadata() == metadata);
  CHECK(opened.contains("scalar"));
  CHECK(is_same(opened.read("turned"), tensors[12].tensor));
  const auto all = opened.read_all();
  REQUIRE(all.size() == tensors.size());
  for (size_t i = 0; i < all.size(); ++i) CHECK(is_same(all[i].tensor, tensors[i].tensor.detach()));
  CHECK(caught([&] { opened.read("scalr"); }).message ==
        path.string() + ": has no tensor 'scalr'; did you mean 'scalar'?");
}

TEST_CASE("an image may be moved and copied, and a file may hold no tensor") {
  auto image = lay_out_safetensors({});
  auto moved = std::move(image);
  const auto copied = moved;
  moved = {};
  FaultyFs fs;
  fs.write("/none", copied.parts);
  CHECK(fs.size("/none") == copied.size);
  CHECK(SafetensorsFile(fs, "/none").entries().empty());
}

TEST_CASE("a file of the Python package is read") {
  // save({"b": int16 [1, -2], "a": float32 [[1.5, -2]]}, {"format": "pt"}) of safetensors 0.8.0
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"I16","shape":[2],"data_offsets":[8,12]}}   )";
  auto file = file_of(header, 12);
  const unsigned char data[] = {0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0, 1, 0, 0xfe, 0xff};
  std::memcpy(file.data() + 8 + header.size(), data, sizeof data);
  const auto tensors = parse_safetensors(file, "python");
  REQUIRE(tensors.size() == 2);
  CHECK(is_same(tensors[0].tensor, at::tensor({1.5f, -2.0f}).view({1, 2})));
  CHECK(is_same(tensors[1].tensor, at::tensor({1, -2}, at::kShort)));
}

TEST_CASE("what cannot be written is refused by name") {
  const auto one = at::ones({1});
  CHECK(caught([&] { safetensors_bytes({{"a", one}, {"a", one}}); }).message ==
        "safetensors: two tensors are called 'a'");
  CHECK(caught([&] { safetensors_bytes({{"__metadata__", one}}); }).has("no tensor may be called"));
  CHECK(caught([&] { safetensors_bytes({{"a", Tensor()}}); }).message == "safetensors: tensor 'a' is undefined");
  CHECK(caught([&] { safetensors_bytes({{"a", at::ones({1}, at::kComplexFloat)}}); }).has("has type ComplexFloat"));
  CHECK(caught([&] { safetensors_bytes({{"a", at::ones({2, 2}).to_sparse()}}); }).has("must be dense"));
  CHECK(caught([&] { safetensors_bytes({{"\xff", one}}); }).kind == ErrorKind::usage);
}

TEST_CASE("each rule of the format is held, with a message that says which") {
  CHECK(refusal("{}", 0) == "no error");
  CHECK(refusal("{" + entry("a", "F32", "[2]", "[0,8]") + "}", 8) == "no error");
  CHECK(refusal("{" + entry("a", "F32", "[2]", "[0,8]") + "}   ", 8) == "no error");
  CHECK(refusal("", 0) == "the header does not start with '{'");
  CHECK(refusal(" {}", 0) == "the header does not start with '{'");
  CHECK(refusal("{", 0).find("not JSON") != std::string::npos);
  CHECK(refusal(R"({"a":1})", 0) == "tensor 'a' must have dtype, shape and data_offsets, and nothing else");
  CHECK(refusal(R"({"a":{"dtype":"F32","shape":[2]}})", 8).find("must have dtype") != std::string::npos);
  CHECK(refusal("{" + entry("a", "F31", "[2]", "[0,8]") + "}", 8) ==
        "tensor 'a': unknown dtype 'F31' (known: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL)");
  CHECK(refusal("{" + entry("a", "F32", "[2]", "[0,12]") + "}", 12) ==
        "tensor 'a': F32[2] is 8 bytes, but data_offsets give 12");
  CHECK(refusal("{" + entry("a", "F32", "[2]", "[0,8]") + "}", 4) ==
        "tensor 'a': data_offsets [0, 8] do not lie in the 4 bytes of data");
  CHECK(refusal("{" + entry("a", "F32", "[2]", "[8,0]") + "}", 8).find("do not lie") != std::string::npos);
  CHECK(refusal("{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[4]", "[2,6]") + "}", 6) ==
        "tensor 'b' overlaps the one before it");
  CHECK(refusal("{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[4]", "[0,4]") + "}", 4) ==
        "tensor 'b' overlaps the one before it");
  CHECK(refusal("{" + entry("a", "U8", "[2]", "[2,4]") + "}", 4) == "a hole of 2 bytes before tensor 'a'");
  CHECK(refusal("{" + entry("a", "U8", "[2]", "[0,2]") + "}", 4) == "2 bytes at the end belong to no tensor");
  CHECK(refusal("{" + entry("\\u001b[2J", "U8", "[2]", "[2,4]") + "}", 4) == "a hole of 2 bytes before tensor '?[2J'");
  CHECK(refusal("{" + entry(std::string(1'000'000, 'x'), "U8", "2", "[0,2]") + "}", 2).size() < 200);
  CHECK(refusal("{}", 4) == "4 bytes at the end belong to no tensor");
  CHECK(refusal("{" + entry("a", "U8", "[2]", "[0,2,2]") + "}", 2) == "tensor 'a': data_offsets must be [begin, end]");
  CHECK(refusal("{" + entry("a", "U8", "2", "[0,2]") + "}", 2) == "tensor 'a': shape must be a list");
  CHECK(refusal(R"({"__metadata__":{"a":1}})", 0) == "__metadata__ 'a' must be text, got number");
  CHECK(refusal(R"({"__metadata__":[]})", 0) == "__metadata__ must map text to text");
  CHECK(refusal("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[0,1]") + "}", 1) ==
        "m.safetensors: the key 'a' is there twice");
  CHECK(refusal(std::string("{}\0", 3), 0).find("zero byte") != std::string::npos);
  CHECK(refusal("{\"a\":" + std::string(1000, '['), 0).find("deeper than 4") != std::string::npos);
  std::string many = "[1";
  for (int i = 0; i < 70; ++i) many += ",1";
  CHECK(refusal("{" + entry("a", "U8", many + "]", "[0,1]") + "}", 1).find("more than 64") != std::string::npos);
  CHECK(refusal("{" + entry("a", "BOOL", "[2]", "[0,2]") + "}", 2) == "no error");
  auto bools = file_of("{" + entry("a", "BOOL", "[2]", "[0,2]") + "}", 2);
  bools.back() = std::byte{7};
  CHECK(caught([&] { parse_safetensors(bools, "m"); }).message == "m: tensor 'a' is BOOL, but its byte 1 is 7");
}

TEST_CASE("sizes at the edges of integers are refused, never wrapped") {
  for (const std::string size : {"2147483648", "4294967296", "4611686018427387904", "9223372036854775807"}) {
    CHECK(refusal("{" + entry("a", "F64", "[" + size + "," + size + "]", "[0,8]") + "}", 8) != "no error");
    CHECK(refusal("{" + entry("a", "F64", "[" + size + "]", "[0,8]") + "}", 8) != "no error");
    CHECK(refusal("{" + entry("a", "U8", "[8]", "[0," + size + "]") + "}", 8) != "no error");
    CHECK(refusal("{" + entry("a", "U8", "[8]", "[" + size + "," + size + "]") + "}", 8) != "no error");
  }
  // 2^61 x 8 bytes = 2^64 = 0 if wrapped
  CHECK(refusal("{" + entry("a", "F64", "[2305843009213693952]", "[0,0]") + "}", 0).find("overflows") !=
        std::string::npos);
  CHECK(refusal("{" + entry("a", "U8", "[0,4611686018427387904,4]", "[0,0]") + "}", 0).find("overflows") !=
        std::string::npos);
  for (const std::string number : {"-1", "9223372036854775808", "18446744073709551615", "18446744073709551616", "1.0",
                                   "1e0", "\"1\"", "null", "true"})
    CHECK(refusal("{" + entry("a", "U8", "[" + number + "]", "[0,1]") + "}", 1).find("must hold integers") !=
          std::string::npos);

  for (const uint64_t length :
       {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 31, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    auto file = file_of("{}", 0);
    std::memcpy(file.data(), &length, 8);
    CHECK(caught([&] { parse_safetensors(file, "m"); }).has("a header of"));
    FaultyFs fs;
    write_bytes(fs, "/m", file);
    CHECK(caught([&] { SafetensorsFile(fs, "/m"); }).has("/m: not a valid safetensors file: a header of"));
  }
}

TEST_CASE("every flipped bit and every cut of a small file ends in tensors or a data Error") {
  const auto file = safetensors_bytes({{"a", at::ones({2, 2})}, {"b", at::ones({3}, at::kBool)}}, {{"k", "v"}});
  int64_t refused = 0, read = 0;
  const auto attempt = [&](const std::vector<std::byte>& hostile) {
    // A copy of exactly this size, so that AddressSanitizer sees the first byte read beyond.
    const std::vector<std::byte> exact(hostile.begin(), hostile.end());
    const auto error = caught([&] { parse_safetensors(exact, "m"); });
    if (error.message == "no error") return ++read, void();
    ++refused;
    if (error.kind != ErrorKind::data) FAIL_CHECK(error.message);
    FaultyFs fs;
    write_bytes(fs, "/m", exact);
    if (caught([&] { SafetensorsFile(fs, "/m").read_all(); }).kind != ErrorKind::data) FAIL_CHECK("read as a file");
  };
  for (size_t i = 0; i < file.size(); ++i)
    for (int value = 0; value < 256; value += i < 8 + 160 ? 1 : 37) {
      auto hostile = file;
      hostile[i] = static_cast<std::byte>(value);
      attempt(hostile);
    }
  CHECK(read > 0);  // a changed name or number inside the data is still a valid file
  const auto read_before = read;
  for (size_t size = 0; size < file.size(); ++size)
    attempt({file.begin(), file.begin() + static_cast<ptrdiff_t>(size)});
  CHECK(read == read_before);
  auto longer = file;
  longer.push_back({});
  attempt(longer);
  CHECK(read == read_before);
  CHECK(refused > 1000);
}
