#include "decode_service/http/http_choices.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace kvship {
namespace {

// Polling interval for what wakes no wait: a TLS goodbye from a client that keeps its socket.
constexpr absl::Duration kClientCheck = absl::Milliseconds(200);

// Names the choice, so that a client with many prompts knows which one failed.
absl::Status OfChoice(const absl::Status& error, size_t choice) {
  absl::Status named(error.code(), absl::StrCat(error.message(), " (choice ", choice, ")"));
  error.ForEachPayload([&named](absl::string_view type_url, const absl::Cord& payload) {
    named.SetPayload(type_url, payload);
  });
  return named;
}

}  // namespace

// A signal that ppoll can wait for beside a socket. If no descriptor is left, it wakes nobody, and
// waits end by kClientCheck.
class HttpChoices::Signal {
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

HttpChoices::HttpChoices(std::vector<std::shared_ptr<Generation>> generations, absl::Time deadline,
                         HttpConnection& connection)
    : deadline_(deadline),
      connection_(connection),
      signal_(std::make_shared<Signal>()),
      generations_(std::move(generations)) {}

HttpChoices::~HttpChoices() {
  Message message;
  absl::Status end;
  Cancel();
  while (num_running_ > 0) Take(absl::InfiniteFuture(), &message, &end);
}

void HttpChoices::Start(const OpenAiRequest& request) {
  bool goes_on = true;
  while (goes_on && !cancelled_ && num_running_ < generations_.size()) {
    Generation& generation = *generations_[num_running_];
    generation.responses().OnResponse([signal = signal_] { signal->Give(); },
                                      /*wants_all=*/!request.stream);
    goes_on = generation.Start(request.Choice(num_running_));
    ++num_running_;
    CancelIfPointless();  // reading many prompts takes time
  }
  if (!goes_on) {
    next_ = num_running_ - 1;  // report its refusal before the others' output
    return;
  }
  // Those that were cancelled before they started have an end too: without it, the others' would
  // pass for the request's.
  for (; num_running_ < generations_.size(); ++num_running_) {
    ResponseBuffer& responses = generations_[num_running_]->responses();
    responses.Fail(responses.why_cancelled());
  }
}

ResponseBuffer::Next HttpChoices::Take(absl::Time until, Message* message, absl::Status* end) {
  while (true) {
    const ResponseBuffer::Next next = TakeAny(message, end);
    if (next != ResponseBuffer::Next::kNothing || MonotonicNow() >= until) return next;
    CancelIfPointless();
    Wait(until);
  }
}

ResponseBuffer::Next HttpChoices::TakeAny(Message* message, absl::Status* end) {
  // Round robin, so that no choice starves.
  for (size_t looked = 0; looked < generations_.size(); ++looked) {
    message->choice = next_;
    next_ = (next_ + 1) % generations_.size();
    std::shared_ptr<Generation>& generation = generations_[message->choice];
    if (generation == nullptr) continue;
    const ResponseBuffer::Next next = generation->responses().Take(&message->response, end);
    if (next == ResponseBuffer::Next::kMessage) return next;
    if (next == ResponseBuffer::Next::kNothing) continue;
    generation = nullptr;
    failed_ |= !end->ok();
    if (!end->ok() && !cancelled_ && generations_.size() > 1) {
      *end = OfChoice(*end, message->choice);
    }
    if (--num_running_ == 0 || !end->ok()) return next;
  }
  return ResponseBuffer::Next::kNothing;
}

void HttpChoices::CancelIfPointless() {
  if (cancelled_) return;
  if (MonotonicNow() >= deadline_ || connection_.client_has_gone()) Cancel();
}

void HttpChoices::Cancel() {
  const bool by_choice = failed_ && !cancelled_ && MonotonicNow() < deadline_;
  cancelled_ = true;
  for (const auto& generation : generations_) {
    if (generation == nullptr) continue;
    by_choice ? generation->Cancel(absl::CancelledError("another choice of the request has failed"))
              : generation->Cancel();
  }
}

void HttpChoices::Wait(absl::Time until) {
  const absl::Time now = MonotonicNow();
  until = std::min(until, now + kClientCheck);
  if (!cancelled_) until = std::min(until, deadline_);
  // Do not wait for bytes on the socket: those of a pipelined request would end every wait at once.
  // Nor for a client that has gone.
  pollfd waited[] = {
      {.fd = cancelled_ ? -1 : connection_.socket(), .events = POLLRDHUP, .revents = 0},
      {.fd = signal_->descriptor(), .events = POLLIN, .revents = 0}};
  const timespec left = absl::ToTimespec(std::max(until - now, absl::ZeroDuration()));
  ppoll(waited, std::size(waited), &left, nullptr);
  signal_->Clear();
}

}  // namespace kvship
