#include "service/watched_tls_context.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace kvship {

absl::StatusOr<std::unique_ptr<WatchedTlsContext>> WatchedTlsContext::Load(const TlsFiles& files) {
  std::unique_ptr<WatchedTlsContext> watched(new WatchedTlsContext(files));
  ASSIGN_OR_RETURN(watched->context_, ServerTlsContext(files));
  return watched;
}

std::shared_ptr<SSL_CTX> WatchedTlsContext::Get() {
  const Versions now = VersionsNow();
  const bool is_new = now != versions_;
  if (!is_new && !unread_) return context_;
  versions_ = now;
  auto context = ServerTlsContext(files_);
  unread_ = !context.ok();
  if (context.ok()) {
    context_ = *std::move(context);
    LogInfo(absl::StrCat("read the certificate in ", files_.certificate));
  } else if (is_new) {
    LogWarning(absl::StrCat("the certificate stays as it was: ", context.status().message()));
  }
  return context_;
}

}  // namespace kvship
