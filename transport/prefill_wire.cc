#include "transport/prefill_wire.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kvship/v1/prefill.pb.h"

namespace kvship {
namespace {

using v1::KvFrame;
using v1::PrefillResponse;

// Protobuf's wire types (protobuf.dev, "Encoding").
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

constexpr uint32_t Tag(uint32_t field, WireType type) { return field << 3 | type; }

// Longer than the fields of any frame before its payload: 6 tags, 4 varints of up to 10 bytes, a
// checksum, 2 lengths.
constexpr size_t kMostPrefixBytes = 64;

class PrefixWriter {
 public:
  void Varint(uint64_t value) {
    while (value >= 0x80) {
      bytes_[num_bytes_++] = static_cast<uint8_t>(value | 0x80);
      value >>= 7;
    }
    bytes_[num_bytes_++] = static_cast<uint8_t>(value);
  }
  // As protobuf does: fields that have their default value are left out.
  void VarintField(uint32_t field, uint64_t value) {
    if (value == 0) return;
    Varint(Tag(field, kVarint));
    Varint(value);
  }
  void Fixed32Field(uint32_t field, uint32_t value) {
    if (value == 0) return;
    Varint(Tag(field, kFixed32));
    for (int shift = 0; shift < 32; shift += 8) {
      bytes_[num_bytes_++] = static_cast<uint8_t>(value >> shift);
    }
  }
  void Append(const PrefixWriter& other) {
    std::memcpy(bytes_.data() + num_bytes_, other.bytes_.data(), other.num_bytes_);
    num_bytes_ += other.num_bytes_;
  }
  const uint8_t* data() const { return bytes_.data(); }
  size_t num_bytes() const { return num_bytes_; }

 private:
  std::array<uint8_t, kMostPrefixBytes> bytes_;
  size_t num_bytes_ = 0;
};

// A slice that refers to `shared` until the last user of the slice is done.
grpc::Slice SliceOf(SharedBytes shared) {
  auto* owner = new std::shared_ptr<const void>(std::move(shared.owner));
  return grpc::Slice(
      const_cast<std::byte*>(shared.bytes.data()), shared.bytes.size(),
      [](void* held) { delete static_cast<std::shared_ptr<const void>*>(held); }, owner);
}

absl::Status Broken(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("a message is no PrefillResponse: ", what));
}

// Reads protobuf fields from bytes that lie in several pieces.
class PieceReader {
 public:
  explicit PieceReader(BytePieces pieces) : pieces_(pieces) {
    for (auto piece : pieces) remaining_ += piece.size();
  }

  size_t remaining() const { return remaining_; }

  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (remaining_ == 0) return Broken("it ends inside a number");
      const auto byte = static_cast<uint8_t>(NextByte());
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    return Broken("a number has more than 10 bytes");
  }

  absl::StatusOr<uint32_t> FieldTag() {
    ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    if (tag >> 3 == 0 || tag > UINT32_MAX) return Broken(absl::StrCat("it has a tag ", tag));
    return static_cast<uint32_t>(tag);
  }

  absl::StatusOr<uint32_t> Fixed32() {
    if (remaining_ < 4) return Broken("it ends inside a number");
    uint32_t value = 0;
    for (int shift = 0; shift < 32; shift += 8) {
      value |= static_cast<uint32_t>(NextByte()) << shift;
    }
    return value;
  }

  absl::StatusOr<uint64_t> Length() {
    ASSIGN_OR_RETURN(const uint64_t length, Varint());
    if (length > remaining_) {
      return Broken(absl::StrCat("a field of ", length, " bytes has only ", remaining_));
    }
    return length;
  }

  // The next `num_bytes`, at most remaining(), as pieces; `taken` may be null.
  void Take(uint64_t num_bytes, std::vector<std::span<const std::byte>>* taken) {
    remaining_ -= num_bytes;
    while (num_bytes > 0) {
      const size_t n = std::min<uint64_t>(num_bytes, pieces_[piece_].size() - offset_);
      if (taken != nullptr && n > 0) taken->push_back(pieces_[piece_].subspan(offset_, n));
      num_bytes -= n;
      Advance(n);
    }
  }

  absl::Status Skip(uint32_t wire_type) {
    switch (wire_type) {
      case kVarint: return Varint().status();
      case kFixed32: return SkipBytes(4);
      case kFixed64: return SkipBytes(8);
      case kBytes: {
        ASSIGN_OR_RETURN(const uint64_t length, Length());
        return SkipBytes(length);
      }
      default: return Broken(absl::StrCat("it has a field of wire type ", wire_type));
    }
  }

 private:
  absl::Status SkipBytes(uint64_t num_bytes) {
    if (num_bytes > remaining_) return Broken("it ends inside a field");
    Take(num_bytes, nullptr);
    return absl::OkStatus();
  }
  std::byte NextByte() {
    while (offset_ == pieces_[piece_].size()) Advance(0);
    const std::byte byte = pieces_[piece_][offset_];
    --remaining_;
    Advance(1);
    return byte;
  }
  void Advance(size_t num_bytes) {
    offset_ += num_bytes;
    if (offset_ == pieces_[piece_].size() && piece_ + 1 < pieces_.size()) {
      ++piece_;
      offset_ = 0;
    }
  }

  const BytePieces pieces_;
  size_t piece_ = 0;
  size_t offset_ = 0;  // in the piece
  size_t remaining_ = 0;
};

absl::Status ReadFrame(PieceReader& reader, ReceivedResponse* out) {
  uint64_t checksum_kind = 0;
  while (reader.remaining() > 0) {
    ASSIGN_OR_RETURN(const uint32_t tag, reader.FieldTag());
    switch (tag) {
      case Tag(KvFrame::kSequenceFieldNumber, kVarint): {
        ASSIGN_OR_RETURN(const uint64_t sequence, reader.Varint());
        out->header.sequence = static_cast<uint32_t>(sequence);
        break;
      }
      case Tag(KvFrame::kLayerFieldNumber, kVarint): {
        ASSIGN_OR_RETURN(const uint64_t layer, reader.Varint());
        out->header.layer = static_cast<uint32_t>(layer);
        break;
      }
      case Tag(KvFrame::kOffsetFieldNumber, kVarint): {
        ASSIGN_OR_RETURN(out->header.offset, reader.Varint());
        break;
      }
      case Tag(KvFrame::kChecksumKindFieldNumber, kVarint): {
        ASSIGN_OR_RETURN(checksum_kind, reader.Varint());
        break;
      }
      case Tag(KvFrame::kChecksumFieldNumber, kFixed32): {
        ASSIGN_OR_RETURN(out->header.crc32c, reader.Fixed32());
        break;
      }
      case Tag(KvFrame::kPayloadFieldNumber, kBytes): {
        ASSIGN_OR_RETURN(const uint64_t num_bytes, reader.Length());
        if (num_bytes > kMostFrameBytes) {
          return absl::DataLossError(
              absl::StrCat("a frame has ", num_bytes, " bytes; wanted at most ", kMostFrameBytes));
        }
        out->header.num_bytes = static_cast<uint32_t>(num_bytes);
        out->payload.clear();
        reader.Take(num_bytes, &out->payload);
        break;
      }
      default: RETURN_IF_ERROR(reader.Skip(tag & 7));
    }
  }
  if (checksum_kind != v1::CHECKSUM_CRC32C) {
    return absl::DataLossError(absl::StrCat("frame ", out->header.sequence, " has checksum_kind ",
                                            checksum_kind, "; wanted ", v1::CHECKSUM_CRC32C,
                                            " (CRC32C)"));
  }
  return absl::OkStatus();
}

std::string Flatten(BytePieces pieces) {
  std::string bytes;
  for (auto piece : pieces) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return bytes;
}

}  // namespace

grpc::ByteBuffer FrameMessage(const FrameHeader& header, SharedBytes payload) {
  PrefixWriter fields;
  fields.VarintField(KvFrame::kSequenceFieldNumber, header.sequence);
  fields.VarintField(KvFrame::kLayerFieldNumber, header.layer);
  fields.VarintField(KvFrame::kOffsetFieldNumber, header.offset);
  fields.VarintField(KvFrame::kChecksumKindFieldNumber, v1::CHECKSUM_CRC32C);
  fields.Fixed32Field(KvFrame::kChecksumFieldNumber, header.crc32c);
  fields.Varint(Tag(KvFrame::kPayloadFieldNumber, kBytes));
  fields.Varint(payload.bytes.size());

  PrefixWriter prefix;
  prefix.Varint(Tag(PrefillResponse::kFrameFieldNumber, kBytes));
  prefix.Varint(fields.num_bytes() + payload.bytes.size());
  prefix.Append(fields);
  const std::array<grpc::Slice, 2> slices = {grpc::Slice(prefix.data(), prefix.num_bytes()),
                                             SliceOf(std::move(payload))};
  return grpc::ByteBuffer(slices.data(), slices.size());
}

absl::StatusOr<ReceivedResponse> ReadResponse(const grpc::ByteBuffer& message) {
  ReceivedResponse out;
  if (!message.Dump(&out.slices).ok()) return Broken("its buffer cannot be read");
  std::vector<std::span<const std::byte>> pieces;
  for (const grpc::Slice& slice : out.slices) {
    if (slice.size() > 0) pieces.push_back(std::as_bytes(std::span(slice.begin(), slice.size())));
  }
  PieceReader reader(pieces);
  bool has_other = false;
  constexpr uint32_t kFrameTag = Tag(PrefillResponse::kFrameFieldNumber, kBytes);
  while (reader.remaining() > 0) {
    ASSIGN_OR_RETURN(const uint32_t tag, reader.FieldTag());
    if (tag != kFrameTag) {
      has_other |= tag < kFrameTag;  // the other kinds of message have smaller field numbers
      RETURN_IF_ERROR(reader.Skip(tag & 7));
      continue;
    }
    if (out.is_frame) return Broken("it has two frames");
    out.is_frame = true;
    ASSIGN_OR_RETURN(const uint64_t num_bytes, reader.Length());
    std::vector<std::span<const std::byte>> frame;
    reader.Take(num_bytes, &frame);
    PieceReader frame_reader(frame);
    RETURN_IF_ERROR(ReadFrame(frame_reader, &out));
  }
  if (out.is_frame && has_other) return Broken("it has a frame and something else");
  if (!out.is_frame) {
    out.bytes = Flatten(pieces);
    out.slices.clear();
  }
  return out;
}

std::string FlatBytes(const grpc::ByteBuffer& message) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!message.Dump(&slices).ok()) return bytes;
  bytes.reserve(message.Length());
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace kvship
