// The status page, one HTML file without external parts: service/status_page.html, built in. It
// reads /status.json of the port it came from, whose fields docs/status.md lists.
#pragma once

namespace kvship {

extern const char kStatusPage[];

}  // namespace kvship
