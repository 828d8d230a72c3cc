#include "tests/fuzz/fuzzed_attempt.h"

#include <grpcpp/support/byte_buffer.h>

#include "base/crc32c.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"
#include "tests/decode_service/zero_layer.h"
#include "tests/fuzz/require.h"
#include "transport/prefill_wire.h"

namespace kvship {
namespace {

// As small as it goes: inputs must be short for the fuzzer to be fast.
constexpr KvShape kShape = {
    .num_layers = 2, .num_kv_heads = 2, .num_query_heads = 2, .head_dim = 2};
constexpr size_t kPromptTokens = 40;
constexpr size_t kFrameBytes = 300;

struct Node {
  prometheus::Registry registry;
  DecodeMetrics metrics{registry};
  std::unique_ptr<KvPool> pool = *KvPool::Create(8 * KvPool::kSlabBytes);
  ReservationQueue queue{*pool, metrics, kShape, PageFormat::kF16, {}};
};

Node& SharedNode() {
  static Node& node = *new Node();
  return node;
}

// A page of each size is never given back, so that slabs are not cut anew for every input.
size_t BytesKept() {
  static const PageReservation& kept = *[] {
    const KvPool::Demand pages[] = {{PageBytes(PageFormat::kF16, kShape.head_dim), 1},
                                    {PageBytes(PageFormat::kFp8, kShape.head_dim), 1}};
    return new PageReservation(*SharedNode().pool->Reserve(pages));
  }();
  return kept.num_bytes();
}

// A channel into the void.
class SilentChannel final : public Channel {
 public:
  void SendMessage(std::string) override {}
  void Close(absl::Status) override {}
};

}  // namespace

GenerationRequest FuzzedAttempt::RequestOf(size_t kind) {
  const char* const texts[kKinds] = {
      "budget_tokens=3,window=1",
      "scorer=keep_all",
      "allocator=ada,budget_tokens=3,window=1",
      "encoder=fp8,window_encoder=f16,budget_tokens=3,window=1",
  };
  GenerationRequest request;
  request.tokens.assign(kPromptTokens, 1);
  request.compression = *ParseCompression(texts[kind]);
  request.plan = *MakePlan(request.compression, kShape, kPromptTokens);
  request.output.max_tokens = 2;
  request.report_heads = true;
  return request;
}

FuzzedAttempt::FuzzedAttempt(size_t kind)
    : request_(RequestOf(kind)),
      ticket_(*SharedNode().queue.Enter(
          {.plan = request_.plan, .max_tail_tokens = request_.max_tail_tokens()})),
      attempt_(std::make_shared<PrefillAttempt>(
          request_, Sha256Digest(),
          PrefillAttempt::Memory{SharedNode().queue, *ticket_, /*cache=*/nullptr},
          [](const v1::GenerateProgress&) {},
          [this](absl::StatusOr<PrefillAttempt::Result> result) { OnEnd(std::move(result)); })) {
  BytesKept();
  attempt_->Open(
      [](const std::shared_ptr<ChannelEvents>&) { return std::make_shared<SilentChannel>(); });
}

FuzzedAttempt::~FuzzedAttempt() {
  attempt_->OnClosed(absl::UnavailableError("the input ends here"));
  Require(ended_, "an attempt ends with its stream");
  attempt_ = nullptr;
  ticket_ = nullptr;
  Require(SharedNode().pool->reserved_bytes() == BytesKept(),
          "an attempt that has ended holds no memory");
}

void FuzzedAttempt::OnEnd(absl::StatusOr<PrefillAttempt::Result> result) {
  Require(!ended_, "an attempt ends once");
  ended_ = true;
  if (!result.ok()) return;
  const SequenceCache& cache = *result->cache;
  for (size_t head = 0; head < request_.plan.num_heads; ++head) {
    const std::span<const int32_t> positions = cache.positions(head);
    Require(std::is_sorted(positions.begin(), positions.end()), "positions ascend");
    Require(positions.empty() ||
                (positions.front() >= 0 && positions.back() < static_cast<int32_t>(kPromptTokens)),
            "positions lie in the prompt");
  }
  size_t num_bytes = 0;
  for (const FrameHeader& frame : frames_) num_bytes += frame.num_bytes;
  Require(result->kv.shipped_bytes() == num_bytes, "all bytes were counted");
}

void FuzzedAttempt::Receive(std::span<const std::byte> message) {
  const size_t half = message.size() / 2;
  const grpc::Slice slices[] = {grpc::Slice(message.data(), half),
                                grpc::Slice(message.data() + half, message.size() - half)};
  const absl::StatusOr<ReceivedResponse> read = ReadResponse(grpc::ByteBuffer(slices, 2));
  if (!read.ok()) return;
  if (read->is_frame) {
    ReceiveFrame(read->header, read->payload);
  } else {
    ReceiveOther(read->bytes);
  }
}

void FuzzedAttempt::ReceiveFrame(FrameHeader header, BytePieces payload) {
  if (header.crc32c == 0) {
    for (std::span<const std::byte> piece : payload) header.crc32c = Crc32c(piece, header.crc32c);
  }
  if (!ended_) frames_.push_back(header);
  attempt_->OnFrame(header, payload);
}

Sha256Digest FuzzedAttempt::DigestOfFrames() const {
  FrameDigest digest;
  for (const FrameHeader& frame : frames_) {
    digest.Add(frame.sequence, frame.num_bytes, frame.crc32c);
  }
  return digest.Finish();
}

void FuzzedAttempt::ReceiveOther(const std::string& bytes) {
  v1::PrefillResponse message;
  std::string sent = bytes;
  if (message.ParseFromString(bytes) && SealOf(std::as_bytes(std::span(bytes))) == Seal::kNone) {
    if (message.has_manifest() && message.manifest().digest().empty()) {
      const Sha256Digest digest = DigestOfFrames();
      message.mutable_manifest()->set_digest(digest.data(), digest.size());
    }
    sent = Sealed(message);
  }
  attempt_->OnMessage(std::as_bytes(std::span(sent)));
}

std::vector<std::string> FuzzedAttempt::RightMessages() const {
  std::vector<std::string> messages;
  v1::PrefillResponse ready;
  *ready.mutable_ready()->mutable_wire_version() = WireVersionProto();
  ready.mutable_ready()->add_transports("grpc");
  *ready.mutable_ready()->mutable_plan() = PlanToProto(request_.plan);
  messages.push_back(ready.SerializeAsString());
  FrameCutter cutter(kFrameBytes);
  for (size_t layer = 0; layer < kShape.num_layers; ++layer) {
    const LayerFrames frames = cutter.Cut(ZeroLayer(request_.plan, layer, 5));
    v1::PrefillResponse message;
    *message.mutable_layer() = LayerHeaderToProto(frames.header);
    messages.push_back(message.SerializeAsString());
    for (const Frame& frame : frames.frames) {
      FrameHeader header = frame.header;
      header.crc32c = 0;
      messages.push_back(FlatBytes(FrameMessage(header, frame.payload)));
    }
  }
  v1::PrefillResponse manifest;
  ManifestToProto(cutter.Finish(kPromptTokens), manifest.mutable_manifest());
  manifest.mutable_manifest()->clear_digest();
  messages.push_back(manifest.SerializeAsString());
  return messages;
}

}  // namespace kvship
