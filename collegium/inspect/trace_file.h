// The routing trace on disk: a safetensors file, so that any reader of that format reads it.
//
// Tensors of record i are "i.token", "i.expert", "i.rank", "i.slot" (int64 [R]), "i.gate", "i.score", "i.margin"
// (float [R]), "i.dropped.token|expert|rank|reason" (int64 [Q]), "i.dropped.score|margin" (float [Q]) and, where the
// host had token ids, "i.token_id" (int64 [N]). Metadata: "format" = "collegium.routing_trace/1", "model", and
// "records", JSON: a list of {step, pass, layer, phase, n_tokens, n_experts}.
#pragma once
#include "collegium/io/fs.h"
#include "collegium/route/trace.h"

namespace collegium {

/// Replaces the file at `path`. Throws an Error of kind io.
void write_trace(io::FileSystem& fs, const io::Path& path, const route::RoutingTrace& trace);

/// Throws an Error of kind data that names the file and what is wrong: another format, missing tensors, ids out of
/// range, rows that are not sorted by expert.
route::RoutingTrace read_trace(io::FileSystem& fs, const io::Path& path);

}  // namespace collegium
