// The routing trace on disk: a safetensors file, so that any reader of that format reads it.
//
// Tensors of record i are "i.token", "i.expert", "i.rank", "i.slot" (int64 [R]), "i.gate", "i.score", "i.margin"
// (float [R]), "i.dropped.token|expert|rank|reason" (int64 [Q]), "i.dropped.score|margin" (float [Q]) and, where the
// host had token ids, "i.token_id" (int64 [N]). Where their texts are known: "text.id" (int64), "text.end" (int64) and
// "text.bytes" (uint8, one text after the other). Metadata: "format" = "collegium.routing_trace/1", "model", and
// "records", JSON: a list of {step, pass, layer, phase, n_tokens, n_experts}; "layers", JSON: a list of {layer, name,
// null_experts, choices}.
#pragma once
#include <map>
#include <string>

#include "collegium/io/fs.h"
#include "collegium/route/trace.h"

namespace collegium {

/// What decisions do not tell of themselves. All of it may be missing.
struct TraceNotes {
  struct Layer {
    std::string name;          ///< "layer 3", "attention 0"
    int64_t null_experts = 0;  ///< experts that do no work, which are in no decision
    double choices = 0;        ///< of each token, null experts among them; 0 = unknown, or not the same for all
  };
  std::map<int64_t, Layer> layers;
  std::map<int64_t, std::string> token_text;  ///< of the ids in the trace; partial UTF-8 is allowed
};

/// Replaces the file at `path`. Throws an Error of kind io.
void write_trace(io::FileSystem& fs, const io::Path& path, const route::RoutingTrace& trace,
                 const TraceNotes& notes = {});

/// Throws an Error of kind data that names the file and what is wrong: another format, missing tensors, ids out of
/// range, rows that are not sorted by expert.
route::RoutingTrace read_trace(io::FileSystem& fs, const io::Path& path);

/// What the same file notes; the same errors.
TraceNotes read_trace_notes(io::FileSystem& fs, const io::Path& path);

}  // namespace collegium
