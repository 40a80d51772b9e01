// Our own kernels for CUDA devices, as the text that cuda_kernels.cpp compiles. S is float, bfloat16 or half.
//
// Legend: A rows, sorted by expert; I expert hidden width, H = 2 I pre-activations of a gated expert or I of a plain
// one; D columns.
#pragma once

namespace collegium::kernels {

constexpr const char* kCudaSource = R"cuda(
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

struct bfloat16 { u16 bits; };
struct half { u16 bits; };

__device__ __forceinline__ float wide(float v) { return v; }
__device__ __forceinline__ float wide(bfloat16 v) { return __uint_as_float(static_cast<u32>(v.bits) << 16); }
__device__ __forceinline__ float wide(half v) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(v.bits));
  return out;
}
__device__ __forceinline__ void narrow(float v, float* to) { *to = v; }
// To nearest, ties to even.
__device__ __forceinline__ void narrow(float v, bfloat16* to) {
  const u32 bits = __float_as_uint(v);
  to->bits = v == v ? static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) : static_cast<u16>(0x7fc0);
}
__device__ __forceinline__ void narrow(float v, half* to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(v)); }

typedef COLLEGIUM_TYPE S;
constexpr int lanes = 16 / sizeof(S);  // one load of 16 bytes
struct alignas(16) Pack { S v[lanes]; };
__device__ __forceinline__ Pack load(const S* from) { return *reinterpret_cast<const Pack*>(from); }
__device__ __forceinline__ void store(const Pack& p, S* to) { *reinterpret_cast<Pack*>(to) = p; }

// a = act(first, second), with its slopes.
struct Slopes { float value, first, second; };
struct SwiGlu {
  static constexpr bool is_gated = true;
  __device__ static Slopes of(float gate, float up) {
    const float sigmoid = 1.0f / (1.0f + expf(-gate)), silu = gate * sigmoid;
    return {silu * up, up * (sigmoid + silu * (1.0f - sigmoid)), silu};
  }
};
struct Gelu {
  static constexpr bool is_gated = false;
  __device__ static Slopes of(float x, float) {
    const float cumulative = 0.5f * erfcf(-x * 0.707106781f), density = expf(-0.5f * x * x) * 0.398942280f;
    return {x * cumulative, cumulative + x * density, 0.0f};
  }
};

template <class Act>
__device__ void activate(const S* h, S* a, i64 n_rows, int I) {
  const i64 stride = static_cast<i64>(gridDim.x) * blockDim.x * lanes, total = n_rows * I;
  for (i64 i = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * lanes; i < total; i += stride) {
    const i64 row = i / I, column = i - row * I;
    const S* from = h + row * (Act::is_gated ? 2 : 1) * I + column;
    const Pack first = load(from);
    Pack second = first;
    if (Act::is_gated) second = load(from + I);
    Pack out;
#pragma unroll
    for (int j = 0; j < lanes; ++j) narrow(Act::of(wide(first.v[j]), wide(second.v[j])).value, &out.v[j]);
    store(out, a + i);
  }
}

// The sum over the block's threads, in the same order every time; on thread 0.
__device__ __forceinline__ float block_sum(float v) {
  __shared__ float sums[32];
#pragma unroll
  for (int shift = 16; shift > 0; shift >>= 1) v += __shfl_down_sync(0xffffffffu, v, shift);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = v;
  __syncthreads();
  float sum = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < (blockDim.x + 31) / 32; ++w) sum += sums[w];
  return sum;
}

// One block a row. With q the gradient of the ungated answer by a: grad_h = gate q da/dh, gated = gate a, and the gate's
// own gradient, the sum of q a. Each of the three may be null.
template <class Act>
__device__ void activate_backward(const S* h, const S* q, const float* gate_A, S* grad_h, S* gated, float* grad_gate,
                                  int I) {
  const i64 row = blockIdx.x;
  const float gate = gate_A[row];
  const i64 at = row * (Act::is_gated ? 2 : 1) * I;
  float sum = 0;
  for (int column = threadIdx.x * lanes; column < I; column += blockDim.x * lanes) {
    const Pack first = load(h + at + column), grad = load(q + row * I + column);
    Pack second = first;
    if (Act::is_gated) second = load(h + at + I + column);
    Pack to_first, to_second, to_gated;
#pragma unroll
    for (int j = 0; j < lanes; ++j) {
      const Slopes s = Act::of(wide(first.v[j]), wide(second.v[j]));
      const float g = wide(grad.v[j]);
      sum += g * s.value;
      narrow(gate * g * s.first, &to_first.v[j]);
      narrow(gate * g * s.second, &to_second.v[j]);
      narrow(gate * s.value, &to_gated.v[j]);
    }
    if (grad_h) store(to_first, grad_h + at + column);
    if (grad_h && Act::is_gated) store(to_second, grad_h + at + I + column);
    if (gated) store(to_gated, gated + row * I + column);
  }
  if (!grad_gate) return;
  sum = block_sum(sum);
  if (threadIdx.x == 0) grad_gate[row] = sum;
}

extern "C" __global__ void activate_swiglu(const S* h, S* a, i64 n_rows, int I) { activate<SwiGlu>(h, a, n_rows, I); }
extern "C" __global__ void activate_gelu(const S* h, S* a, i64 n_rows, int I) { activate<Gelu>(h, a, n_rows, I); }
extern "C" __global__ void backward_swiglu(const S* h, const S* q, const float* gate_A, S* grad_h, S* gated,
                                           float* grad_gate, int I) {
  activate_backward<SwiGlu>(h, q, gate_A, grad_h, gated, grad_gate, I);
}
extern "C" __global__ void backward_gelu(const S* h, const S* q, const float* gate_A, S* grad_h, S* gated,
                                         float* grad_gate, int I) {
  activate_backward<Gelu>(h, q, gate_A, grad_h, gated, grad_gate, I);
}

// out[bag] = sum of weight values[index] over the bag's entries, in their order: from first[bag] up to the next bag, or
// per_bag entries each where `first` is null. An index below 0 counts for nothing; a null weight is 1.
extern "C" __global__ void bag_sums(const S* values, const i64* index, const i64* first, const float* weight, S* out,
                                    int D, i64 n_bags, i64 n_entries, i64 per_bag) {
  const i64 bag = blockIdx.x;
  const i64 begin = first ? first[bag] : bag * per_bag;
  const i64 end = first ? (bag + 1 < n_bags ? first[bag + 1] : n_entries) : begin + per_bag;
  for (int column = (blockIdx.y * blockDim.x + threadIdx.x) * lanes; column < D;
       column += gridDim.y * blockDim.x * lanes) {
    float sum[lanes] = {};
    for (i64 r = begin; r < end; ++r) {
      const i64 row = index[r];
      if (row < 0) continue;
      const float w = weight ? weight[r] : 1.0f;
      const Pack p = load(values + row * D + column);
#pragma unroll
      for (int j = 0; j < lanes; ++j) sum[j] += w * wide(p.v[j]);
    }
    Pack to;
#pragma unroll
    for (int j = 0; j < lanes; ++j) narrow(sum[j], &to.v[j]);
    store(to, out + bag * D + column);
  }
}

// Sorts n choices by expert, stably: one block an expert, and a last one for ids outside [0, n_experts), which do no work:
// their rows come last and are of token n / k, their place is -1.
extern "C" __global__ void sort_choices(const i64* id, const float* gate, i64 n, int n_experts, int k, i64* token,
                                        float* gate_of_row, i64* place, int* end) {
  __shared__ int counts[33];
  const int mine = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const auto bucket = [&](i64 i) {
    const i64 e = id[i];
    return e >= 0 && e < n_experts ? static_cast<int>(e) : n_experts;
  };
  int less = 0;
  for (i64 i = threadIdx.x; i < n; i += blockDim.x) less += bucket(i) < mine;
#pragma unroll
  for (int shift = 16; shift > 0; shift >>= 1) less += __shfl_down_sync(0xffffffffu, less, shift);
  if (lane == 0) counts[warp] = less;
  __syncthreads();
  int at = 0;
  for (int w = 0; w < warps; ++w) at += counts[w];
  __syncthreads();
  for (i64 from = 0; from < n; from += blockDim.x) {
    const i64 i = from + threadIdx.x;
    const bool is_mine = i < n && bucket(i) == mine;
    const u32 all_of_warp = __ballot_sync(0xffffffffu, is_mine);
    if (lane == 0) counts[warp] = __popc(all_of_warp);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < warps; ++w) {
      before += w < warp ? counts[w] : 0;
      all += counts[w];
    }
    if (is_mine) {
      const int row = at + before + __popc(all_of_warp & ((1u << lane) - 1u));
      token[row] = mine < n_experts ? i / k : n / k;
      gate_of_row[row] = gate[i];
      place[i] = mine < n_experts ? row : -1;
    }
    at += all;
    __syncthreads();
  }
  if (threadIdx.x == 0 && mine < n_experts) end[mine] = at;
}
)cuda";

}  // namespace collegium::kernels
