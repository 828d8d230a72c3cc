#include "decode_service/http/http_generation.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/clock.h"

namespace kvship {
namespace {

// How soon what ends no wait is noticed: a goodbye over TLS from a client that keeps its socket.
constexpr absl::Duration kClientCheck = absl::Milliseconds(200);

}  // namespace

// A signal that is waited for together with a socket. Where no descriptor is left, nobody hears it,
// and waits end by kClientCheck.
class HttpGeneration::Signal {
 public:
  Signal() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~Signal() { close(descriptor_); }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  void Give() { eventfd_write(descriptor_, 1); }
  void Clear() {
    eventfd_t num_given = 0;
    eventfd_read(descriptor_, &num_given);
  }
  int descriptor() const { return descriptor_; }

 private:
  const int descriptor_;
};

HttpGeneration::HttpGeneration(std::shared_ptr<Generation> generation,
                               const v1::GenerateRequest& request, absl::Time deadline,
                               HttpConnection& connection)
    : deadline_(deadline),
      connection_(connection),
      signal_(std::make_shared<Signal>()),
      generation_(std::move(generation)) {
  generation_->responses().OnResponse([signal = signal_] { signal->Give(); });
  generation_->Start(request);
}

HttpGeneration::~HttpGeneration() {
  v1::GenerateResponse message;
  absl::Status end;
  if (!ended_) generation_->Cancel();
  cancelled_ = true;
  while (!ended_) Take(absl::InfiniteFuture(), &message, &end);
}

ResponseBuffer::Next HttpGeneration::Take(absl::Time until, v1::GenerateResponse* message,
                                          absl::Status* end) {
  while (true) {
    const ResponseBuffer::Next next = generation_->responses().Take(message, end);
    ended_ |= next == ResponseBuffer::Next::kEnd;
    if (next != ResponseBuffer::Next::kNothing || MonotonicNow() >= until) return next;
    CancelIfPointless();
    Wait(until);
  }
}

void HttpGeneration::CancelIfPointless() {
  if (cancelled_) return;
  cancelled_ = MonotonicNow() >= deadline_ || connection_.client_has_gone();
  if (cancelled_) generation_->Cancel();
}

void HttpGeneration::Wait(absl::Time until) {
  const absl::Time now = MonotonicNow();
  until = std::min(until, now + kClientCheck);
  if (!cancelled_) until = std::min(until, deadline_);
  // Not for bytes on the socket: those of a next request would end every wait at once. Nor for the
  // client once it has gone.
  pollfd waited[] = {
      {.fd = cancelled_ ? -1 : connection_.socket(), .events = POLLRDHUP, .revents = 0},
      {.fd = signal_->descriptor(), .events = POLLIN, .revents = 0}};
  const timespec left = absl::ToTimespec(std::max(until - now, absl::ZeroDuration()));
  ppoll(waited, std::size(waited), &left, nullptr);
  signal_->Clear();
}

}  // namespace kvship
