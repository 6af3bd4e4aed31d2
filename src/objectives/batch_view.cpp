#include "objectives/batch_view.h"

#include <algorithm>

#include "util/error.h"

namespace attune::objectives {
namespace {

// Ops only read through these views; Tensor has one pointer type for both directions.
template <class T>
Tensor over(const std::vector<T>& v) {
  return Tensor::vector(const_cast<T*>(v.data()), DTypeOf<T>::value, static_cast<int64_t>(v.size()));
}

}  // namespace

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
  stream_ = {};
  stream_.rows = {b.token_count(), c.tokens};
  stream_.tokens = over(b.tokens);
  stream_.positions = over(b.positions);
  stream_.cu_seqlens = over(b.cu_seqlens);
  stream_.sample_ids = over(b.sample_ids);
  stream_.max_seqlen = c.max_seqlen;
  targets_.rows = {labelled, c.label_rows};
  targets_.label_rows = over(b.label_rows);
  targets_.labels = over(b.labels);
  targets_.coefficient = Tensor::vector(coefficients_.data(), DType::f32, labelled);
  logp_ = Tensor::vector(logp_memory_.data(), DType::f32, labelled);
  correct_ = Tensor::vector(correct_memory_.data(), DType::f32, labelled);
  sequence_ends_ = over(ends_);
  sequences_ = {b.sequence_count(), c.sequences};
}

void BatchView::bind_dry(Arena& addresses, const BatchCapacity& c) {
  stream_ = {};
  stream_.rows = Rows::exactly(c.tokens);
  stream_.tokens = addresses.vector(c.tokens, DType::i32);
  stream_.positions = addresses.vector(c.tokens, DType::i32);
  // Where sequences begin is the one thing that a dry step looks at: as many of the longest as there is room for.
  boundaries_.assign(1, 0);
  for (int64_t i = 0; i < c.sequences; ++i)
    boundaries_.push_back(static_cast<int32_t>(std::min(c.tokens, (i + 1) * c.max_seqlen)));
  stream_.cu_seqlens = over(boundaries_);
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
