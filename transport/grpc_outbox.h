// GrpcOutbox holds the messages that wait for their turn in a gRPC stream, which takes one at a
// time. Not thread safe; the channel that owns it locks.
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

  // Counts a message that is never written.
  void Lose(const grpc::ByteBuffer& message) { num_bytes_ += message.Length(); }

  // The message to write now, valid until EndWrite; null while one is being written or none waits.
  const grpc::ByteBuffer* Next() {
    if (writing_ || messages_.empty()) return nullptr;
    writing_ = true;
    return &messages_.front();
  }

  // The network has taken the message of Next; if not `ok`, it never will.
  void EndWrite(bool ok) {
    writing_ = false;
    if (ok) num_bytes_ -= messages_.front().Length();
    messages_.pop_front();
  }

  // Drops what is not being written.
  void DropWaiting() { messages_.resize(writing_ ? 1 : 0); }

  bool empty() const { return messages_.empty(); }
  // Of all messages that have not been written, dropped and lost ones counted.
  size_t num_bytes() const { return num_bytes_; }

 private:
  std::deque<grpc::ByteBuffer> messages_;
  size_t num_bytes_ = 0;
  bool writing_ = false;
};

}  // namespace kvship
