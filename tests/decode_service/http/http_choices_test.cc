#include "decode_service/http/http_choices.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/decode_service/generation_parts.h"
#include "tests/decode_service/silent_node.h"

namespace kvship {
namespace {

using Next = ResponseBuffer::Next;

// Two choices, of which the first has ended well when the second one would start.
class HttpChoicesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    request_.prompts.emplace_back().mutable_tokens()->add_ids(1);
    request_.choices_per_prompt = 2;
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_), 0);
    const absl::Time give_up = absl::Now() + absl::Seconds(10);
    while (!parts_.nodes.CheckAnyAnswers().ok() && absl::Now() < give_up) std::this_thread::yield();
    ASSERT_TRUE(parts_.nodes.CheckAnyAnswers().ok());
  }
  // A connection to a node must not end on a thread of gRPC's.
  void TearDown() override {
    for (const auto& generation : generations_) {
      while (generation.use_count() > 1) std::this_thread::yield();
    }
    for (const int end : ends_) close(end);
  }

  // How the request ends, whose first choice comes before.
  absl::Status End(absl::Time deadline) {
    for (int i = 0; i < 2; ++i) {
      generations_.push_back(std::make_shared<Generation>(
          parts_.uses, Generation::Call{.id = absl::StrCat(i),
                                        .client = "",
                                        .arrival = MonotonicNow() - absl::Seconds(1),
                                        .deadline = deadline}));
    }
    v1::GenerateReport report;
    report.mutable_usage()->set_output_tokens(1);
    generations_[0]->responses().Finish(report);
    HttpConnection connection(ends_[0], /*tls=*/nullptr);
    HttpChoices choices(generations_, deadline, connection);
    choices.Start(request_);
    HttpChoices::Message message;
    absl::Status end;
    const absl::Time give_up = MonotonicNow() + absl::Seconds(10);
    EXPECT_EQ(choices.Take(give_up, &message, &end), Next::kMessage);
    EXPECT_EQ(message.choice, 0u);
    EXPECT_TRUE(message.response.has_report());
    EXPECT_EQ(choices.Take(give_up, &message, &end), Next::kEnd);
    return end;
  }

  SilentNode silent_;
  GenerationParts parts_{{silent_.address()}};
  OpenAiRequest request_;
  int ends_[2];
  std::vector<std::shared_ptr<Generation>> generations_;
};

TEST_F(HttpChoicesTest, OnesThatAClientDoesNotWaitForFail) {
  shutdown(ends_[1], SHUT_RDWR);
  EXPECT_EQ(End(MonotonicNow() + absl::Minutes(1)), absl::CancelledError("the client has gone"));
}

TEST_F(HttpChoicesTest, OnesThatTheDeadlineIsTooShortForFail) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(End(MonotonicNow())));
}

}  // namespace
}  // namespace kvship
