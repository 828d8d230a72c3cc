// FakeNccl is NCCL and the GPUs it connects, in one process and in host memory: operations of two
// ranks match by their order, as NCCL's do, and end when a clock says so. Gpus fail as a test wants
// them to, and what no caller of NCCL may do is noted. Thread safe; outlives its GPUs' work.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "transport/nccl_device.h"

namespace kvship {

class FakeNccl {
 public:
  using Clock = std::function<absl::Time()>;
  class Gpu;

  // What a late writer leaves in a buffer when its stream is drained.
  static constexpr std::byte kLateWrite{0xEE};

  explicit FakeNccl(Clock now) : now_(std::move(now)) {}

  // shared: as every NcclLibrary is
  std::shared_ptr<Gpu> NewGpu(const std::string& name);

  // From the moment both ends have issued an operation until it has ended; warm-ups
  // take no time.
  void SetTransferTime(absl::Duration time);
  uint64_t num_unique_ids() const;
  // What was done that must not be: allocating beside a kernel that waits for its peer, counts that
  // differ, calls after an abort or from two threads, ...
  std::vector<std::string> violations() const;

 private:
  friend class Gpu;
  struct Operation {
    std::span<std::byte> bytes;
    absl::Time issued;
    bool done = false;
  };
  struct End {
    std::shared_ptr<Gpu> gpu;  // shared: with its communicators, as long as they are
    std::vector<Operation> operations;
    std::map<size_t, size_t> marks;  // operations before each
    bool busy = true;                // the last call is still being carried out
    bool aborted = false;
  };
  struct Pair {
    std::unique_ptr<End> ends[2];
  };
  class Communicator;

  // Ends what is due.
  void Progress(Pair& pair);
  void Violation(const std::string& what) { violations_.push_back(what); }

  const Clock now_;
  mutable std::mutex mutex_;
  absl::Duration transfer_time_ = absl::ZeroDuration();
  uint64_t num_ids_ = 0;
  std::map<NcclUniqueId, std::shared_ptr<Pair>> pairs_;  // shared: with both communicators
  std::vector<std::string> violations_;
};

class FakeNccl::Gpu : public NcclLibrary, public std::enable_shared_from_this<Gpu> {
 public:
  Gpu(FakeNccl& network, std::string name) : network_(network), name_(std::move(name)) {}

  // Faults. The process is gone: nothing it has issued goes on. `peers_see_it`, as they do on a
  // network; over NVLink they never learn.
  void Die(bool peers_see_it);
  // Connect fails, or never gets further.
  void SetConnectFault(const absl::Status& status) { Set(connect_fault_, status); }
  void SetNeverConnects(bool never) { Set(never_connects_, never); }
  // Calls of Move do not return while set; AwaitStuck returns when one has been made.
  void SetStuck(bool stuck);
  void AwaitStuck();
  // Calls of Abort do not return while set.
  void SetAbortsHang(bool hang);
  // Drain fails: nobody knows whether the device has stopped.
  void SetDrainFault(const absl::Status& status) { Set(drain_fault_, status); }

  // Runs within the next NewUniqueId, as if another thread had come first.
  void OnNextUniqueId(const std::function<void()>& run) { Set(on_next_unique_id_, run); }

  // From here on all calls come from another thread.
  void MoveToAnotherThread() { Set(thread_, std::thread::id()); }

  // Communicators that are there now, and that have been at the same time.
  size_t num_communicators() const;
  size_t most_communicators() const;
  size_t num_aborts() const;

  absl::Status AttachThread() override { return absl::OkStatus(); }
  absl::StatusOr<NcclUniqueId> NewUniqueId() override;
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclUniqueId& id,
                                                            int rank) override;

 private:
  friend class FakeNccl;
  friend class FakeNccl::Communicator;
  template <class T>
  void Set(T& field, const T& value) {
    const std::lock_guard lock(network_.mutex_);
    field = value;
  }
  // Notes calls from two threads; the network's mutex is held.
  void CheckThread();
  bool HasKernels() const;

  FakeNccl& network_;
  const std::string name_;
  std::condition_variable change_;
  std::thread::id thread_;
  bool dead_ = false;
  bool peers_see_it_ = false;
  absl::Status connect_fault_;
  std::function<void()> on_next_unique_id_;
  absl::Status drain_fault_;
  bool never_connects_ = false;
  bool aborts_hang_ = false;
  bool stuck_ = false;
  bool in_stuck_call_ = false;
  size_t num_communicators_ = 0;
  size_t most_communicators_ = 0;
  size_t num_aborts_ = 0;
};

}  // namespace kvship
