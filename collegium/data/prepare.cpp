#include "collegium/data/prepare.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "collegium/base/error.h"
#include "collegium/data/bpe_trainer.h"
#include "collegium/data/files.h"
#include "collegium/data/instructions.h"
#include "collegium/data/split.h"
#include "collegium/io/sha256.h"

namespace collegium::data {
namespace {

namespace fs = std::filesystem;
using ManifestJson = nlohmann::json;

// Raised whenever the same inputs would give other tokens: a new cleaning rule, another trainer.
constexpr int kPreparedFormat = 1;

bool is_tokenizer_file(const std::string& tokenizer) {
  return tokenizer.ends_with(".json");
}

bool is_blind(const DataConfig& config) {
  return config.blind > 0 || config.blind_held_out;
}

std::string prepared_key(const DataConfig& config, const std::vector<DocumentSet>& sets, const std::string& given) {
  ManifestJson inputs = {{"format", kPreparedFormat},
                         {"tokenizer", given.empty() ? config.tokenizer : io::sha256_hex(given)},
                         {"vocab_size", config.tokenizer == "bpe" ? config.vocab_size : 0},
                         {"held_out", config.held_out},
                         {"split_seed", config.split_seed},
                         {"gap", config.gap},
                         {"languages", config.languages},
                         {"max_documents", config.max_documents}};
  if (is_blind(config)) inputs["blind"] = {config.blind, config.blind_held_out};
  for (const auto& set : sets) inputs["sources"].push_back({set.record.name, set.record.sha256});
  return io::sha256_hex(inputs.dump());
}

Tokenizer make_tokenizer(const DataConfig& config, const std::string& given, const std::vector<Document>& train,
                         const OnProgress& progress) {
  if (!given.empty()) return Tokenizer::parse(given, config.tokenizer);
  if (config.tokenizer == "byte") return Tokenizer::of_bytes();
  std::vector<std::string_view> texts;
  for (const auto& document : train) texts.push_back(document.text);
  return train_bpe(texts, config.vocab_size, progress);
}

struct EncodedSplit {
  std::vector<int32_t> tokens;
  std::vector<DocumentSpan> documents;
};

EncodedSplit encode_split(const Tokenizer& tokenizer, const std::vector<Document>& documents,
                          const OnProgress& progress) {
  EncodedSplit out;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto& document = documents[i];
    const auto begin = static_cast<int64_t>(out.tokens.size());
    // A prompt is encoded by itself, so that no token reaches over its end.
    const std::string_view all = document.text;
    const auto cut = static_cast<size_t>(document.n_prompt_bytes);
    const auto prompt = cut > 0 ? tokenizer.encode(all.substr(0, cut)) : std::vector<int32_t>{};
    const auto ids = tokenizer.encode(all.substr(cut));
    out.tokens.insert(out.tokens.end(), prompt.begin(), prompt.end());
    out.tokens.insert(out.tokens.end(), ids.begin(), ids.end());
    out.tokens.push_back(tokenizer.end_id());
    out.documents.push_back({.id = document.id,
                             .title = document.title,
                             .language = document.language,
                             .begin = begin,
                             .n_tokens = static_cast<int64_t>(prompt.size() + ids.size()) + 1,
                             .n_bytes = static_cast<int64_t>(document.text.size()),
                             .n_prompt = static_cast<int64_t>(prompt.size())});
    if (progress)
      progress(
          {.stage = "encode", .done = static_cast<int64_t>(i + 1), .total = static_cast<int64_t>(documents.size())});
  }
  return out;
}

ManifestJson write_split(const fs::path& folder, const std::string& file, const EncodedSplit& split, int width) {
  const auto bytes = pack_tokens(split.tokens, width);
  write_whole(folder / file, bytes);
  auto documents = ManifestJson::array();
  for (const auto& span : split.documents) {
    documents.push_back({{"id", span.id},
                         {"title", span.title},
                         {"language", span.language},
                         {"begin", span.begin},
                         {"n_tokens", span.n_tokens},
                         {"n_bytes", span.n_bytes}});
    if (span.n_prompt > 0) documents.back()["n_prompt"] = span.n_prompt;
  }
  return {{"file", file}, {"width", width}, {"sha256", io::sha256_hex(bytes)}, {"documents", documents}};
}

TokenSet open_split(const fs::path& folder, const ManifestJson& split, const std::vector<int32_t>& byte_lengths) {
  std::vector<DocumentSpan> documents;
  for (const auto& span : split.at("documents"))
    documents.push_back({.id = span.at("id"),
                         .title = span.at("title"),
                         .language = span.at("language"),
                         .begin = span.at("begin"),
                         .n_tokens = span.at("n_tokens"),
                         .n_bytes = span.at("n_bytes"),
                         .n_prompt = span.value("n_prompt", int64_t{0})});
  const auto file = folder / split.at("file").get<std::string>();
  if (const auto found = io::sha256_hex_of_file(io::real_file_system(), file);
      found != split.at("sha256").get<std::string>())
    fail(ErrorKind::data, file.string(), ": damaged: wanted SHA-256 ", split.at("sha256").get<std::string>(),
         ", found ", found);
  return TokenSet::map(file, split.at("width"), byte_lengths, std::move(documents));
}

SplitStatistics statistics_of(const TokenSet& set) {
  return {.n_documents = set.n_documents(), .n_bytes = set.n_bytes(), .n_tokens = set.n_tokens()};
}

PreparedData open_prepared(const fs::path& folder, const std::string& key) {
  const auto manifest = ManifestJson::parse(read_bytes(folder / "manifest.json"));
  const auto tokenizer_json = read_bytes(folder / "tokenizer.json");
  if (manifest.at("key") != key || manifest.at("tokenizer_sha256") != io::sha256_hex(tokenizer_json))
    fail(ErrorKind::data, folder.string(), ": damaged");
  PreparedData out{.tokenizer = Tokenizer::parse(tokenizer_json, (folder / "tokenizer.json").string())};
  const auto byte_lengths = out.tokenizer.byte_lengths();
  out.train = open_split(folder, manifest.at("train"), byte_lengths);
  out.held_out = open_split(folder, manifest.at("held_out"), byte_lengths);
  out.train_statistics = statistics_of(out.train);
  out.held_out_statistics = statistics_of(out.held_out);
  for (const auto& source : manifest.at("sources"))
    out.sources.push_back({source.at("name"), source.at("sha256"), source.at("licence")});
  out.notes = manifest.at("notes").get<std::vector<std::string>>();
  out.folder = folder;
  out.key = key;
  return out;
}

// Writes everything into a folder beside the final one, which appears by one rename.
void write_prepared(const fs::path& folder, const std::string& key, const DataConfig& config,
                    const std::vector<DocumentSet>& sets, const std::string& given, const OnProgress& progress) {
  auto split = split_documents(
      select_documents(config, sets),
      {.held_out = config.held_out, .seed = static_cast<uint64_t>(config.split_seed), .gap = config.gap});
  const auto random = Random(static_cast<uint64_t>(config.split_seed)).at("instructions");
  const auto names_task = [](const Document& d) { return d.n_instruction_bytes > 0; };
  require(!is_blind(config) || std::ranges::any_of(split.train, names_task) ||
              std::ranges::any_of(split.held_out, names_task),
          "data.", config.blind > 0 ? "blind" : "blind_held_out",
          ": no document names its task; those of translations do (`collegium data list`)");
  take_instructions(split.train, config.blind, random.at("train"));
  take_instructions(split.held_out, config.blind_held_out ? 1 : 0, random.at("held out"));
  const auto tokenizer = make_tokenizer(config, given, split.train, progress);
  if (config.tokenizer == "bpe" && tokenizer.vocab_size() < config.vocab_size)
    split.notes.push_back(text("the text has no more pairs that occur twice: the vocabulary has ",
                               tokenizer.vocab_size(), " tokens instead of ", config.vocab_size));
  WorkFolder work(folder.parent_path());
  const auto width = token_width(tokenizer.vocab_size());
  const auto tokenizer_json = tokenizer.to_json();
  write_whole(work.path() / "tokenizer.json", tokenizer_json);
  ManifestJson manifest = {{"format", kPreparedFormat},
                           {"key", key},
                           {"tokenizer_sha256", io::sha256_hex(tokenizer_json)},
                           {"notes", split.notes},
                           {"sources", ManifestJson::array()}};
  for (const auto& set : sets)
    manifest["sources"].push_back(
        {{"name", set.record.name}, {"sha256", set.record.sha256}, {"licence", set.record.licence}});
  manifest["train"] = write_split(work.path(), "train.bin", encode_split(tokenizer, split.train, progress), width);
  manifest["held_out"] =
      write_split(work.path(), "held_out.bin", encode_split(tokenizer, split.held_out, progress), width);
  write_whole(work.path() / "manifest.json", manifest.dump(1) + "\n");
  work.keep_as(folder);
}

}  // namespace

void check_config(const DataConfig& config) {
  require(!config.sources.empty(), "data: sources must name at least one data set, .txt file or folder");
  const std::set<std::string> distinct(config.sources.begin(), config.sources.end());
  require(distinct.size() == config.sources.size(), "data: a source is named twice in sources (", join(config.sources),
          ")");
  for (const auto& source : config.sources) check_source(source);
  const auto& tokenizer = config.tokenizer;
  if (tokenizer == "byte" || tokenizer == "bpe" || is_tokenizer_file(tokenizer)) return;
  const auto near = nearest(tokenizer, {"byte", "bpe"});
  throw Error(ErrorKind::usage,
              text("data.tokenizer: must be \"byte\", \"bpe\" or the path of a tokenizer.json, got \"", tokenizer, "\"",
                   near.empty() ? "" : text("; did you mean \"", near, "\"?")));
}

std::vector<Document> select_documents(const DataConfig& config, const std::vector<DocumentSet>& sets) {
  std::set<std::string> unused(config.languages.begin(), config.languages.end());
  const auto is_wanted = [&](const Document& document) {
    if (config.languages.empty()) return true;
    const auto matches = [&](const std::string& code) { return code == document.id || code == document.language; };
    bool found = false;
    for (const auto& code : config.languages) {
      if (!matches(code)) continue;
      unused.erase(code);
      found = true;
    }
    return found;
  };
  std::vector<Document> out;
  std::set<std::string> known;
  for (const auto& set : sets) {
    int64_t n_taken = 0;
    for (const auto& document : set.documents) {
      known.insert(document.id);
      if (!document.language.empty()) known.insert(document.language);
      if (!is_wanted(document) || (config.max_documents > 0 && n_taken == config.max_documents)) continue;
      ++n_taken;
      out.push_back(document);
      if (sets.size() == 1) continue;
      out.back().id = set.record.name + "/" + document.id;
      if (!document.group.empty()) out.back().group = set.record.name + "/" + document.group;
    }
  }
  if (!unused.empty()) {
    const auto near = nearest(*unused.begin(), {known.begin(), known.end()});
    throw Error(ErrorKind::usage, text("data: languages: no document has the id or language '", *unused.begin(), "'",
                                       near.empty() ? "" : text("; did you mean '", near, "'?")));
  }
  return out;
}

PreparedData prepare(const DataConfig& config, const SourcePaths& paths, const OnProgress& progress) {
  check_config(config);
  std::vector<DocumentSet> sets;
  for (const auto& name : config.sources) {
    sets.push_back(read_source(name, paths, progress));
    if (progress)
      progress({.stage = "read",
                .done = static_cast<int64_t>(sets.size()),
                .total = static_cast<int64_t>(config.sources.size())});
  }
  const auto given = is_tokenizer_file(config.tokenizer) ? read_bytes(config.tokenizer) : std::string();
  const auto key = prepared_key(config, sets, given);
  const auto folder = paths.cache / "prepared" / key.substr(0, 16);
  if (fs::exists(folder / "manifest.json")) {
    try {
      auto found = open_prepared(folder, key);
      found.from_cache = true;
      return found;
    } catch (const std::exception&) {
      // Damaged, and everything in it can be made again. What fails now for another reason fails again below.
    }
  }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  write_prepared(folder, key, config, sets, given, progress);
  return open_prepared(folder, key);
}

}  // namespace collegium::data
