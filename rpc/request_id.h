// The id of a request, which both nodes log. It is drawn where the request arrives, sent on in
// Begin, and returned to the client. Pure functions, except the draw.
#pragma once

#include <cstddef>
#include <string>

namespace kvship {

// The initial metadata of a Generate call that carries the id.
inline constexpr char kRequestIdMetadata[] = "kvship-request-id";

// Ids of other clients may have other forms, up to this length.
inline constexpr size_t kMostRequestIdBytes = 64;

// Returns 128 random bits as 32 hex digits.
std::string NewRequestId();

}  // namespace kvship
