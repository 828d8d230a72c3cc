// Of ResourceExhausted errors: the reasons (rpc/errors.h), by which rejections are counted, and
// what a request is told to wait. An error without a reason means lack of memory outside the pool.
#pragma once

#include "absl/time/time.h"

namespace kvship {

inline constexpr char kPoolFull[] = "POOL_FULL";        // queue full; some wait for the KV pool
inline constexpr char kPrefillFull[] = "PREFILL_FULL";  // queue full; all wait for prefill nodes
inline constexpr char kClientLimit[] = "CLIENT_LIMIT";  // client's share used up
inline constexpr char kHttpFull[] = "HTTP_FULL";        // HTTP port at its request limit

// About the duration of a short request.
inline constexpr absl::Duration kRetryDelay = absl::Seconds(1);

}  // namespace kvship
