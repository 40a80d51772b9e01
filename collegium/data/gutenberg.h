// Plain-text editions from Project Gutenberg, without what Project Gutenberg wrote around them.
#pragma once
#include <string>
#include <string_view>

namespace collegium::data {

/// The work itself. Dropped are: everything up to the end of the header (the START line, or the end of the
/// "small print" of old files), the producer's credit after it, everything from the END line on, byte order mark,
/// carriage returns, DOS end-of-file marks, spaces at line ends, verse numbers in the right margin, dot leaders
/// that stand for an indent, and all but two of several blank lines. Ends in one newline; "" when nothing is left.
std::string clean_gutenberg(std::string_view text);

/// The first line that is not blank, without spaces around it.
std::string first_line(std::string_view text);

}  // namespace collegium::data
