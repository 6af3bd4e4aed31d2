// A micro-batch as tensors where the engine computes: over real data, or over addresses that are never mapped (dry mode).
#pragma once

#include <vector>

#include "nn/stream.h"
#include "objectives/results.h"
#include "tensor/arena.h"
#include "tensor/batch.h"

namespace attune::objectives {

class BatchView {
 public:
  // Bytes that a device other than the host needs for batches of this capacity.
  static uint64_t bytes(const BatchCapacity& capacity);
  // What is bound from here on is copied to `inputs`, an arena of a device with room for it; without, it is the batch's own memory.
  void use(Arena& inputs) { inputs_ = &inputs; }

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

  // The same for the host: coefficients, and logp and correct as they have been computed, which waits for the device.
  std::span<const float> coefficients() const { return std::span(coefficients_).first(static_cast<size_t>(targets_.rows.count)); }
  std::span<const float> logp_on_host() const { return fetched(logp_, logp_memory_); }
  std::span<const float> correct_on_host() const { return fetched(correct_, correct_memory_); }

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
  std::span<const float> fetched(const Tensor& values, std::vector<float>& memory) const;

  Arena* inputs_ = nullptr;
  nn::Stream stream_;
  nn::Targets targets_;
  Tensor logp_, correct_, sequence_ends_;
  Rows sequences_;
  const MicroBatch* batch_ = nullptr;
  double normaliser_ = 1;
  std::span<const SequenceLogp> ahead_;
  size_t first_ahead_ = 0;
  std::vector<int32_t> ends_;
  std::vector<float> coefficients_;
  mutable std::vector<float> logp_memory_, correct_memory_;
};

}  // namespace attune::objectives
