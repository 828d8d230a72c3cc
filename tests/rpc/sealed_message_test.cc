#include "rpc/sealed_message.h"

#include <gtest/gtest.h>

#include "kvship/v1/prefill.pb.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

v1::PrefillRequest Begin() {
  v1::PrefillRequest request;
  *request.mutable_begin()->mutable_wire_version() = WireVersionProto();
  for (uint32_t token = 0; token < 20; ++token) request.mutable_begin()->add_tokens(token);
  return request;
}

absl::Status Check(const std::string& bytes, const v1::WireVersion& sender) {
  return CheckSeal(SealOf(std::as_bytes(std::span(bytes))), sender);
}

TEST(SealedMessage, IsAnOrdinaryMessageWhoseSealIsAField) {
  v1::PrefillRequest read;
  ASSERT_TRUE(read.ParseFromString(Sealed(Begin())));
  EXPECT_NE(read.seal(), 0u);
  EXPECT_TRUE(Check(Sealed(Begin()), WireVersionProto()).ok());
  read.clear_seal();
  EXPECT_EQ(read.SerializeAsString(), Begin().SerializeAsString());
}

TEST(SealedMessage, EveryTurnedBitAndEveryCutIsNoticed) {
  const std::string right = Sealed(Begin());
  for (size_t bit = 0; bit < 8 * right.size(); ++bit) {
    std::string damaged = right;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    EXPECT_TRUE(absl::IsDataLoss(Check(damaged, WireVersionProto()))) << "bit " << bit;
  }
  for (size_t length = 0; length < right.size(); ++length) {
    EXPECT_TRUE(absl::IsDataLoss(Check(right.substr(0, length), WireVersionProto())));
  }
}

TEST(SealedMessage, AnOlderSenderNeedsNoSealWhateverItsMessageEndsIn) {
  v1::WireVersion older = WireVersionProto();
  older.set_minor(1);
  v1::PrefillRequest begin = Begin();
  for (const char* request_id : {"order-x1234", "order-u1234"}) {  // u is a seal's tag
    begin.mutable_begin()->set_request_id(request_id);
    EXPECT_EQ(Check(begin.SerializeAsString(), older), absl::OkStatus()) << request_id;
  }
}

TEST(SealedMessage, OfASenderThatIsNotKnownABrokenSealIsNoticed) {
  std::string damaged = Sealed(Begin());
  damaged[3] ^= 1;
  v1::WireVersion before_any = WireVersionProto();
  before_any.set_minor(0);
  for (const v1::WireVersion& sender : {v1::WireVersion(), before_any}) {
    EXPECT_EQ(Check(Begin().SerializeAsString(), sender), absl::OkStatus());
    EXPECT_TRUE(absl::IsDataLoss(Check(damaged, sender)));
  }
}

}  // namespace
}  // namespace kvship
