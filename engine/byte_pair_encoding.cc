#include "engine/byte_pair_encoding.h"

#include <algorithm>
#include <cassert>

namespace kvship {
namespace {

// Up to this many bytes, looking at all pairs for each merge is faster than keeping a heap; most
// pieces are words of 4 to 10 bytes.
constexpr size_t kShortPieceBytes = 64;

constexpr int32_t kGone = -2;  // the token of a place that a merge took out

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

BytePairEncoding::BytePairEncoding(const std::array<int32_t, 256>& byte_tokens,
                                   const std::vector<Merge>& merges, UnknownByte unknown_byte)
    : byte_tokens_(byte_tokens), unknown_byte_(unknown_byte) {
  rules_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const Rule rule = {merge.rank, merge.joined};
    [[maybe_unused]] const bool is_new =
        rules_.emplace(PairKey(merge.left, merge.right), rule).second;
    assert(is_new);
  }
}

BytePairEncoding::Rule BytePairEncoding::Find(int32_t left, int32_t right) const {
  const auto found = rules_.find(PairKey(left, right));
  return found == rules_.end() ? Rule{} : found->second;
}

void BytePairEncoding::Encode(absl::string_view piece, Scratch& scratch,
                              std::vector<int32_t>& ids) const {
  // Places are 32-bit numbers; a longer piece is cut, far beyond any context.
  constexpr size_t kMaxPieceBytes = size_t{1} << 30;
  while (piece.size() > kMaxPieceBytes) {
    Encode(piece.substr(0, kMaxPieceBytes), scratch, ids);
    piece.remove_prefix(kMaxPieceBytes);
  }
  std::vector<int32_t>& tokens = scratch.tokens_;
  tokens.clear();
  for (const char byte : piece) {
    const int32_t token = byte_token(byte);
    if (token >= 0 || unknown_byte_ == UnknownByte::kDroppedAfterMerges) tokens.push_back(token);
  }
  JoinAll(scratch, ids);
}

void BytePairEncoding::Join(std::span<const int32_t> symbols, Scratch& scratch,
                            std::vector<int32_t>& ids) const {
  scratch.tokens_.assign(symbols.begin(), symbols.end());
  JoinAll(scratch, ids);
}

void BytePairEncoding::JoinAll(Scratch& scratch, std::vector<int32_t>& ids) const {
  if (scratch.tokens_.size() <= kShortPieceBytes) {
    JoinShort(scratch);
  } else {
    JoinLong(scratch);
  }
  for (const int32_t token : scratch.tokens_) {
    if (token >= 0) ids.push_back(token);
  }
}

void BytePairEncoding::JoinShort(Scratch& scratch) const {
  std::vector<int32_t>& tokens = scratch.tokens_;
  std::vector<Rule>& pairs = scratch.pairs_;
  pairs.clear();
  for (size_t i = 0; i + 1 < tokens.size(); ++i) pairs.push_back(Find(tokens[i], tokens[i + 1]));
  while (!pairs.empty()) {
    const auto best = std::min_element(
        pairs.begin(), pairs.end(), [](const Rule& a, const Rule& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    const size_t i = best - pairs.begin();
    tokens[i] = best->joined;
    tokens.erase(tokens.begin() + i + 1);
    pairs.erase(best);
    if (i > 0) pairs[i - 1] = Find(tokens[i - 1], tokens[i]);
    if (i < pairs.size()) pairs[i] = Find(tokens[i], tokens[i + 1]);
  }
}

void BytePairEncoding::JoinLong(Scratch& scratch) const {
  std::vector<Scratch::Place>& places = scratch.places_;
  std::vector<Scratch::Candidate>& heap = scratch.heap_;
  const auto num_places = static_cast<int32_t>(scratch.tokens_.size());
  places.resize(num_places);
  for (int32_t i = 0; i < num_places; ++i) {
    places[i] = {scratch.tokens_[i], i - 1, i + 1 < num_places ? i + 1 : -1};
  }

  const auto is_worse = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
  };
  const auto add_candidate = [&](int32_t place) {
    if (place < 0 || places[place].next < 0) return false;
    const int32_t left = places[place].token;
    const int32_t right = places[places[place].next].token;
    const Rule rule = Find(left, right);
    if (rule.rank == kNoRank) return false;
    heap.push_back({rule.rank, place, left, right, rule.joined});
    return true;
  };
  heap.clear();
  for (int32_t i = 0; i < num_places; ++i) add_candidate(i);
  std::make_heap(heap.begin(), heap.end(), is_worse);

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), is_worse);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Place& left = places[best.place];
    // A place that was merged into its left neighbour has no token any more.
    if (left.token != best.left || left.next < 0 || places[left.next].token != best.right) continue;
    Scratch::Place& right = places[left.next];
    left.token = best.joined;
    left.next = right.next;
    right = {kGone, -1, -1};
    if (left.next >= 0) places[left.next].previous = best.place;
    for (const int32_t changed : {left.previous, best.place}) {
      if (add_candidate(changed)) std::push_heap(heap.begin(), heap.end(), is_worse);
    }
  }

  scratch.tokens_.clear();
  for (int32_t i = 0; i >= 0; i = places[i].next) scratch.tokens_.push_back(places[i].token);
}

}  // namespace kvship
