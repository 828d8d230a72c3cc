#include "rpc/cache_messages.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"

namespace kvship {

v1::KvPlan PlanToProto(const KvPlan& plan) {
  v1::KvPlan message;
  message.set_num_heads(static_cast<uint32_t>(plan.num_heads));
  for (size_t tokens : plan.layer_tokens) message.add_layer_tokens(tokens);
  message.set_wire_bytes(plan.wire_bytes());
  return message;
}

absl::Status CheckPlan(const v1::KvPlan& theirs, const KvPlan& ours) {
  auto differs = [](absl::string_view field, uint64_t came, uint64_t wanted) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat("the peer's plan has ", field, " ",
                                                                 came, "; wanted ", wanted)),
                      kPlanMismatch);
  };
  if (theirs.num_heads() != ours.num_heads) {
    return differs("num_heads", theirs.num_heads(), ours.num_heads);
  }
  if (static_cast<size_t>(theirs.layer_tokens_size()) != ours.layer_tokens.size()) {
    return differs("layers:", theirs.layer_tokens_size(), ours.layer_tokens.size());
  }
  for (size_t layer = 0; layer < ours.layer_tokens.size(); ++layer) {
    if (theirs.layer_tokens(layer) != ours.layer_tokens[layer]) {
      return differs(absl::StrCat("layer_tokens of layer ", layer, ":"), theirs.layer_tokens(layer),
                     ours.layer_tokens[layer]);
    }
  }
  if (theirs.wire_bytes() != ours.wire_bytes()) {
    return differs("wire_bytes", theirs.wire_bytes(), ours.wire_bytes());
  }
  return absl::OkStatus();
}

v1::LayerHeader LayerHeaderToProto(const LayerHeader& header) {
  v1::LayerHeader message;
  message.set_layer(static_cast<uint32_t>(header.layer));
  message.mutable_kept_tokens()->Assign(header.kept_tokens.begin(), header.kept_tokens.end());
  message.mutable_retained_mass()->Assign(header.retained_mass.begin(), header.retained_mass.end());
  message.mutable_chosen_mass()->Assign(header.chosen_mass.begin(), header.chosen_mass.end());
  message.set_num_bytes(header.num_bytes);
  return message;
}

LayerHeader LayerHeaderFromProto(const v1::LayerHeader& message) {
  return {message.layer(),
          {message.kept_tokens().begin(), message.kept_tokens().end()},
          {message.retained_mass().begin(), message.retained_mass().end()},
          {message.chosen_mass().begin(), message.chosen_mass().end()},
          message.num_bytes()};
}

void ManifestToProto(const KvManifest& manifest, v1::PrefillManifest* message) {
  message->set_prompt_tokens(static_cast<uint32_t>(manifest.prompt_tokens));
  message->set_next_position(static_cast<uint32_t>(manifest.next_position));
  message->set_num_frames(static_cast<uint32_t>(manifest.num_frames));
  message->set_total_bytes(manifest.total_bytes);
  message->set_digest(manifest.digest.data(), manifest.digest.size());
}

absl::StatusOr<KvManifest> ManifestFromProto(const v1::PrefillManifest& message) {
  KvManifest manifest;
  if (message.digest().size() != manifest.digest.size()) {
    return absl::DataLossError(absl::StrCat("the manifest's digest has ", message.digest().size(),
                                            " bytes; wanted ", manifest.digest.size()));
  }
  manifest.prompt_tokens = message.prompt_tokens();
  manifest.next_position = message.next_position();
  manifest.num_frames = message.num_frames();
  manifest.total_bytes = message.total_bytes();
  std::memcpy(manifest.digest.data(), message.digest().data(), manifest.digest.size());
  return manifest;
}

}  // namespace kvship
