// FileTensor is one tensor as a checkpoint's file describes it, its bytes borrowed from the mapped
// file. The GGUF and safetensors readers return tables of them, all bounds checked. Plain data.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/weight_format.h"

namespace kvship {

struct FileTensor {
  std::string name;
  WeightFormat format = WeightFormat::kF32;
  std::vector<size_t> shape;  // outermost dimension first; no dimension is 0
  std::span<const std::byte> bytes;
  std::string file;  // path, for messages
};

using FileTensors = std::map<std::string, FileTensor>;

}  // namespace kvship
