// Tables for a terminal or a pipe: columns aligned by what a reader sees, numbers to the right.
//
// Widths are counted in terminal cells: accents that combine take none, Chinese, Japanese, Korean and emoji
// take two, colour codes take none.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace collegium {

/// Terminal cells that `utf8` takes. Bytes that are no UTF-8 count one cell each.
size_t display_width(std::string_view utf8);

/// The longest beginning of `utf8` that takes at most `width` cells; ends in `ellipsis` when something was cut
/// and the ellipsis itself fits.
std::string shorten(std::string_view utf8, size_t width, std::string_view ellipsis = "…");

/// `utf8` broken at spaces into lines of at most `width` cells; longer words are cut. Never empty.
std::vector<std::string> wrap_words(std::string_view utf8, size_t width);

/// Whether a cell reads as a number, perhaps with a unit: "12", "-3.5e-4", "1,024", "98 %", "1.5x", "3.2 GiB".
bool looks_numeric(std::string_view cell);

/// `value` with so many digits after the point: fixed_text(2.345, 1) is "2.3".
std::string fixed_text(double value, int digits);

/// `value` with at most so many digits in all: significant_text(2.345, 2) is "2.3", significant_text(2.0, 2) is "2".
std::string significant_text(double value, int digits);

enum class Align {
  automatic,  ///< right when every cell that is not empty looks numeric, else left
  left,
  right
};

struct TableStyle {
  size_t width = 0;     ///< cells to fit into, by wrapping the widest column of text; 0 = as wide as it takes
  bool color = false;   ///< header in bold
  bool unicode = true;  ///< "─" below the header, else "-"
};

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header);

  /// Alignment of one column; automatic unless set. Throws std::logic_error for a column that is not there.
  void align(size_t column, Align how);
  /// Adds a row; a short one is filled with empty cells, a longer one than the header is a std::logic_error.
  void row(std::vector<std::string> cells);

  size_t n_rows() const { return rows_.size(); }
  /// Header, rule and rows, each line ended by "\n" and without spaces at its end.
  std::string render(const TableStyle& style = {}) const;

 private:
  bool is_right(size_t column) const;
  std::vector<size_t> widths(const TableStyle& style) const;

  std::vector<std::string> header_;
  std::vector<Align> align_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace collegium
