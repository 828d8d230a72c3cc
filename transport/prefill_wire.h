// Writes and reads PrefillResponse messages in gRPC buffers. A frame is written around its payload
// and read in place, without a copy, yet it is an ordinary protobuf message that any gRPC client
// can parse. docs/wire.md has an example in bytes. Pure functions.
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

// Returns a PrefillResponse whose frame has `header` and `payload`. The buffer refers to the
// payload and keeps its owner alive.
grpc::ByteBuffer FrameMessage(const FrameHeader& header, SharedBytes payload);

// A received PrefillResponse: a frame, or the bytes of any other message.
struct ReceivedResponse {
  bool is_frame = false;
  FrameHeader header;
  std::vector<std::span<const std::byte>> payload;  // lies in `buffer`
  std::string bytes;
  std::unique_ptr<grpc::ByteBuffer> buffer;  // not movable, and stores short slices inline
};

// Parses a message of an untrusted peer. A frame's fields may be in any order; unknown fields are
// skipped. DataLoss if the bytes are no PrefillResponse or the checksum is of an unknown kind.
absl::StatusOr<ReceivedResponse> ReadResponse(const grpc::ByteBuffer& message);

// Copies the bytes of a message into one string.
std::string FlatBytes(const grpc::ByteBuffer& message);

}  // namespace kvship
