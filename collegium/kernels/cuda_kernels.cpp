#include "collegium/kernels/cuda_kernels.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/kernels/cuda_driver.h"
#include "collegium/kernels/cuda_source.h"

namespace collegium::kernels {
namespace {

// --- What is loaded when the program runs -------------------------------------------------------------------------

// A function of NVRTC. torch's own library is linked to it and knows where the wheel has it; names are found through
// it.
template <class Function>
Function* compiler_function(const char* name) {
  static void* const library = []() -> void* {
    for (const char* file : {"libcaffe2_nvrtc.so", "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"})
      if (void* handle = dlopen(file, RTLD_LAZY | RTLD_LOCAL))
        if (dlsym(handle, "nvrtcCompileProgram")) return handle;
    return nullptr;
  }();
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}

// The device's code for elements of this type, or why there is none.
struct Compiled {
  std::vector<char> code;
  std::string why_not;
};

Compiled compile(const char* type, const Capability& capability) {
  using Program = void*;
  const auto create =
      compiler_function<int(Program*, const char*, const char*, int, const char* const*, const char* const*)>(
          "nvrtcCreateProgram");
  const auto compile_program = compiler_function<int(Program, int, const char* const*)>("nvrtcCompileProgram");
  const auto destroy = compiler_function<int(Program*)>("nvrtcDestroyProgram");
  const auto log_size = compiler_function<int(Program, size_t*)>("nvrtcGetProgramLogSize");
  const auto get_log = compiler_function<int(Program, char*)>("nvrtcGetProgramLog");
  const auto code_size = compiler_function<int(Program, size_t*)>("nvrtcGetCUBINSize");
  const auto get_code = compiler_function<int(Program, char*)>("nvrtcGetCUBIN");
  if (!create || !compile_program || !destroy || !log_size || !get_log || !code_size || !get_code)
    return {{}, "this torch brings no compiler (NVRTC)"};
  const auto source = text("#define COLLEGIUM_TYPE ", type, "\n", kCudaSource);
  const auto architecture = text("--gpu-architecture=sm_", capability.major, capability.minor);
  const std::array<const char*, 2> options = {architecture.c_str(), "--std=c++17"};
  Program program = nullptr;
  if (create(&program, source.c_str(), "collegium.cu", 0, nullptr, nullptr) != 0) return {{}, "NVRTC did not start"};
  Compiled out;
  size_t size = 0;
  if (compile_program(program, static_cast<int>(options.size()), options.data()) != 0) {
    log_size(program, &size);
    std::string log(size, '\0');
    if (size > 0) get_log(program, log.data());
    out.why_not = text("NVRTC: ", log.substr(0, log.find('\n')));
  } else if (code_size(program, &size) != 0 || size == 0) {
    out.why_not = "NVRTC gave no code";
  } else {
    out.code.resize(size);
    get_code(program, out.code.data());
  }
  destroy(&program);
  return out;
}

// --- Kernels of one device and type -------------------------------------------------------------------------------

using Kernel = void*;

struct Kernels {
  Kernel activate_swiglu, activate_gelu, backward_swiglu, backward_gelu, bag_sums, sort_choices;
  std::string why_not;
};

// The stream that torch works on now, as the driver knows it; older torches do not tell.
template <class Stream>
bool stream_of(const Stream& stream, void*& out) {
  if constexpr (requires { stream.native_handle(); }) {
    out = stream.native_handle();
    return true;
  }
  return false;
}

c10::Stream current_stream(const c10::Device& device) {
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(device);
}

const char* type_name(at::ScalarType type) {
  if (type == at::kFloat) return "float";
  if (type == at::kBFloat16) return "bfloat16";
  return type == at::kHalf ? "half" : nullptr;
}

Kernels make_kernels(const c10::Device& device, at::ScalarType type) {
  Kernels out{};
  const auto load = cuda_driver_function<int(void**, const void*)>("cuModuleLoadData");
  const auto get = cuda_driver_function<int(Kernel*, void*, const char*)>("cuModuleGetFunction");
  const auto capability = cuda_capability(device.index());
  void* stream = nullptr;
  if (!load || !get || !capability) return out.why_not = "no CUDA driver is known", out;
  if (!stream_of(current_stream(device), stream)) return out.why_not = "this torch does not tell its stream", out;
  const auto compiled = compile(type_name(type), *capability);
  if (!compiled.why_not.empty()) return out.why_not = compiled.why_not, out;
  void* module = nullptr;  // kept as long as the process
  if (const auto status = load(&module, compiled.code.data()); status != 0)
    return out.why_not = text("the driver does not load them (error ", status, ")"), out;
  for (const auto& [kernel, name] :
       {std::pair{&out.activate_swiglu, "activate_swiglu"}, std::pair{&out.activate_gelu, "activate_gelu"},
        std::pair{&out.backward_swiglu, "backward_swiglu"}, std::pair{&out.backward_gelu, "backward_gelu"},
        std::pair{&out.bag_sums, "bag_sums"}, std::pair{&out.sort_choices, "sort_choices"}})
    if (get(kernel, module, name) != 0) return out.why_not = text("no kernel ", name), out;
  return out;
}

// Of a device that tensors are on; its context is the current one while a guard holds it.
const Kernels& kernels_of(c10::Device device, at::ScalarType type) {
  static std::mutex mutex;
  static std::map<std::pair<int, at::ScalarType>, Kernels> known;
  const std::lock_guard lock(mutex);
  const auto key = std::pair{static_cast<int>(device.index()), type};
  const auto found = known.find(key);
  return found != known.end() ? found->second : known.emplace(key, make_kernels(device, type)).first->second;
}

struct Grid {
  int64_t x = 1, y = 1;
  unsigned threads = 256;
};

template <class... Arguments>
void launch(Kernel kernel, const c10::Device& device, const Grid& grid, Arguments... arguments) {
  static const auto start = cuda_driver_function<int(Kernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                                     unsigned, void*, void**, void**)>("cuLaunchKernel");
  std::array<void*, sizeof...(Arguments)> parameters = {static_cast<void*>(&arguments)...};
  void* stream = nullptr;
  stream_of(current_stream(device), stream);
  const auto status = start(kernel, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1, grid.threads, 1, 1,
                            0, stream, parameters.data(), nullptr);
  if (status != 0)
    throw std::runtime_error(text("a CUDA kernel of Collegium could not be started (error ", status, ")"));
}

const void* pointer(const Tensor& t) {
  return t.defined() ? t.const_data_ptr() : nullptr;
}
void* to_write(const Tensor& t) {
  return t.defined() ? t.mutable_data_ptr() : nullptr;
}

int64_t lanes_of(const Tensor& t) {
  return 16 / t.element_size();
}

// Dense, and where loads of 16 bytes may begin.
Tensor packed(const Tensor& t) {
  const auto dense = t.contiguous();
  return reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0 ? dense : dense.clone();
}

unsigned threads_for(int64_t width, int64_t lanes) {
  const auto wanted = (width / lanes + 31) / 32 * 32;
  return static_cast<unsigned>(std::clamp<int64_t>(wanted, 32, 256));
}

}  // namespace

bool has_cuda_kernels(const Tensor& t, int64_t width) {
  if (!t.is_cuda() || !type_name(t.scalar_type()) || width % lanes_of(t) != 0 || width == 0) return false;
  const c10::DeviceGuard guard(t.device());
  return kernels_of(t.device(), t.scalar_type()).why_not.empty();
}

std::string cuda_kernels_report(int64_t device) {
  std::string why_not;
  try {
    const c10::Device on(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    const c10::DeviceGuard guard(on);
    at::empty({1}, at::TensorOptions(at::kFloat).device(on));  // the device's context
    why_not = kernels_of(on, at::kBFloat16).why_not;
  } catch (const std::exception& error) {  // a device that others fill up, say: that is what a report is for
    const std::string said = error.what();
    why_not = said.substr(0, said.find('\n'));
  }
  if (!why_not.empty()) return text("torch's operations between products (", why_not, ")");
  return "our own kernels between products, for float32, bfloat16 and float16 (compiled for this device)";
}

SortedChoices cuda_sort_choices(const Tensor& expert_A, const Tensor& gate_A, int64_t n_experts, int64_t k,
                                const Tensor& like_ND) {
  const auto n = expert_A.size(0);
  const auto longs = expert_A.options().dtype(at::kLong);
  const auto id_A = expert_A.contiguous(), gate = gate_A.to(at::kFloat).contiguous();
  SortedChoices out{at::empty({n}, longs), at::empty({n}, longs.dtype(at::kFloat)), at::empty({n}, longs),
                    at::empty({n_experts}, longs.dtype(at::kInt))};
  const c10::DeviceGuard guard(like_ND.device());
  launch(kernels_of(like_ND.device(), like_ND.scalar_type()).sort_choices, like_ND.device(),
         {n_experts + 1, 1, n > 512 ? 1024u : 256u}, pointer(id_A), pointer(gate), n, static_cast<int>(n_experts),
         static_cast<int>(k), to_write(out.token_A), to_write(out.gate_A), to_write(out.place_A), to_write(out.end_E));
  return out;
}

Tensor cuda_activate(ExpertKind kind, const Tensor& given_AH) {
  const auto h_AH = packed(given_AH);
  const auto A = h_AH.size(0), I = h_AH.size(1) / (kind == ExpertKind::swiglu ? 2 : 1);
  auto a_AI = at::empty({A, I}, h_AH.options());
  if (A == 0) return a_AI;
  const c10::DeviceGuard guard(h_AH.device());
  const auto& all = kernels_of(h_AH.device(), h_AH.scalar_type());
  const auto blocks = (A * I / lanes_of(h_AH) + 255) / 256;
  launch(kind == ExpertKind::swiglu ? all.activate_swiglu : all.activate_gelu, h_AH.device(),
         {std::min<int64_t>(blocks, 4096), 1, 256}, pointer(h_AH), to_write(a_AI), A, static_cast<int>(I));
  return a_AI;
}

CudaBackward cuda_activate_backward(ExpertKind kind, const Tensor& given_AH, const Tensor& q_given_AI,
                                    const Tensor& gate_given_A, bool wants_h, bool wants_gated, bool wants_gate) {
  const auto h_AH = packed(given_AH), q_AI = packed(q_given_AI), gate_A = gate_given_A.to(at::kFloat).contiguous();
  const auto A = q_AI.size(0), I = q_AI.size(1);
  CudaBackward out{wants_h ? at::empty_like(h_AH) : Tensor(), wants_gated ? at::empty_like(q_AI) : Tensor(),
                   wants_gate ? at::empty_like(gate_A) : Tensor()};
  if (A == 0) return out;
  const c10::DeviceGuard guard(h_AH.device());
  const auto& all = kernels_of(h_AH.device(), h_AH.scalar_type());
  launch(kind == ExpertKind::swiglu ? all.backward_swiglu : all.backward_gelu, h_AH.device(),
         {A, 1, threads_for(I, lanes_of(h_AH))}, pointer(h_AH), pointer(q_AI), pointer(gate_A), to_write(out.grad_h_AH),
         to_write(out.gated_AI), to_write(out.grad_gate_A), static_cast<int>(I));
  return out;
}

Tensor cuda_bag_sums(const Tensor& given_VD, const Tensor& index_given_R, const Tensor& first_given_B, int64_t n_bags,
                     const Tensor& weight_given_R) {
  const auto values_VD = packed(given_VD), index_R = index_given_R.contiguous();
  const auto first_B = first_given_B.defined() ? first_given_B.contiguous() : Tensor();
  const auto weight_R = weight_given_R.defined() ? weight_given_R.to(at::kFloat).contiguous() : Tensor();
  const auto D = values_VD.size(1), R = index_R.size(0);
  if (n_bags == 0 || R == 0) return at::zeros({n_bags, D}, values_VD.options());
  auto out_BD = at::empty({n_bags, D}, values_VD.options());
  const c10::DeviceGuard guard(values_VD.device());
  const auto lanes = lanes_of(values_VD);
  const auto threads = threads_for(D, lanes);
  launch(kernels_of(values_VD.device(), values_VD.scalar_type()).bag_sums, values_VD.device(),
         {n_bags, (D / lanes + threads - 1) / threads, threads}, pointer(values_VD), pointer(index_R), pointer(first_B),
         pointer(weight_R), to_write(out_BD), static_cast<int>(D), n_bags, R,
         first_B.defined() ? int64_t{0} : R / n_bags);
  return out_BD;
}

}  // namespace collegium::kernels
