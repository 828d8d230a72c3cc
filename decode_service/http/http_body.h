// The body of an HTTP request to one of the generating endpoints: JSON as it is, without a
// Content-Encoding, whose end the headers tell in exactly one way. Called by handlers of
// HttpServer, on the connection's thread.
#pragma once

#include <httplib.h>

#include <optional>
#include <string>

#include "decode_service/http/openai_error.h"

namespace kvship {

bool HasHttpBody(const httplib::Request& request);

// Reads the body, or gives an error of the client's. Where more of the request may follow than was
// read, the connection is closed after the answer.
std::optional<OpenAiError> ReadHttpBody(const httplib::Request& request,
                                        const httplib::ContentReader& reader, size_t max_body_bytes,
                                        std::string* body);

}  // namespace kvship
