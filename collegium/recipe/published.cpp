#include "collegium/recipe/published.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <set>

#include "collegium/base/error.h"
#include "collegium/io/json.h"

namespace collegium {
namespace {

// The tensors of a model that may lie in several files.
class PublishedFiles {
 public:
  explicit PublishedFiles(const io::Path& path) : path_(path) {
    auto& fs = io::real_file_system();
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      for (const auto& name : fs.list(path))
        if (name.ends_with(".safetensors")) add(path / name);
      if (files_.empty()) throw no_safetensors();
      if (fs.exists(path / "config.json"))
        config_ = io::parse_json(io::read_text(fs, path / "config.json"), "config.json");
    } else if (fs.exists(path)) {
      if (path.extension() == ".bin" || path.extension() == ".pt") throw no_safetensors();
      add(path);
      const auto beside = io::parent_of(path) / "config.json";
      if (fs.exists(beside)) config_ = io::parse_json(io::read_text(fs, beside), beside.string());
    } else {
      fail(ErrorKind::usage, "published: there is no ", path.string());
    }
  }

  bool contains(std::string_view name) const { return find(name) != nullptr; }
  const std::vector<int64_t>& shape(const std::string& name) const { return file(name).entry(name).shape; }
  Tensor read(const std::string& name) const { return file(name).read(name); }
  const nlohmann::json& config() const { return config_; }
  std::string where() const { return path_.string(); }

  /// Every name that begins with `prefix`, without it.
  std::vector<std::string> below(std::string_view prefix) const {
    std::vector<std::string> out;
    for (const auto& file : files_)
      for (const auto& entry : file->entries())
        if (entry.name.starts_with(prefix)) out.push_back(entry.name.substr(prefix.size()));
    return out;
  }

 private:
  void add(const io::Path& file) {
    files_.push_back(std::make_unique<io::SafetensorsFile>(io::real_file_system(), file));
  }
  const io::SafetensorsFile* find(std::string_view name) const {
    for (const auto& file : files_)
      if (file->contains(name)) return file.get();
    return nullptr;
  }
  const io::SafetensorsFile& file(const std::string& name) const {
    if (const auto* found = find(name)) return *found;
    const auto near = nearest(name, below(""));
    fail(ErrorKind::data, path_.string(), ": tensor '", name, "' is missing",
         near.empty() ? "" : text("; the nearest is '", near, "'"));
  }
  Error no_safetensors() const {
    return {ErrorKind::usage,
            text("published: ", path_.string(),
                 " holds no .safetensors file, and pickled ones (.bin, .pt) are never read: ", "they can run code"),
            "convert a pickled file that you trust: python -c \"import torch; from safetensors.torch import save_file; "
            "w = torch.load('FILE.bin', map_location='cpu', weights_only=True); "
            "save_file({k: v.contiguous().clone() for k, v in w.items()}, 'FILE.safetensors')\""};
  }

  io::Path path_;
  std::vector<std::unique_ptr<io::SafetensorsFile>> files_;
  nlohmann::json config_ = nlohmann::json::object();
};

void require_shape(const PublishedFiles& files, const std::string& name, const std::vector<int64_t>& wanted) {
  const auto& shape = files.shape(name);
  if (shape != wanted)
    fail(ErrorKind::data, files.where(), ": tensor '", name, "' is ", at::IntArrayRef(shape), ", the layer needs ",
         at::IntArrayRef(wanted));
}

// The number that begins `text` and ends at its first dot.
std::optional<int64_t> leading_number(std::string_view text) {
  int64_t out = 0;
  const auto end = text.data() + std::min(text.find('.'), text.size());
  const auto [rest, error] = std::from_chars(text.data(), end, out);
  return error == std::errc() && rest == end && end != text.data() ? std::optional(out) : std::nullopt;
}

void require_layer(const PublishedFiles& files, std::string_view prefix, std::string_view part, int64_t layer) {
  std::set<int64_t> known;
  for (const auto& name : files.below(prefix))
    if (const auto number = leading_number(name); number && name.find(part) != std::string::npos) known.insert(*number);
  if (known.contains(layer)) return;
  std::vector<std::string> list;
  for (const auto number : known) list.push_back(text(number));
  fail(ErrorKind::usage, files.where(), ": layer ", layer, " has no experts",
       list.empty() ? text(" (no tensor is called ", prefix, "N", part, "…)")
                    : text(" (those that have: ", join(list), ")"));
}

// Yuan 2.0-M32 (P079), read from the authors' modelling code for Hugging Face (YuanMoeLayer, GroupedMLP,
// ParallelAttention_router; IEITYuan/Yuan2-M32-hf). Of layer N, with D model width, E experts, I hidden width:
//
//   model.layers.N.mlp.router.query_key_value.weight   [3 E, D]: E queries, E keys, E values
//   model.layers.N.mlp.experts.w1.e.weight             [2 I, D]: gate, then up
//   model.layers.N.mlp.experts.w2.e.weight             [D, I]
//
// or, as the authors' first loader for vLLM reads them, mlp.gate.{query,key,value}.weight [E, D] each and
// mlp.experts.e.w1.weight, mlp.experts.e.w2.weight. Weights of a token's two experts are the softmax of their logits,
// which is ours; the authors' training script balances no loads, so the balance loss is off.
PublishedLayer read_yuan(const PublishedFiles& files, int64_t layer) {
  require_layer(files, "model.layers.", ".mlp.experts.", layer);
  const auto below = text("model.layers.", layer, ".mlp.");
  const bool is_first = files.contains(below + "gate.query.weight");
  const auto expert = [&](std::string_view part, int64_t e) {
    return is_first ? text(below, "experts.", e, ".", part, ".weight")
                    : text(below, "experts.", part, ".", e, ".weight");
  };
  const auto whole = below + "router.query_key_value.weight";
  std::vector<std::string> parts;
  for (const auto* part : {"query", "key", "value"}) parts.push_back(text(below, "gate.", part, ".weight"));

  const auto& router = files.shape(is_first ? parts[0] : whole);
  const int64_t stacked = is_first ? 1 : 3;
  if (router.size() != 2 || router[0] == 0 || router[0] % stacked != 0)
    fail(ErrorKind::data, files.where(), ": tensor '", is_first ? parts[0] : whole, "' is ", at::IntArrayRef(router),
         ", the layer needs ", stacked == 3 ? "queries, keys and values of all experts, [3 E, D]" : "[E, D]");
  const auto E = router[0] / stacked, D = router[1];
  const auto& first = files.shape(expert("w1", 0));
  if (first.size() != 2 || first[0] == 0 || first[0] % 2 != 0)
    fail(ErrorKind::data, files.where(), ": tensor '", expert("w1", 0), "' is ", at::IntArrayRef(first),
         ", the layer needs gate and up projections, [2 I, D]");
  const auto I = first[0] / 2;

  const auto moe = files.config().value("moe_config", nlohmann::json::object());
  if (!moe.value("gated_linear_unit", true) || files.config().value("hidden_act", "silu") != "silu")
    fail(ErrorKind::data, files.where(), ": config.json: the layout has gated experts with silu");
  if (const auto said = moe.value("moe_num_experts", E); said != E)
    fail(ErrorKind::data, files.where(), ": config.json says ", said, " experts, the router has ", E);
  const auto k = moe.value("moe_top_k", int64_t{2});

  Tensor query_key_value;
  if (is_first) {
    std::vector<Tensor> read;
    for (const auto& part : parts) require_shape(files, part, {E, D}), read.push_back(files.read(part));
    query_key_value = at::cat(read);
  } else {
    query_key_value = files.read(whole);
  }
  for (int64_t e = 0; e < E; ++e)
    require_shape(files, expert("w1", e), {2 * I, D}), require_shape(files, expert("w2", e), {D, I});
  // One expert at a time: the whole layer stands in memory once.
  const auto plain = files.read(expert("w1", 0)).options();
  auto gate_up = at::empty({E, 2 * I, D}, plain), down = at::empty({E, D, I}, plain);
  for (int64_t e = 0; e < E; ++e)
    gate_up[e].copy_(files.read(expert("w1", e))), down[e].copy_(files.read(expert("w2", e)));
  return {
      .kind = "routed",
      .fields = table({{"n_experts", E},
                       {"d_expert", I},
                       {"expert", "swiglu"},
                       {"router", table({{"name", "yuan"}, {"k", k}, {"balance_loss", 0.0}})}}),
      .d_model = D,
      .tensors = {
          {"router.scorer.query_key_value", query_key_value}, {"experts.gate_up", gate_up}, {"experts.down", down}}};
}

struct Layout {
  std::string_view name;
  PublishedLayer (*read)(const PublishedFiles&, int64_t);
};
constexpr Layout kLayouts[] = {{"yuan", read_yuan}};

}  // namespace

std::vector<std::string> published_layouts() {
  std::vector<std::string> out;
  for (const auto& layout : kLayouts) out.emplace_back(layout.name);
  return out;
}

PublishedLayer read_published(std::string_view layout, const io::Path& path, int64_t layer) {
  require(layer >= 0, "published: layers count from 0, got ", layer);
  const auto found =
      std::find_if(std::begin(kLayouts), std::end(kLayouts), [&](const auto& l) { return l.name == layout; });
  if (found != std::end(kLayouts)) return found->read(PublishedFiles(path), layer);
  const auto known = published_layouts();
  const auto near = nearest(layout, known);
  fail(ErrorKind::usage, "published: unknown layout '", layout, "'",
       near.empty() ? "" : text("; did you mean '", near, "'?"), " (known: ", join(known), ")");
}

}  // namespace collegium
