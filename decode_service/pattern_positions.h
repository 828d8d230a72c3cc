// The positions of a regular expression, as Glushkov's automaton has them (Glushkov 1961, "The
// abstract theory of automata"): each is a place at which one character of a set stands. They tell
// what it costs to match. Pure; not thread safe.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace kvship {

struct CharacterRange {
  char32_t first, last;
};
// Not empty; ranges in their order, of which no two overlap.
using CharacterSet = std::vector<CharacterRange>;

class PatternPositions {
 public:
  using Indices = std::vector<size_t>;  // ascending
  // A part of the expression; made anew it is the empty one.
  struct Part {
    size_t begin = 0;  // its positions are those from here to the end of the part after it
    Indices first, last;
    bool may_be_empty = true;
  };

  // Parts are made from left to right, as they stand in the expression.
  Part OneOf(const CharacterSet& set);
  Part InTurn(Part a, const Part& b);
  static Part Either(Part a, const Part& b);
  // From `least` to `most` times, or, without it, as often as one likes; most >= 1. Of the part
  // made last.
  Part Repeated(const Part& part, size_t least, std::optional<size_t> most);

  size_t size() const { return sets_.size(); }
  // How many positions there are, one that takes others than ASCII's counted several times, times
  // how many of them a text may be at in one moment. kEndless: that takes long to tell.
  size_t Cost(const Part& whole) const;
  static constexpr size_t kEndless = 1 << 30;

 private:
  Part CopyOf(const Part& part, size_t num_positions);
  void Connect(absl::Span<const size_t> from, absl::Span<const size_t> to);
  std::optional<size_t> MostAtOnce(const Part& whole) const;

  std::vector<CharacterSet> sets_;
  std::vector<Indices> next_;  // of each: those that may stand behind it
};

}  // namespace kvship
