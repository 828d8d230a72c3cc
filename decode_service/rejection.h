// The reasons (rpc/errors.h) of a ResourceExhausted error, by which rejections are counted. An
// error without a reason means lack of memory outside the pool.
#pragma once

namespace kvship {

inline constexpr char kPoolFull[] = "POOL_FULL";        // queue full; some wait for the KV pool
inline constexpr char kPrefillFull[] = "PREFILL_FULL";  // queue full; all wait for prefill nodes
inline constexpr char kClientLimit[] = "CLIENT_LIMIT";  // client's share used up
inline constexpr char kHttpFull[] = "HTTP_FULL";        // HTTP port at its request limit

}  // namespace kvship
