// Whether this is a build with a sanitizer that has its own way with memory and threads, under
// which tests that take either away mean nothing.
#pragma once

namespace kvship {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace kvship
