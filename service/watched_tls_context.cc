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
  const bool have_changed = std::exchange(versions_, now) != now;
  if (!have_changed && !are_unread_) return context_;
  auto context = ServerTlsContext(files_);
  are_unread_ = !context.ok();
  if (context.ok()) {
    context_ = *std::move(context);
    LogInfo(absl::StrCat("read the certificate in ", files_.certificate));
  } else if (have_changed) {
    LogWarning(absl::StrCat("the certificate stays as it was: ", context.status().message()));
  }
  return context_;
}

}  // namespace kvship
