# Writes built_from.h: the commit and the engine's source tree that a build is made of; both empty outside a repository,
# the second one where the source differs from the commit. Run at every build; an unchanged header is left alone.
cmake_minimum_required(VERSION 3.18)

function(ask out)
  execute_process(COMMAND git -C ${SOURCE} ${ARGN} OUTPUT_VARIABLE said RESULT_VARIABLE failed ERROR_QUIET
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed)
    set(said "")
  endif()
  set(${out} "${said}" PARENT_SCOPE)
endfunction()

ask(COMMIT describe --always --dirty --abbrev=12 --exclude *)
ask(CODE rev-parse HEAD:collegium)
execute_process(COMMAND git -C ${SOURCE} diff --quiet HEAD -- collegium RESULT_VARIABLE differs OUTPUT_QUIET ERROR_QUIET)
if(differs)
  set(CODE "")
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "// Made by cmake/built_from.cmake.
#pragma once
#define COLLEGIUM_COMMIT \"@COMMIT@\"
#define COLLEGIUM_CODE \"@CODE@\"
" @ONLY)
