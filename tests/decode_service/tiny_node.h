// What tests of the decode side stand on: a tiny golden model, a pool, and caches of prompts as a
// prefill node would have sent them.
#pragma once

#include <prometheus/registry.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "compress/compressor.h"
#include "decode_service/reservation_queue.h"
#include "decode_service/response_buffer.h"
#include "decode_service/served_model.h"
#include "engine/prefill.h"
#include "engine/sampling.h"
#include "tests/random_prompt.h"
#include "tools/local_run.h"

namespace kvship {

struct TinyNode {
  // With a `writer` that stands for a device's.
  explicit TinyNode(size_t pool_bytes = 16 << 20, const KvPool::Writer& writer = nullptr)
      : model(*ServedModel::Load(KVSHIP_GOLDENS "/models/llama")),
        device_memory(writer == nullptr ? 0 : pool_bytes),
        pool(writer == nullptr ? *KvPool::Create(pool_bytes)
                               : *KvPool::CreateOver(device_memory, writer)),
        shape(ShapeOf(model.config())),
        queue(*pool, metrics, shape, PageFormat::kF16, {}) {}

  std::vector<int32_t> Prompt(size_t num_tokens, uint64_t seed) const {
    return RandomPrompt(num_tokens, seed, model.config().vocab_tokens);
  }

  struct Prefilled {
    ReservationQueue::Cache cache;
    std::vector<float> logits;  // after the last prompt token
  };

  Prefilled Prefill(const std::vector<int32_t>& tokens, const std::string& compression,
                    size_t max_tail_tokens) {
    const CompressionOptions options = *ParseCompression(compression);
    const KvPlan plan = *MakePlan(options, shape, tokens.size());
    const auto ticket = *queue.Enter({.plan = plan, .max_tail_tokens = max_tail_tokens});
    Prefilled out;
    out.cache = *queue.TryReserve(*ticket);
    Backend backend(1);
    PrefillEngine engine(*model.transformer, backend, {});
    const auto compressor = *Compressor::Create(options, shape, plan);
    PrefillRun run(engine, {{tokens, compressor->needs()}});
    while (!run.done()) {
      if (*run.Step() != PrefillRun::Event::kLayerDone) continue;
      const Compressor::Result result = *compressor->Compress(backend, run.finished_layer());
      const CompactLayer& layer = result.compact;
      EXPECT_TRUE(out.cache->BeginLayer(layer.layer, layer.kept_tokens).ok());
      EXPECT_TRUE(out.cache->WriteLayerBytes(0, layer.bytes.bytes()).ok());
    }
    out.logits.resize(model.config().vocab_tokens);
    EXPECT_TRUE(
        run.Logits(0, tokens.size() - 1, TensorView(out.logits.data(), {1, out.logits.size()}))
            .ok());
    return out;
  }

  // What one process gives, greedily.
  std::vector<int32_t> Reference(const std::vector<int32_t>& tokens, const std::string& compression,
                                 size_t max_tokens) const {
    LocalRun run(*model.transformer, {.num_threads = 1});
    LocalRun::Prefilled prefilled =
        *run.Prefill(tokens, *ParseCompression(compression), max_tokens);
    return *run.Generate(prefilled, max_tokens, /*stop_at_end=*/false);
  }

  // What a histogram has counted.
  int NumObserved(const std::string& histogram) const {
    for (const prometheus::MetricFamily& family : registry.Collect()) {
      if (family.name != histogram) continue;
      return static_cast<int>(family.metric[0].histogram.sample_count);
    }
    return -1;
  }

  ServedModel model;
  prometheus::Registry registry;
  DecodeMetrics metrics{registry};
  std::vector<std::byte> device_memory;
  std::unique_ptr<KvPool> pool;
  KvShape shape;
  ReservationQueue queue;
};

// Reads a ResponseBuffer as a client would, and waits for what comes.
class Reader {
 public:
  explicit Reader(size_t max_waiting_tokens = 1000)
      : responses(std::make_shared<ResponseBuffer>(max_waiting_tokens)) {
    responses->OnResponse([signal = signal_] {
      std::lock_guard lock(signal->mutex);
      signal->changed.notify_all();
    });
  }

  // Takes one message if there is one.
  bool Take() {
    v1::GenerateResponse message;
    if (responses->Take(&message, &end) != ResponseBuffer::Next::kMessage) return false;
    text += message.output().text();
    for (const auto& token : message.output().tokens()) {
      tokens.push_back(static_cast<int32_t>(token.token_id()));
      details.push_back(token);
    }
    return true;
  }

  // Reads until `stop` says so; false after 20 s.
  template <class Stop>
  bool ReadUntil(const Stop& stop) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!stop()) {
      if (Take()) continue;
      std::unique_lock lock(signal_->mutex);
      signal_->changed.wait_for(lock, std::chrono::milliseconds(5));
      if (std::chrono::steady_clock::now() > deadline) return false;
    }
    return true;
  }

  std::shared_ptr<ResponseBuffer> responses;
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<v1::OutputToken> details;
  absl::Status end = absl::UnknownError("not ended");

 private:
  struct Signal {
    std::mutex mutex;
    std::condition_variable changed;
  };

  // shared: the decode loop may speak up once more when the reader is gone
  const std::shared_ptr<Signal> signal_ = std::make_shared<Signal>();
};

}  // namespace kvship
