#include "service/api_tokens.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "base/read_file.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr size_t kMostNameBytes = 64;

bool IsName(absl::string_view text) {
  return !text.empty() && text.size() <= kMostNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                  c == '.';
         });
}

Sha256Digest DigestOf(absl::string_view token) {
  Sha256 hash;
  hash.Update(std::as_bytes(std::span(token.data(), token.size())));
  return hash.Finish();
}

}  // namespace

absl::StatusOr<std::vector<ApiToken>> ParseApiTokens(absl::string_view text) {
  std::vector<ApiToken> tokens;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    const auto& [name, hex] = parts;
    ApiToken token = {.client = std::string(name)};
    const bool is_hex = hex.size() == 2 * token.digest.size() &&
                        std::all_of(hex.begin(), hex.end(),
                                    [](unsigned char c) { return absl::ascii_isxdigit(c); });
    if (!IsName(name) || !is_hex) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, " is no token; wanted NAME:SHA256, a name of at most ",
                       kMostNameBytes, " letters, digits, '-', '_' and '.', and 64 hex digits"));
    }
    const std::string bytes = absl::HexStringToBytes(hex);
    std::copy_n(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size(),
                token.digest.begin());
    tokens.push_back(std::move(token));
  }
  return tokens;
}

absl::StatusOr<std::unique_ptr<ApiTokens>> ApiTokens::Load(const std::string& path) {
  std::unique_ptr<ApiTokens> tokens(new ApiTokens(path));
  tokens->version_ = FileVersion::Of(path);
  RETURN_IF_ERROR(tokens->Read());
  return tokens;
}

absl::Status ApiTokens::Read() {
  const std::optional<std::string> text = ReadFile(path_);
  if (!text.has_value()) {
    return absl::NotFoundError(absl::StrCat("'", path_, "' cannot be read"));
  }
  auto tokens = ParseApiTokens(*text);
  if (!tokens.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", tokens.status().message()));
  }
  if (tokens->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path_,
                     "' has no token, so that nobody could call; wanted a line "
                     "NAME:SHA256 at least"));
  }
  tokens_ = *std::move(tokens);
  return absl::OkStatus();
}

void ApiTokens::Refresh() {
  const FileVersion version = FileVersion::Of(path_);
  const bool has_changed = std::exchange(version_, version) != version;
  if (!has_changed && !is_unread_) return;
  const absl::Status status = Read();
  are_current_ = status.ok();
  is_unread_ = absl::IsNotFound(status);
  if (status.ok()) {
    LogInfo(absl::StrCat("read ", tokens_.size(), " API tokens from ", path_));
  } else if (has_changed) {
    LogWarning(absl::StrCat("the API tokens stay as they were: ", status.message()));
  }
}

bool ApiTokens::AreCurrent() {
  std::lock_guard lock(mutex_);
  Refresh();
  return are_current_;
}

absl::StatusOr<std::string> ApiTokens::ClientOf(absl::string_view token) {
  const Sha256Digest digest = DigestOf(token);
  std::lock_guard lock(mutex_);
  Refresh();
  const ApiToken* found = nullptr;
  for (const ApiToken& known : tokens_) {
    if (CRYPTO_memcmp(known.digest.data(), digest.data(), digest.size()) == 0) found = &known;
  }
  if (found == nullptr)
    return absl::UnauthenticatedError(
        "the API token is not known here; wanted one of those that the server's operator gave out");
  return found->client;
}

}  // namespace kvship
