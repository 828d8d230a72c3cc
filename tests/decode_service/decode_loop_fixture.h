// A decode loop over a tiny node, and requests in it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "decode_service/decode_loop.h"
#include "engine/decode.h"
#include "tests/decode_service/letter_tokenizer.h"
#include "tests/decode_service/tiny_node.h"

namespace kvship {

inline constexpr char kKeepAll[] = "scorer=keep_all";

// Another decoder that may be held up, and remembers whose tokens were in each step.
class HeldDecoder final : public Decoder {
 public:
  explicit HeldDecoder(Decoder& decoder) : decoder_(decoder) {}

  absl::Status CheckPlan(const KvPlan& plan) const override { return decoder_.CheckPlan(plan); }
  absl::Status Step(std::span<const Item> items) override {
    if (go.valid()) go.wait();
    std::vector<const SequenceCache*>& step = steps.emplace_back();
    for (const Item& item : items) step.push_back(item.cache);
    return decoder_.Step(items);
  }
  std::span<const float> logits(size_t item) const override { return decoder_.logits(item); }
  int32_t drawn(size_t item) const override { return decoder_.drawn(item); }

  std::shared_future<void> go;  // a step waits for it
  // To be read when no session is left.
  std::vector<std::vector<const SequenceCache*>> steps;

 private:
  Decoder& decoder_;
};

// Fails every step, or has no memory to draw from its logits, or these are no numbers.
class BrokenDecoder final : public Decoder {
 public:
  absl::Status CheckPlan(const KvPlan&) const override { return absl::OkStatus(); }
  absl::Status Step(std::span<const Item>) override { return error; }
  std::span<const float> logits(size_t) const override {
    return has_memory ? logits_ : throw std::bad_alloc();
  }
  int32_t drawn(size_t) const override { return kNoToken; }
  absl::Status CheckDevice() override { return device; }

  absl::Status error;
  absl::Status device;
  bool has_memory = false;

 private:
  const std::vector<float> logits_ = std::vector<float>(400, -INFINITY);
};

class DecodeLoopTest : public ::testing::Test {
 protected:
  // One request in the loop, and how it ended.
  struct Request {
    explicit Request(size_t max_waiting_tokens = 1000) : reader(max_waiting_tokens) {}
    Reader reader;
    std::atomic<bool> ended{false};
    std::shared_future<void> may_end;  // its end waits for it
    Session::End end;
    size_t reserved_at_end = 0;
  };

  void StartLoop(size_t max_batch_sessions = 32) {
    loop_ =
        std::make_unique<DecodeLoop>(held_, backend_.threads(), node_.metrics, max_batch_sessions);
  }

  void Start(Request& request, const std::vector<int32_t>& prompt, const std::string& compression,
             OutputOptions options, std::unique_ptr<OutputMatcher> matcher = nullptr) {
    TinyNode::Prefilled prefilled = node_.Prefill(prompt, compression, options.max_tokens - 1);
    const OutputToken first =
        options.forced_tokens.empty()
            ? *SampleToken(prefilled.logits, options.sampling, 0, options.num_logprobs)
            : *ForceToken(prefilled.logits, options.forced_tokens[0], options.num_logprobs);
    auto session = std::make_unique<Session>(
        std::move(options), &tokenizer_, std::move(prefilled.cache), request.reader.responses,
        [this, &request](const Session::End& end) {
          if (request.may_end.valid()) request.may_end.wait();
          request.end = end;
          request.reserved_at_end = node_.pool->reserved_bytes();
          request.ended = true;
        });
    session->HoldTo(std::move(matcher), /*client=*/"");
    session->Take(first);
    session->ended() ? session->Close() : loop_->Join(std::move(session));
  }

  // What a request is told whose step fails with `error`, or its next token if that is OK.
  absl::Status EndAfter(const absl::Status& error, size_t num_logprobs = 0) {
    broken_.error = error;
    loop_ = std::make_unique<DecodeLoop>(broken_, backend_.threads(), node_.metrics, 1);
    Request request;
    Start(request, node_.Prompt(40, 13), kKeepAll, {.max_tokens = 5, .num_logprobs = num_logprobs});
    return Finish(request) ? request.end.status : absl::OkStatus();
  }

  bool Finish(Request& request) {
    return request.reader.ReadUntil([&] { return request.ended.load(); }) &&
           (request.reader.Take(), true);
  }

  TinyNode node_;
  LetterTokenizer tokenizer_;
  Backend backend_{2};
  DecodeEngine engine_{*node_.model.transformer, backend_, Arithmetic::kFast};
  HeldDecoder held_{engine_};  // the loop's, until a step is to fail
  BrokenDecoder broken_;
  std::unique_ptr<DecodeLoop> loop_;
};

}  // namespace kvship
