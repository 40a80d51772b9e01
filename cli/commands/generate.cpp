// `collegium generate`: text from a trained model.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/setting.h"
#include "collegium/inspect/trace_file.h"
#include "collegium/recipe/insight.h"

namespace collegium::cli {
namespace {

constexpr Positional kGenerateArguments[] = {
    {.name = "RUN", .help = "a run's id, the start of one, or its folder", .complete = Complete::runs}};
constexpr Option kGenerateOptions[] = {
    {.name = "prompt", .letter = 'p', .value = "TEXT", .help = "what the text continues"},
    {.name = "prompt-file", .value = "FILE", .help = "the prompt from a file", .complete = Complete::files},
    {.name = "tokens",
     .letter = 'n',
     .value = "N",
     .kind = ValueKind::integer,
     .help = "at most so many new tokens",
     .default_text = "200"},
    {.name = "temperature",
     .value = "X",
     .kind = ValueKind::number,
     .help = "0 = always the likeliest token; higher = more surprising",
     .default_text = "0.8"},
    {.name = "top-k",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "only the N likeliest tokens; 0 = all",
     .default_text = "0"},
    {.name = "top-p",
     .value = "X",
     .kind = ValueKind::number,
     .help = "only the likeliest tokens that together have this probability",
     .default_text = "0.95"},
    {.name = "seed",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "another seed, another text",
     .default_text = "0",
     .environment = "COLLEGIUM_SEED"},
    {.name = "step",
     .value = "N",
     .kind = ValueKind::integer,
     .help = "the checkpoint of this step; default the newest"},
    {.name = "trace",
     .value = "FILE",
     .help = "write the routing of prompt and text as a routing trace (safetensors)",
     .complete = Complete::files},
    kRunsOption,
    kDeviceOption,
    kThreadsOption,
};
constexpr Example kGenerateExamples[] = {
    {"collegium generate tiny_moe --prompt 'ROMEO:' -n 300", "continue a prompt"},
    {"collegium generate tiny_moe --prompt 'ROMEO:' --trace routing.safetensors", "keep who did the work"},
};

std::string prompt_of(const Arguments& arguments) {
  require(!(arguments.given("prompt") && arguments.given("prompt-file")), "give --prompt or --prompt-file, not both");
  if (arguments.given("prompt-file")) return io::read_text(io::real_file_system(), arguments.text("prompt-file"));
  require(arguments.given("prompt") && !arguments.text("prompt").empty(), "--prompt TEXT is needed (or --prompt-file)");
  return arguments.text("prompt");
}

int run_generate(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  infer::SampleConfig config{.tokens = arguments.integer("tokens"),
                             .temperature = arguments.number("temperature"),
                             .top_p = arguments.number("top-p"),
                             .top_k = arguments.integer("top-k"),
                             .seed = arguments.integer("seed")};
  try {
    config = read_config<infer::SampleConfig>(write_config(config), "");  // the bounds of the recipe's fields
  } catch (const Error& error) {
    std::string message = error.what();
    std::replace(message.begin(), std::find(message.begin(), message.end(), ':'), '_', '-');  // a field, an option
    throw Error(error.kind(), "--" + message);
  }
  if (arguments.given("trace")) require_folder_for(arguments, "trace");
  const auto prompt = prompt_of(arguments);
  const auto device = parse_device(arguments.text("device"));
  auto run = open_run(run_folder(arguments, arguments.positional("RUN")), device,
                      arguments.given("step") ? std::optional(arguments.integer("step")) : std::nullopt);
  show_warnings(arguments, run.warnings);

  auto& model = run.language_model("generate");
  const auto ids = run.tokenizer->encode(prompt);
  std::vector<int64_t> tokens(ids.begin(), ids.end());
  const InterruptFlag interrupt;
  data::StreamDecoder decoder(*run.tokenizer);
  std::string made_text;
  const bool streams = !out.wants_json();
  if (streams) arguments.streams().out << prompt << std::flush;
  const auto emit = [&](const std::string& piece) {
    made_text += piece;
    if (streams) arguments.streams().out << piece << std::flush;
  };
  const auto made = infer::generate(model, tokens, config, run.tokenizer->end_id(), run.config.train.context, device,
                                    [&](int64_t token) {
                                      emit(decoder.push(static_cast<int32_t>(token)));
                                      return !interrupt.raised() && arguments.streams().out.good();
                                    });
  emit(decoder.finish());
  if (streams) arguments.streams().out << "\n" << std::flush;
  if (!arguments.streams().out.good()) throw ClosedPipe{};

  Json json = {{"run", run.folder.filename().string()},
               {"step", run.step},
               {"prompt", prompt},
               {"text", made_text},
               {"tokens", made}};
  if (arguments.given("trace")) {
    auto all = tokens;
    all.insert(all.end(), made.begin(), made.end());
    auto trace = infer::trace_tokens(model, all, device);
    trace.model = run.folder.filename().string();
    for (auto& record : trace.records) record.step = run.step;
    write_trace(io::real_file_system(), arguments.text("trace"), trace, notes_of(trace, run));
    out.note(
        text("routing of ", all.size(), " tokens in ", trace.records.size(), " layers: ", arguments.text("trace")));
    json["trace"] = arguments.text("trace");
  }
  out.json(json);
  if (interrupt.raised()) return static_cast<int>(ErrorKind::interrupted);
  return 0;
}

}  // namespace

extern constinit const Command generate_command = {
    .name = "generate",
    .summary = "continue a prompt with a trained model",
    .help = "Prints the prompt and its continuation as it is made. The same seed gives the same text.",
    .group = "train and use",
    .positionals = kGenerateArguments,
    .options = kGenerateOptions,
    .examples = kGenerateExamples,
    .run = run_generate,
};

}  // namespace collegium::cli
