#include "ops/cuda/attention.h"

#include "ops/cuda/ops.h"

namespace attune::ops::cuda {
namespace {

AttentionTask task_of(const AttentionShape& s, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_q, const Tensor& cu_k) {
  if (s.heads > kMostHeads || s.head_dim > kMostHeadDim)
    fail_with("attention: " + std::to_string(s.heads) + " heads of " + std::to_string(s.head_dim) + "; the CUDA kernels take at most " +
              std::to_string(kMostHeads) + " of " + std::to_string(kMostHeadDim));
  AttentionTask a{};
  a.q = q, a.k = k, a.v = v;
  a.cu_q = cu_q.as<int32_t>(), a.cu_k = cu_k.as<int32_t>();
  a.sequences = cu_q.cols - 1, a.heads = s.heads, a.kv_heads = s.kv_heads, a.d = s.head_dim;
  a.rows_q = q.rows.count, a.rows_k = k.rows.count;
  a.scale = s.scale, a.softcap = s.softcap, a.causal = s.causal, a.window = s.window;
  a.has_alibi = s.alibi != nullptr;
  if (s.alibi) std::copy_n(s.alibi, s.heads, a.alibi);
  a.dropout = s.dropout, a.keep = 1.0f / (1.0f - s.dropout), a.dropout_key = s.dropout_key;
  a.samples = s.sample_ids.as<int64_t>(), a.positions = s.positions.as<int32_t>();
  return a;
}

// Heads begin at whole words if the first does and each is a number of them.
bool wide_heads(int64_t d, std::initializer_list<Tensor> tensors) { return wide(d, tensors) && d % kWide == 0; }

// The dtype that all tensors have, where tensor cores take it.
bool on_tensor_cores(std::initializer_list<Tensor> tensors) {
  const DType dtype = tensors.begin()->dtype;
  return dtype != DType::f32 && std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.dtype == dtype; });
}

int64_t delta_size(int64_t rows, int64_t heads) { return (rows * heads + 3) / 4 * 4; }

}  // namespace

// Backward: delta, and dQ where it is to lie on Q, which the second kernel still reads.
int64_t attention_workspace(const AttentionShape& s, bool backward) {
  if (!backward) return 0;
  const int64_t numbers = s.rows_q * s.heads * s.head_dim;
  return delta_size(s.rows_q, s.heads) + (numbers * static_cast<int64_t>(size_of(s.dtype)) + 3) / 4;
}

void attention_forward(const AttentionForward& args) {
  AttentionTask a = task_of(args.shape, args.q, args.k, args.v, args.cu_q, args.cu_k);
  a.out = args.out, a.lse = args.lse;
  a.wide = wide_heads(a.d, {args.q, args.k, args.v, args.out});
  if (on_tensor_cores({args.q, args.k, args.v, args.out})) attention_tiles_forward(a, args.q.dtype);
  else attention_plain_forward(a);
}

void attention_backward(const AttentionBackward& args) {
  AttentionTask a = task_of(args.shape, args.q, args.k, args.v, args.cu_q, args.cu_k);
  auto* workspace = args.workspace.as<float>();
  Tensor dq = args.dq;
  const bool in_place = dq.data == args.q.data;
  if (in_place) {
    dq.data = workspace + delta_size(args.shape.rows_q, a.heads);
    dq.dtype = args.shape.dtype, dq.stride = dq.cols;
  }
  a.lse = args.lse, a.delta = workspace, a.dout = args.dout, a.dq = dq, a.dk = args.dk, a.dv = args.dv;
  a.wide = wide_heads(a.d, {args.q, args.k, args.v, args.dout, dq, args.dk, args.dv});
  if (on_tensor_cores({args.q, args.k, args.v, args.dout, dq, args.dk, args.dv})) {
    attention_tiles_queries(a, args.q.dtype);
    attention_tiles_keys(a, args.q.dtype);
  } else {
    attention_plain_queries(a);
    attention_plain_keys(a);
  }
  if (in_place) scale({dq, args.dq});
}

}  // namespace attune::ops::cuda
