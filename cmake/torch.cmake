# libtorch from a Python wheel: -DTorch_DIR=… when given, else the torch that PYTHON (default .venv, then python3) imports.
if(NOT Torch_DIR)
  set(_python $ENV{PYTHON})
  if(NOT _python AND EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
    set(_python ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  endif()
  if(NOT _python)
    set(_python python3)
  endif()
  execute_process(COMMAND ${_python} -c "import torch; print(torch.utils.cmake_prefix_path)"
                  OUTPUT_VARIABLE _prefix OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _failed)
  if(_failed)
    message(FATAL_ERROR "no torch found with ${_python}; run 'tools/setup.sh', or set PYTHON or Torch_DIR")
  endif()
  set(Torch_DIR ${_prefix}/Torch CACHE PATH "where TorchConfig.cmake is")
endif()
# TorchConfig.cmake itself is not used: that of a CUDA build demands a CUDA toolkit, and nothing here compiles CUDA code.
get_filename_component(TORCH_INSTALL_PREFIX ${Torch_DIR}/../../.. ABSOLUTE)
if(NOT EXISTS ${Torch_DIR}/TorchConfigVersion.cmake)
  message(FATAL_ERROR "Torch_DIR=${Torch_DIR}: no torch there (TorchConfigVersion.cmake is missing)")
endif()
include(${Torch_DIR}/TorchConfigVersion.cmake)
if(PACKAGE_VERSION VERSION_LESS 2.6)
  message(FATAL_ERROR "torch ${PACKAGE_VERSION} found, 2.6 or newer needed")
endif()
message(STATUS "torch ${PACKAGE_VERSION} in ${TORCH_INSTALL_PREFIX}")
set(TORCH_INCLUDE_DIRS ${TORCH_INSTALL_PREFIX}/include ${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include)
set(TORCH_LIBRARIES ${TORCH_INSTALL_PREFIX}/lib/libtorch.so ${TORCH_INSTALL_PREFIX}/lib/libtorch_cpu.so
    ${TORCH_INSTALL_PREFIX}/lib/libc10.so)
# libtorch.so of a CUDA build brings libtorch_cuda.so, whose kernels register themselves when it is loaded: it must stay
# linked though nothing calls it. The CUDA libraries behind it are found when the program runs, not here.
# libstdc++ comes first: the wheels' libraries also export parts of an older one (std::filesystem), which would be found
# before it; torch 2.11's std::filesystem::remove_all then jumps to nowhere.
set(TORCH_LINK_OPTIONS LINKER:--no-as-needed -lstdc++ LINKER:--allow-shlib-undefined)
# Wheels before 2.7 may have the old ABI of std::string.
file(STRINGS ${Torch_DIR}/TorchConfig.cmake _abi REGEX "_GLIBCXX_USE_CXX11_ABI=[01]")
if(_abi)
  string(REGEX MATCH "_GLIBCXX_USE_CXX11_ABI=[01]" _abi "${_abi}")
  add_compile_definitions(${_abi})
endif()

# at::parallel_for runs serially unless our own files are compiled for OpenMP, and a second OpenMP runtime beside
# torch's would start a second pool of threads. So: compile with -fopenmp, link the runtime that the wheel brings.
add_library(collegium_openmp INTERFACE)
target_compile_options(collegium_openmp INTERFACE -fopenmp)
file(GLOB _gomp ${TORCH_INSTALL_PREFIX}/lib/libgomp*.so* ${TORCH_INSTALL_PREFIX}/../torch.libs/libgomp*.so*)
if(_gomp)
  list(GET _gomp 0 _gomp)
  target_link_libraries(collegium_openmp INTERFACE ${_gomp})
else()
  target_link_options(collegium_openmp INTERFACE -fopenmp)
endif()
