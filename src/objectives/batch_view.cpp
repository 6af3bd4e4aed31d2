#include "objectives/batch_view.h"

#include <algorithm>
#include <cmath>

#include "tensor/transfer.h"
#include "util/error.h"

namespace attune::objectives {
namespace {

template <class T>
Tensor over(Arena* inputs, const std::vector<T>& v) {
  // Ops only read through these views; Tensor has one pointer type for both directions.
  return inputs ? on_device(*inputs, v) : Tensor::vector(const_cast<T*>(v.data()), DTypeOf<T>::value, static_cast<int64_t>(v.size()));
}

// fp32 results, one a label.
Tensor results(Arena* inputs, std::vector<float>& memory, int64_t labels) {
  return (inputs ? inputs->vector(static_cast<int64_t>(memory.size()), DType::f32) : Tensor::vector(memory.data(), DType::f32, labels)).columns(0, labels);
}

double squares(std::span<const int32_t> boundaries) {
  double sum = 0;
  for (size_t i = 0; i + 1 < boundaries.size(); ++i) sum += std::pow(static_cast<double>(boundaries[i + 1] - boundaries[i]), 2);
  return sum;
}

}  // namespace

uint64_t BatchView::bytes(const BatchCapacity& c) {
  constexpr uint64_t kTensors = 10, kAlignment = 64;
  const auto tokens = static_cast<uint64_t>(c.tokens), labels = static_cast<uint64_t>(c.label_rows), sequences = static_cast<uint64_t>(c.sequences);
  return tokens * (4 + 4 + 8) + labels * 5 * 4 + (2 * sequences + 1) * 4 + kTensors * kAlignment;
}

std::span<const float> BatchView::fetched(const Tensor& values, std::vector<float>& memory) const {
  const auto n = static_cast<size_t>(targets_.rows.count);
  if (inputs_) inputs_->device().download(memory.data(), values.data, n * sizeof(float));
  return std::span<const float>(memory).first(n);
}

void BatchView::bind(const MicroBatch& b, const BatchCapacity& c, double normaliser) {
  const auto labelled = static_cast<int64_t>(b.label_rows.size());
  if (b.token_count() > c.tokens || labelled > c.label_rows || b.sequence_count() > c.sequences)
    fail("internal error: a micro-batch of {} tokens, {} labels, {} sequences exceeds the planned {}, {}, {}", b.token_count(),
         labelled, b.sequence_count(), c.tokens, c.label_rows, c.sequences);
  for (size_t i = 0; i + 1 < b.cu_seqlens.size(); ++i)  // attention's workspace and the position table end there
    if (b.cu_seqlens[i + 1] - b.cu_seqlens[i] > c.max_seqlen)
      fail("internal error: sample {} has {} tokens, beyond the planned {}", b.sequence_samples[i],
           b.cu_seqlens[i + 1] - b.cu_seqlens[i], c.max_seqlen);
  batch_ = &b;
  normaliser_ = normaliser;
  set_ahead({}, 0);
  ends_.reserve(static_cast<size_t>(c.sequences));
  ends_.clear();
  for (size_t i = 1; i < b.cu_seqlens.size(); ++i) ends_.push_back(b.cu_seqlens[i] - 1);
  coefficients_.resize(static_cast<size_t>(c.label_rows));
  logp_memory_.resize(static_cast<size_t>(c.label_rows));
  correct_memory_.resize(static_cast<size_t>(c.label_rows));
  for (size_t i = 0; i < b.loss_weights.size(); ++i) coefficients_[i] = static_cast<float>(b.loss_weights[i] / normaliser);
  if (inputs_) inputs_->release(0);
  stream_ = {};
  stream_.rows = {b.token_count(), c.tokens};
  stream_.tokens = over(inputs_, b.tokens);
  stream_.positions = over(inputs_, b.positions);
  stream_.cu_seqlens = over(inputs_, b.cu_seqlens);
  stream_.sample_ids = over(inputs_, b.sample_ids);
  stream_.pairs = squares(b.cu_seqlens);
  stream_.max_seqlen = c.max_seqlen;
  targets_.rows = {labelled, c.label_rows};
  targets_.label_rows = over(inputs_, b.label_rows);
  targets_.labels = over(inputs_, b.labels);
  targets_.coefficient = over(inputs_, coefficients_).columns(0, labelled);
  logp_ = results(inputs_, logp_memory_, labelled);
  correct_ = results(inputs_, correct_memory_, labelled);
  sequence_ends_ = over(inputs_, ends_);
  sequences_ = {b.sequence_count(), c.sequences};
}

void BatchView::bind_dry(Arena& addresses, const BatchCapacity& c) {
  stream_ = {};
  stream_.rows = Rows::exactly(c.tokens);
  stream_.tokens = addresses.vector(c.tokens, DType::i32);
  stream_.positions = addresses.vector(c.tokens, DType::i32);
  // As many of the longest sequences as there is room for.
  for (int64_t i = 0; i < c.sequences; ++i)
    stream_.pairs += std::pow(static_cast<double>(std::min(c.tokens, (i + 1) * c.max_seqlen) - std::min(c.tokens, i * c.max_seqlen)), 2);
  stream_.cu_seqlens = addresses.vector(c.sequences + 1, DType::i32);
  stream_.sample_ids = addresses.vector(c.tokens, DType::i64);
  stream_.max_seqlen = c.max_seqlen;
  targets_.rows = Rows::exactly(c.label_rows);
  targets_.label_rows = addresses.vector(c.label_rows, DType::i32);
  targets_.labels = addresses.vector(c.label_rows, DType::i32);
  targets_.coefficient = addresses.vector(c.label_rows, DType::f32);
  logp_ = addresses.vector(c.label_rows, DType::f32);
  correct_ = addresses.vector(c.label_rows, DType::f32);
  sequence_ends_ = addresses.vector(c.sequences, DType::i32);
  sequences_ = Rows::exactly(c.sequences);
  batch_ = nullptr;
}

}  // namespace attune::objectives
