// BytePairEncoding merges the bytes, or other symbols, of a piece of text into tokens of a
// vocabulary. It repeatedly merges the adjacent pair of the lowest rank, the leftmost of several.
// Immutable; any number of threads may use it, each with its own Scratch.
//
// Source: Sennrich et al., arXiv 1508.07909; on bytes: GPT-2.
#pragma once

#include <array>
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
    uint32_t rank = 0;  // lowest first
  };

  // When a byte without a token is dropped. If it is dropped before the merges, its neighbours may
  // merge.
  enum class UnknownByte { kDroppedBeforeMerges, kDroppedAfterMerges };

  // `byte_tokens`: the token of each single byte, -1 if the vocabulary has none. `merges` must not
  // contain a pair twice.
  BytePairEncoding(const std::array<int32_t, 256>& byte_tokens, const std::vector<Merge>& merges,
                   UnknownByte unknown_byte);

  // The token of a single byte; -1 if the vocabulary has none.
  int32_t byte_token(char byte) const { return byte_tokens_[static_cast<unsigned char>(byte)]; }

  class Scratch;

  // Appends the tokens of `piece` to `ids`, in O(n log n) time.
  void Encode(absl::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  // As Encode, for symbols that have tokens; fewer than 2^31.
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

// Scratch memory of one thread, reused from piece to piece.
class BytePairEncoding::Scratch {
 private:
  friend class BytePairEncoding;

  // A node in the linked list of a long piece; every merge removes one.
  struct Place {
    int32_t token;
    int32_t previous;  // -1 at the ends
    int32_t next;
  };
  // A possible merge; stale if one of its places has changed since.
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
