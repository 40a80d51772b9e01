# toml++ is one header (Debian: libtomlplusplus-dev); only toml.cpp includes it.
find_path(TOMLPLUSPLUS_INCLUDE toml++/toml.h REQUIRED)
target_include_directories(collegium_recipe SYSTEM PRIVATE ${TOMLPLUSPLUS_INCLUDE})
set_source_files_properties(${CMAKE_SOURCE_DIR}/collegium/recipe/toml.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON
                            COMPILE_OPTIONS -DTOML_HEADER_ONLY=1)
