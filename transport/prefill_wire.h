// The bytes of PrefillResponse messages in gRPC buffers: a frame is written around its payload and
// read in place, without copying it, and is at the same time an ordinary protobuf message that any
// gRPC client can parse. docs/wire.md has an example in bytes. Pure functions.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "base/frame_header.h"

namespace kvship {

// A PrefillResponse whose frame has `header` and `payload`. The buffer refers to the payload and
// keeps its owner alive.
grpc::ByteBuffer FrameMessage(const FrameHeader& header, SharedBytes payload);

// A received PrefillResponse: a frame, or the bytes of any other message.
struct ReceivedResponse {
  bool is_frame = false;
  FrameHeader header;
  std::vector<std::span<const std::byte>> payload;  // lies in `buffer`
  std::string bytes;
  std::unique_ptr<grpc::ByteBuffer> buffer;  // which has no move, and holds short pieces itself
};

// Reads a message from whatever peer. A frame may have its fields in any order; unknown fields are
// skipped. DataLoss if the bytes are no PrefillResponse or the checksum is of an unknown kind.
absl::StatusOr<ReceivedResponse> ReadResponse(const grpc::ByteBuffer& message);

// The bytes of a message as one piece.
std::string FlatBytes(const grpc::ByteBuffer& message);

}  // namespace kvship
