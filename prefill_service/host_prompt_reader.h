// HostPromptReader reads prompts on the CPU: PrefillEngine and Compressor.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "engine/prefill.h"
#include "prefill_service/prompt_reader.h"

namespace kvship {

class HostPromptReader final : public PromptReader {
 public:
  // Borrows model and backend.
  HostPromptReader(const Transformer& model, Backend& backend, PrefillEngine::Options options)
      : engine_(model, backend, options) {}

  const ModelConfig& config() const override { return engine_.model().config; }
  size_t pack_tokens() const override;
  absl::Status Check(const PrefillTask&) const override { return absl::OkStatus(); }
  size_t BytesFor(const PrefillTask& task) const override;
  size_t prefix_cache_bytes() const override { return engine_.prefix_cache().num_bytes(); }
  size_t CountReusable(const PrefillTask& task) const override;
  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override;

 private:
  PrefillEngine engine_;
};

}  // namespace kvship
