#include "collegium/kernels/norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "collegium/kernels/block_pool.h"

namespace collegium::kernels {
namespace {

constexpr int64_t kRowGrain = 64;

template <class T>
void norm_rows(const T* x, const T* gain, T* y, T* scale, int64_t N, int64_t D, double epsilon) {
  at::parallel_for(0, N, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* row = x + n * D;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < D; ++i) sum += row[i] * row[i];
      const T s = T(1) / std::sqrt(sum / static_cast<T>(D) + static_cast<T>(epsilon));
      scale[n] = s;
      T* out = y + n * D;
      for (int64_t i = 0; i < D; ++i) out[i] = row[i] * s * gain[i];
    }
  });
}

// dx = s * (g gain) - s^3 / D * x * sum(x g gain); dgain = sum over rows of g x s, in blocks of fixed size, so that
// the order of addition does not depend on the number of threads.
template <class T>
void norm_rows_backward(const T* grad, const T* x, const T* gain, const T* scale, T* dx, T* dgain_blocks, int64_t N,
                        int64_t D) {
  const auto blocks = (N + kRowGrain - 1) / kRowGrain;
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      T* dgain = dgain_blocks + b * D;
      std::fill(dgain, dgain + D, T(0));
      for (int64_t n = b * kRowGrain; n < std::min(N, (b + 1) * kRowGrain); ++n) {
        const T* g = grad + n * D;
        const T* row = x + n * D;
        T* out = dx + n * D;
        const T s = scale[n];
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < D; ++i) dot += row[i] * g[i] * gain[i];
        const T c = s * s * s * dot / static_cast<T>(D);
        for (int64_t i = 0; i < D; ++i) {
          out[i] = s * g[i] * gain[i] - c * row[i];
          dgain[i] += g[i] * row[i] * s;
        }
      }
    }
  });
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& gain,
                        double epsilon) {
    const auto x_ND = x.contiguous(), gain_D = gain.contiguous();
    const auto N = x_ND.size(0), D = x_ND.size(1);
    auto y_ND = fresh(x_ND.sizes(), x_ND.options()), scale_N = fresh({N}, x_ND.options());
    AT_DISPATCH_FLOATING_TYPES(x_ND.scalar_type(), "rms_norm", [&] {
      norm_rows(x_ND.const_data_ptr<scalar_t>(), gain_D.const_data_ptr<scalar_t>(), y_ND.mutable_data_ptr<scalar_t>(),
                scale_N.mutable_data_ptr<scalar_t>(), N, D, epsilon);
    });
    context->save_for_backward({x_ND, gain_D, scale_N});
    return y_ND;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto &x_ND = saved[0], &gain_D = saved[1], &scale_N = saved[2];
    const auto grad_ND = grads[0].contiguous();
    const auto N = x_ND.size(0), D = x_ND.size(1);
    auto dx_ND = fresh(x_ND.sizes(), x_ND.options());
    auto blocks_XD = fresh({(N + kRowGrain - 1) / kRowGrain, D}, x_ND.options());
    AT_DISPATCH_FLOATING_TYPES(x_ND.scalar_type(), "rms_norm_backward", [&] {
      norm_rows_backward(grad_ND.const_data_ptr<scalar_t>(), x_ND.const_data_ptr<scalar_t>(),
                         gain_D.const_data_ptr<scalar_t>(), scale_N.const_data_ptr<scalar_t>(),
                         dx_ND.mutable_data_ptr<scalar_t>(), blocks_XD.mutable_data_ptr<scalar_t>(), N, D);
    });
    return {dx_ND, blocks_XD.sum(0), Tensor()};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x_ND, const Tensor& gain_D, double epsilon) {
  const bool is_fast = x_ND.is_cpu() && x_ND.scalar_type() == gain_D.scalar_type() &&
                       (x_ND.scalar_type() == at::kFloat || x_ND.scalar_type() == at::kDouble);
  return is_fast ? RmsNormFunction::apply(x_ND, gain_D, epsilon) : plain::rms_norm(x_ND, gain_D, epsilon);
}

namespace plain {

Tensor rms_norm(const Tensor& x_ND, const Tensor& gain_D, double epsilon) {
  const auto exact_ND = x_ND.scalar_type() == at::kDouble ? x_ND : x_ND.to(at::kFloat);
  const auto scale_N1 = (exact_ND.square().mean(-1, true) + epsilon).rsqrt();
  return (exact_ND * scale_N1 * gain_D.to(exact_ND.scalar_type())).to(x_ND.scalar_type());
}

}  // namespace plain
}  // namespace collegium::kernels
