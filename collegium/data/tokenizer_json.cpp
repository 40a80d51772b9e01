// tokenizer.json: the file format of Hugging Face's `tokenizers`, as far as byte-level BPE goes.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "collegium/base/error.h"
#include "collegium/data/files.h"
#include "collegium/data/tokenizer.h"
#include "collegium/data/tokenizer_model.h"
#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

using Json = nlohmann::json;

// GPT-2's alphabet: a printable character for each byte. Printable Latin-1 bytes stand for themselves, the others
// follow from U+0100 on.
std::array<uint32_t, 256> byte_alphabet() {
  std::array<uint32_t, 256> out{};
  uint32_t spare = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    out[byte] = prints ? byte : spare++;
  }
  return out;
}

std::string to_alphabet(std::string_view bytes) {
  static const auto alphabet = byte_alphabet();
  std::string out;
  for (const char byte : bytes) out += utf8_of(alphabet[static_cast<unsigned char>(byte)]);
  return out;
}

class JsonReader {
 public:
  explicit JsonReader(std::string_view name) : name_(name) {
    const auto alphabet = byte_alphabet();
    for (size_t byte = 0; byte < 256; ++byte) byte_of_[utf8_of(alphabet[byte])] = static_cast<char>(byte);
  }

  template <class... Parts>
  [[noreturn]] void fail_here(const Parts&... parts) const {
    throw Error(ErrorKind::data, text(name_, ": ", parts...), "byte-level BPE files without a normalizer can be read");
  }

  const Json& part(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) fail_here("'", key, "' is missing");
    return object[key];
  }

  std::string string(const Json& object, const char* key) const {
    const auto& value = part(object, key);
    if (!value.is_string()) fail_here("'", key, "' is not a string");
    return value.get<std::string>();
  }

  // The bytes that a vocabulary entry stands for.
  std::string from_alphabet(std::string_view token) const {
    std::string out;
    while (!token.empty()) {
      const auto length = utf8_step(token).length;
      const auto found = byte_of_.find(std::string(token.substr(0, length)));
      if (found == byte_of_.end()) fail_here("the token '", token, "' is not in the byte-level alphabet");
      out += found->second;
      token.remove_prefix(length);
    }
    return out;
  }

 private:
  std::string name_;
  std::unordered_map<std::string, char> byte_of_;
};

bool is_set(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null() && *found != false && *found != "";
}

// "a b" in older files, ["a", "b"] in newer ones.
std::pair<std::string, std::string> merge_sides(const JsonReader& reader, const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const auto line = merge.is_string() ? merge.get<std::string>() : std::string();
  const auto space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string::npos)
    reader.fail_here("a merge is not two tokens: ", merge.dump());
  return {line.substr(0, space), line.substr(space + 1)};
}

}  // namespace

struct TokenizerJson {
  static void read_pretokenizer(const JsonReader& reader, const Json& root, Tokenizer::Model& model) {
    if (is_set(root, "normalizer")) reader.fail_here("a normalizer is not supported");
    const auto& pretokenizer = reader.part(root, "pre_tokenizer");
    if (!pretokenizer.is_object()) reader.fail_here("there is no pre_tokenizer");
    const auto type = reader.string(pretokenizer, "type");
    if (type != "ByteLevel") reader.fail_here("the pre_tokenizer '", type, "' is not supported");
    if (is_set(pretokenizer, "add_prefix_space")) reader.fail_here("add_prefix_space is not supported");
    // Files from before this field always split.
    model.splits_pieces = pretokenizer.value("use_regex", true);
  }

  static void read_vocabulary(const JsonReader& reader, const Json& root, Tokenizer::Model& model,
                              std::unordered_map<std::string, int32_t>& id_of) {
    const auto& bpe = reader.part(root, "model");
    if (const auto type = bpe.value("type", std::string("BPE")); type != "BPE")
      reader.fail_here("the model '", type, "' is not supported");
    for (const char* key :
         {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"})
      if (is_set(bpe, key)) reader.fail_here("the model's '", key, "' is not supported");

    const auto& vocabulary = reader.part(bpe, "vocab");
    if (!vocabulary.is_object()) reader.fail_here("'vocab' is not an object");
    const auto& added = root.contains("added_tokens") ? root["added_tokens"] : Json::array();
    std::unordered_map<int64_t, std::string> special;
    for (const auto& token : added) {
      const auto& id = reader.part(token, "id");
      if (!id.is_number_integer()) reader.fail_here("an added token has no id");
      special[id.get<int64_t>()] = reader.string(token, "content");
    }
    const auto limit = vocabulary.size() + special.size();
    std::vector<bool> seen(limit, false);
    model.bytes_of.assign(limit, "");
    size_t n_seen = 0;
    const auto take = [&](int64_t id, std::string bytes) {
      if (id < 0 || id >= static_cast<int64_t>(limit)) reader.fail_here("the ids have gaps: id ", id);
      const auto index = static_cast<size_t>(id);
      if (seen[index]) reader.fail_here("id ", id, " stands for two tokens");
      seen[index] = true;
      ++n_seen;
      model.bytes_of[index] = std::move(bytes);
    };
    for (const auto& [token, id] : vocabulary.items()) {
      if (!id.is_number_integer()) reader.fail_here("the token '", token, "' has no integer id");
      if (special.count(id.get<int64_t>())) continue;
      take(id.get<int64_t>(), reader.from_alphabet(token));
      id_of[token] = static_cast<int32_t>(id.get<int64_t>());
    }
    for (const auto& [id, content] : special) take(id, "");
    // A special token may stand in both lists, so the list was sized for more than there are.
    model.bytes_of.resize(n_seen);
    if (std::find(seen.begin(), seen.begin() + static_cast<int64_t>(n_seen), false) !=
        seen.begin() + static_cast<int64_t>(n_seen))
      reader.fail_here("the ids have gaps");
    read_end(reader, special, model);
  }

  static void read_end(const JsonReader& reader, const std::unordered_map<int64_t, std::string>& special,
                       Tokenizer::Model& model) {
    for (const auto wanted : {kEndToken, std::string_view("<|endoftext|>")})
      for (const auto& [id, content] : special)
        if (content == wanted) {
          model.end_id = static_cast<int32_t>(id);
          model.end_text = content;
          return;
        }
    reader.fail_here("there is no end token (", kEndToken, " or <|endoftext|>)");
  }

  static void read_merges(const JsonReader& reader, const Json& root, Tokenizer::Model& model,
                          const std::unordered_map<std::string, int32_t>& id_of) {
    const auto id = [&](const std::string& token) {
      const auto found = id_of.find(token);
      if (found == id_of.end()) reader.fail_here("a merge uses '", token, "', which is not in the vocabulary");
      return found->second;
    };
    const auto& merges = reader.part(reader.part(root, "model"), "merges");
    if (!merges.is_array()) reader.fail_here("'merges' is not a list");
    for (const auto& merge : merges) {
      const auto [left, right] = merge_sides(reader, merge);
      const auto rank = static_cast<int32_t>(model.merges.size());
      model.merges.push_back({id(left), id(right)});
      model.merged.try_emplace(pair_key(id(left), id(right)), Tokenizer::Model::Merged{rank, id(left + right)});
    }
  }

  static Tokenizer read(const Json& root, std::string_view name) {
    const JsonReader reader(name);
    auto model = std::make_shared<Tokenizer::Model>();
    std::unordered_map<std::string, int32_t> id_of;
    read_pretokenizer(reader, root, *model);
    read_vocabulary(reader, root, *model, id_of);
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const auto found = id_of.find(to_alphabet(std::string(1, static_cast<char>(byte))));
      if (found == id_of.end()) reader.fail_here("the vocabulary lacks byte ", byte);
      model->id_of_byte[byte] = found->second;
    }
    read_merges(reader, root, *model, id_of);
    return Tokenizer(std::move(model));
  }

  static Json write(const Tokenizer::Model& model) {
    auto vocabulary = Json::object();
    for (size_t id = 0; id < model.bytes_of.size(); ++id)
      if (!model.bytes_of[id].empty()) vocabulary[to_alphabet(model.bytes_of[id])] = id;
    auto merges = Json::array();
    for (const auto& [left, right] : model.merges)
      merges.push_back(to_alphabet(model.bytes_of[static_cast<size_t>(left)]) + " " +
                       to_alphabet(model.bytes_of[static_cast<size_t>(right)]));
    const Json byte_level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", model.splits_pieces}};
    return {{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", Json::array({{{"id", model.end_id},
                                           {"content", model.end_text},
                                           {"single_word", false},
                                           {"lstrip", false},
                                           {"rstrip", false},
                                           {"normalized", false},
                                           {"special", true}}})},
            {"normalizer", nullptr},
            {"pre_tokenizer", byte_level},
            {"post_processor", nullptr},
            {"decoder", byte_level},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", nullptr},
              {"continuing_subword_prefix", nullptr},
              {"end_of_word_suffix", nullptr},
              {"fuse_unk", false},
              {"byte_fallback", false},
              {"ignore_merges", false},
              {"vocab", vocabulary},
              {"merges", merges}}}};
  }
};

Tokenizer Tokenizer::parse(std::string_view json, std::string_view name) {
  try {
    return TokenizerJson::read(Json::parse(json), name);
  } catch (const Json::exception& problem) {
    fail(ErrorKind::data, name, ": not a tokenizer.json: ", problem.what());
  }
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return parse(read_bytes(path), path.string());
}

std::string Tokenizer::to_json() const {
  return TokenizerJson::write(*model_).dump(1) + "\n";
}

void Tokenizer::save(const std::filesystem::path& path) const {
  write_whole(path, to_json());
}

}  // namespace collegium::data
