# cmake -DFOLDER=… -DOUTPUT=… -P embed.cmake: writes the page's files as byte arrays into one C++ header.
# The scripts of a page share one scope and are joined in this order: a file uses only what stands before it.
set(shared base.js plot.js heat.js sample.js report.js)

function(embed name)
  set(hex "")
  foreach(file ${ARGN})
    file(READ ${FOLDER}/${file} part HEX)
    string(APPEND hex "${part}")
  endforeach()
  string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
  set(text "${text}\ninline constexpr unsigned char ${name}[] = {\n${hex}};\n" PARENT_SCOPE)
endfunction()

set(text "// Made from web/ by embed.cmake.\n#pragma once\n\nnamespace collegium::web {\n")
embed(kPage page.html)
embed(kStyle report.css)
embed(kReportScript ${shared})
embed(kCompareScript ${shared} compare.js)
embed(kInspectScript ${shared} inspect.js)
file(WRITE ${OUTPUT} "${text}\n}  // namespace collegium::web\n")
