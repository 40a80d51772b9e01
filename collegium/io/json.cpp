#include "collegium/io/json.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "collegium/base/error.h"

namespace collegium::io {
namespace {

using Json = nlohmann::json;

std::string plain_message(const Json::exception& e);

/// Listens to a first reading and stops it at the first breach; a second one builds the document. (The library's
/// callbacks while building would save a reading, but take time quadratic in the keys of one object.)
class Watch final : public nlohmann::json_sax<Json> {
 public:
  Watch(std::string_view what, const JsonLimits& limits) : what_(what), limits_(limits) {}

  bool null() override { return count_element(); }
  bool boolean(bool) override { return count_element(); }
  bool number_integer(number_integer_t) override { return count_element(); }
  bool number_unsigned(number_unsigned_t) override { return count_element(); }
  bool number_float(number_float_t, const string_t&) override { return count_element(); }
  bool string(string_t&) override { return count_element(); }
  bool binary(binary_t&) override { return count_element(); }
  bool start_object(size_t) override { return enter(false); }
  bool end_object() override { return leave(); }
  bool start_array(size_t) override { return enter(true); }
  bool end_array() override { return leave(); }
  bool key(string_t& word) override {
    if (!levels_.back().keys.insert(word).second)
      fail(ErrorKind::data, what_, ": the key '", printable(word), "' is there twice");
    if (levels_.size() == 1) keys_.push_back(word);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) override {
    fail(ErrorKind::data, what_, ": not JSON: ", plain_message(e));
  }

  std::vector<std::string> take_keys() { return std::move(keys_); }

 private:
  struct Level {
    bool is_list;
    size_t elements = 0;
    std::unordered_set<std::string> keys;
  };

  bool enter(bool is_list) {
    count_element();
    if (levels_.size() == limits_.depth)
      fail(ErrorKind::data, what_, ": JSON nested deeper than ", limits_.depth, " levels");
    levels_.push_back({is_list, 0, {}});
    return true;
  }

  bool leave() {
    levels_.pop_back();
    return true;
  }

  bool count_element() {
    if (levels_.empty() || !levels_.back().is_list) return true;
    if (++levels_.back().elements > limits_.list_elements)
      fail(ErrorKind::data, what_, ": a JSON list has more than ", limits_.list_elements, " elements");
    return true;
  }

  std::string_view what_;
  const JsonLimits& limits_;
  std::vector<Level> levels_;
  std::vector<std::string> keys_;
};

/// The library's message without its "[json.exception.parse_error.101] " in front.
std::string plain_message(const Json::exception& e) {
  const std::string_view message = e.what();
  const auto end = message.find("] ");
  return printable(end == std::string_view::npos ? message : message.substr(end + 2), 200);
}

/// Bytes of the UTF-8 character that `rest` starts with; 0 when it starts with none. C1 controls count as none.
size_t utf8_length(std::string_view rest) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(rest[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || rest.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Longer than need be, surrogates, beyond Unicode, C1 controls.
  const bool is_wrong = (byte(0) == 0xe0 && byte(1) < 0xa0) || (byte(0) == 0xed && byte(1) >= 0xa0) ||
                        (byte(0) == 0xf0 && byte(1) < 0x90) || (byte(0) == 0xf4 && byte(1) >= 0x90) ||
                        (byte(0) == 0xc2 && byte(1) < 0xa0);
  return is_wrong ? 0 : length;
}

std::string non_finite_name(double v) {
  return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
}

bool read_non_finite(const Json& value, double& out) {
  if (!value.is_string()) return false;
  const auto& word = value.get_ref<const std::string&>();
  if (word == "nan") return out = std::numeric_limits<double>::quiet_NaN(), true;
  if (word == "inf") return out = std::numeric_limits<double>::infinity(), true;
  if (word == "-inf") return out = -std::numeric_limits<double>::infinity(), true;
  return false;
}

bool is_all_finite(const Json& value) {
  if (value.is_number_float()) return std::isfinite(value.get<double>());
  if (!value.is_structured()) return true;
  for (const auto& element : value)
    if (!is_all_finite(element)) return false;
  return true;
}

void name_non_finite(Json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) value = non_finite_name(value.get<double>());
  if (!value.is_structured()) return;
  for (auto& element : value) name_non_finite(element);
}

Value value_from(const Json& value, int depth) {
  if (depth > 64) fail(ErrorKind::data, "JSON nested deeper than 64 levels is no configuration");
  switch (value.type()) {
    case Json::value_t::boolean:
      return value.get<bool>();
    case Json::value_t::number_integer:
      return value.get<int64_t>();
    case Json::value_t::number_unsigned:
      if (value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        fail(ErrorKind::data, "the integer ", value.get<uint64_t>(), " is beyond 64 bits with a sign");
      return value.get<int64_t>();
    case Json::value_t::number_float:
      return value.get<double>();
    case Json::value_t::string:
      return value.get<std::string>();
    case Json::value_t::array: {
      List out;
      for (const auto& element : value) out.push_back(value_from(element, depth + 1));
      return out;
    }
    case Json::value_t::object: {
      double number = 0;
      if (value.size() == 1 && value.contains("$float") && read_non_finite(value["$float"], number)) return number;
      Table out;
      for (const auto& [key, element] : value.items()) out.items.push_back({key, value_from(element, depth + 1)});
      return out;
    }
    default:
      fail(ErrorKind::data, "JSON ", value.type_name(), " has no place in a configuration");
  }
}

}  // namespace

JsonDocument parse_document(std::string_view json_text, std::string_view what, const JsonLimits& limits) {
  // The library takes a zero byte for the end of the text, whatever follows.
  const auto zero = json_text.find('\0');
  if (zero != std::string_view::npos) fail(ErrorKind::data, what, ": JSON text has a zero byte at byte ", zero);
  Watch watch(what, limits);
  Json::sax_parse(json_text.begin(), json_text.end(), &watch);
  return {Json::parse(json_text.begin(), json_text.end()), watch.take_keys()};
}

Json parse_json(std::string_view json_text, std::string_view what, const JsonLimits& limits) {
  return parse_document(json_text, what, limits).root;
}

std::string dump_json(const Json& value, int indent) {
  try {
    if (is_all_finite(value)) return value.dump(indent);
    auto named = value;
    name_non_finite(named);
    return named.dump(indent);
  } catch (const Json::exception& e) {
    fail(ErrorKind::usage, "cannot write as JSON: ", plain_message(e));
  }
}

double number_from(const Json& value) {
  double out = 0;
  if (value.is_number()) return value.get<double>();
  if (read_non_finite(value, out)) return out;
  fail(ErrorKind::data, "wanted a number, got ", printable(dump_json(value)));
}

std::string printable(std::string_view from_file, size_t limit) {
  std::string out;
  for (size_t at = 0; at < from_file.size();) {
    const auto length = utf8_length(from_file.substr(at));
    if (out.size() + std::max<size_t>(length, 1) > limit) return out + "...";
    const auto byte = static_cast<unsigned char>(from_file[at]);
    if (length == 0 || byte < 0x20 || byte == 0x7f)
      out += '?';
    else
      out += from_file.substr(at, length);
    at += std::max<size_t>(length, 1);
  }
  return out;
}

Json to_json(const Value& value) {
  struct Writer {
    Json operator()(bool v) const { return v; }
    Json operator()(int64_t v) const { return v; }
    Json operator()(double v) const {
      if (std::isfinite(v)) return v;
      Json named = Json::object();
      named["$float"] = non_finite_name(v);
      return named;
    }
    Json operator()(const std::string& v) const { return v; }
    Json operator()(const List& v) const {
      auto out = Json::array();
      for (const auto& element : v) out.push_back(to_json(element));
      return out;
    }
    Json operator()(const Table& v) const {
      auto out = Json::object();
      for (const auto& item : v.items) out[item.key] = to_json(item.value);
      return out;
    }
  };
  return std::visit(Writer{}, value.data);
}

Value from_json(const Json& value) {
  return value_from(value, 0);
}

}  // namespace collegium::io
