#include "tests/transport/fake_nccl.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvship {

class FakeNccl::Communicator : public NcclCommunicator {
 public:
  Communicator(std::shared_ptr<Gpu> gpu, std::shared_ptr<Pair> pair, int rank)
      : gpu_(std::move(gpu)), network_(gpu_->network_), pair_(std::move(pair)), rank_(rank) {}
  ~Communicator() override {
    const std::lock_guard lock(network_.mutex_);
    if (!own().aborted) network_.Violation(gpu_->name_ + ": a communicator freed without abort");
  }

  absl::StatusOr<bool> Poll() override {
    const std::lock_guard lock(network_.mutex_);
    Enter("Poll");
    End* peer = pair_->ends[1 - rank_].get();
    if (peer != nullptr && peer->gpu->dead_ && peer->gpu->peers_see_it_) {
      return absl::UnavailableError("remote process exited");
    }
    if (own().operations.empty() &&
        (peer == nullptr || gpu_->never_connects_ || peer->gpu->dead_)) {
      return false;
    }
    return !std::exchange(own().busy, false);  // carried out at the second look
  }

  absl::Status WarmUp() override {
    const std::lock_guard lock(network_.mutex_);
    Enter("WarmUp");
    Issue({});
    return absl::OkStatus();
  }

  absl::Status Move(std::span<std::byte> bytes) override {
    std::unique_lock lock(network_.mutex_);
    Enter("Move");
    if (own().operations.empty()) network_.Violation(gpu_->name_ + ": Move before WarmUp");
    Issue(bytes);
    gpu_->in_stuck_call_ = gpu_->stuck_;
    gpu_->change_.notify_all();
    gpu_->change_.wait(lock, [this] { return !gpu_->stuck_; });
    gpu_->in_stuck_call_ = false;
    return absl::OkStatus();
  }

  absl::Status Mark(size_t mark) override {
    const std::lock_guard lock(network_.mutex_);
    Enter("Mark");
    if (own().busy)
      network_.Violation(gpu_->name_ + ": Mark before the operation is on the stream");
    own().marks[mark] = own().operations.size();
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Passed(size_t mark) override {
    const std::lock_guard lock(network_.mutex_);
    Enter("Passed");
    network_.Progress(*pair_);
    const size_t before = own().marks.at(mark);
    return std::all_of(own().operations.begin(), own().operations.begin() + before,
                       [](const Operation& operation) { return operation.done; });
  }

  void Abort() override {
    std::unique_lock lock(network_.mutex_);
    gpu_->change_.wait(lock, [this] { return !gpu_->aborts_hang_; });
    if (own().aborted) network_.Violation(gpu_->name_ + ": aborted twice");
    own().aborted = true;
    ++gpu_->num_aborts_;
    --gpu_->num_communicators_;
  }

  absl::Status Drain() override {
    const std::lock_guard lock(network_.mutex_);
    if (!own().aborted) network_.Violation(gpu_->name_ + ": Drain before Abort");
    for (const Operation& operation : own().operations) {
      if (operation.done || rank_ == 0) continue;
      std::fill(operation.bytes.begin(), operation.bytes.end(), kLateWrite);
    }
    return gpu_->drain_fault_;
  }

 private:
  End& own() { return *pair_->ends[rank_]; }

  void Enter(const char* call) {
    gpu_->CheckThread();
    if (own().aborted) network_.Violation(absl::StrCat(gpu_->name_, ": ", call, " after Abort"));
  }

  void Issue(std::span<std::byte> bytes) {
    if (own().busy && !own().operations.empty()) {
      network_.Violation(gpu_->name_ + ": issued before the last operation is on the stream");
    }
    own().operations.push_back({bytes, network_.now_()});
    own().busy = true;
    network_.Progress(*pair_);
  }

  const std::shared_ptr<Gpu> gpu_;
  FakeNccl& network_;
  const std::shared_ptr<Pair> pair_;
  const int rank_;
};

std::shared_ptr<FakeNccl::Gpu> FakeNccl::NewGpu(const std::string& name) {
  return std::make_shared<Gpu>(*this, name);
}

void FakeNccl::SetTransferTime(absl::Duration time) {
  const std::lock_guard lock(mutex_);
  transfer_time_ = time;
}

std::vector<std::string> FakeNccl::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

void FakeNccl::Progress(Pair& pair) {
  if (pair.ends[0] == nullptr || pair.ends[1] == nullptr) return;
  End& sender = *pair.ends[0];
  End& receiver = *pair.ends[1];
  if (sender.aborted || receiver.aborted || sender.gpu->dead_ || receiver.gpu->dead_) return;
  const size_t num_both = std::min(sender.operations.size(), receiver.operations.size());
  for (size_t i = 0; i < num_both; ++i) {
    Operation& from = sender.operations[i];
    Operation& to = receiver.operations[i];
    if (from.done) continue;
    const absl::Duration takes = from.bytes.empty() ? absl::ZeroDuration() : transfer_time_;
    if (now_() < std::max(from.issued, to.issued) + takes) return;
    if (from.bytes.size() != to.bytes.size()) {
      Violation(absl::StrCat("operation ", i, ": ", from.bytes.size(), " bytes sent, ",
                             to.bytes.size(), " expected"));
      return;
    }
    std::copy(from.bytes.begin(), from.bytes.end(), to.bytes.begin());
    from.done = to.done = true;
  }
}

void FakeNccl::Gpu::Die(bool peers_see_it) {
  const std::lock_guard lock(network_.mutex_);
  dead_ = true;
  peers_see_it_ = peers_see_it;
}

void FakeNccl::Gpu::SetStuck(bool stuck) {
  const std::lock_guard lock(network_.mutex_);
  stuck_ = stuck;
  change_.notify_all();
}

void FakeNccl::Gpu::SetAbortsHang(bool hang) {
  const std::lock_guard lock(network_.mutex_);
  aborts_hang_ = hang;
  change_.notify_all();
}

void FakeNccl::Gpu::AwaitStuck() {
  std::unique_lock lock(network_.mutex_);
  change_.wait(lock, [this] { return in_stuck_call_; });
}

size_t FakeNccl::Gpu::num_communicators() const {
  const std::lock_guard lock(network_.mutex_);
  return num_communicators_;
}

size_t FakeNccl::Gpu::most_communicators() const {
  const std::lock_guard lock(network_.mutex_);
  return most_communicators_;
}

size_t FakeNccl::Gpu::num_aborts() const {
  const std::lock_guard lock(network_.mutex_);
  return num_aborts_;
}

uint64_t FakeNccl::num_unique_ids() const {
  const std::lock_guard lock(mutex_);
  return num_ids_;
}

absl::StatusOr<NcclUniqueId> FakeNccl::Gpu::NewUniqueId() {
  std::unique_lock lock(network_.mutex_);
  if (const auto run = std::exchange(on_next_unique_id_, nullptr)) {
    lock.unlock();
    run();
    lock.lock();
  }
  NcclUniqueId id = {};
  const uint64_t number = ++network_.num_ids_;
  std::memcpy(id.data(), &number, sizeof number);
  return id;
}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> FakeNccl::Gpu::Connect(const NcclUniqueId& id,
                                                                         int rank) {
  const std::lock_guard lock(network_.mutex_);
  CheckThread();
  if (!connect_fault_.ok()) return connect_fault_;
  if (HasKernels()) network_.Violation(name_ + ": allocates while a kernel waits for its peer");
  std::shared_ptr<Pair>& pair = network_.pairs_[id];
  if (pair == nullptr) pair = std::make_shared<Pair>();
  if (pair->ends[rank] != nullptr) network_.Violation(name_ + ": a rank connected twice");
  pair->ends[rank] = std::make_unique<End>();
  pair->ends[rank]->gpu = shared_from_this();
  most_communicators_ = std::max(most_communicators_, ++num_communicators_);
  return std::make_unique<Communicator>(shared_from_this(), pair, rank);
}

void FakeNccl::Gpu::CheckThread() {
  if (thread_ == std::thread::id()) thread_ = std::this_thread::get_id();
  if (thread_ != std::this_thread::get_id()) {
    network_.Violation(name_ + ": calls from two threads");
  }
}

bool FakeNccl::Gpu::HasKernels() const {
  for (const auto& [id, pair] : network_.pairs_) {
    for (const std::unique_ptr<End>& end : pair->ends) {
      if (end == nullptr || end->gpu.get() != this || end->aborted) continue;
      for (const Operation& operation : end->operations) {
        if (!operation.done) return true;
      }
    }
  }
  return false;
}

}  // namespace kvship
