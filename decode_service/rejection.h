// Why there is no room for a request: the reason (rpc/errors.h) of its ResourceExhausted, by which
// rejections are counted. One without a reason is for lack of memory beside the pool.
#pragma once

namespace kvship {

inline constexpr char kPoolFull[] = "POOL_FULL";        // too many wait, some for the KV pool
inline constexpr char kPrefillFull[] = "PREFILL_FULL";  // too many wait, all for prefill nodes
inline constexpr char kClientLimit[] = "CLIENT_LIMIT";  // the client has used up its share
inline constexpr char kHttpFull[] = "HTTP_FULL";        // the HTTP port runs as many as it may

}  // namespace kvship
