// What only Hopper's tensor cores do, where there are none.
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {

absl::Status WindowVotesSm90(cudaStream_t /*stream*/, const WindowVotesArgs& /*args*/) {
  return absl::UnimplementedError("the emulated device is no Hopper");
}

}  // namespace kvship::cuda
