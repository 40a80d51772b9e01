// Routers, layers and language models as Python's nn.Modules call them. Entries are found in the catalogues by name,
// so a new mechanism needs nothing here.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "python/core/modules.h"

#include <ATen/core/grad_mode.h>

#include "collegium/layer/layer.h"
#include "collegium/model/language_model.h"
#include "collegium/recipe/catalogues.h"
#include "collegium/recipe/run.h"
#include "python/core/bound.h"
#include "python/core/convert.h"

namespace collegium::python {
namespace {

at::TensorOptions options_of(at::ScalarType dtype, const at::Device& device) {
  return at::TensorOptions().dtype(dtype).device(device);
}

py::dict resolved_dict(std::string_view catalogue, const Named& named) {
  return dict_from(resolve_component(catalogue, named));
}

// --- Router -------------------------------------------------------------------------------------------------------

class RouterCore {
 public:
  RouterCore(const std::string& name, const py::dict& fields, int64_t d_model, int64_t n_experts, uint64_t seed,
             at::ScalarType dtype, const at::Device& device)
      : named_(named_from(name, fields)),
        router_(find(route::routers(), named_, "router")
                    .make(named_, {.d_model = d_model,
                                   .n_experts = n_experts,
                                   .random = Random(seed),
                                   .options = options_of(dtype, device)})),
        bound_(parameters_of(*router_)) {}

  py::list tensors() const { return bound_.list(); }
  py::dict config() const { return resolved_dict("routers", named_); }
  py::object composition() const {
    const auto& composition = router_->composition();
    if (!composition) return py::none();
    py::dict out;
    const auto put = [&](const char* key, std::string_view catalogue, const Named& part) {
      out[key] = resolved_dict(catalogue, part);
    };
    put("scorer", "scorers", composition->scorer), put("selector", "selectors", composition->selector);
    put("capacity", "capacities", composition->capacity), put("gate", "gates", composition->gate);
    py::list balancers;
    for (const auto& balancer : composition->balancers) balancers.append(resolved_dict("balancers", balancer));
    out["balancers"] = balancers;
    out["null_experts"] = composition->null_experts;
    return out;
  }
  py::dict facts() const {
    const auto f = router_->facts();
    py::dict out;
    out["chooser"] = std::string(route::enum_names(f.chooser)[static_cast<size_t>(f.chooser)]);
    out["is_exactly_balanced"] = f.is_exactly_balanced, out["may_drop"] = f.may_drop;
    out["is_causal"] = f.is_causal, out["needs_token_ids"] = f.needs.token_ids;
    out["reads_other_tokens"] = f.reads_other_tokens, out["needs"] = f.needs.missing({});
    out["choices_per_token"] = f.choices_per_token, out["flops_per_token"] = f.flops_per_token;
    return out;
  }
  py::tuple route(const std::vector<Tensor>& tensors, const Tensor& x_ND, const CallContext& call) {
    const auto routing = bound_.with(tensors, [&] { return router_->route(x_ND, context_from(call, x_ND)); });
    const auto or_none = [](const Tensor& t) { return t.defined() ? py::cast(t) : py::none(); };
    return py::make_tuple(dict_from(routing.decision), list_from(routing.losses), or_none(routing.scores.score_NE),
                          or_none(routing.scores.logit_NE), or_none(routing.scores.carried_NH));
  }
  void step(const std::vector<Tensor>& tensors) {
    const at::NoGradGuard no_grad;
    bound_.with(tensors, [&] { router_->step(); });
  }

 private:
  Named named_;
  std::unique_ptr<route::Router> router_;
  Bound bound_;
};

// --- Layer --------------------------------------------------------------------------------------------------------

class LayerCore {
 public:
  LayerCore(const std::string& name, const py::dict& fields, int64_t d_model, uint64_t seed, at::ScalarType dtype,
            const at::Device& device)
      : named_(named_from(name, fields)),
        layer_(find(layer::layers(), named_, "layer")
                   .make(named_, {.d_model = d_model, .random = Random(seed), .options = options_of(dtype, device)})),
        bound_(parameters_of(*layer_)) {}

  py::list tensors() const { return bound_.list(); }
  py::dict config() const { return resolved_dict("layers", named_); }
  py::dict facts() const {
    const auto f = layer_->facts();
    py::dict out;
    out["n_experts"] = f.n_experts, out["parameters_active"] = f.parameters_active;
    out["flops_per_token"] = f.flops_per_token, out["flops_per_sequence"] = f.flops_per_sequence;
    out["is_causal"] = f.is_causal;
    out["needs_token_ids"] = f.needs.token_ids, out["needs"] = f.needs.missing({});
    out["reads_other_tokens"] = f.reads_other_tokens;
    return out;
  }
  py::tuple forward(const std::vector<Tensor>& tensors, const Tensor& x_ND, const CallContext& call) {
    const auto done = bound_.with(tensors, [&] {
      const auto context = context_from(call, x_ND);
      return layer_->forward(x_ND, context);
    });
    return py::make_tuple(done.y_ND, list_from(done.losses),
                          done.decision ? py::object(dict_from(*done.decision)) : py::none(),
                          done.carried_NH.defined() ? py::cast(done.carried_NH) : py::none());
  }
  void step(const std::vector<Tensor>& tensors) {
    const at::NoGradGuard no_grad;
    bound_.with(tensors, [&] { layer_->step(); });
  }

 private:
  Named named_;
  std::unique_ptr<layer::MoeLayer> layer_;
  Bound bound_;
};

// --- Language model -----------------------------------------------------------------------------------------------

class ModelCore {
 public:
  ModelCore(Named named, int64_t vocabulary, std::unique_ptr<model::LanguageModel> model)
      : named_(std::move(named)), vocabulary_(vocabulary), model_(std::move(model)), bound_(parameters_of(*model_)) {}
  static std::unique_ptr<ModelCore> make(const std::string& name, const py::dict& fields, int64_t vocabulary,
                                         uint64_t seed, at::ScalarType dtype, const at::Device& device) {
    auto named = named_from(name, fields);
    auto made =
        find(model::language_models(), named, "model")
            .make(named, {.vocabulary = vocabulary, .random = Random(seed), .options = options_of(dtype, device)});
    return std::make_unique<ModelCore>(std::move(named), vocabulary, std::move(made));
  }

  py::list tensors() const { return bound_.list(); }
  py::dict config() const { return resolved_dict("models", named_); }
  int64_t vocabulary() const { return vocabulary_; }
  py::dict facts(int64_t context_length) {
    const auto f = model_->facts(context_length);
    py::dict out;
    out["n_layers"] = f.n_layers, out["d_model"] = f.d_model, out["vocabulary"] = f.vocabulary;
    out["moe_layers"] = f.moe_layers, out["n_experts"] = f.n_experts;
    out["parameters_total"] = f.parameters_total, out["parameters_active"] = f.parameters_active;
    out["flops_per_token"] = f.flops_per_token, out["is_causal"] = f.is_causal;
    out["cache_bytes_per_token"] = f.cache_bytes_per_token, out["reads_other_tokens"] = f.reads_other_tokens;
    return out;
  }
  py::tuple hidden(const std::vector<Tensor>& tensors, const Tensor& token_BT, const std::optional<Tensor>& mask_BT,
                   const std::string& phase, uint64_t noise_seed, at::ScalarType compute, bool record,
                   bool losses) {
    const auto done = bound_.with(tensors, [&] {
      check_ids(token_BT);
      return model_->forward(token_BT, {.phase = phase_of(phase),
                                        .mask_BT = mask_BT.value_or(Tensor()),
                                        .random = Random(noise_seed),
                                        .compute = compute,
                                        .record = record,
                                        .losses = losses});
    });
    py::list decisions;
    for (const auto& d : done.decisions) decisions.append(dict_from(d));
    return py::make_tuple(done.hidden_ND, list_from(done.losses), decisions);
  }
  Tensor logits(const std::vector<Tensor>& tensors, const Tensor& hidden_ND) {
    return bound_.with(tensors, [&] { return model_->logits(hidden_ND); });
  }
  Tensor token_losses(const std::vector<Tensor>& tensors, const Tensor& hidden_ND, const Tensor& target_N) {
    return bound_.with(tensors, [&] {
      check_ids(target_N);
      return model::token_losses(*model_, hidden_ND, target_N);
    });
  }
  std::vector<int64_t> generate(const std::vector<Tensor>& tensors, const std::vector<int64_t>& prompt,
                                const py::dict& sample, int64_t end_token, int64_t context,
                                const py::object& on_token) {
    const auto config = read_config<infer::SampleConfig>(table_from(sample));
    for (const auto id : prompt)
      require(id >= 0 && id < vocabulary_, "generate: token id ", id, " is outside [0, ", vocabulary_, ")");
    const auto device = tensors.empty() ? at::Device(at::kCPU) : tensors.front().device();
    return bound_.with(tensors, [&] {
      return infer::generate(*model_, prompt, config, end_token, context, device, [&](int64_t token) {
        const py::gil_scoped_acquire acquired;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        return on_token.is_none() || !on_token(token).is(py::bool_(false));
      });
    });
  }
  void step(const std::vector<Tensor>& tensors) {
    const at::NoGradGuard no_grad;
    bound_.with(tensors, [&] { model_->step(); });
  }

 private:
  void check_ids(const Tensor& ids) const {
    require(ids.scalar_type() == at::kLong, "token ids: torch.int64 wanted, got ", ids.scalar_type());
    if (ids.numel() == 0 || ids.is_meta()) return;
    const auto low = ids.min().item<int64_t>(), high = ids.max().item<int64_t>();
    require(low >= 0 && high < vocabulary_, "token ids: numbers in [0, ", vocabulary_, ") wanted, got ", low, " to ",
            high);
  }

  Named named_;
  int64_t vocabulary_;
  std::unique_ptr<model::LanguageModel> model_;
  Bound bound_;
};

py::dict opened_run(const std::string& folder, const at::Device& device, std::optional<int64_t> step) {
  auto run = [&] {
    const py::gil_scoped_release released;
    return open_run(folder, device, step);
  }();
  run.language_model("Model.from_run");  // refuses a run that reads no text
  const auto vocabulary = run.tokenizer->vocab_size();
  std::unique_ptr<model::LanguageModel> model(dynamic_cast<model::LanguageModel*>(run.model.release()));
  py::dict out;
  out["model"] = std::make_unique<ModelCore>(run.config.model, vocabulary, std::move(model));
  out["tokenizer"] = std::move(*run.tokenizer);
  out["config"] = dict_from(run.config_table);
  out["step"] = run.step, out["warnings"] = run.warnings;
  return out;
}

// Bytes that are no UTF-8 pass through: as bytes, or as a str's surrogate escapes.
std::vector<int32_t> encoded(const data::Tokenizer& tokenizer, const py::object& text_or_bytes) {
  const auto bytes = py::isinstance<py::bytes>(text_or_bytes)
                         ? text_or_bytes.cast<std::string>()
                         : text_or_bytes.attr("encode")("utf-8", "surrogateescape").cast<std::string>();
  return tokenizer.encode(bytes);
}

}  // namespace

void bind_modules(py::module_& m) {
  py::class_<CallContext>(m, "CallContext")
      .def(py::init([](std::string phase, std::optional<Tensor> token_ids, std::optional<Tensor> mask,
                       std::optional<Tensor> sequence_ids, int64_t n_sequences, uint64_t noise_seed, bool record,
                       std::optional<Tensor> attention, std::optional<Tensor> carried, bool losses) {
             return CallContext{std::move(phase),  std::move(token_ids), std::move(mask), std::move(sequence_ids),
                                n_sequences,       noise_seed,           record,          std::move(attention),
                                std::move(carried), losses};
           }),
           py::arg("phase"), py::arg("token_ids") = py::none(), py::arg("mask") = py::none(),
           py::arg("sequence_ids") = py::none(), py::arg("n_sequences") = 1, py::arg("noise_seed") = 0,
           py::arg("record") = false, py::arg("attention") = py::none(), py::arg("carried") = py::none(),
           py::arg("losses") = true);

  py::class_<RouterCore>(m, "RouterCore")
      .def(py::init<const std::string&, const py::dict&, int64_t, int64_t, uint64_t, at::ScalarType, at::Device>())
      .def("tensors", &RouterCore::tensors)
      .def("config", &RouterCore::config)
      .def("composition", &RouterCore::composition)
      .def("facts", &RouterCore::facts)
      .def("route", &RouterCore::route)
      .def("step", &RouterCore::step);

  py::class_<LayerCore>(m, "LayerCore")
      .def(py::init<const std::string&, const py::dict&, int64_t, uint64_t, at::ScalarType, at::Device>())
      .def("tensors", &LayerCore::tensors)
      .def("config", &LayerCore::config)
      .def("facts", &LayerCore::facts)
      .def("forward", &LayerCore::forward)
      .def("step", &LayerCore::step);

  py::class_<ModelCore>(m, "ModelCore")
      .def(py::init(&ModelCore::make))
      .def("tensors", &ModelCore::tensors)
      .def("config", &ModelCore::config)
      .def_property_readonly("vocabulary", &ModelCore::vocabulary)
      .def("facts", &ModelCore::facts)
      .def("hidden", &ModelCore::hidden)
      .def("logits", &ModelCore::logits)
      .def("token_losses", &ModelCore::token_losses)
      .def("generate", &ModelCore::generate)
      .def("step", &ModelCore::step);

  py::class_<data::Tokenizer>(m, "Tokenizer", "A byte-level tokenizer, as stored in a run's tokenizer.json.")
      .def_static(
          "load", [](const std::string& path) { return data::Tokenizer::load(path); }, py::arg("path"))
      .def("encode", &encoded, py::arg("text"), "Token ids of a str or bytes.")
      .def(
          "decode", [](const data::Tokenizer& t, const std::vector<int32_t>& ids) { return t.decode(ids); },
          py::arg("ids"), "The text of the ids; U+FFFD where bytes are no UTF-8.")
      .def(
          "decode_bytes",
          [](const data::Tokenizer& t, const std::vector<int32_t>& ids) { return py::bytes(t.decode_bytes(ids)); },
          py::arg("ids"), "The bytes of the ids.")
      .def("__len__", &data::Tokenizer::vocab_size)
      .def_property_readonly("vocab_size", &data::Tokenizer::vocab_size)
      .def_property_readonly("end_id", &data::Tokenizer::end_id)
      .def_property_readonly("kind", [](const data::Tokenizer& t) { return std::string(t.kind()); })
      .def(py::pickle([](const data::Tokenizer& t) { return t.to_json(); },
                      [](const std::string& json) { return data::Tokenizer::parse(json, "pickle"); }));

  m.def("open_run", &opened_run, py::arg("folder"), py::arg("device"), py::arg("step") = py::none());
}

}  // namespace collegium::python
