// A micro-batch as tensors: over real data, or over addresses that are never mapped (dry mode).
#pragma once

#include <vector>

#include "nn/stream.h"
#include "objectives/results.h"
#include "tensor/arena.h"
#include "tensor/batch.h"

namespace attune::objectives {

class BatchView {
 public:
  // `batch` must outlive the view. Coefficients are loss_weights / normaliser. Forgets `ahead`.
  void bind(const MicroBatch& batch, const BatchCapacity& capacity, double normaliser);
  // The same shapes at full capacity, without memory behind them.
  void bind_dry(Arena& addresses, const BatchCapacity& capacity);

  const nn::Stream& stream() const { return stream_; }
  const nn::Targets& targets() const { return targets_; }
  // f32 [1,R], for the log-probabilities of the labels.
  const Tensor& logp() const { return logp_; }
  // f32 [1,R]: 1 where the label was the likeliest word.
  const Tensor& correct() const { return correct_; }
  // i32 [1,S]: the row of each sequence's last token.
  const Tensor& sequence_ends() const { return sequence_ends_; }
  Rows sequences() const { return sequences_; }

  // Of the real batch alone; dry, there is none.
  const MicroBatch& batch() const { return *batch_; }
  double normaliser() const { return normaliser_; }

  // What the objective is told of the whole step before its first backward, where it asks (Objective::look_ahead). The
  // sequences of this batch begin at `first_ahead`.
  std::span<const SequenceLogp> ahead() const { return ahead_; }
  size_t first_ahead() const { return first_ahead_; }
  void set_ahead(std::span<const SequenceLogp> ahead, size_t first) { ahead_ = ahead, first_ahead_ = first; }

  // Where the objective puts its results. Null: not wanted. `outcomes` gets one entry a sequence.
  std::vector<Outcome>* outcomes = nullptr;
  Measures* measures = nullptr;

 private:
  nn::Stream stream_;
  nn::Targets targets_;
  Tensor logp_, correct_, sequence_ends_;
  Rows sequences_;
  const MicroBatch* batch_ = nullptr;
  double normaliser_ = 1;
  std::span<const SequenceLogp> ahead_;
  size_t first_ahead_ = 0;
  std::vector<int32_t> ends_;
  std::vector<float> coefficients_, logp_memory_, correct_memory_;
  std::vector<int32_t> boundaries_;  // of a dry view
};

}  // namespace attune::objectives
