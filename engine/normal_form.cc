#include "engine/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr size_t kMostMarks = 256;

absl::Status Error(utf8proc_ssize_t code) {
  const std::string message = absl::StrCat("text cannot be normalized: ", utf8proc_errmsg(code));
  return code == UTF8PROC_ERROR_NOMEM ? absl::ResourceExhaustedError(message)
                                      : absl::InvalidArgumentError(message);
}

const utf8proc_uint8_t* BytesOf(absl::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

absl::Status CheckMarks(absl::string_view text) {
  size_t in_a_row = 0;
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t character = 0;
    const utf8proc_ssize_t num_bytes = utf8proc_iterate(
        BytesOf(text) + at, static_cast<utf8proc_ssize_t>(text.size() - at), &character);
    if (num_bytes < 0) return Error(num_bytes);
    // What it is made of counts: there are characters of marks alone that are none themselves.
    utf8proc_int32_t parts[8];
    const utf8proc_ssize_t num_parts =
        utf8proc_decompose_char(character, parts, std::size(parts), UTF8PROC_DECOMPOSE, nullptr);
    if (num_parts < 0) return Error(num_parts);
    for (utf8proc_ssize_t i = 0; i < num_parts; ++i) {
      in_a_row = utf8proc_get_property(parts[i])->combining_class == 0 ? 0 : in_a_row + 1;
    }
    if (in_a_row > kMostMarks) {
      return absl::InvalidArgumentError(absl::StrCat("text has more than ", kMostMarks,
                                                     " combining marks in a row before byte ", at,
                                                     "; wanted at most that"));
    }
    at += static_cast<size_t>(num_bytes);
  }
  return absl::OkStatus();
}

struct Free {
  void operator()(utf8proc_uint8_t* bytes) const { std::free(bytes); }
};

}  // namespace

absl::StatusOr<std::string> NormalFormC(absl::string_view text) {
  if (std::all_of(text.begin(), text.end(), absl::ascii_isascii)) return std::string(text);
  RETURN_IF_ERROR(CheckMarks(text));
  utf8proc_uint8_t* bytes = nullptr;
  const utf8proc_ssize_t num_bytes =
      utf8proc_map(BytesOf(text), static_cast<utf8proc_ssize_t>(text.size()), &bytes,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, Free> owned(bytes);
  if (num_bytes < 0) return Error(num_bytes);
  return std::string(reinterpret_cast<const char*>(bytes), static_cast<size_t>(num_bytes));
}

}  // namespace kvship
