// The only file that includes cudnn-frontend: it takes a minute to compile.
#include "kernels/cuda/cudnn_attention.h"

#include <cmath>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "cudnn_frontend.h"
#include "kernels/cuda/cudnn_library.h"
#include "kernels/cuda/fill.h"

namespace kvship::cuda {
namespace {

namespace fe = cudnn_frontend;

// Plans that are kept: prompts of up to 1M tokens have some thousand shapes. Making one takes tens
// of milliseconds.
constexpr size_t kMostPlans = 512;

enum Uid : int64_t { kQ = 1, kK, kV, kOut, kLse, kQueryTokens, kKeyTokens };

absl::Status FrontendStatus(fe::error_t error, const char* what) {
  if (error.is_good()) return absl::OkStatus();
  const auto message = absl::StrCat(what, ": ", error.get_message());
  switch (error.get_code()) {
    case fe::error_code_t::GRAPH_NOT_SUPPORTED:
    case fe::error_code_t::HEURISTIC_QUERY_FAILED:
    case fe::error_code_t::GRAPH_EXECUTION_PLAN_CREATION_FAILED:
      return absl::UnimplementedError(message);
    default: return absl::InternalError(message);
  }
}

absl::Status CudnnStatus(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudnnGetErrorString(status)));
}

absl::StatusOr<fe::DataType_t> DataType(DType dtype) {
  switch (dtype) {
    case DType::kF16: return fe::DataType_t::HALF;
    case DType::kBf16: return fe::DataType_t::BFLOAT16;
    default: return absl::InvalidArgumentError("dtype: wanted f16 or bf16");
  }
}

fe::graph::Tensor_attributes Tensor(const char* name, Uid uid, const std::vector<int64_t>& dims,
                                    const std::vector<int64_t>& strides) {
  return fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim(dims).set_stride(
      strides);
}

struct Buckets {
  size_t queries, keys;
  bool exact;  // the lengths are the buckets'
};
Buckets BucketsOf(const PromptAttentionArgs& args) {
  const size_t num_keys = args.first_position + args.num_queries;
  Buckets buckets = {AttentionBucket(args.num_queries), AttentionBucket(num_keys), false};
  buckets.exact = buckets.queries == args.num_queries && buckets.keys == num_keys;
  return buckets;
}

}  // namespace

struct CudnnAttention::Plan {
  fe::graph::Graph graph;
  bool is_exact = false;  // it takes no lengths
  int64_t workspace_bytes = 0;

  absl::Status Build(cudnnHandle_t handle, const PromptAttentionArgs& args) {
    ASSIGN_OR_RETURN(const fe::DataType_t type, DataType(args.dtype));
    const Buckets buckets = BucketsOf(args);
    const auto hq = static_cast<int64_t>(args.num_query_heads);
    const auto h = static_cast<int64_t>(args.num_kv_heads);
    const auto d = static_cast<int64_t>(args.head_dim);
    const auto queries = static_cast<int64_t>(buckets.queries);
    const auto keys = static_cast<int64_t>(buckets.keys);
    const auto head_stride = static_cast<int64_t>(args.head_stride);
    const auto q_row = static_cast<int64_t>(args.q_row_stride);
    graph.set_io_data_type(type)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const auto q = graph.tensor(Tensor("q", kQ, {1, hq, queries, d}, {hq * d, d, q_row, 1}));
    const auto k =
        graph.tensor(Tensor("k", kK, {1, h, keys, d}, {h * head_stride, head_stride, d, 1}));
    const auto v =
        graph.tensor(Tensor("v", kV, {1, h, keys, d}, {h * head_stride, head_stride, d, 1}));
    auto options = fe::graph::SDPA_attributes()
                       .set_name("attention")
                       .set_generate_stats(true)
                       .set_attn_scale(1.0f / std::sqrt(static_cast<float>(args.head_dim)))
                       .set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT)
                       .set_diagonal_band_right_bound(0);
    is_exact = buckets.exact;
    if (!is_exact) {
      const auto length = [&](const char* name, Uid uid) {
        return graph.tensor(
            Tensor(name, uid, {1, 1, 1, 1}, {1, 1, 1, 1}).set_data_type(fe::DataType_t::INT32));
      };
      options.set_padding_mask(true)
          .set_seq_len_q(length("query_tokens", kQueryTokens))
          .set_seq_len_kv(length("key_tokens", kKeyTokens));
    }
    const auto [out, lse] = graph.sdpa(q, k, v, options);
    out->set_output(true)
        .set_uid(kOut)
        .set_dim({1, hq, queries, d})
        .set_stride({queries * hq * d, d, hq * d, 1});
    lse->set_output(true).set_uid(kLse).set_data_type(fe::DataType_t::FLOAT);
    RETURN_IF_ERROR(FrontendStatus(graph.build(handle, {fe::HeurMode_t::A}), "plan of attention"));
    return FrontendStatus(graph.get_workspace_size(workspace_bytes), "workspace of attention");
  }
};

absl::StatusOr<std::unique_ptr<CudnnAttention>> CudnnAttention::Create() {
  RETURN_IF_ERROR(FindCudnn());
  std::unique_ptr<CudnnAttention> attention(new CudnnAttention);
  cudnnHandle_t handle = nullptr;
  RETURN_IF_ERROR(CudnnStatus(cudnnCreate(&handle), "cuDNN"));
  attention->handle_ = handle;
  ASSIGN_OR_RETURN(attention->lengths_, DeviceBuffer::Create(2 * sizeof(int32_t)));
  return attention;
}

CudnnAttention::~CudnnAttention() {
  plans_.clear();
  if (handle_ != nullptr) cudnnDestroy(static_cast<cudnnHandle_t>(handle_));
}

absl::StatusOr<CudnnAttention::Plan*> CudnnAttention::PlanFor(cudaStream_t stream,
                                                              const PromptAttentionArgs& args) {
  const Buckets buckets = BucketsOf(args);
  const Key key(args.dtype, args.num_query_heads, args.num_kv_heads, args.head_dim, buckets.queries,
                buckets.keys, args.head_stride, args.q_row_stride, buckets.exact);
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second.get();
  if (plans_.size() == kMostPlans) {
    RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream), "attention"));
    plans_.clear();
  }
  auto plan = std::make_unique<Plan>();
  const absl::Status built = plan->Build(static_cast<cudnnHandle_t>(handle_), args);
  if (absl::IsUnimplemented(built) && !std::exchange(has_warned_, true)) {
    LogWarning(absl::StrCat("cuDNN makes no plan for a block of a prompt (", built.message(),
                            "); the plain kernel attends, which is slower"));
  }
  RETURN_IF_ERROR(built);
  const auto workspace_bytes = static_cast<size_t>(plan->workspace_bytes);
  if (workspace_bytes > workspace_.num_bytes()) {
    ASSIGN_OR_RETURN(workspace_, DeviceBuffer::Create(workspace_bytes));
  }
  return plans_.emplace(key, std::move(plan)).first->second.get();
}

absl::Status CudnnAttention::Run(cudaStream_t stream, const PromptAttentionArgs& args) {
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  const size_t bucket = AttentionBucket(args.num_queries);
  if (args.num_queries < 1 || args.lse == nullptr || args.lse_row_stride != bucket) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_queries ", args.num_queries, ", lse_row_stride ", args.lse_row_stride,
                     ": wanted queries, and an lse with rows of ", bucket));
  }
  ASSIGN_OR_RETURN(Plan * plan, PlanFor(stream, args));
  const auto handle = static_cast<cudnnHandle_t>(handle_);
  RETURN_IF_ERROR(CudnnStatus(cudnnSetStream(handle, stream), "stream"));
  std::unordered_map<int64_t, void*> tensors = {{kQ, const_cast<void*>(args.q)},
                                                {kK, const_cast<void*>(args.keys)},
                                                {kV, const_cast<void*>(args.values)},
                                                {kOut, args.out},
                                                {kLse, args.lse}};
  if (!plan->is_exact) {
    int32_t* lengths = lengths_.as<int32_t>();
    RETURN_IF_ERROR(StoreInts(stream, lengths, static_cast<int32_t>(args.num_queries),
                              static_cast<int32_t>(args.first_position + args.num_queries)));
    tensors[kQueryTokens] = lengths;
    tensors[kKeyTokens] = lengths + 1;
  }
  return FrontendStatus(plan->graph.execute(handle, tensors, workspace_.data()), "attention");
}

}  // namespace kvship::cuda
