// A library for LD_PRELOAD that gives one host name of a process the addresses, one a line, that
// the file named by KVSHIP_ADDRESSES holds, which may change at any time. The name is the file's.
// Other names are looked up as ever.
#include <dlfcn.h>
#include <netdb.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

using GetAddrInfo = int (*)(const char*, const char*, const addrinfo*, addrinfo**);

GetAddrInfo Real() {
  static const auto real = reinterpret_cast<GetAddrInfo>(dlsym(RTLD_NEXT, "getaddrinfo"));
  return real;
}

}  // namespace

extern "C" int getaddrinfo(const char* host, const char* service, const addrinfo* hints,
                           addrinfo** found) {
  const char* const path = std::getenv("KVSHIP_ADDRESSES");
  if (path == nullptr || host == nullptr || std::filesystem::path(path).filename() != host) {
    return Real()(host, service, hints, found);
  }
  // One list of them all: freeaddrinfo frees it entry by entry.
  addrinfo** end = found;
  *end = nullptr;
  std::ifstream file(path);
  for (std::string address; std::getline(file, address);) {
    if (Real()(address.c_str(), service, hints, end) != 0) continue;
    while (*end != nullptr) end = &(*end)->ai_next;
  }
  return *found == nullptr ? EAI_NONAME : 0;
}
