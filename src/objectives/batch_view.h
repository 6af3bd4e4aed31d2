// A micro-batch as tensors: over real data, or over addresses that are never mapped (dry mode).
#pragma once

#include <vector>

#include "nn/stream.h"
#include "tensor/arena.h"
#include "tensor/batch.h"

namespace attune::objectives {

class BatchView {
 public:
  // `batch` must outlive the view. Coefficients are loss_weights / normaliser.
  void bind(const MicroBatch& batch, const BatchCapacity& capacity, double normaliser);
  // The same shapes at full capacity, without memory behind them.
  void bind_dry(Arena& addresses, const BatchCapacity& capacity);

  const nn::Stream& stream() const { return stream_; }
  const nn::Targets& targets() const { return targets_; }
  // f32 [1,R], for the log-probabilities of the labels.
  const Tensor& logp() const { return logp_; }
  // f32 [1,R]: 1 where the label was the likeliest word.
  const Tensor& correct() const { return correct_; }

 private:
  nn::Stream stream_;
  nn::Targets targets_;
  Tensor logp_, correct_;
  std::vector<float> coefficients_, logp_memory_, correct_memory_;
  std::vector<int32_t> boundaries_;  // of a dry view
};

}  // namespace attune::objectives
