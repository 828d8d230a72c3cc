#include "tests/e2e/certificates.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

// A certificate and key; `rest` are further arguments of `openssl req`.
void MakeCertificate(const std::string& certificate, const std::string& key,
                     const std::string& rest) {
  const std::string command = absl::StrCat(
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -out ",
      certificate, " -keyout ", key, " ", rest, " 2>/dev/null");
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace

Authority::Authority() {
  MakeCertificate(certificate(), folder_.path() + "/ca.key", "-subj /CN=authority");
}

TlsFiles Authority::Issue(const std::string& names) {
  const std::string stem = absl::StrCat(folder_.path(), "/", num_issued_++);
  TlsFiles files = {.certificate = stem + ".pem", .key = stem + ".key", .ca = certificate()};
  MakeCertificate(files.certificate, files.key,
                  absl::StrCat("-subj /CN=ignored -addext subjectAltName=", names,
                               " -addext basicConstraints=critical,CA:false -CA ", certificate(),
                               " -CAkey ", folder_.path(), "/ca.key"));
  return files;
}

void Replace(const TlsFiles& old, const TlsFiles& by) {
  std::filesystem::rename(by.certificate, old.certificate);
  std::filesystem::rename(by.key, old.key);
}

}  // namespace kvship
