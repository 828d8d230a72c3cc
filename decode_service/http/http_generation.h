// HttpGeneration is a generation that the thread of its HTTP connection waits for. The wait looks
// after the client: one that goes away cancels its generation at once, in whatever state it is.
// Used by the connection's thread alone.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "decode_service/generation.h"
#include "service/http_connection.h"

namespace kvship {

class HttpGeneration {
 public:
  // Starts `generation`, which is shared with who ends it when the server stops. Borrows the
  // connection that asks for it. `deadline` is monotonic.
  HttpGeneration(std::shared_ptr<Generation> generation, const v1::GenerateRequest& request,
                 absl::Time deadline, HttpConnection& connection);
  // Cancels what has not ended, and waits for its end.
  ~HttpGeneration();

  // The next message or how the request ended; kNothing if neither came by `until`,
  // which is monotonic.
  ResponseBuffer::Next Take(absl::Time until, v1::GenerateResponse* message, absl::Status* end);

 private:
  class Signal;

  void CancelIfPointless();
  void Wait(absl::Time until);

  const absl::Time deadline_;
  HttpConnection& connection_;
  // Given when there is something to take. shared: the response buffer may speak up once more when
  // all has been read
  const std::shared_ptr<Signal> signal_;
  // shared: the decode batch may still hold it then
  const std::shared_ptr<Generation> generation_;
  bool cancelled_ = false;
  bool ended_ = false;
};

}  // namespace kvship
