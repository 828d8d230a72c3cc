#include "prefill_service/prefill_job.h"

#include <numeric>
#include <utility>

#include "base/status_macros.h"
#include "rpc/cache_messages.h"
#include "rpc/sampling.h"

namespace kvship {
namespace {

// Often enough for a progress line, too seldom to weigh on the wire.
constexpr absl::Duration kProgressPeriod = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<std::unique_ptr<PrefillJob>> PrefillJob::Create(PrefillEngine& engine,
                                                               PrefillMetrics& metrics,
                                                               const PrefillTask& task,
                                                               Channel& channel,
                                                               absl::Duration queue_time) {
  ASSIGN_OR_RETURN(std::unique_ptr<Compressor> compressor,
                   Compressor::Create(task.compression, ShapeOf(engine.model().config), task.plan));
  return std::unique_ptr<PrefillJob>(
      new PrefillJob(engine, metrics, task, channel, queue_time, std::move(compressor)));
}

PrefillJob::PrefillJob(PrefillEngine& engine, PrefillMetrics& metrics, const PrefillTask& task,
                       Channel& channel, absl::Duration queue_time,
                       std::unique_ptr<Compressor> compressor)
    : engine_(engine),
      metrics_(metrics),
      task_(task),
      channel_(channel),
      compressor_(std::move(compressor)),
      run_(engine, task.tokens, compressor_->needs()),
      totals_({.queue_time = queue_time}) {}

absl::Status PrefillJob::Step() {
  const absl::Time begun = absl::Now();
  ASSIGN_OR_RETURN(const PrefillRun::Event event, run_.Step());
  totals_.prefill_time += absl::Now() - begun;
  SendProgress();
  if (event == PrefillRun::Event::kLayerDone) {
    const absl::Time computed = absl::Now();
    RETURN_IF_ERROR(ShipLayer());
    totals_.compress_time += absl::Now() - computed;
  }
  if (run_.done()) {
    const absl::Time shipped = absl::Now();
    ASSIGN_OR_RETURN(const OutputToken first_token, FirstToken());
    totals_.prefill_time += absl::Now() - shipped;
    SendManifest(first_token);
    done_ = true;
  }
  metrics_.step_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - begun));
  return absl::OkStatus();
}

void PrefillJob::SendProgress() {
  const absl::Time now = absl::Now();
  // Only the end is 1, whatever rounding does to what comes before.
  const float fraction = run_.done() ? 1.0f : static_cast<float>(run_.fraction());
  if (!run_.done() && (fraction >= 1 || now - last_progress_ < kProgressPeriod)) return;
  last_progress_ = now;
  v1::PrefillResponse response;
  response.mutable_progress()->set_fraction(fraction);
  channel_.SendMessage(response.SerializeAsString());
}

absl::Status PrefillJob::ShipLayer() {
  ASSIGN_OR_RETURN(Compressor::Result result,
                   compressor_->Compress(engine_.backend(), run_.finished_layer()));
  LayerFrames layer = cutter_.Cut(std::move(result.compact));
  const std::vector<float>& mass = layer.header.retained_mass;
  metrics_.ObserveRetainedMass(task_.compression,
                               std::accumulate(mass.begin(), mass.end(), 0.0) / mass.size());
  totals_.shipped_bytes += layer.header.num_bytes;
  const std::vector<uint32_t>& kept = layer.header.kept_tokens;
  const double layer_mean = std::accumulate(kept.begin(), kept.end(), 0.0) / kept.size();
  totals_.kept_tokens += (layer_mean - totals_.kept_tokens) / (layer.header.layer + 1);
  v1::PrefillResponse response;
  *response.mutable_layer() = LayerHeaderToProto(layer.header);
  channel_.SendMessage(response.SerializeAsString());
  for (Frame& frame : layer.frames) {
    channel_.SendFrame(frame.header, std::move(frame.payload));
  }
  return absl::OkStatus();
}

absl::StatusOr<OutputToken> PrefillJob::FirstToken() {
  const size_t vocab_tokens = engine_.model().config.vocab_tokens;
  Array<float> logits(vocab_tokens);
  RETURN_IF_ERROR(
      run_.Logits(run_.num_prompt_tokens() - 1, TensorView(logits.data(), {1, vocab_tokens})));
  if (task_.forced_token.has_value()) {
    return ForceToken(logits.span(), *task_.forced_token, task_.num_logprobs);
  }
  return SampleToken(logits.span(), task_.sampling, 0, task_.num_logprobs);
}

void PrefillJob::SendManifest(const OutputToken& first_token) {
  v1::PrefillResponse response;
  v1::PrefillManifest& manifest = *response.mutable_manifest();
  const KvManifest closing = cutter_.Finish(run_.num_prompt_tokens());
  ManifestToProto(closing, &manifest);
  *manifest.mutable_first_token() = OutputTokenToProto(first_token);
  manifest.set_queue_ms(absl::ToDoubleMilliseconds(totals_.queue_time));
  manifest.set_prefill_ms(absl::ToDoubleMilliseconds(totals_.prefill_time));
  manifest.set_compress_ms(absl::ToDoubleMilliseconds(totals_.compress_time));
  channel_.SendMessage(response.SerializeAsString());

  metrics_.prompt_tokens.Increment(static_cast<double>(task_.plan.prompt_tokens));
  metrics_.uncompressed_bytes.Increment(static_cast<double>(task_.plan.uncompressed_bytes()));
  metrics_.shipped_bytes.Increment(static_cast<double>(totals_.shipped_bytes));
  metrics_.queue_seconds.Observe(absl::ToDoubleSeconds(totals_.queue_time));
  metrics_.prefill_seconds.Observe(absl::ToDoubleSeconds(totals_.prefill_time));
  metrics_.compress_seconds.Observe(absl::ToDoubleSeconds(totals_.compress_time));
}

}  // namespace kvship
