#include "decode_service/grammar/pattern_positions.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

namespace kvship {
namespace {

using Indices = PatternPositions::Indices;

void Add(absl::Span<const size_t> more, Indices* indices) {
  Indices all;
  std::set_union(indices->begin(), indices->end(), more.begin(), more.end(),
                 std::back_inserter(all));
  *indices = std::move(all);
}

bool Contains(const CharacterSet& set, char32_t c) {
  return std::any_of(set.begin(), set.end(), [c](const CharacterRange& range) {
    return range.first <= c && c <= range.last;
  });
}

bool HasMostLetters(const CharacterSet& set) {
  int num_letters = 0;
  for (char32_t letter = 'a'; letter <= 'z'; ++letter) num_letters += Contains(set, letter) ? 1 : 0;
  return num_letters > 13;
}

// One character of each class of characters that belong to the same sets.
std::set<char32_t> Representatives(absl::Span<const CharacterSet> sets) {
  std::set<char32_t> characters;
  for (const CharacterSet& set : sets) {
    for (const CharacterRange& range : set) {
      characters.insert(range.first);
      characters.insert(range.last + 1);
    }
  }
  return characters;
}

}  // namespace

PatternPositions::Part PatternPositions::OneOf(const CharacterSet& set) {
  const size_t index = size();
  sets_.push_back(set);
  next_.emplace_back();
  return {.begin = index, .first = {index}, .last = {index}, .may_be_empty = false};
}

void PatternPositions::Connect(absl::Span<const size_t> from, absl::Span<const size_t> to) {
  for (const size_t index : from) Add(to, &next_[index]);
}

PatternPositions::Part PatternPositions::InTurn(Part a, const Part& b) {
  Connect(a.last, b.first);
  if (a.may_be_empty) Add(b.first, &a.first);
  if (!b.may_be_empty) a.last.clear();
  Add(b.last, &a.last);
  a.may_be_empty = a.may_be_empty && b.may_be_empty;
  return a;
}

PatternPositions::Part PatternPositions::Either(Part a, const Part& b) {
  Add(b.first, &a.first);
  Add(b.last, &a.last);
  a.may_be_empty = a.may_be_empty || b.may_be_empty;
  return a;
}

PatternPositions::Part PatternPositions::CopyOf(const Part& part, size_t num_positions) {
  const size_t offset = size() - part.begin;
  const auto moved = [offset](Indices indices) {
    for (size_t& index : indices) index += offset;
    return indices;
  };
  for (size_t i = part.begin; i < part.begin + num_positions; ++i) {
    sets_.push_back(CharacterSet(sets_[i]));
    next_.push_back(moved(next_[i]));
  }
  return {part.begin + offset, moved(part.first), moved(part.last), part.may_be_empty};
}

PatternPositions::Part PatternPositions::Repeated(const Part& part, size_t least,
                                                  std::optional<size_t> most) {
  const size_t num_positions = size() - part.begin;
  const size_t times = most.value_or(std::max<size_t>(least, 1));
  std::vector<Part> copies = {part};
  // Copies must be made before they are connected.
  while (copies.size() < times) copies.push_back(CopyOf(part, num_positions));
  Part whole;
  whole.begin = part.begin;
  whole.first = part.first;
  whole.may_be_empty = least == 0 || part.may_be_empty;
  Indices ends;  // after which the next copy may follow
  for (size_t i = 0; i < times; ++i) {
    Connect(ends, copies[i].first);
    if (part.may_be_empty) {
      Add(copies[i].first, &whole.first);
    } else {
      ends.clear();
    }
    Add(copies[i].last, &ends);
    if (i + 1 >= least || part.may_be_empty) Add(copies[i].last, &whole.last);
  }
  if (!most) Connect(copies.back().last, copies.back().first);
  return whole;
}

PatternPositions::Cost PatternPositions::CostOf(const Part& whole) const {
  // More tokens of a vocabulary match a position of any letter than one of ASCII.
  constexpr size_t kOfAllLetters = 4;
  // Measured as CompileWork's. Most tokens are of small letters, half of them behind a space.
  constexpr size_t kOfAny = 200, kOfLetters = 3500, kOfSpace = 6000, kBeyondAscii = 3500;
  const std::optional<size_t> most = MostAtOnce(whole);
  if (!most) return {.steps = kEndless, .compile_microseconds = kEndless};
  Cost cost;
  const bool has_letters = std::any_of(sets_.begin(), sets_.end(), HasMostLetters);
  for (const CharacterSet& set : sets_) {
    const bool is_ascii = set.back().last < 0x80;
    cost.steps += is_ascii ? 1 : kOfAllLetters;
    cost.compile_microseconds += kOfAny;
    if (has_letters && Contains(set, ' ')) cost.compile_microseconds += kOfSpace;
    if (!HasMostLetters(set)) continue;
    cost.compile_microseconds += kOfLetters + (is_ascii ? 0 : kBeyondAscii);
  }
  const size_t at_once = std::max<size_t>(*most, 1);
  cost.steps *= at_once;
  cost.compile_microseconds += cost.compile_microseconds * (at_once - 1) / 10;
  return cost;
}

std::optional<size_t> PatternPositions::MostAtOnce(const Part& whole) const {
  constexpr size_t kMostSteps = 1'000'000;
  const std::set<char32_t> characters = Representatives(sets_);
  std::set<Indices> seen;
  std::vector<Indices> open;
  size_t most = 0, steps = 0;
  // Visits, for each character, the set of positions in `next` that it leads to.
  const auto go_on = [&](const Indices& next) {
    for (const char32_t c : characters) {
      Indices to;
      std::copy_if(next.begin(), next.end(), std::back_inserter(to),
                   [&](size_t index) { return Contains(sets_[index], c); });
      most = std::max(most, to.size());
      if (!to.empty() && seen.insert(to).second) open.push_back(std::move(to));
    }
    steps += characters.size() * next.size();
  };
  go_on(whole.first);
  // A token may begin anywhere.
  for (size_t i = 0; i < size(); ++i) go_on({i});
  while (!open.empty() && steps < kMostSteps) {
    const Indices from = std::move(open.back());
    open.pop_back();
    Indices next;
    for (const size_t index : from) {
      Add(next_[index], &next);
      steps += next.size();
    }
    go_on(next);
  }
  return open.empty() ? std::optional(most) : std::nullopt;
}

}  // namespace kvship
