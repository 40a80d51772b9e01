#include "collegium/kernels/products.h"

#include <ATen/core/grad_mode.h>

namespace collegium::kernels {

TokenRows rows_by_token(const int64_t* token, int64_t n_rows, int64_t n_tokens) {
  TokenRows out{std::vector<int64_t>(static_cast<size_t>(n_tokens) + 1),
                std::vector<int64_t>(static_cast<size_t>(n_rows))};
  int64_t *start = out.start_N1.data(), *row = out.row_R.data();
  for (int64_t r = 0; r < n_rows; ++r) ++start[token[r] + 1];
  for (int64_t n = 0; n < n_tokens; ++n) start[n + 1] += start[n];
  std::vector<int64_t> next(out.start_N1);
  for (int64_t r = 0; r < n_rows; ++r) row[next.data()[token[r]]++] = r;
  return out;
}

void check_offset(const char* who, const Tensor& offset_E1, int64_t n_experts, int64_t n_rows) {
  require(offset_E1.is_cpu() && offset_E1.scalar_type() == at::kLong && offset_E1.dim() == 1 &&
              offset_E1.is_contiguous() && offset_E1.size(0) == n_experts + 1,
          who, ": offset must be int64 [", n_experts + 1, "] on the CPU, one more than the experts, got ",
          offset_E1.scalar_type(), " ", offset_E1.sizes(), " on ", offset_E1.device());
  const auto* offset = offset_E1.const_data_ptr<int64_t>();
  require(offset[0] == 0 && offset[n_experts] == n_rows, who, ": offset must go from 0 to the ", n_rows, " rows, got ",
          offset[0], " to ", offset[n_experts]);
  for (int64_t e = 0; e < n_experts; ++e)
    require(offset[e] <= offset[e + 1], who, ": offset must never fall, got ", offset[e], " then ", offset[e + 1],
            " at expert ", e);
}

void check_token(const char* who, const Tensor& token_R, int64_t n_tokens) {
  require(token_R.dim() == 1 && token_R.scalar_type() == at::kLong, who, ": token must be int64 [R], got ",
          token_R.scalar_type(), " ", token_R.sizes());
  if (!token_R.is_cpu()) return;
  const auto tokens = token_R.contiguous();
  const auto* token = tokens.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < tokens.numel(); ++r)
    require(token[r] >= 0 && token[r] < n_tokens, who, ": token ids must be in [0, ", n_tokens, "), got ", token[r],
            " in row ", r);
}

void check_same(const char* who, const Tensor& a, const Tensor& b) {
  require(a.scalar_type() == b.scalar_type() && a.device() == b.device(), who,
          ": activations and weights must have one type and device, got ", a.scalar_type(), " on ", a.device(), " and ",
          b.scalar_type(), " on ", b.device());
}

void check_gate(const char* who, const Tensor& gate_R, const Tensor& values) {
  require(at::isFloatingType(gate_R.scalar_type()) && gate_R.device() == values.device(), who,
          ": the gate must be floating point on ", values.device(), ", got ", gate_R.scalar_type(), " on ",
          gate_R.device());
}

void refuse_second_derivative(const char* who) {
  if (!at::GradMode::is_enabled()) return;
  throw Error(ErrorKind::usage, text(who, ": the hand-written backward pass has no derivative of its own"),
              text("call backward without create_graph, or use plain::", who));
}

}  // namespace collegium::kernels
