#include "rpc/sealed_message.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "kvship/v1/prefill.pb.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

constexpr uint32_t kFixed32 = 5;  // protobuf's wire type
constexpr uint32_t kField = v1::PrefillRequest::kSealFieldNumber;
static_assert(kField == uint32_t{v1::PrefillResponse::kSealFieldNumber});
constexpr uint32_t kTag = kField << 3 | kFixed32;
static_assert(kTag < 0x80, "the tag is one byte");
constexpr size_t kSealBytes = 5;

// The first minor version that has seals.
constexpr uint32_t kSealMinor = 2;

}  // namespace

std::string Sealed(const google::protobuf::MessageLite& message) {
  std::string bytes = message.SerializeAsString();
  const uint32_t crc32c = Crc32c(std::as_bytes(std::span(bytes)));
  bytes.push_back(static_cast<char>(kTag));
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(crc32c >> shift));
  return bytes;
}

Seal SealOf(std::span<const std::byte> message) {
  if (message.size() < kSealBytes) return Seal::kNone;
  const std::span<const std::byte> sealed = message.first(message.size() - kSealBytes);
  const std::span<const std::byte> seal = message.last(kSealBytes);
  if (seal[0] != std::byte{kTag}) return Seal::kNone;
  uint32_t crc32c = 0;
  for (size_t i = 1; i < kSealBytes; ++i) {
    crc32c |= static_cast<uint32_t>(seal[i]) << 8 * (i - 1);
  }
  return crc32c == Crc32c(sealed) ? Seal::kIntact : Seal::kBroken;
}

absl::Status CheckSeal(Seal seal, const v1::WireVersion& sender) {
  const bool may_lack = sender.minor() < kSealMinor;
  const bool has_none =
      may_lack && sender.major() == kWireMajor && sender.minor() >= kOldestWireMinor;
  if (seal == Seal::kIntact || (seal == Seal::kNone && may_lack)) return absl::OkStatus();
  if (has_none) return absl::OkStatus();  // what looks like a seal is its message's end
  return absl::DataLossError(absl::StrCat("a message was damaged on its way: its seal is ",
                                          seal == Seal::kNone ? "missing" : "broken"));
}

}  // namespace kvship
