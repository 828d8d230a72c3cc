#include "engine/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <cassert>
#include <vector>

#include "absl/strings/ascii.h"

namespace kvship {
namespace {

using Characters = std::vector<utf8proc_int32_t>;

Characters Decomposed(absl::string_view text) {
  const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  Characters characters;
  characters.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t character = 0;
    const utf8proc_ssize_t num_bytes =
        utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &character);
    assert(num_bytes > 0);
    utf8proc_int32_t parts[4];  // the most that Unicode has
    const utf8proc_ssize_t num_parts =
        utf8proc_decompose_char(character, parts, std::size(parts), UTF8PROC_DECOMPOSE, nullptr);
    assert(num_parts > 0 && num_parts <= static_cast<utf8proc_ssize_t>(std::size(parts)));
    characters.insert(characters.end(), parts, parts + num_parts);
    at += static_cast<size_t>(num_bytes);
  }
  return characters;
}

// utf8proc's own way takes the square of their number.
void PutMarksInOrder(Characters& characters) {
  const auto class_of = [](utf8proc_int32_t character) {
    return utf8proc_get_property(character)->combining_class;
  };
  const auto is_mark = [&](utf8proc_int32_t character) { return class_of(character) != 0; };
  for (auto begin = characters.begin();;) {
    begin = std::find_if(begin, characters.end(), is_mark);
    if (begin == characters.end()) return;
    const auto end = std::find_if_not(begin, characters.end(), is_mark);
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return class_of(a) < class_of(b);
    });
    begin = end;
  }
}

}  // namespace

std::string NormalFormC(absl::string_view text) {
  if (std::all_of(text.begin(), text.end(), absl::ascii_isascii)) return std::string(text);
  Characters characters = Decomposed(text);
  PutMarksInOrder(characters);
  const utf8proc_ssize_t num_characters =
      utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string normal;
  normal.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < num_characters; ++i) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t num_bytes = utf8proc_encode_char(characters[i], bytes);
    normal.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(num_bytes));
  }
  return normal;
}

}  // namespace kvship
