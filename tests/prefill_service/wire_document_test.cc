// Holds the worked examples of docs/wire.md to what the code makes, byte by byte.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "kernels/attention.h"
#include "kv/frames.h"
#include "rpc/cache_messages.h"
#include "rpc/sealed_message.h"
#include "transport/prefill_wire.h"

namespace kvship {
namespace {

using Bytes = std::vector<uint8_t>;

// The fenced blocks "```hex NAME NUM_BYTES" of the document. Lines are "OFFSET  BYTES  comment",
// two spaces between; bytes that no line gives are zero.
std::map<std::string, Bytes> DocumentedBytes() {
  std::ifstream file(KVSHIP_GOLDENS "/../../docs/wire.md");
  std::map<std::string, Bytes> blocks;
  Bytes* block = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("```", 0) == 0) {
      std::istringstream words(line);
      std::string fence, name;
      size_t num_bytes = 0;
      block = nullptr;
      if (words >> fence >> name >> num_bytes && fence == "```hex") {
        block = &blocks[name];
        block->resize(num_bytes);
      }
    } else if (block != nullptr) {
      size_t offset = std::stoul(line.substr(0, 4), nullptr, 16);
      const size_t end = line.find("  ", 6);
      std::istringstream bytes(line.substr(6, end == std::string::npos ? end : end - 6));
      for (std::string byte; bytes >> byte;) {
        block->at(offset++) = static_cast<uint8_t>(std::stoul(byte, nullptr, 16));
      }
    }
  }
  return blocks;
}

// As the document writes it.
std::string Dump(const Bytes& bytes) {
  std::ostringstream out;
  for (size_t row = 0; row < bytes.size(); row += 16) {
    char text[24];
    std::snprintf(text, sizeof(text), "%04zx ", row);
    out << text;
    for (size_t i = row; i < std::min(row + 16, bytes.size()); ++i) {
      std::snprintf(text, sizeof(text), " %02x", bytes[i]);
      out << text;
    }
    out << "\n";
  }
  return out.str();
}

Bytes BytesOf(const std::string& text) { return {text.begin(), text.end()}; }

// The example: a model of one layer with one KV head of two elements; of a prompt of six tokens the
// head keeps three, in f16.
class WireDocument : public ::testing::Test {
 protected:
  WireDocument() {
    plan_ = {.prompt_tokens = 6,
             .head_dim = 2,
             .format = PageFormat::kF16,
             .num_kv_heads = 1,
             .num_heads = 1,
             .layer_tokens = {3}};
    CompactLayer layer;
    layer.kept_tokens = {3};
    layer.retained_mass = {0.75f};
    layer.chosen_mass = {0.5f};
    const LayerLayout layout = LayoutOf(plan_, layer.kept_tokens);
    layer.bytes = Buffer(layout.num_bytes);
    const std::array<int32_t, 3> positions = {0, 2, 5};
    std::memcpy(layer.bytes.data() + layout.heads[0].positions_offset, positions.data(), 12);
    std::array<float, 12> keys;
    std::array<float, 12> values;
    for (size_t i = 0; i < 12; ++i) {
      keys[i] = static_cast<float>(i);
      values[i] = -1 - static_cast<float>(i);
    }
    GatherPages(plan_.format, TensorView(keys.data(), {6, 2}), TensorView(values.data(), {6, 2}),
                positions, layer.bytes.data() + layout.heads[0].pages_offset);
    FrameCutter cutter;
    frames_ = cutter.Cut(std::move(layer));
    manifest_ = cutter.Finish(plan_.prompt_tokens);
  }

  void ExpectDocumented(const std::string& name, const Bytes& made) {
    const std::map<std::string, Bytes> blocks = DocumentedBytes();
    ASSERT_TRUE(blocks.count(name)) << "docs/wire.md has no block hex " << name << "; wanted:\n"
                                    << Dump(made);
    EXPECT_EQ(Dump(blocks.at(name)), Dump(made));
  }

  KvPlan plan_;
  LayerFrames frames_;
  KvManifest manifest_;
};

TEST_F(WireDocument, ShowsAnInt4PageOfThreeTokens) {
  constexpr size_t kHeadDim = 32;
  std::array<float, 3 * kHeadDim> keys = {};
  std::array<float, 3 * kHeadDim> values = {};
  const std::array<std::array<float, 3>, 3> channels = {{{-1, 3, 9.5f}, {14, 3, 2}, {4, 3, 5}}};
  for (size_t t = 0; t < 3; ++t) {
    keys[t * kHeadDim] = channels[t][0];
    keys[t * kHeadDim + 1] = channels[t][1];
    keys[t * kHeadDim + 16] = channels[t][2];
  }
  values[0] = -2;
  values[17] = 13;
  std::fill_n(values.begin() + kHeadDim, kHeadDim, 0.5f);
  values[2 * kHeadDim + 31] = 7.5f;
  const TensorView key_rows(keys.data(), {3, kHeadDim});
  const TensorView value_rows(values.data(), {3, kHeadDim});
  Bytes page(PageBytes(PageFormat::kInt4, kHeadDim), 0xff);
  auto* const bytes = reinterpret_cast<std::byte*>(page.data());
  GatherPages(PageFormat::kInt4, key_rows, value_rows, std::array<int32_t, 3>{0, 1, 2}, bytes);
  ExpectDocumented("int4-page", page);

  std::array<float, 3 * kHeadDim> read_keys;
  std::array<float, 3 * kHeadDim> read_values;
  ReadPage(PageFormat::kInt4, bytes, TensorView(read_keys.data(), {3, kHeadDim}),
           TensorView(read_values.data(), {3, kHeadDim}));
  EXPECT_EQ(read_keys, keys);
  EXPECT_EQ(read_values, values);
}

// Rows are "| FORMAT, FORMAT | parts | bytes | bytes of D = 64 |".
TEST_F(WireDocument, CountsThePagesBytes) {
  std::map<std::string, size_t> documented;
  std::ifstream file(KVSHIP_GOLDENS "/../../docs/wire.md");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> cells = absl::StrSplit(line, '|');
    size_t bytes = 0;
    if (cells.size() != 6 || !absl::SimpleAtoi(cells[4], &bytes)) continue;
    for (absl::string_view name : absl::StrSplit(cells[1], ',')) {
      documented[std::string(absl::StripAsciiWhitespace(name))] = bytes;
    }
  }
  std::map<std::string, size_t> made;
  for (const PageFormat format : {PageFormat::kF32, PageFormat::kF16, PageFormat::kBf16,
                                  PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4}) {
    made[PageFormatName(format)] = PageBytes(format, 64);
  }
  EXPECT_EQ(documented, made);
}

TEST_F(WireDocument, ShowsTheLayersBytes) {
  const auto payload = frames_.frames[0].payload.bytes;
  const auto* data = reinterpret_cast<const uint8_t*>(payload.data());
  ExpectDocumented("layer", Bytes(data, data + payload.size()));
}

TEST_F(WireDocument, ShowsTheLayersHeader) {
  v1::PrefillResponse response;
  *response.mutable_layer() = LayerHeaderToProto(frames_.header);
  ExpectDocumented("layer-header", BytesOf(response.SerializeAsString()));
}

TEST_F(WireDocument, ShowsASealedMessage) {
  v1::PrefillResponse response;
  *response.mutable_layer() = LayerHeaderToProto(frames_.header);
  ExpectDocumented("sealed-layer-header", BytesOf(Sealed(response)));
}

TEST_F(WireDocument, ShowsTheFrame) {
  const Frame& frame = frames_.frames[0];
  ExpectDocumented("frame", BytesOf(FlatBytes(FrameMessage(frame.header, frame.payload))));
}

TEST_F(WireDocument, ShowsTheManifest) {
  v1::PrefillResponse response;
  ManifestToProto(manifest_, response.mutable_manifest());
  ExpectDocumented("manifest", BytesOf(response.SerializeAsString()));
}

}  // namespace
}  // namespace kvship
