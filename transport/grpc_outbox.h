// GrpcOutbox is the send queue of a gRPC stream, which allows one write at a time. Not thread safe:
// the channel that owns it locks.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <deque>

namespace kvship {

class GrpcOutbox {
 public:
  void Push(grpc::ByteBuffer message) {
    num_bytes_ += message.Length();
    messages_.push_back(std::move(message));
  }

  // Counts a message that is dropped instead of queued.
  void Lose(const grpc::ByteBuffer& message) { num_bytes_ += message.Length(); }

  // Returns the message to write now, valid until EndWrite; null if a write is in progress or the
  // queue is empty.
  const grpc::ByteBuffer* Next() {
    if (writing_ || messages_.empty()) return nullptr;
    writing_ = true;
    return &messages_.front();
  }

  // Ends the write of Next's message. If not `ok`, the network never took it.
  void EndWrite(bool ok) {
    writing_ = false;
    if (ok) num_bytes_ -= messages_.front().Length();
    messages_.pop_front();
  }

  // Drops all messages but the one being written.
  void DropWaiting() { messages_.resize(writing_ ? 1 : 0); }

  bool empty() const { return messages_.empty(); }
  // Bytes of all messages not written, dropped and lost ones included.
  size_t num_bytes() const { return num_bytes_; }

 private:
  std::deque<grpc::ByteBuffer> messages_;
  size_t num_bytes_ = 0;
  bool writing_ = false;
};

}  // namespace kvship
