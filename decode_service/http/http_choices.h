// HttpChoices runs the generations of one HTTP request, one for each choice of its response, and
// lets the connection's thread wait for them. The wait also watches the client: if it disconnects,
// all are cancelled at once, in whatever state. Used only by the connection's thread.
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

  // `generations`, at least one, are shared with the server, which ends them when it stops. Borrows
  // the connection that asks for them. `deadline` is monotonic.
  HttpChoices(std::vector<std::shared_ptr<Generation>> generations, absl::Time deadline,
              HttpConnection& connection);
  // Cancels started generations that have not ended, and waits for their end.
  ~HttpChoices();

  // Starts the i-th generation with the request's i-th choice, in order, until one is refused at
  // once, or the client has gone or the deadline has passed: the others then fail with that. Call
  // it first.
  void Start(const OpenAiRequest& request);
  // Returns the next message, or the request's end: it ends with the first choice that fails, else
  // with the last one. kNothing if neither came by `until`, which is monotonic.
  ResponseBuffer::Next Take(absl::Time until, Message* message, absl::Status* end);

 private:
  class Signal;

  ResponseBuffer::Next TakeAny(Message* message, absl::Status* end);
  void CancelIfPointless();
  void Cancel();
  void Wait(absl::Time until);

  const absl::Time deadline_;
  HttpConnection& connection_;
  // Raised when there is something to take. shared: the response buffers may raise it once more
  // after all has been read
  const std::shared_ptr<Signal> signal_;
  // Null once ended. shared: the decode batch may then still hold them
  std::vector<std::shared_ptr<Generation>> generations_;
  size_t num_running_ = 0;  // started or failed before, and their end not taken
  size_t next_ = 0;         // polled next
  bool failed_ = false;     // one of them failed or was cancelled
  bool cancelled_ = false;
};

}  // namespace kvship
