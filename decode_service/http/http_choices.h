// HttpChoices are the generations of one request, one for each choice of its answer, that the
// thread of its HTTP connection waits for. The wait looks after the client: one that goes away
// cancels them at once, in whatever state they are. Used by the connection's thread alone.
#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "decode_service/generation.h"
#include "decode_service/http/openai_request.h"
#include "service/http_connection.h"

namespace kvship {

class HttpChoices {
 public:
  struct Message {
    size_t choice = 0;
    v1::GenerateResponse response;
  };

  // Of `generations`, at least one, which are shared with who ends them when the server stops.
  // Borrows the connection that asks for them. `deadline` is monotonic.
  HttpChoices(std::vector<std::shared_ptr<Generation>> generations, absl::Time deadline,
              HttpConnection& connection);
  // Cancels what was started and has not ended, and waits for its end.
  ~HttpChoices();

  // Starts the i-th generation with the request's i-th choice; all of them unless one is refused at
  // once. Call it first.
  void Start(const OpenAiRequest& request);
  // The next message, or how the request ended, which it does with the first choice that fails, or
  // the last one; kNothing if neither came by `until`, which is monotonic.
  ResponseBuffer::Next Take(absl::Time until, Message* message, absl::Status* end);

 private:
  class Signal;

  ResponseBuffer::Next TakeAny(Message* message, absl::Status* end);
  void CancelIfPointless();
  void Cancel();
  void Wait(absl::Time until);

  const absl::Time deadline_;
  HttpConnection& connection_;
  // Given when there is something to take. shared: the response buffers may speak up once more when
  // all has been read
  const std::shared_ptr<Signal> signal_;
  // Null once ended. shared: the decode batch may still hold them then
  std::vector<std::shared_ptr<Generation>> generations_;
  size_t num_running_ = 0;  // started, and not ended
  size_t next_ = 0;         // to be looked at
  bool failed_ = false;     // one of them, by itself or by being cancelled
  bool cancelled_ = false;
};

}  // namespace kvship
