// PatternPositions builds Glushkov's automaton of a regular expression (Glushkov 1961, "The
// abstract theory of automata"). A position is a place for one character of a set. The positions
// tell the cost of matching. Not thread safe.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace kvship {

struct CharacterRange {
  char32_t first, last;
};
// Not empty; ascending ranges that do not overlap.
using CharacterSet = std::vector<CharacterRange>;

class PatternPositions {
 public:
  using Indices = std::vector<size_t>;  // ascending
  // A part of the expression; by default the empty one.
  struct Part {
    size_t begin = 0;  // its positions reach from here to the end of the part after it
    Indices first, last;
    bool may_be_empty = true;
  };

  // Parts must be created from left to right, as they stand in the expression.
  Part OneOf(const CharacterSet& set);
  Part InTurn(Part a, const Part& b);
  static Part Either(Part a, const Part& b);
  // Repeats the part created last, `least` to `most` times; without `most`, without limit. `most`
  // must be at least 1.
  Part Repeated(const Part& part, size_t least, std::optional<size_t> most);

  size_t size() const { return sets_.size(); }
  struct Cost {
    // The number of positions (non-ASCII ones count several times) times the number that a text may
    // be at simultaneously. kEndless: too many to compute quickly.
    size_t steps = 0;
    size_t compile_microseconds = 0;  // as CompileWork's, of this pattern alone
  };
  Cost CostOf(const Part& whole) const;
  static constexpr size_t kEndless = 1 << 30;

 private:
  Part CopyOf(const Part& part, size_t num_positions);
  void Connect(absl::Span<const size_t> from, absl::Span<const size_t> to);
  std::optional<size_t> MostAtOnce(const Part& whole) const;

  std::vector<CharacterSet> sets_;
  std::vector<Indices> next_;  // for each position: those that may follow it
};

}  // namespace kvship
