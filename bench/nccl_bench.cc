// The NCCL transport between two processes that share one GPU: how long a connect takes and how
// fast bytes move, checked one by one; then each end is killed in a transfer in turn, and the other
// has to answer within its deadline and, the sender, to go on with a new peer.
//
//   kvship-nccl-bench
//
// It starts itself three times more: as the sender, as the receiver that will be killed, and as the
// one that follows it. They exchange over sockets what in the services the request's stream
// carries. Two ranks on one GPU are for tests only: to NCCL they are two hosts with a slow network
// between them, and its rate here says nothing about NVLink or InfiniBand. Exits with 0 if all went
// as described, and within a minute whatever happens.
#include <cuda_runtime.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "bench/nccl_bench_processes.h"
#include "transport/nccl_cuda.h"
#include "transport/nccl_transport.h"

namespace kvship {
namespace {

constexpr size_t kNumBytes = size_t{256} << 20;
constexpr absl::Duration kTransferTime = absl::Seconds(10);  // deadline while measuring
constexpr absl::Duration kShortTime = absl::Seconds(2);      // deadline when the peer dies
constexpr int kLastTransfers = 4;                            // offered before somebody dies

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) GiveUp(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// What goes between the processes, in whole packets.
struct Message {
  enum Kind { kInvite, kAccepted, kOffer, kDone, kCheck, kDie } kind = kInvite;
  bool ok = false;
  NcclUniqueId id = {};
  NcclOffer offer = {};
  size_t begin = 0, num_bytes = 0;  // of the buffer
  uint64_t round = 0;
};

void Write(int socket, const Message& message) {
  // A peer that is gone shows where its answer is missed.
  (void)!::send(socket, &message, sizeof message, MSG_NOSIGNAL);
}

bool Read(int socket, Message* message) {
  return ::recv(socket, message, sizeof *message, 0) == sizeof *message;
}

// A buffer that is different in every round and at every place.
uint64_t Word(size_t i, uint64_t round) {
  return (i + (round << 32)) * 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
}

struct Side {
  std::unique_ptr<NcclTransport> transport;
  std::byte* device = nullptr;
  std::vector<uint64_t> host = std::vector<uint64_t>(kNumBytes / sizeof(uint64_t));
};

Side MakeSide() {
  PrepareNcclEnvironment();
  Side side;
  auto library = CreateNcclLibrary({});
  if (!library.ok()) GiveUp(library.status().ToString());
  Check(cudaMalloc(reinterpret_cast<void**>(&side.device), kNumBytes), "device memory");
  auto transport = NcclTransport::Create(*library, {.connect_timeout = absl::Seconds(15)});
  if (!transport.ok()) GiveUp(transport.status().ToString());
  side.transport = *std::move(transport);
  return side;
}

void SayCounters(NcclExecutor& executor) {
  const NcclSnapshot snapshot = executor.Snapshot();
  const NcclCounters& c = snapshot.counters;
  Say("connects %lu, rebuilds %lu, connect failures %lu, aborts %lu, transfers %lu, failed %lu, "
      "refused %lu, closing %zu, quarantined bytes %zu",
      c.connects, c.rebuilds, c.connect_failures, c.aborts, c.transfers, c.failed_transfers,
      c.refused_not_ready, snapshot.num_closing, snapshot.quarantined_bytes);
}

bool AwaitReady(NcclExecutor& executor, const std::string& peer) {
  const absl::Time give_up = MonotonicNow() + absl::Seconds(20);
  while (MonotonicNow() < give_up) {
    for (const NcclPeerSnapshot& one : executor.Snapshot().peers) {
      if (one.peer != peer) continue;
      if (one.state == NcclState::kReady) return true;
      if (one.state == NcclState::kFailed) return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// Waits until what was aborted has been drained, and says how long that took.
void AwaitDrained(NcclExecutor& executor) {
  const absl::Time begun = MonotonicNow();
  const bool closed = executor.AwaitClosed(absl::Seconds(10));
  Say("the abort %s after %.1f ms more",
      closed ? "has returned and its stream is drained" : "HANGS", Ms(MonotonicNow() - begun));
  if (!closed) GiveUp("the abort hangs");
}

void Connect(Side& side, int socket) {
  NcclExecutor& executor = side.transport->executor();
  size_t free_before = 0, free_after = 0, total = 0;
  Check(cudaMemGetInfo(&free_before, &total), "free memory");
  const absl::Time asked = MonotonicNow();
  absl::StatusOr<NcclUniqueId> id = executor.Invite("receiver");
  while (!id.ok() && MonotonicNow() - asked < absl::Seconds(10)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    id = executor.Invite("receiver");
  }
  if (!id.ok()) GiveUp(id.status().ToString());
  const absl::Time invited = MonotonicNow();
  Write(socket, {.kind = Message::kInvite, .id = *id});
  Message answer;
  if (!Read(socket, &answer) || !answer.ok) GiveUp("the receiver does not accept");
  if (!AwaitReady(executor, "receiver")) GiveUp("not connected");
  const absl::Time ready = MonotonicNow();
  Check(cudaMemGetInfo(&free_after, &total), "free memory");
  Say("connected and warm: %.1f ms until invited, %.1f ms from there; both processes took %.1f MB",
      Ms(invited - asked), Ms(ready - invited),
      (static_cast<double>(free_before) - static_cast<double>(free_after)) / 1e6);
}

// Moves the whole buffer once in pieces, as the services move a layer's, and has it checked.
// Returns the time from the first offer to the receiver's last word.
absl::Duration MoveBuffer(Side& side, int socket, size_t piece_bytes, uint64_t round) {
  for (size_t i = 0; i < side.host.size(); ++i) side.host[i] = Word(i, round);
  Check(cudaMemcpy(side.device, side.host.data(), kNumBytes, cudaMemcpyHostToDevice), "upload");
  NcclExecutor& executor = side.transport->executor();
  const uint64_t communicator = executor.ReadyCommunicator("receiver").value_or(0);
  constexpr size_t kWindow = 32;  // offers without an answer, so that no socket fills up
  const size_t num_pieces = kNumBytes / piece_bytes;
  const absl::Time begun = MonotonicNow();
  const auto on_sent = [](const absl::Status& status) {
    if (!status.ok()) GiveUp(status.ToString());
  };
  for (size_t num_offered = 0, num_done = 0; num_done < num_pieces;) {
    if (num_offered < num_pieces && num_offered - num_done < kWindow) {
      const auto offer = executor.Offer("receiver", communicator, begun + kTransferTime);
      if (!offer.ok()) GiveUp(offer.status().ToString());
      Write(socket, {.kind = Message::kOffer,
                     .offer = *offer,
                     .begin = num_offered++ * piece_bytes,
                     .num_bytes = piece_bytes});
      continue;
    }
    Message answer;
    if (!Read(socket, &answer) || !answer.ok) GiveUp("the receiver refuses or fails");
    if (answer.kind == Message::kDone) ++num_done;
    if (answer.kind != Message::kAccepted) continue;
    const absl::Status sent = executor.Send("receiver", answer.offer,
                                            {.bytes = {side.device + answer.begin, piece_bytes},
                                             .deadline = begun + kTransferTime,
                                             .on_done = on_sent});
    if (!sent.ok()) GiveUp(sent.ToString());
  }
  const absl::Duration took = MonotonicNow() - begun;
  Write(socket, {.kind = Message::kCheck, .round = round});
  Message checked;
  if (!Read(socket, &checked) || !checked.ok) GiveUp("the bytes that arrived are not those sent");
  return took;
}

void Measure(Side& side, int socket, int num_rounds) {
  static uint64_t round = 0;
  for (const size_t piece_bytes : {kNumBytes, kNumBytes / 8, kNumBytes / 256}) {
    std::vector<double> ms;
    ms.reserve(static_cast<size_t>(num_rounds));
    for (int i = 0; i < num_rounds; ++i) {
      ms.push_back(Ms(MoveBuffer(side, socket, piece_bytes, ++round)));
    }
    std::sort(ms.begin(), ms.end());
    const double median = ms[ms.size() / 2];
    Say("256 MiB in pieces of %4zu MiB: %.1f ms, %.2f GB/s (best %.1f ms, %d rounds, all bytes "
        "right)",
        piece_bytes >> 20, median, kNumBytes / median / 1e6, ms.front(), num_rounds);
  }
}

// Offers the whole buffer four times; of four that are accepted the last is issued on one side
// only. With `dies`, this process ends there.
void MoveUntilSomebodyDies(Side& side, int socket, bool dies) {
  NcclExecutor& executor = side.transport->executor();
  const uint64_t communicator = executor.ReadyCommunicator("receiver").value_or(0);
  Write(socket, {.kind = Message::kDie, .ok = !dies});
  std::atomic<int> num_answers{0};
  const absl::Time begun = MonotonicNow();
  for (int i = 0; i < kLastTransfers; ++i) {
    const auto offer = executor.Offer("receiver", communicator, begun + kShortTime);
    if (!offer.ok()) GiveUp(offer.status().ToString());
    Write(socket, {.kind = Message::kOffer, .offer = *offer, .num_bytes = kNumBytes});
  }
  for (int num_accepted = 0; num_accepted < kLastTransfers;) {
    Message answer;
    if (!Read(socket, &answer)) GiveUp("the receiver died too early");
    if (answer.kind != Message::kAccepted) continue;
    if (dies && ++num_accepted == kLastTransfers) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      Say("the sender is killed now, with its transfers under way");
      raise(SIGKILL);
    }
    num_accepted += dies ? 0 : 1;
    const auto on_done = [begun, &num_answers, i = num_accepted](const absl::Status& status) {
      Say("answer for transfer %d after %.1f ms: %s", i, Ms(MonotonicNow() - begun),
          status.ToString().c_str());
      ++num_answers;
    };
    const absl::Status sent = executor.Send(
        "receiver", answer.offer,
        {.bytes = {side.device, kNumBytes}, .deadline = begun + kShortTime, .on_done = on_done});
    if (!sent.ok()) on_done(sent);
  }
  while (num_answers < kLastTransfers) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  Say("all answered %.1f ms after the first offer; the deadline was %.0f ms",
      Ms(MonotonicNow() - begun), Ms(kShortTime));
  if (MonotonicNow() - begun > kShortTime + absl::Milliseconds(500)) GiveUp("too late");
}

int Send(int first_socket, int second_socket) {
  Side side = MakeSide();
  Connect(side, first_socket);
  Measure(side, first_socket, 3);
  MoveUntilSomebodyDies(side, first_socket, false);
  AwaitDrained(side.transport->executor());
  SayCounters(side.transport->executor());
  Connect(side, second_socket);
  Measure(side, second_socket, 1);
  SayCounters(side.transport->executor());
  MoveUntilSomebodyDies(side, second_socket, true);
  return 1;
}

bool IsRight(Side& side, uint64_t round) {
  Check(cudaMemcpy(side.host.data(), side.device, kNumBytes, cudaMemcpyDeviceToHost), "download");
  Check(cudaMemset(side.device, 0xFF, kNumBytes), "clearing");
  Check(cudaDeviceSynchronize(), "clearing");
  for (size_t i = 0; i < side.host.size(); ++i) {
    if (side.host[i] == Word(i, round)) continue;
    Say("word %zu of round %lu is wrong", i, round);
    return false;
  }
  return true;
}

// Serves until the sender is gone, or until it is told to die.
int Receive(int socket) {
  Side side = MakeSide();
  NcclExecutor& executor = side.transport->executor();
  bool dies = false, expects_death = false;
  int num_offers = 0, num_given = 0;
  std::atomic<int> num_answers{0};
  for (Message message; Read(socket, &message);) {
    if (message.kind == Message::kInvite) {
      const absl::Status accepted = executor.Accept("sender", message.id);
      Say("invited: %s", accepted.ToString().c_str());
      const bool ready = accepted.ok() && AwaitReady(executor, "sender");
      Write(socket, {.kind = Message::kAccepted, .ok = ready});
    } else if (message.kind == Message::kCheck) {
      Write(socket, {.kind = Message::kCheck, .ok = IsRight(side, message.round)});
    } else if (message.kind == Message::kDie) {
      dies = message.ok;
      expects_death = !dies;
      num_offers = 0;
    } else if (message.kind == Message::kOffer) {
      const absl::Time begun = MonotonicNow();
      Message done{.kind = Message::kDone, .offer = message.offer};
      const auto on_done = [&, begun, done](const absl::Status& status) mutable {
        if (expects_death) {
          Say("answer after %.1f ms: %s", Ms(MonotonicNow() - begun), status.ToString().c_str());
        }
        done.ok = status.ok();
        Write(socket, done);
        ++num_answers;
      };
      const bool is_last = ++num_offers == kLastTransfers;
      absl::Status accepted;
      if (!dies || !is_last) {
        ++num_given;
        accepted = executor.Receive(
            "sender", message.offer,
            {.bytes = {side.device + message.begin, message.num_bytes},
             .deadline = begun + (expects_death || dies ? kShortTime : kTransferTime),
             .on_done = on_done});
      }
      message.kind = Message::kAccepted;
      message.ok = accepted.ok();
      Write(socket, message);
      if (dies && is_last) {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        Say("the receiver is killed now, with its transfers under way");
        raise(SIGKILL);
      }
    }
  }
  if (!expects_death) GiveUp("the sender is gone");
  while (num_answers < num_given) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  AwaitDrained(executor);
  SayCounters(executor);
  return 0;
}

int Supervise() {
  int first[2], second[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, first) != 0 ||
      socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, second) != 0) {
    GiveUp("no sockets");
  }
  const std::vector<Child> children = {{"sender", SIGKILL, Start("sender", {first[0], second[0]})},
                                       {"receiver", SIGKILL, Start("receiver", {first[1]})},
                                       {"receiver-2", 0, Start("receiver-2", {second[1]})}};
  for (const int socket : {first[0], first[1], second[0], second[1]}) close(socket);
  const bool right = AwaitChildren(children);
  Say("%s", right ? "PASSED" : "FAILED");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  using namespace kvship;  // NOLINT: the whole program is in it
  if (argc == 1) return Supervise();
  alarm(kWatchdogSeconds);
  role = argv[1];
  start = absl::FromUnixNanos(std::atoll(argv[2]));
  StartLog(role, LogFormat::kText);
  return argc == 5 ? Send(std::atoi(argv[3]), std::atoi(argv[4])) : Receive(std::atoi(argv[3]));
}
