// StructuredOutput follows one output through its structure. What may come next can take longer to
// find than a step of the decode loop takes, which all requests of the batch wait for; so another
// thread finds it, and the session sits out the steps until then. Thread safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "decode_service/grammar/output_matcher.h"
#include "engine/sampling.h"

namespace kvship {

class StructuredOutput {
 public:
  // `client` is the name of whose output it is.
  StructuredOutput(std::unique_ptr<OutputMatcher> matcher, std::string client);

  const std::string& client() const { return client_; }

  // Advances by an output token and finds those that may come next, however long that takes. By one
  // thread at a time.
  void Follow(int32_t token);

  // Whether that is known of the last token. Waits for it until `deadline`, if there is one.
  bool IsKnown(absl::Time deadline = {});
  // Takes it, once for each token, when it is known. Errors as OutputMatcher's.
  absl::StatusOr<TokenMask> TakeAllowed();

 private:
  const std::unique_ptr<OutputMatcher> matcher_;
  const std::string client_;
  std::mutex mutex_;
  std::condition_variable known_;
  std::optional<absl::StatusOr<TokenMask>> allowed_;
};

}  // namespace kvship
