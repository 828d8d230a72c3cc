// HttpGeneration is a generation that the thread of its HTTP connection waits for. The wait looks
// after the client: one that goes away cancels its generation soon, in whatever state it is. Used
// by the connection's thread alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "decode_service/generation.h"
#include "decode_service/http/http_connection.h"

namespace kvship {

class HttpGeneration {
 public:
  // Starts it. Borrows all but `call`: `connection` asks for it; once `stopping` is set it is
  // cancelled.
  HttpGeneration(const Generation::Uses& uses, Generation::Call call,
                 const v1::GenerateRequest& request, HttpConnection& connection,
                 const std::atomic<bool>& stopping);
  // Cancels what has not ended, and waits for its end.
  ~HttpGeneration();

  // As Generation::trace.
  const TraceContext& trace() const { return generation_->trace(); }

  // The next message or how the request ended; kNothing if neither came by `until`,
  // which is monotonic.
  ResponseBuffer::Next Take(absl::Time until, v1::GenerateResponse* message, absl::Status* end);

 private:
  // Told when there is something to take.
  struct Signal {
    std::mutex mutex;
    std::condition_variable changed;
    bool given = false;
  };

  void CancelIfPointless();
  void Wait(absl::Time until);

  const absl::Time deadline_;
  HttpConnection& connection_;
  const std::atomic<bool>& stopping_;
  // shared: the response buffer may speak up once more when all has been read
  const std::shared_ptr<Signal> signal_ = std::make_shared<Signal>();
  // shared: the decode batch may still hold it then
  const std::shared_ptr<Generation> generation_;
  bool cancelled_ = false;
  bool ended_ = false;
};

}  // namespace kvship
