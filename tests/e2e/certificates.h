// Certificates for tests, made by the openssl program.
#pragma once

#include <string>

#include "rpc/tls.h"
#include "tests/temp_folder.h"

namespace kvship {

// A certificate authority with its files in a folder of its own, which goes with it.
class Authority {
 public:
  Authority();

  std::string certificate() const { return folder_.path() + "/ca.pem"; }

  // A new certificate and key for `names` ("DNS:a.test,IP:127.0.0.1"), with this authority as `ca`.
  TlsFiles Issue(const std::string& names);

 private:
  const TempFolder folder_;
  int num_issued_ = 0;
};

// Puts the second's certificate and key in the place of the first's.
void Replace(const TlsFiles& old, const TlsFiles& by);

}  // namespace kvship
