// Which tokens go onto a page of GatherPages(). Device code.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/gather_pages.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {

struct PageTokens {
  size_t head = 0;                     // KV head
  const int32_t* positions = nullptr;  // [num_tokens]
  int num_tokens = 0;                  // 0: there is no such page
};
__device__ inline PageTokens TokensOfPage(const GatherPagesArgs& args, unsigned page) {
  const int32_t* next = args.offsets;
  int32_t begin = *next++;
  for (size_t head = 0; head < args.num_kv_heads; ++head) {
    for (size_t set = 0; set < args.sets_per_head; ++set) {
      const int32_t end = *next++;
      const auto num_pages = static_cast<unsigned>(PagesFor(static_cast<size_t>(end - begin)));
      if (page < num_pages) {
        begin += static_cast<int32_t>(page * kPageTokens);
        return {head, args.positions + begin, min(end - begin, static_cast<int>(kPageTokens))};
      }
      page -= num_pages;
      begin = end;
    }
  }
  return {};
}

}  // namespace kvship::cuda
