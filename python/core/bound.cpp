#include "python/core/bound.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>

#include "collegium/base/error.h"

namespace collegium::python {
namespace {

constexpr std::array<std::string_view, 4> kPhaseNames = {"train", "evaluate", "recompute", "replay"};
constexpr std::array<const char*, 4> kKindNames = {"matrix", "embedding", "vector", "buffer"};

// A wrong length would be read past its end further down.
void check_length(const std::optional<Tensor>& given, std::string_view what, at::ScalarType type, const Tensor& x_ND) {
  if (!given) return;
  require(given->dim() == 1 && given->size(0) == x_ND.size(0), what, ": one value per token wanted, ", x_ND.size(0),
          " in all, got ", given->sizes());
  require(given->scalar_type() == type, what, ": ", type == at::kBool ? "torch.bool" : "torch.int64", " wanted, got ",
          given->scalar_type());
}

}  // namespace

route::Phase phase_of(const std::string& name) {
  const auto found = std::find(kPhaseNames.begin(), kPhaseNames.end(), name);
  require(found != kPhaseNames.end(), "phase: '", name, "' is not one of train, evaluate, recompute, replay");
  return static_cast<route::Phase>(found - kPhaseNames.begin());
}

route::Context context_from(const CallContext& call, const Tensor& x_ND) {
  check_length(call.token_ids_N, "token_ids", at::kLong, x_ND);
  check_length(call.mask_N, "mask", at::kBool, x_ND);
  check_length(call.sequence_N, "sequence_ids", at::kLong, x_ND);
  if (call.attention_BTT) {
    const auto& a = *call.attention_BTT;
    require(a.dim() == 3 && a.size(1) == a.size(2) && a.size(0) * a.size(1) == x_ND.size(0) &&
                a.size(0) == call.n_sequences,
            "attention: [", call.n_sequences, " sequences, length, length] wanted for ", x_ND.size(0), " tokens, got ",
            a.sizes());
  }
  auto sequence_N = call.sequence_N.value_or(Tensor());
  if (sequence_N.defined() && x_ND.size(0) > 0) {
    require(sequence_N.min().item<int64_t>() >= 0 && sequence_N.max().item<int64_t>() < call.n_sequences &&
                sequence_N.diff().ge(0).all().item<bool>(),
            "sequence_ids: ascending numbers in [0, ", call.n_sequences, ") wanted");
  } else if (call.n_sequences > 1) {
    require(x_ND.size(0) % call.n_sequences == 0, "n_sequences: ", x_ND.size(0), " tokens do not divide into ",
            call.n_sequences, " sequences of equal length; give sequence_ids");
    sequence_N = at::arange(call.n_sequences, x_ND.options().dtype(at::kLong))
                     .repeat_interleave(x_ND.size(0) / call.n_sequences);
  }
  return {.phase = phase_of(call.phase),
          .token_id_N = call.token_ids_N.value_or(Tensor()),
          .mask_N = call.mask_N.value_or(Tensor()),
          .sequence_N = sequence_N,
          .n_sequences = call.n_sequences,
          .attention_BTT = call.attention_BTT.value_or(Tensor()),
          .carried_NH = call.carried_NH.value_or(Tensor()),
          .record = call.record,
          .losses = call.losses,
          .random = Random(call.noise_seed)};
}

py::list Bound::list() const {
  py::list out;
  for (const auto& item : items_)
    out.append(py::make_tuple(item.name, kKindNames[static_cast<size_t>(item.kind)], *item.tensor));
  return out;
}

void Bound::put(const std::vector<Tensor>& tensors) {
  ensure(tensors.size() == items_.size(), "a call brings ", tensors.size(), " tensors for ", items_.size());
  for (size_t i = 0; i < items_.size(); ++i) {
    require(tensors[i].sizes() == items_[i].tensor->sizes(), "parameter '", items_[i].name, "' must stay ",
            items_[i].tensor->sizes(), ", got ", tensors[i].sizes());
    *items_[i].tensor = tensors[i];
  }
}

void Bound::copy_back(const std::vector<Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (items_[i].trained() || items_[i].tensor->is_same(tensors[i])) continue;
    tensors[i].copy_(*items_[i].tensor);
    *items_[i].tensor = tensors[i];
  }
}

// Tensors with a history (functional_call, parametrisations) would keep their whole graph alive until the next call.
void Bound::let_go(const std::vector<Tensor>& tensors) noexcept {
  try {
    for (size_t i = 0; i < items_.size(); ++i)
      *items_[i].tensor = tensors[i].is_leaf() ? tensors[i] : tensors[i].detach();
  } catch (...) {
    // The next call puts its own tensors in place.
  }
}

}  // namespace collegium::python
