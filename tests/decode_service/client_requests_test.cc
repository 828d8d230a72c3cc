#include "decode_service/client_requests.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvship {
namespace {

TEST(ClientRequests, EachClientHasItsOwnPlaces) {
  ClientRequests requests(2);
  auto first = requests.Enter("a");
  const auto second = requests.Enter("a");
  EXPECT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(requests.Enter("a").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(requests.Enter("b").ok());
  *first = nullptr;
  EXPECT_TRUE(requests.Enter("a").ok());
}

TEST(ClientRequests, ZeroIsAnyNumber) {
  ClientRequests requests(0);
  std::vector<ClientRequests::Place> places;
  for (int i = 0; i < 100; ++i) places.push_back(*requests.Enter(""));
}

}  // namespace
}  // namespace kvship
