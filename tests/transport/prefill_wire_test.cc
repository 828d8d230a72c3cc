#include "transport/prefill_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.h"
#include "kvship/v1/prefill.pb.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

SharedBytes RandomPayload(size_t num_bytes, uint64_t seed) {
  auto buffer = std::make_shared<Buffer>(num_bytes);
  for (size_t i = 0; i < num_bytes; ++i) {
    buffer->data()[i] = static_cast<std::byte>(RandomBits(seed, i));
  }
  return {buffer->bytes(), buffer};
}

std::string TextOf(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string TextOf(const std::vector<std::span<const std::byte>>& pieces) {
  std::string text;
  for (auto piece : pieces) text += TextOf(piece);
  return text;
}

// A buffer of slices that end every `piece_bytes`.
grpc::ByteBuffer InPieces(const std::string& text, size_t piece_bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < text.size(); i += piece_bytes) {
    slices.emplace_back(text.substr(i, piece_bytes));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

const FrameHeader kHeaders[] = {
    {.sequence = 0, .layer = 0, .offset = 0, .num_bytes = 5, .crc32c = 0},
    {.sequence = 300, .layer = 31, .offset = uint64_t{1} << 40, .num_bytes = 5, .crc32c = 77},
    {.sequence = UINT32_MAX,
     .layer = UINT32_MAX,
     .offset = UINT64_MAX,
     .num_bytes = 5,
     .crc32c = UINT32_MAX}};

TEST(FrameMessage, IsWhatProtobufWrites) {
  for (const FrameHeader& header : kHeaders) {
    const SharedBytes payload = RandomPayload(5, 1);
    v1::PrefillResponse response;
    v1::KvFrame& frame = *response.mutable_frame();
    frame.set_sequence(header.sequence);
    frame.set_layer(header.layer);
    frame.set_offset(header.offset);
    frame.set_checksum_kind(v1::CHECKSUM_CRC32C);
    frame.set_checksum(header.crc32c);
    frame.set_payload(TextOf(payload.bytes));
    EXPECT_EQ(FlatBytes(FrameMessage(header, payload)), response.SerializeAsString());
  }
}

TEST(FrameMessage, RefersToThePayloadAndKeepsItAlive) {
  SharedBytes payload = RandomPayload(1000, 2);
  const auto* where = reinterpret_cast<const uint8_t*>(payload.bytes.data());
  const std::string text = TextOf(payload.bytes);
  std::weak_ptr<const void> owner = payload.owner;
  {
    const grpc::ByteBuffer message = FrameMessage({.num_bytes = 1000}, std::move(payload));
    payload = {};
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(message.Dump(&slices).ok());
    EXPECT_EQ(slices.back().begin(), where);
    EXPECT_THAT(FlatBytes(message), HasSubstr(text));
    EXPECT_FALSE(owner.expired());
  }
  EXPECT_TRUE(owner.expired());
}

TEST(ReadResponse, GivesBackAFrameHoweverItIsCut) {
  for (const FrameHeader& header : kHeaders) {
    const SharedBytes payload = RandomPayload(5, 3);
    const std::string text = FlatBytes(FrameMessage(header, payload));
    for (size_t piece_bytes = 1; piece_bytes <= text.size(); ++piece_bytes) {
      const auto read = ReadResponse(InPieces(text, piece_bytes));
      ASSERT_TRUE(read.ok()) << read.status();
      ASSERT_TRUE(read->is_frame);
      EXPECT_EQ(read->header, header);
      EXPECT_EQ(TextOf(read->payload), TextOf(payload.bytes));
    }
  }
}

TEST(ReadResponse, TakesFieldsInAnyOrderAndSkipsUnknownOnes) {
  // Fields 15 (payload), 99 (unknown, of each wire type), 5, 4, 1 of the frame.
  std::string frame("\x7a\x02hi", 4);
  frame +=
      std::string("\x98\x06\x05", 3) + std::string("\x99\x06\x31\x32\x33\x34\x35\x36\x37\x38", 10);
  frame += std::string("\x9a\x06\x01x", 4) + std::string("\x9d\x06\x31\x32\x33\x34", 6);
  frame += std::string("\x2d\x01\x02\x03\x04", 5) + std::string("\x20\x01", 2);
  frame += std::string("\x08\x09", 2);
  const std::string text = std::string("\x7a") + static_cast<char>(frame.size()) + frame;
  v1::PrefillResponse response;
  ASSERT_TRUE(response.ParseFromString(text));
  const auto read = ReadResponse(InPieces(text, 3));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->header.sequence, response.frame().sequence());
  EXPECT_EQ(read->header.crc32c, response.frame().checksum());
  EXPECT_EQ(TextOf(read->payload), "hi");
}

TEST(ReadResponse, GivesOtherMessagesAsTheyAre) {
  v1::PrefillResponse response;
  response.mutable_queued()->set_place(7);
  const auto read = ReadResponse(InPieces(response.SerializeAsString(), 2));
  ASSERT_TRUE(read.ok());
  EXPECT_FALSE(read->is_frame);
  EXPECT_EQ(read->bytes, response.SerializeAsString());
}

TEST(ReadResponse, RefusesAnUnknownChecksum) {
  v1::PrefillResponse response;
  response.mutable_frame()->set_payload("x");
  EXPECT_THAT(
      std::string(ReadResponse(InPieces(response.SerializeAsString(), 9)).status().message()),
      HasSubstr("checksum_kind 0; wanted 1"));
}

TEST(ReadResponse, RefusesAPayloadOverTheLimit) {
  const std::string text = FlatBytes(FrameMessage({}, RandomPayload(kMostFrameBytes + 1, 4)));
  EXPECT_THAT(std::string(ReadResponse(InPieces(text, 1 << 16)).status().message()),
              HasSubstr("wanted at most 1048576"));
}

// Damaged messages: never a crash, and what protobuf cannot parse is not taken for a frame.
TEST(ReadResponse, AgreesWithProtobufOnDamagedFrames) {
  const std::string text = FlatBytes(FrameMessage(kHeaders[1], RandomPayload(40, 5)));
  size_t num_refused = 0;
  for (uint64_t round = 0; round < 20000; ++round) {
    std::string damaged = text;
    for (uint64_t i = 0; i <= RandomBits(6, round) % 3; ++i) {
      const uint64_t draw = RandomBits(round, i);
      damaged[draw % 24] = static_cast<char>(draw >> 32);
    }
    if (RandomBits(7, round) % 4 == 0) damaged.resize(RandomBits(8, round) % damaged.size());
    const auto read = ReadResponse(InPieces(damaged, 1 + round % 50));
    v1::PrefillResponse response;
    const bool parses = response.ParseFromString(damaged);
    if (!parses) {
      ++num_refused;
      // Protobuf also refuses what this reader has no need to look at: other messages' insides.
      EXPECT_FALSE(read.ok() && read->is_frame) << round;
    } else if (read.ok() && read->is_frame) {
      ASSERT_TRUE(response.has_frame()) << round;
      EXPECT_EQ(read->header.sequence, response.frame().sequence()) << round;
      EXPECT_EQ(read->header.layer, response.frame().layer()) << round;
      EXPECT_EQ(read->header.offset, response.frame().offset()) << round;
      EXPECT_EQ(read->header.crc32c, response.frame().checksum()) << round;
      EXPECT_EQ(TextOf(read->payload), response.frame().payload()) << round;
    }
  }
  EXPECT_GT(num_refused, 1000u);
}

}  // namespace
}  // namespace kvship
