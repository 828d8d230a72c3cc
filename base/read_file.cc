#include "base/read_file.h"

#include <cstdio>
#include <memory>

namespace kvship {

std::optional<std::string> ReadFile(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (file == nullptr) return std::nullopt;
  std::string content;
  char bytes[64 << 10];
  while (const size_t num_bytes = std::fread(bytes, 1, sizeof(bytes), file.get())) {
    content.append(bytes, num_bytes);
  }
  if (std::ferror(file.get())) return std::nullopt;  // a folder, for example
  return content;
}

}  // namespace kvship
