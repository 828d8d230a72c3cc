#include "engine/cuda/device_decoder.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"

namespace kvship::cuda {

absl::StatusOr<std::unique_ptr<DeviceDecoder>> DeviceDecoder::Create(const Transformer& model,
                                                                     int ordinal,
                                                                     size_t max_sequences,
                                                                     size_t pool_bytes) {
  std::unique_ptr<DeviceDecoder> decoder(new DeviceDecoder(ordinal));
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal), "GPU"));
  ASSIGN_OR_RETURN(decoder->stream_, Stream::Create());
  ASSIGN_OR_RETURN(decoder->model_, DeviceTransformer::Upload(model, DeviceDTypeOf(model)));
  ASSIGN_OR_RETURN(decoder->engine_,
                   DeviceDecodeEngine::Create(*decoder->model_, decoder->stream_.get(),
                                              max_sequences, pool_bytes));
  ASSIGN_OR_RETURN(decoder->logits_,
                   PinnedBuffer::Create(max_sequences * model.config.vocab_tokens * sizeof(float)));
  return decoder;
}

absl::Status DeviceDecoder::CheckPlan(const KvPlan& plan) const {
  const PageFormat own = PageFormatOf(dtype());
  const auto refuse = [](absl::string_view field, absl::string_view value,
                         absl::string_view wanted) {
    return absl::FailedPreconditionError(absl::StrCat(field, " is ", value, "; wanted ", wanted,
                                                      ", which this server decodes on its GPU"));
  };
  if (plan.format == PageFormat::kF32) {
    return refuse("compression.encoder", "f32", "f16, bf16, fp8, int8 or int4");
  }
  if (plan.tail_tokens > 0 && plan.window_format != own) {
    return refuse("compression.window_encoder", PageFormatName(plan.window_format),
                  PageFormatName(own));
  }
  return absl::OkStatus();
}

absl::Status DeviceDecoder::CheckDevice() {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  return stream_.Wait("GPU");
}

absl::Status DeviceDecoder::Step(std::span<const Item> items) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(ordinal_), "GPU"));
  std::map<std::pair<PageFormat, size_t>, std::vector<size_t>> by_form;
  for (size_t i = 0; i < items.size(); ++i) {
    const SequenceCache& cache = *items[i].cache;
    if (cache.num_tail_tokens() == cache.max_tail_tokens()) {
      return absl::FailedPreconditionError(absl::StrCat("the tail of sequence ", i, " is full at ",
                                                        cache.max_tail_tokens(), " tokens"));
    }
    by_form[{cache.plan().format, cache.plan().num_heads}].push_back(i);
  }
  drawn_.resize(items.size());
  for (const auto& [form, indices] : by_form) {
    const absl::Status stepped = UnlessOutOfMemory([&] { return StepTogether(items, indices); });
    if (!stepped.ok()) {
      batch_.clear();  // nobody knows how far it came
      return stepped;
    }
  }
  for (const Item& item : items) item.cache->AdvanceTail();
  return absl::OkStatus();
}

absl::Status DeviceDecoder::StepTogether(std::span<const Item> items,
                                         const std::vector<size_t>& indices) {
  const absl::Status given = GiveTokens(items, indices);
  if (absl::IsResourceExhausted(given) && indices.size() > 1) {
    // Too many long prefixes in one layer for the scratch, which holds any one sequence.
    batch_.clear();
    const auto half = indices.begin() + static_cast<int64_t>(indices.size() / 2);
    RETURN_IF_ERROR(StepTogether(items, {indices.begin(), half}));
    return StepTogether(items, {half, indices.end()});
  }
  RETURN_IF_ERROR(given);
  RETURN_IF_ERROR(engine_->Step());
  const size_t vocab_tokens = model_->config().vocab_tokens;
  for (size_t b = 0; b < indices.size(); ++b) {
    if (!items[indices[b]].wants_logits) continue;
    RETURN_IF_ERROR(CudaStatus(
        cudaMemcpyAsync(logits_.as<float>() + indices[b] * vocab_tokens,
                        engine_->logits() + b * vocab_tokens, vocab_tokens * sizeof(float),
                        cudaMemcpyDeviceToHost, stream_.get()),
        "copy of logits"));
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> drawn, engine_->Tokens());
  batch_.clear();
  for (size_t b = 0; b < indices.size(); ++b) {
    const Item& item = items[indices[b]];
    drawn_[indices[b]] = drawn[b];
    batch_.push_back(
        {item.cache->id(), item.cache->num_tail_tokens() + 1, item.draw.index + 1, drawn[b]});
  }
  return absl::OkStatus();
}

// Page tables cross only when the batch has changed, and tokens only where one was drawn here.
absl::Status DeviceDecoder::GiveTokens(std::span<const Item> items,
                                       const std::vector<size_t>& indices) {
  bool same_batch = batch_.size() == indices.size();
  bool same_tokens = true;
  std::vector<int32_t> tokens;
  std::vector<DeviceDecodeEngine::Item> members;
  for (size_t b = 0; b < indices.size(); ++b) {
    const Item& item = items[indices[b]];
    tokens.push_back(item.token);
    members.push_back({item.token, item.cache, item.draw});
    same_batch = same_batch && batch_[b].cache_id == item.cache->id() &&
                 batch_[b].num_tail_tokens == item.cache->num_tail_tokens() &&
                 batch_[b].index == item.draw.index;
    same_tokens = same_tokens && same_batch && batch_[b].next_token == item.token;
  }
  if (!same_batch) return engine_->SetBatch(members);
  return same_tokens ? absl::OkStatus() : engine_->SetTokens(tokens);
}

std::span<const float> DeviceDecoder::logits(size_t item) const {
  const size_t vocab_tokens = model_->config().vocab_tokens;
  return {logits_.as<float>() + item * vocab_tokens, vocab_tokens};
}

}  // namespace kvship::cuda
