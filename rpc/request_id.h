// The id of a request, which both nodes write into their logs: made where the request arrives, sent
// on in Begin, and told to the client. Pure functions, but for the draw.
#pragma once

#include <cstddef>
#include <string>

namespace kvship {

// Initial metadata of a Generate call: the request's id.
inline constexpr char kRequestIdMetadata[] = "kvship-request-id";

// Ids of other clients may look otherwise, up to so long.
inline constexpr size_t kMostRequestIdBytes = 64;

// 128 random bits as 32 hex digits.
std::string NewRequestId();

}  // namespace kvship
