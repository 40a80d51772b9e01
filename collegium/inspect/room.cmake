# The pages' markup, style and scripts are compiled in, so that the program needs no file beside it.
find_path(NLOHMANN_JSON_INCLUDE nlohmann/json.hpp REQUIRED)
target_include_directories(collegium_inspect SYSTEM PUBLIC ${NLOHMANN_JSON_INCLUDE})

set(_web ${CMAKE_SOURCE_DIR}/web)
set(_assets ${CMAKE_BINARY_DIR}/embedded/web/page_assets.h)
file(GLOB _web_files CONFIGURE_DEPENDS ${_web}/*.html ${_web}/*.css ${_web}/*.js)
add_custom_command(
  OUTPUT ${_assets}
  COMMAND ${CMAKE_COMMAND} -DFOLDER=${_web} -DOUTPUT=${_assets} -P ${_web}/embed.cmake
  DEPENDS ${_web_files} ${_web}/embed.cmake
  COMMENT "Embedding web/"
  VERBATIM)
target_sources(collegium_inspect PRIVATE ${_assets})
target_include_directories(collegium_inspect PRIVATE ${CMAKE_BINARY_DIR}/embedded)
