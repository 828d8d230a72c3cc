#include "prefill_service/prefill_shipment.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"
#include "rpc/cache_messages.h"
#include "rpc/sampling.h"
#include "rpc/sealed_message.h"

namespace kvship {
namespace {

// Often enough for a progress line, too rare to load the wire.
constexpr absl::Duration kProgressPeriod = absl::Milliseconds(100);

absl::StatusOr<OutputToken> FirstToken(const PrefillTask& task, std::span<const float> logits) {
  if (task.forced_token.has_value()) {
    return ForceToken(logits, *task.forced_token, task.num_logprobs);
  }
  return SampleToken(logits, task.sampling, 0, task.num_logprobs,
                     PromptCounts(task.tokens, task.sampling), task.allowed_tokens);
}

}  // namespace

void PrefillShipment::SendProgress(double fraction) {
  const absl::Time now = MonotonicNow();
  // Only the end is exactly 1, whatever rounding does before.
  const bool computed = fraction == 1;
  const auto rounded = static_cast<float>(fraction);
  if (!computed && (rounded >= 1 || now - last_progress_ < kProgressPeriod)) return;
  last_progress_ = now;
  if (computed) computed_time_ = now;
  v1::PrefillResponse response;
  response.mutable_progress()->set_fraction(rounded);
  channel_.SendMessage(Sealed(response));
}

absl::Status PrefillShipment::ShipLayer(PromptReading& reading, size_t prompt) {
  const absl::Time begun = MonotonicNow();
  StagedFrameSender* const staged = channel_.staged_frames();
  ASSIGN_OR_RETURN(CompactLayer compact, reading.Compress(prompt, [staged](size_t num_frames) {
    return staged == nullptr ? std::vector<FrameStaging::BlockPtr>()
                             : staged->TakeFrames(num_frames);
  }));
  LayerFrames layer = cutter_.Cut(std::move(compact));
  const std::vector<float>& mass = layer.header.retained_mass;
  metrics_.ObserveRetainedMass(task_.compression,
                               std::accumulate(mass.begin(), mass.end(), 0.0) / mass.size());
  totals_.shipped_bytes += layer.header.num_bytes;
  const std::vector<uint32_t>& kept = layer.header.kept_tokens;
  const double layer_mean = std::accumulate(kept.begin(), kept.end(), 0.0) / kept.size();
  totals_.kept_tokens += (layer_mean - totals_.kept_tokens) / (layer.header.layer + 1);
  v1::PrefillResponse response;
  *response.mutable_layer() = LayerHeaderToProto(layer.header);
  channel_.SendMessage(Sealed(response));
  for (Frame& frame : layer.frames) {
    if (frame.block != nullptr) {
      staged->SendStagedFrame(frame.header, std::move(frame.block));
    } else {
      channel_.SendFrame(frame.header, std::move(frame.payload));
    }
  }
  totals_.compress_begin = std::min(totals_.compress_begin, begun);
  totals_.compress_end = MonotonicNow();
  totals_.compress_time += totals_.compress_end - begun;
  return absl::OkStatus();
}

absl::Status PrefillShipment::SendManifest(PromptReading& reading, size_t prompt,
                                           absl::Duration prefill_time) {
  const absl::Time begun = MonotonicNow();
  ASSIGN_OR_RETURN(const Array<float> logits, reading.Logits(prompt));
  totals_.compute_end = MonotonicNow();
  totals_.prefill_time = prefill_time + (totals_.compute_end - begun);
  totals_.reused_tokens = reading.reused_tokens(prompt);
  const absl::StatusOr<OutputToken> first_token = FirstToken(task_, logits.span());
  if (!first_token.ok()) {
    failed_ = first_token.status();
    return absl::OkStatus();
  }
  v1::PrefillResponse response;
  v1::PrefillManifest& manifest = *response.mutable_manifest();
  ManifestToProto(cutter_.Finish(task_.tokens.size()), &manifest);
  *manifest.mutable_first_token() = OutputTokenToProto(*first_token);
  manifest.set_queue_ms(absl::ToDoubleMilliseconds(totals_.queue_time));
  manifest.set_prefill_ms(absl::ToDoubleMilliseconds(totals_.prefill_time));
  manifest.set_compress_ms(absl::ToDoubleMilliseconds(totals_.compress_time));
  manifest.set_reused_tokens(static_cast<uint32_t>(totals_.reused_tokens));
  manifest.set_computed_after_ms(
      absl::ToDoubleMilliseconds(computed_time_ - go_time_ - reader_wait_));
  channel_.SendMessage(Sealed(response));

  metrics_.prompt_tokens.Increment(static_cast<double>(task_.plan.prompt_tokens));
  metrics_.reused_tokens.Increment(static_cast<double>(totals_.reused_tokens));
  metrics_.uncompressed_bytes.Increment(static_cast<double>(task_.plan.uncompressed_bytes()));
  metrics_.shipped_bytes.Increment(static_cast<double>(totals_.shipped_bytes));
  metrics_.queue_seconds.Observe(absl::ToDoubleSeconds(totals_.queue_time));
  metrics_.prefill_seconds.Observe(absl::ToDoubleSeconds(totals_.prefill_time));
  metrics_.compress_seconds.Observe(absl::ToDoubleSeconds(totals_.compress_time));
  return absl::OkStatus();
}

}  // namespace kvship
