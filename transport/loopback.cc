#include "transport/loopback.h"

#include <algorithm>
#include <utility>

#include "base/random.h"

namespace kvship {

// One end; only a serving one is given out as more than a Channel. The network's mutex guards all
// of it but the events, which only the network's thread calls.
class LoopbackNetwork::End final : public FrameChannel, public std::enable_shared_from_this<End> {
 public:
  explicit End(LoopbackNetwork& network) : mutex_(network.mutex_), network_(network) {}

  void SendMessage(std::string message) override {
    Delivery delivery;
    delivery.message = std::move(message);
    Send(std::move(delivery));
  }

  void SendFrame(const FrameHeader& header, SharedBytes payload) override {
    Delivery delivery;
    delivery.is_frame = true;
    delivery.header = header;
    delivery.payload = std::move(payload);
    Send(std::move(delivery));
  }

  size_t unsent_bytes() const override {
    std::lock_guard lock(*mutex_);
    return num_unsent_bytes;
  }

  void Close(absl::Status status) override {
    std::lock_guard lock(*mutex_);
    if (closed && (status.ok() || !half_closed)) return;
    closed = true;
    half_closed = is_client && status.ok();
    const std::shared_ptr<End> other = peer.lock();
    if (other == nullptr) return;
    if (!status.ok()) {
      auto& queue = network_.queue_;
      queue.erase(std::remove_if(queue.begin(), queue.end(),
                                 [&](const Delivery& waiting) { return waiting.to == other; }),
                  queue.end());
    }
    for (const std::shared_ptr<End>& end : {other, shared_from_this()}) {
      // A client that closes with OK only says that it sends no more.
      if (half_closed) break;
      Delivery delivery;
      delivery.to = end;
      delivery.closes = true;
      delivery.status =
          is_client && end == other ? absl::CancelledError("the peer has cancelled") : status;
      network_.Post(std::move(delivery));
    }
  }

  void Hand(const Delivery& delivery) {
    if (delivery.is_frame) {
      const std::span<const std::byte> pieces[] = {delivery.payload.bytes};
      if (client != nullptr) client->OnFrame(delivery.header, pieces);
    } else {
      HandTo(client, delivery);
      HandTo(server, delivery);
    }
  }

  std::weak_ptr<End> peer;
  // What it has, by its side, until OnClosed. shared: with who opened or accepted it
  std::shared_ptr<ChannelEvents> client;
  std::shared_ptr<FrameChannelEvents> server;
  bool is_client = false;
  bool closed = false;
  bool half_closed = false;  // by the client: the server has not ended it yet
  size_t num_unsent_bytes = 0;

 private:
  template <class Events>
  static void HandTo(std::shared_ptr<Events>& events, const Delivery& delivery) {
    if (events == nullptr) return;
    if (!delivery.closes) return events->OnMessage(std::as_bytes(std::span(delivery.message)));
    events->OnClosed(delivery.status);
    events.reset();
  }

  void Send(Delivery delivery) {
    std::lock_guard lock(*mutex_);
    delivery.to = peer.lock();
    num_unsent_bytes += delivery.message.size() + delivery.payload.bytes.size();
    if (closed || delivery.to == nullptr) return;
    network_.Post(std::move(delivery));
  }

  const std::shared_ptr<std::mutex> mutex_;  // the network's; an end may outlive it
  LoopbackNetwork& network_;                 // gone where this is closed, perhaps
};

LoopbackNetwork::LoopbackNetwork(const Faults& faults)
    : faults_(faults), thread_([this] { Deliver(); }) {}

LoopbackNetwork::~LoopbackNetwork() {
  {
    std::lock_guard lock(*mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  {
    std::lock_guard lock(*mutex_);
    for (const std::shared_ptr<End>& end : open_) end->closed = true;
  }
  Delivery end;
  end.closes = true;
  end.status = absl::UnavailableError("the loopback network has ended");
  for (const std::shared_ptr<End>& open : open_) open->Hand(end);
}

std::shared_ptr<Channel> LoopbackNetwork::Open(std::shared_ptr<ChannelEvents> client,
                                               const Accept& accept) {
  auto near = std::make_shared<End>(*this);
  auto far = std::make_shared<End>(*this);
  near->peer = far;
  far->peer = near;
  near->is_client = true;
  near->client = std::move(client);
  far->server = accept(far);
  std::lock_guard lock(*mutex_);
  open_.push_back(near);
  open_.push_back(far);
  return near;
}

LoopbackNetwork::FaultCounts LoopbackNetwork::fault_counts() const {
  std::lock_guard lock(*mutex_);
  return fault_counts_;
}

void LoopbackNetwork::Pause(bool paused) {
  {
    std::lock_guard lock(*mutex_);
    paused_ = paused;
  }
  wake_.notify_all();
}

void LoopbackNetwork::Post(Delivery delivery) {
  queue_.push_back(std::move(delivery));
  wake_.notify_all();
}

void LoopbackNetwork::CutLocked(const std::shared_ptr<End>& end) {
  queue_.clear();
  for (const std::shared_ptr<End>& cut : {end, end->peer.lock()}) {
    if (cut == nullptr) continue;
    cut->closed = true;
    cut->half_closed = false;
    Delivery delivery;
    delivery.to = cut;
    delivery.closes = true;
    delivery.status = absl::UnavailableError("the loopback network cut the stream");
    queue_.push_back(std::move(delivery));
  }
}

bool LoopbackNetwork::MeetFaults(Delivery& frame) {
  const size_t index = num_frames_++;
  uint64_t draw = index * 8;
  auto happens = [&](double probability) {
    return UniformUnit(faults_.seed, draw++) < probability;
  };
  frame.is_fault_exempt = true;
  if (index == faults_.cut_before_frame) {
    ++fault_counts_.cut;
    CutLocked(frame.to);
    return false;
  }
  const bool drops = happens(faults_.drop);
  const bool corrupts = happens(faults_.corrupt);
  const bool truncates = happens(faults_.truncate);
  const bool duplicates = happens(faults_.duplicate);
  const bool reorders = happens(faults_.reorder);
  if (drops) {
    ++fault_counts_.dropped;
    return false;
  }
  std::span<const std::byte>& bytes = frame.payload.bytes;
  const uint64_t where = RandomBits(faults_.seed, ~draw);
  if (corrupts && !bytes.empty()) {
    auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
    (*copy)[where % copy->size()] ^= std::byte{1} << (where >> 32) % 8;
    frame.payload = {*copy, copy};
    ++fault_counts_.corrupted;
  }
  if (truncates && !bytes.empty()) {
    bytes = bytes.first(where % bytes.size());
    ++fault_counts_.truncated;
  }
  if (duplicates) {
    queue_.push_front(frame);
    ++fault_counts_.duplicated;
  }
  if (reorders && !queue_.empty()) {
    ++fault_counts_.reordered;
    queue_.insert(queue_.begin() + 1, std::move(frame));
    return false;
  }
  return true;
}

void LoopbackNetwork::Deliver() {
  std::unique_lock lock(*mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || (!paused_ && !queue_.empty()); });
    if (stopping_) return;
    Delivery delivery = std::move(queue_.front());
    queue_.pop_front();
    const std::shared_ptr<End> to = delivery.to;
    const std::shared_ptr<End> from = to->peer.lock();
    if (from != nullptr && !delivery.is_fault_exempt) {
      from->num_unsent_bytes -= delivery.message.size() + delivery.payload.bytes.size();
    }
    bool arrives = true;
    if (delivery.is_frame && !delivery.is_fault_exempt) {
      if (UniformUnit(~faults_.seed, num_frames_) < faults_.delay) {
        wake_.wait_for(lock, absl::ToChronoNanoseconds(faults_.delay_time),
                       [this] { return stopping_; });
      }
      arrives = MeetFaults(delivery);
    }
    if (delivery.closes) {
      to->closed = true;
      to->half_closed = false;
      open_.erase(std::remove(open_.begin(), open_.end(), to), open_.end());
    }
    lock.unlock();
    if (arrives) to->Hand(delivery);
    if (!delivery.closes && from != nullptr && from->server != nullptr) from->server->OnSent();
    lock.lock();
  }
}

}  // namespace kvship
