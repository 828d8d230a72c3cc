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
namespace {

// A batch waits so long for what its outputs' structures allow, which takes microseconds, mostly.
constexpr absl::Duration kStructurePatience = absl::Milliseconds(2);

// Threads that find it. Each takes a processor from the steps of a CPU.
constexpr size_t kMostFollowers = 4;

}  // namespace

DecodeLoop::DecodeLoop(Decoder& decoder, ThreadPool& threads, DecodeMetrics& metrics,
                       size_t max_batch_sessions)
    : decoder_(decoder),
      threads_(threads),
      metrics_(metrics),
      max_batch_sessions_(max_batch_sessions),
      followers_(std::min(threads.num_threads(), kMostFollowers), /*most_bytes=*/0),
      thread_(StartThread("the decode loop", [this] { Run(); })) {}

DecodeLoop::~DecodeLoop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DecodeLoop::Join(std::shared_ptr<Session> session) {
  session->responses()->OnReader([this] { Wake(); });
  FollowStructure(*session);
  const absl::Status memory = UnlessOutOfMemory([&] {
    std::lock_guard lock(mutex_);
    joined_.push_back(session);
    return absl::OkStatus();
  });
  if (!memory.ok()) {
    session->Fail(memory);
    return session->Close();
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
    DrawTokens(LateDraws());  // before the step, in which those sessions take part
    SweepEnded();
    const std::vector<Session*> batch = NextBatch();
    idle_ = batch.empty();
    idle_ ? WatchDevice() : DrawTokens(Step(batch));
  }
  for (const auto& session : sessions_) {
    if (!session->ended()) session->Fail(absl::UnavailableError("the server is shutting down"));
    Close(session);
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
    if (session->ended()) Close(session);
  }
  std::erase_if(sessions_, [](const auto& session) { return session->ended(); });
  metrics_.SetSessions(sessions_.size());
}

// Not here: the last response is written, and the prompt that waited for the memory is sent.
void DecodeLoop::Close(const std::shared_ptr<Session>& session) {
  const absl::Status memory = UnlessOutOfMemory([&] {
    ends_.Run([session] { session->Close(); });
    return absl::OkStatus();
  });
  if (!memory.ok()) session->Close();
}

std::vector<Session*> DecodeLoop::NextBatch() {
  std::vector<Session*> batch;
  for (const auto& session : sessions_) {
    if (batch.size() == max_batch_sessions_) break;
    if (!session->has_room()) {
      session->WaitForReader();
    } else if (session->kept_logits().empty()) {
      batch.push_back(session.get());
    }
  }
  if (batch.size() == max_batch_sessions_) {
    std::stable_partition(sessions_.begin(), sessions_.end(), [&batch](const auto& session) {
      return std::find(batch.begin(), batch.end(), session.get()) == batch.end();
    });
  }
  return batch;
}

std::vector<DecodeLoop::Draw> DecodeLoop::LateDraws() const {
  std::vector<Draw> draws;
  for (const auto& session : sessions_) {
    if (!session->kept_logits().empty() && session->structure()->IsKnown()) {
      draws.push_back({.session = session.get(), .item = std::nullopt});
    }
  }
  return draws;
}

std::vector<DecodeLoop::Draw> DecodeLoop::Step(const std::vector<Session*>& batch) {
  std::vector<Draw> draws;
  std::vector<Decoder::Item> items;
  items.reserve(batch.size());
  for (const Session* session : batch) items.push_back(session->item());
  absl::Status status = UnlessOutOfMemory([&] { return decoder_.Step(items); });
  if (!status.ok()) {
    LogError(absl::StrCat("a decode step failed: ", status.ToString()));
    if (!absl::IsResourceExhausted(status)) status = absl::InternalError(status.message());
    WatchDevice();
    for (Session* session : batch) session->Fail(status);
    return draws;
  }
  metrics_.ObserveBatch(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    Draw& draw = draws.emplace_back(Draw{.session = batch[i], .item = i});
    if (items[i].wants_logits) continue;
    const int32_t drawn = decoder_.drawn(i);
    if (drawn == kNoToken) {
      draw.token = NoLogits();
    } else {
      draw.token = OutputToken{.token = drawn, .logprob = 0, .top = {}};
    }
  }
  return draws;
}

void DecodeLoop::DrawTokens(std::vector<Draw> draws) {
  std::vector<Draw*> from_logits;
  for (Draw& draw : draws) {
    if (draw.token.ok() && !draw.token->has_value()) from_logits.push_back(&draw);
  }
  const absl::Time deadline = MonotonicNow() + kStructurePatience;
  threads_.ParallelFor(from_logits.size(), [&](size_t task) {
    Draw& draw = *from_logits[task];
    // As many numbers as the vocabulary has tokens.
    const absl::Status memory = UnlessOutOfMemory([&] {
      draw.token = draw.session->Draw(
          draw.item ? decoder_.logits(*draw.item) : draw.session->kept_logits(), deadline);
      return absl::OkStatus();
    });
    if (!memory.ok()) draw.token = memory;
  });
  for (const Draw& draw : draws) Take(draw);
}

void DecodeLoop::Take(const Draw& draw) {
  Session& session = *draw.session;
  if (!draw.token.ok()) return session.Fail(draw.token.status());
  if (!draw.token->has_value()) return;
  const absl::Time before = session.last_token_time();
  const bool reader_was_slow = session.waits_for_reader();
  const absl::Status taken = UnlessOutOfMemory([&] {
    session.Take(**draw.token);
    return absl::OkStatus();
  });
  if (!taken.ok() && !session.ended()) session.Fail(taken);
  announcer_.Add(session.responses());
  const absl::Time now = session.last_token_time();  // unchanged if no token was taken
  if (now != before && !reader_was_slow) metrics_.ObserveBetweenTokens(now - before);
  FollowStructure(session);
}

void DecodeLoop::FollowStructure(Session& session) {
  if (session.ended() || session.structure() == nullptr) return;
  const absl::Status memory = UnlessOutOfMemory([&] {
    // The session may end meanwhile.
    auto follow = [this, weak = std::weak_ptr(session.structure()), token = session.item().token] {
      const std::shared_ptr<StructuredOutput> structure = weak.lock();
      if (structure == nullptr) return;
      structure->Follow(token);
      Wake();
    };
    return followers_.Enter(session.structure()->client(), 0, std::move(follow)).status();
  });
  if (!memory.ok()) session.Fail(memory);
}

void DecodeLoop::WatchDevice() {
  if (heartbeat_.device_lost()) return;
  const absl::Status status = decoder_.CheckDevice();
  if (status.ok()) return;
  LogError(absl::StrCat("the GPU is lost: ", status.message()));
  heartbeat_.LoseDevice();
}

}  // namespace kvship
