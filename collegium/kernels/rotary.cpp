#include "collegium/kernels/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "collegium/kernels/block_pool.h"

namespace collegium::kernels {
namespace {

// out = x turned by +angle, or by -angle for the backward pass. One token's heads are contiguous; tokens may be apart.
template <class T>
void turn(const T* x, int64_t token_stride, const T* cos, const T* sin, T sign, T* out, int64_t tokens, int64_t length,
          int64_t H, int64_t half) {
  at::parallel_for(0, tokens, 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* c = cos + (n % length) * half;
      const T* s = sin + (n % length) * half;
      for (int64_t h = 0; h < H; ++h) {
        const T* in = x + n * token_stride + h * 2 * half;
        T* to = out + (n * H + h) * 2 * half;
        for (int64_t i = 0; i < half; ++i) {
          const T a = in[i], b = in[i + half], w = sign * s[i];
          to[i] = a * c[i] - b * w;
          to[i + half] = b * c[i] + a * w;
        }
      }
    }
  });
}

Tensor turn_tensor(const Tensor& x_BTHd, const Tensor& cos, const Tensor& sin, double sign) {
  const auto B = x_BTHd.size(0), T = x_BTHd.size(1), H = x_BTHd.size(2), d = x_BTHd.size(3);
  // A slice of fused projections keeps its heads together; anything else is copied first.
  const bool is_regular = x_BTHd.stride(3) == 1 && x_BTHd.stride(2) == d && x_BTHd.stride(0) == T * x_BTHd.stride(1);
  const auto in = is_regular ? x_BTHd : x_BTHd.contiguous();
  auto out = fresh({B, T, H, d}, x_BTHd.options());
  AT_DISPATCH_FLOATING_TYPES(in.scalar_type(), "rotate", [&] {
    turn(in.const_data_ptr<scalar_t>(), in.stride(1), cos.const_data_ptr<scalar_t>(), sin.const_data_ptr<scalar_t>(),
         static_cast<scalar_t>(sign), out.mutable_data_ptr<scalar_t>(), B * T, cos.size(0), H, d / 2);
  });
  return out;
}

struct RotateFunction : torch::autograd::Function<RotateFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& cos,
                        const Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turn_tensor(x, cos, sin, 1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    return {turn_tensor(grads[0], saved[0], saved[1], -1), Tensor(), Tensor()};
  }
};

}  // namespace

Rotation rotation(int64_t first, int64_t T, int64_t d, double theta, const at::TensorOptions& options) {
  const auto exact = at::TensorOptions().dtype(at::kDouble);
  const auto position_T = at::arange(first, first + T, exact);
  const auto frequency = at::pow(theta, at::arange(0, d, 2, exact) / -static_cast<double>(d));
  const auto angle = at::outer(position_T, frequency);
  const auto dtype = at::typeMetaToScalarType(options.dtype()) == at::kDouble ? at::kDouble : at::kFloat;
  const auto to = at::TensorOptions().dtype(dtype).device(options.device());
  return {angle.cos().to(to).contiguous(), angle.sin().to(to).contiguous()};
}

Rotation Rotation::of(const Tensor& token_R) const {
  const auto row_R = token_R.remainder(cos_Td2.size(0));
  return {cos_Td2.index_select(0, row_R), sin_Td2.index_select(0, row_R)};
}

Tensor rotate(const Tensor& x_BTHd, const Rotation& r) {
  const bool is_fast = x_BTHd.is_cpu() && x_BTHd.scalar_type() == r.cos_Td2.scalar_type();
  return is_fast ? RotateFunction::apply(x_BTHd, r.cos_Td2, r.sin_Td2) : plain::rotate(x_BTHd, r);
}

namespace plain {

Tensor rotate(const Tensor& x_BTHd, const Rotation& r) {
  const auto half = x_BTHd.size(3) / 2;
  const auto exact = x_BTHd.to(r.cos_Td2.scalar_type());
  const auto T = x_BTHd.size(1), B = T > 0 ? r.cos_Td2.size(0) / T : 1;  // 1 where sequences share the rows
  const auto rows = [&](const Tensor& t_Td2) { return t_Td2.view({B, T, 1, half}); };
  const auto cos = rows(r.cos_Td2), sin = rows(r.sin_Td2);
  const auto a = exact.slice(3, 0, half), b = exact.slice(3, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 3).to(x_BTHd.scalar_type());
}

}  // namespace plain
}  // namespace collegium::kernels
