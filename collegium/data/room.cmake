# tar.gz archives, the pre-tokenising expression, JSON and SHA-256 come from Debian's packages.
find_package(LibArchive REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(nlohmann_json REQUIRED)
find_path(PCRE2_INCLUDE pcre2.h REQUIRED)
find_library(PCRE2_LIBRARY pcre2-8 REQUIRED)
target_include_directories(collegium_data SYSTEM PRIVATE ${PCRE2_INCLUDE} ${LibArchive_INCLUDE_DIRS})
target_link_libraries(collegium_data PRIVATE LibArchive::LibArchive OpenSSL::Crypto nlohmann_json::nlohmann_json
                                             ${PCRE2_LIBRARY})
