#include "collegium/kernels/column_sums.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "collegium/base/error.h"
#include "collegium/kernels/work.h"

namespace collegium::kernels {
namespace {

template <class C>
Tensor sums_by_block(const Tensor& value_NE, const Tensor& weight_N) {
  constexpr int64_t block = 512;
  const int64_t N = value_NE.size(0), E = value_NE.size(1), blocks = (N + block - 1) / block;
  const C *value = data<C>(value_NE), *weight = weight_N.defined() ? data<C>(weight_N) : nullptr;
  const auto& loop = loops<C>();
  auto sum_BE = at::zeros({std::max<int64_t>(blocks, 1), E}, value_NE.options());
  C* sum = mutable_data<C>(sum_BE);
  at::parallel_for(0, blocks, 1 + 32768 / (1 + block * E), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t n = b * block; n < std::min(N, (b + 1) * block); ++n)
        loop.add_scaled(weight ? weight[n] : C{1}, value + n * E, E, sum + b * E);
  });
  for (int64_t b = 1; b < blocks; ++b) loop.add_scaled(C{1}, sum + b * E, E, sum);
  return blocks > 1 ? sum_BE.select(0, 0).clone() : sum_BE.select(0, 0);
}

struct ColumnSums : torch::autograd::Function<ColumnSums> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& value_in,
                        const std::optional<Tensor>& weight_in) {
    const auto value_NE = value_in.contiguous(), weight_N = weight_in ? weight_in->contiguous() : Tensor();
    context->saved_data["n_tokens"] = value_NE.size(0);
    context->save_for_backward({weight_N});
    return value_NE.scalar_type() == at::kFloat ? sums_by_block<float>(value_NE, weight_N)
                                                : sums_by_block<double>(value_NE, weight_N);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto weight_N = context->get_saved_variables()[0];
    const auto grad_1E = grads[0].unsqueeze(0);
    if (weight_N.defined()) return {weight_N.unsqueeze(1) * grad_1E, Tensor()};
    return {grad_1E.expand({context->saved_data["n_tokens"].toInt(), grad_1E.size(1)}), Tensor()};
  }
};

}  // namespace

Tensor column_sums(const Tensor& value_NE, const Tensor& weight_N) {
  require(value_NE.dim() == 2, "column_sums: values [N, E] wanted, got ", value_NE.sizes());
  require(!weight_N.defined() || (weight_N.dim() == 1 && weight_N.size(0) == value_NE.size(0) &&
                                  weight_N.scalar_type() == value_NE.scalar_type()),
          "column_sums: a weight for each of ", value_NE.size(0), " tokens wanted, of the values' type");
  const auto type = value_NE.scalar_type();
  if (!value_NE.is_cpu() || (type != at::kFloat && type != at::kDouble)) return plain::column_sums(value_NE, weight_N);
  return ColumnSums::apply(value_NE, weight_N.defined() ? std::optional(weight_N.detach()) : std::nullopt);
}

namespace plain {

Tensor column_sums(const Tensor& value_NE, const Tensor& weight_N) {
  return weight_N.defined() ? (value_NE * weight_N.unsqueeze(1)).sum(0) : value_NE.sum(0);
}

}  // namespace plain
}  // namespace collegium::kernels
