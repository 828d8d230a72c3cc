#include "transport/prefill_wire.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kvship/v1/prefill.pb.h"

namespace kvship {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using v1::KvFrame;
using v1::PrefillResponse;

// Protobuf's wire types (protobuf.dev, "Encoding").
enum WireType : uint32_t { kVarint = 0, kBytes = 2, kFixed32 = 5 };

constexpr uint32_t Tag(uint32_t field, WireType type) { return field << 3 | type; }

// Longer than the fields of any frame before its payload: 6 tags, 4 varints of
// up to 10 bytes, a checksum, 2 lengths.
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

// A field that is not known here. As protobuf's parser, and unlike its SkipField, it takes no
// number 0 and no length of more than 31 bits.
bool Skip(CodedInputStream& in, uint32_t tag) {
  if (tag >> 3 == 0) return false;
  if ((tag & 7) != kBytes) return WireFormatLite::SkipField(&in, tag);
  int num_bytes = 0;
  return in.ReadVarintSizeAsInt(&num_bytes) && in.Skip(num_bytes);
}

// The next `num_bytes`, where they lie; false if there are fewer.
bool TakePieces(CodedInputStream& in, int num_bytes,
                std::vector<std::span<const std::byte>>* pieces) {
  while (num_bytes > 0) {
    const void* data = nullptr;
    int piece_bytes = 0;
    if (!in.GetDirectBufferPointer(&data, &piece_bytes)) return false;
    piece_bytes = std::min(piece_bytes, num_bytes);
    pieces->emplace_back(static_cast<const std::byte*>(data), piece_bytes);
    in.Skip(piece_bytes);
    num_bytes -= piece_bytes;
  }
  return true;
}

// The fields from where `in` stands to its limit.
absl::Status ReadFrame(CodedInputStream& in, ReceivedResponse* out) {
  FrameHeader& header = out->header;
  uint32_t checksum_kind = 0;
  while (in.BytesUntilLimit() > 0) {
    const uint32_t tag = in.ReadTag();
    bool is_read = false;
    switch (tag) {
      case Tag(KvFrame::kSequenceFieldNumber, kVarint):
        is_read = in.ReadVarint32(&header.sequence);
        break;
      case Tag(KvFrame::kLayerFieldNumber, kVarint):
        is_read = in.ReadVarint32(&header.layer);
        break;
      case Tag(KvFrame::kOffsetFieldNumber, kVarint):
        is_read = in.ReadVarint64(&header.offset);
        break;
      case Tag(KvFrame::kChecksumKindFieldNumber, kVarint):
        is_read = in.ReadVarint32(&checksum_kind);
        break;
      case Tag(KvFrame::kChecksumFieldNumber, kFixed32):
        is_read = in.ReadLittleEndian32(&header.crc32c);
        break;
      case Tag(KvFrame::kPayloadFieldNumber, kBytes): {
        int num_bytes = 0;
        is_read = in.ReadVarintSizeAsInt(&num_bytes);
        if (is_read && static_cast<size_t>(num_bytes) > kMostFrameBytes) {
          return absl::DataLossError(
              absl::StrCat("a frame has ", num_bytes, " bytes; wanted at most ", kMostFrameBytes));
        }
        header.num_bytes = static_cast<uint32_t>(num_bytes);
        out->payload.clear();
        is_read = is_read && TakePieces(in, num_bytes, &out->payload);
        break;
      }
      default: is_read = Skip(in, tag);
    }
    if (!is_read) return Broken(absl::StrCat("its frame cannot be read at a tag ", tag));
  }
  if (checksum_kind != v1::CHECKSUM_CRC32C) {
    return absl::DataLossError(absl::StrCat("frame ", header.sequence, " has checksum_kind ",
                                            checksum_kind, "; wanted ", v1::CHECKSUM_CRC32C,
                                            " (CRC32C)"));
  }
  return absl::OkStatus();
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
  out.buffer = std::make_unique<grpc::ByteBuffer>(message);
  grpc::ProtoBufferReader stream(out.buffer.get());
  if (!stream.status().ok()) return Broken("its buffer cannot be read");
  CodedInputStream in(&stream);
  bool has_other = false;
  constexpr uint32_t kFrameTag = Tag(PrefillResponse::kFrameFieldNumber, kBytes);
  while (const uint32_t tag = in.ReadTag()) {
    if (tag != kFrameTag) {
      // The other kinds of message; a frame may have fields of later versions.
      has_other |= tag >> 3 <= PrefillResponse::kNcclFieldNumber;
      if (!Skip(in, tag)) {
        return Broken(absl::StrCat("it cannot be read at a tag ", tag));
      }
      continue;
    }
    if (out.is_frame) return Broken("it has two frames");
    out.is_frame = true;
    int num_bytes = 0;
    if (!in.ReadVarintSizeAsInt(&num_bytes)) return Broken("its frame has no length");
    const CodedInputStream::Limit limit = in.PushLimit(num_bytes);
    RETURN_IF_ERROR(ReadFrame(in, &out));
    in.PopLimit(limit);
  }
  if (!in.ConsumedEntireMessage()) return Broken("it ends inside a field, or has a tag 0");
  if (out.is_frame && has_other) return Broken("it has a frame and something else");
  if (!out.is_frame) out.bytes = FlatBytes(message);
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
