# Compile options of the files that hold one instruction set each. They share no header with inline functions, and
# they stay out of unity batches and precompiled headers, whose options differ.
set(_kernels ${CMAKE_SOURCE_DIR}/collegium/kernels)
set(_loops ${_kernels}/loops_plain.cpp ${_kernels}/loops_avx2.cpp ${_kernels}/loops_avx512.cpp
    ${_kernels}/loops_avx512_bf16.cpp)
set(_all_loops -O3 -ffp-contract=fast -Wno-psabi)
set_source_files_properties(${_loops} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON SKIP_PRECOMPILE_HEADERS ON
                            COMPILE_OPTIONS "${_all_loops}" OBJECT_DEPENDS "${_kernels}/loops_body.inc;${_kernels}/loops_scores.inc")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set_source_files_properties(${_kernels}/loops_avx2.cpp PROPERTIES COMPILE_OPTIONS "${_all_loops};-mavx2;-mfma")
  set_source_files_properties(${_kernels}/loops_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "${_all_loops};-mfma;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512")
  # GCC 12 takes the undefined operand of its own shuffle intrinsics for a mistake (its bug 105593).
  set_source_files_properties(${_kernels}/loops_avx512_bf16.cpp PROPERTIES COMPILE_OPTIONS
    "${_all_loops};-mfma;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512bf16;-mprefer-vector-width=512;-Wno-maybe-uninitialized")
  set_source_files_properties(${_kernels}/isas_portable.cpp PROPERTIES HEADER_FILE_ONLY ON)
else()
  set_source_files_properties(${_kernels}/loops_avx2.cpp ${_kernels}/loops_avx512.cpp ${_kernels}/loops_avx512_bf16.cpp
                              ${_kernels}/isas_x86.cpp
                              PROPERTIES HEADER_FILE_ONLY ON)
endif()
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set_source_files_properties(${_kernels}/pages_portable.cpp PROPERTIES HEADER_FILE_ONLY ON)
else()
  set_source_files_properties(${_kernels}/pages_linux.cpp PROPERTIES HEADER_FILE_ONLY ON)
endif()
# torch's wheel is built with NDEBUG, and one of its structures that this file reads has a member more without.
set_source_files_properties(${_kernels}/flops.cpp PROPERTIES COMPILE_DEFINITIONS NDEBUG SKIP_UNITY_BUILD_INCLUSION ON
                            SKIP_PRECOMPILE_HEADERS ON)
