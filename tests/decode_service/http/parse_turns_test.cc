#include "decode_service/http/parse_turns.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <optional>

namespace kvship {
namespace {

TEST(ParseTurnsTest, ABodyWaitsUntilThoseBeforeItLeaveRoom) {
  ParseTurns turns(100);
  std::optional<ParseTurns::Turn> first, second;
  first.emplace(turns, 60);
  second.emplace(turns, 40);
  auto third = std::async(std::launch::async, [&turns] { ParseTurns::Turn turn(turns, 50); });
  second.reset();
  EXPECT_EQ(third.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  first.reset();
  third.get();
  const ParseTurns::Turn longest(turns, 100);
}

}  // namespace
}  // namespace kvship
