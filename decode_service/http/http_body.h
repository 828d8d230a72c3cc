// Reads the body of an HTTP request to a generating endpoint: JSON without a Content-Encoding,
// whose length the headers define in exactly one way. Called by handlers of HttpServer, on the
// connection's thread.
#pragma once

#include <httplib.h>

#include <optional>
#include <string>

#include "decode_service/http/openai_error.h"

namespace kvship {

bool HasHttpBody(const httplib::Request& request);

// Reads the body, or returns a client error. If unread bytes of the request may follow, the
// connection closes after the response.
std::optional<OpenAiError> ReadHttpBody(const httplib::Request& request,
                                        const httplib::ContentReader& reader, size_t max_body_bytes,
                                        std::string* body);

}  // namespace kvship
