#include "decode_service/decode_loop.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"

namespace kvship {

DecodeLoop::DecodeLoop(Decoder& decoder, ThreadPool& threads, DecodeMetrics& metrics,
                       size_t max_batch_sessions)
    : decoder_(decoder),
      threads_(threads),
      metrics_(metrics),
      max_batch_sessions_(max_batch_sessions),
      thread_(StartThread("the decode loop", [this] { Run(); })) {}

DecodeLoop::~DecodeLoop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DecodeLoop::Join(std::unique_ptr<Session> session) {
  session->responses()->OnReader([this] { Wake(); });
  {
    std::lock_guard lock(mutex_);
    joined_.push_back(std::move(session));
  }
  wake_.notify_one();
}

void DecodeLoop::Wake() {
  {
    std::lock_guard lock(mutex_);
    woken_ = true;
  }
  wake_.notify_one();
}

absl::Status DecodeLoop::CheckProgress(absl::Duration most) const {
  return heartbeat_.Check("the decode batch", most);
}

void DecodeLoop::Run() {
  pthread_setname_np(pthread_self(), "decode_loop");
  while (TakeJoined()) {
    SweepEnded();
    const std::vector<Session*> batch = NextBatch();
    idle_ = batch.empty();
    idle_ ? WatchDevice() : Step(batch);
  }
  for (const auto& session : sessions_) {
    if (!session->ended()) session->Fail(absl::UnavailableError("the server is shutting down"));
  }
  sessions_.clear();
}

bool DecodeLoop::TakeJoined() {
  std::unique_lock lock(mutex_);
  if (idle_) {
    wake_.wait_for(lock, absl::ToChronoMilliseconds(Heartbeat::kPeriod),
                   [this] { return stop_ || woken_ || !joined_.empty(); });
  }
  woken_ = false;
  for (auto& session : joined_) sessions_.push_back(std::move(session));
  joined_.clear();
  heartbeat_.Beat();
  return !stop_;
}

void DecodeLoop::SweepEnded() {
  for (const auto& session : sessions_) {
    if (!session->ended() && session->cancelled()) {
      session->Fail(session->responses()->why_cancelled());
    }
  }
  std::erase_if(sessions_, [](const auto& session) { return session->ended(); });
  metrics_.SetSessions(sessions_.size());
}

std::vector<Session*> DecodeLoop::NextBatch() {
  std::vector<Session*> batch;
  for (const auto& session : sessions_) {
    if (batch.size() == max_batch_sessions_) break;
    if (session->can_run()) {
      batch.push_back(session.get());
    } else {
      session->WaitForReader();
    }
  }
  if (batch.size() == max_batch_sessions_) {
    std::stable_partition(sessions_.begin(), sessions_.end(), [&batch](const auto& session) {
      return std::find(batch.begin(), batch.end(), session.get()) == batch.end();
    });
  }
  return batch;
}

void DecodeLoop::Step(const std::vector<Session*>& batch) {
  std::vector<Decoder::Item> items;
  items.reserve(batch.size());
  for (const Session* session : batch) items.push_back(session->item());
  absl::Status status = UnlessOutOfMemory([&] { return decoder_.Step(items); });
  if (!status.ok()) {
    LogError(absl::StrCat("a decode step failed: ", status.ToString()));
    if (!absl::IsResourceExhausted(status)) status = absl::InternalError(status.message());
    WatchDevice();
  }
  metrics_.ObserveBatch(batch.size());
  if (!status.ok()) {
    for (Session* session : batch) session->Fail(status);
    return;
  }
  const std::vector<absl::StatusOr<OutputToken>> drawn = Draw(batch, items);
  for (size_t i = 0; i < batch.size(); ++i) {
    Session& session = *batch[i];
    if (!drawn[i].ok()) {
      session.Fail(drawn[i].status());
      continue;
    }
    const absl::Time before = session.last_token_time();
    const bool reader_was_slow = session.waits_for_reader();
    const absl::Status taken = UnlessOutOfMemory([&] {
      session.Take(*drawn[i]);
      return absl::OkStatus();
    });
    if (!taken.ok() && !session.ended()) session.Fail(taken);
    announcer_.Add(session.responses());
    const absl::Time now = session.last_token_time();  // unchanged if no token was taken
    if (now != before && !reader_was_slow) metrics_.ObserveBetweenTokens(now - before);
  }
}

std::vector<absl::StatusOr<OutputToken>> DecodeLoop::Draw(const std::vector<Session*>& batch,
                                                          std::span<const Decoder::Item> items) {
  std::vector<absl::StatusOr<OutputToken>> drawn(batch.size());
  std::vector<size_t> from_logits;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (items[i].wants_logits) {
      from_logits.push_back(i);
    } else {
      drawn[i] = OutputToken{.token = decoder_.drawn(i), .logprob = 0, .top = {}};
    }
  }
  threads_.ParallelFor(from_logits.size(), [&](size_t task) {
    const size_t i = from_logits[task];
    // As many numbers as the vocabulary has tokens.
    const absl::Status memory = UnlessOutOfMemory([&] {
      drawn[i] = batch[i]->Draw(decoder_.logits(i));
      return absl::OkStatus();
    });
    if (!memory.ok()) drawn[i] = memory;
  });
  return drawn;
}

void DecodeLoop::WatchDevice() {
  if (heartbeat_.device_lost()) return;
  const absl::Status status = decoder_.CheckDevice();
  if (status.ok()) return;
  LogError(absl::StrCat("the GPU is lost: ", status.message()));
  heartbeat_.LoseDevice();
}

}  // namespace kvship
