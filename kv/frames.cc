#include "kv/frames.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

// Sums of probabilities in float32 may pass 1 by rounding.
constexpr float kMostMass = 1.001f;

absl::Status Fault(absl::string_view what, uint64_t came, uint64_t wanted) {
  return absl::DataLossError(absl::StrCat(what, " ", came, " came; wanted ", wanted));
}

// One share per head, each 0 to 1. NaN is no fault of the node: any other would send it too.
absl::Status CheckShares(absl::string_view name, const std::vector<float>& shares,
                         const LayerHeader& header) {
  if (shares.size() != header.kept_tokens.size()) {
    return Fault(absl::StrCat("for layer ", header.layer, " heads' ", name, ":"), shares.size(),
                 header.kept_tokens.size());
  }
  for (size_t head = 0; head < shares.size(); ++head) {
    if (std::isnan(shares[head])) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the ", name, " of layer ", header.layer, " head ", head,
          " is not a number: the model's activations overflow on this prompt; wanted 0 to 1"));
    }
    if (!(shares[head] >= 0 && shares[head] <= kMostMass)) {
      return absl::DataLossError(absl::StrCat("layer ", header.layer, " has a ", name, " of ",
                                              shares[head], "; wanted 0 to 1"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPayload(const FrameHeader& header, BytePieces payload) {
  size_t num_bytes = 0;
  uint32_t crc32c = 0;
  for (std::span<const std::byte> piece : payload) {
    num_bytes += piece.size();
    crc32c = Crc32c(piece, crc32c);
  }
  const std::string frame = absl::StrCat("frame ", header.sequence);
  if (num_bytes != header.num_bytes) return Fault(frame + ": bytes", num_bytes, header.num_bytes);
  if (crc32c != header.crc32c) return Fault(frame + ": checksum", crc32c, header.crc32c);
  return absl::OkStatus();
}

}  // namespace

FrameHeader FrameCutter::NextHeader(size_t layer, size_t offset, size_t num_bytes,
                                    uint32_t crc32c) {
  const FrameHeader header = {.sequence = static_cast<uint32_t>(digest_.num_frames()),
                              .layer = static_cast<uint32_t>(layer),
                              .offset = offset,
                              .num_bytes = static_cast<uint32_t>(num_bytes),
                              .crc32c = crc32c};
  digest_.Add(header.sequence, header.num_bytes, header.crc32c);
  return header;
}

LayerFrames FrameCutter::Cut(CompactLayer layer) {
  LayerFrames out;
  out.header = {layer.layer, std::move(layer.kept_tokens), std::move(layer.retained_mass),
                std::move(layer.chosen_mass), layer.num_bytes()};
  size_t offset = 0;
  for (StagedFrame& frame : layer.frames) {
    out.frames.push_back({NextHeader(layer.layer, offset, frame.num_bytes, frame.crc32c),
                          {},
                          std::move(frame.block)});
    offset += frame.num_bytes;
  }
  // Shared: the frames of a layer are sent, and released, one by one.
  auto owner = std::make_shared<const Buffer>(std::move(layer.bytes));
  const std::span<const std::byte> bytes = owner->bytes();
  for (; offset < bytes.size(); offset += most_frame_bytes_) {
    const auto payload = bytes.subspan(offset, std::min(most_frame_bytes_, bytes.size() - offset));
    out.frames.push_back({NextHeader(layer.layer, offset, payload.size(), Crc32c(payload)),
                          {payload, owner},
                          nullptr});
  }
  return out;
}

KvManifest FrameCutter::Finish(size_t prompt_tokens) {
  KvManifest manifest;
  manifest.prompt_tokens = prompt_tokens;
  manifest.next_position = prompt_tokens;
  manifest.num_frames = digest_.num_frames();
  manifest.total_bytes = digest_.total_bytes();
  manifest.digest = digest_.Finish();
  return manifest;
}

absl::Status CacheReceiver::Keep(absl::Status status) {
  if (!status.ok() && fault_.ok()) fault_ = status;
  return status;
}

absl::Status CacheReceiver::CheckLayer(const LayerHeader& header) const {
  if (header.layer != layers_.size()) return Fault("layer", header.layer, layers_.size());
  if (received_bytes_ != layer_bytes_) {
    return absl::DataLossError(absl::StrCat("layer ", header.layer, " came after ", received_bytes_,
                                            " of ", layer_bytes_, " bytes of the layer before"));
  }
  RETURN_IF_ERROR(CheckShares("retained_mass", header.retained_mass, header));
  RETURN_IF_ERROR(CheckShares("chosen_mass", header.chosen_mass, header));
  return absl::OkStatus();
}

absl::Status CacheReceiver::BeginLayer(const LayerHeader& header) {
  RETURN_IF_ERROR(fault_);
  RETURN_IF_ERROR(Keep(CheckLayer(header)));
  RETURN_IF_ERROR(Keep(CheckPositions()));
  const absl::Status begun = cache_.BeginLayer(header.layer, header.kept_tokens);
  if (!begun.ok()) return Keep(absl::DataLossError(begun.message()));
  if (header.num_bytes != cache_.layer_bytes()) {
    return Keep(Fault(absl::StrCat("bytes of layer ", header.layer, ":"), header.num_bytes,
                      cache_.layer_bytes()));
  }
  layers_.push_back(header);
  layer_bytes_ = header.num_bytes;
  received_bytes_ = 0;
  return absl::OkStatus();
}

absl::Status CacheReceiver::CheckHeader(const FrameHeader& header) const {
  if (header.sequence != digest_.num_frames()) {
    return Fault("frame", header.sequence, digest_.num_frames());
  }
  const std::string frame = absl::StrCat("frame ", header.sequence);
  if (layers_.empty()) return absl::DataLossError(frame + " came before any layer");
  if (header.layer != layers_.size() - 1) {
    return Fault(frame + " of layer", header.layer, layers_.size() - 1);
  }
  if (header.offset != received_bytes_) {
    return Fault(frame + " at offset", header.offset, received_bytes_);
  }
  if (header.num_bytes == 0 || header.num_bytes > kMostFrameBytes ||
      header.num_bytes > layer_bytes_ - received_bytes_) {
    return absl::DataLossError(
        absl::StrCat(frame, " has ", header.num_bytes, " bytes; wanted 1 to ",
                     std::min(kMostFrameBytes, layer_bytes_ - received_bytes_)));
  }
  return absl::OkStatus();
}

absl::Status CacheReceiver::MayAdd(const FrameHeader& header) {
  RETURN_IF_ERROR(fault_);
  if (finished_) return Keep(absl::DataLossError("a frame came after the manifest"));
  return Keep(CheckHeader(header));
}

absl::Status CacheReceiver::Write(std::span<const std::byte> bytes, BytesIn memory) {
  const absl::Status written = cache_.WriteLayerBytes(received_bytes_, bytes, memory);
  if (absl::IsInvalidArgument(written)) return Keep(absl::DataLossError(written.message()));
  received_bytes_ += bytes.size();
  return Keep(written);
}

absl::Status CacheReceiver::AddFrame(const FrameHeader& header, BytePieces payload) {
  RETURN_IF_ERROR(MayAdd(header));
  RETURN_IF_ERROR(Keep(CheckPayload(header, payload)));
  for (std::span<const std::byte> piece : payload) {
    RETURN_IF_ERROR(Write(piece, BytesIn::kHost));
  }
  digest_.Add(header.sequence, header.num_bytes, header.crc32c);
  return absl::OkStatus();
}

absl::Status CacheReceiver::AddStagedFrame(const FrameHeader& header, const std::byte* payload) {
  RETURN_IF_ERROR(MayAdd(header));
  RETURN_IF_ERROR(Write({payload, header.num_bytes}, BytesIn::kDevice));
  digest_.Add(header.sequence, header.num_bytes, header.crc32c);
  return absl::OkStatus();
}

// The positions of the layer that has just been completed.
absl::Status CacheReceiver::CheckPositions() const {
  if (layers_.empty()) return absl::OkStatus();
  const size_t layer = layers_.size() - 1;
  // Those after it are in the tail.
  const int64_t end = static_cast<int64_t>(cache_.plan().prompt_tokens - cache_.plan().tail_tokens);
  for (size_t head = 0; head < cache_.plan().num_heads; ++head) {
    int64_t before = -1;
    for (int32_t position : cache_.positions(head)) {
      if (position <= before || position >= end) {
        return absl::DataLossError(absl::StrCat("layer ", layer, " head ", head, " keeps position ",
                                                position, " after ", before,
                                                "; wanted ascending positions below ", end));
      }
      before = position;
    }
  }
  return absl::OkStatus();
}

absl::Status CacheReceiver::CheckManifest(const KvManifest& manifest) {
  const size_t num_layers = cache_.shape().num_layers;
  if (layers_.size() != num_layers)
    return Fault("layers before the manifest:", layers_.size(), num_layers);
  if (received_bytes_ != layer_bytes_) {
    return Fault("bytes of the last layer:", received_bytes_, layer_bytes_);
  }
  RETURN_IF_ERROR(CheckPositions());
  const size_t prompt_tokens = cache_.plan().prompt_tokens;
  if (manifest.prompt_tokens != prompt_tokens) {
    return Fault("manifest's prompt_tokens", manifest.prompt_tokens, prompt_tokens);
  }
  if (manifest.next_position != prompt_tokens) {
    return Fault("manifest's next_position", manifest.next_position, prompt_tokens);
  }
  if (manifest.num_frames != digest_.num_frames()) {
    return Fault("manifest's num_frames", manifest.num_frames, digest_.num_frames());
  }
  if (manifest.total_bytes != digest_.total_bytes()) {
    return Fault("manifest's total_bytes", manifest.total_bytes, digest_.total_bytes());
  }
  if (const Sha256Digest digest = digest_.Finish(); manifest.digest != digest) {
    return absl::DataLossError(absl::StrCat("manifest's digest ", HexString(manifest.digest),
                                            " came; wanted ", HexString(digest)));
  }
  return absl::OkStatus();
}

absl::Status CacheReceiver::Finish(const KvManifest& manifest) {
  RETURN_IF_ERROR(fault_);
  if (finished_) return Keep(absl::DataLossError("a second manifest came"));
  RETURN_IF_ERROR(Keep(CheckManifest(manifest)));
  finished_ = true;
  return absl::OkStatus();
}

}  // namespace kvship
