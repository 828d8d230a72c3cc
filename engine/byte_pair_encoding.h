// BytePairEncoding joins the bytes, or other symbols, of one piece of text to the tokens of a
// vocabulary, by a ranked list of merges: again and again the adjacent pair of the lowest rank, the
// leftmost of equals. Immutable; any number of threads may use it, each with its own Scratch.
//
// Source: Sennrich et al., arXiv 1508.07909; on bytes: GPT-2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace kvship {

class BytePairEncoding {
 public:
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t joined = 0;
    uint32_t rank = 0;  // the lower, the earlier
  };

  // What becomes of a byte that has no token: nothing in both cases, but if it is dropped before
  // the merges, its neighbours may join.
  enum class UnknownByte { kDroppedBeforeMerges, kDroppedAfterMerges };

  // `byte_tokens`: the token of each single byte, -1 where the vocabulary has none. Of `merges` no
  // pair may be there twice.
  BytePairEncoding(const std::array<int32_t, 256>& byte_tokens, const std::vector<Merge>& merges,
                   UnknownByte unknown_byte);

  // -1 where the vocabulary has none.
  int32_t byte_token(char byte) const { return byte_tokens_[static_cast<unsigned char>(byte)]; }

  class Scratch;

  // Appends the tokens of `piece` to `ids`. The time grows as n log n.
  void Encode(absl::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  // The same of symbols that have tokens, fewer than 2^31.
  void Join(std::span<const int32_t> symbols, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Rule {
    uint32_t rank = kNoRank;
    int32_t joined = 0;
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;

  Rule Find(int32_t left, int32_t right) const;
  void JoinAll(Scratch& scratch, std::vector<int32_t>& ids) const;
  void JoinShort(Scratch& scratch) const;
  void JoinLong(Scratch& scratch) const;

  std::array<int32_t, 256> byte_tokens_;
  UnknownByte unknown_byte_;
  absl::flat_hash_map<uint64_t, Rule> rules_;  // by left and right token
};

// Working memory of one thread, used again from piece to piece.
class BytePairEncoding::Scratch {
 private:
  friend class BytePairEncoding;

  // A place in a long piece, in a list that loses a place with every merge.
  struct Place {
    int32_t token;
    int32_t previous;  // -1 at the ends
    int32_t next;
  };
  // A merge that could be done, unless one of its places has changed since.
  struct Candidate {
    uint32_t rank;
    int32_t place;  // of the left token
    int32_t left;
    int32_t right;
    int32_t joined;
  };

  std::vector<int32_t> tokens_;
  std::vector<Rule> pairs_;  // pairs_[i] joins tokens_[i] and tokens_[i + 1]
  std::vector<Place> places_;
  std::vector<Candidate> heap_;
};

}  // namespace kvship
