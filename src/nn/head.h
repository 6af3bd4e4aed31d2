// The head: the largest matrix, and never all of its logits at once. Works on labelled rows only, in chunks.
#pragma once

#include "nn/stream.h"
#include "nn/tape.h"

namespace attune::nn {

// Sees each chunk of logits (fp32 [R,V], in place) before the loss: logit scaling, z-loss, distillation.
class LogitHook {
 public:
  virtual ~LogitHook() = default;
  virtual void forward(ops::Context& context, const Tensor& logits, int64_t first_row) = 0;
  // Turns the gradient with respect to the logits it produced into that of the logits it got.
  virtual void backward(ops::Context& context, const Tensor& dlogits, int64_t first_row) = 0;
};

class Head {
 public:
  // `weight` [V,d], possibly the embedding's.
  explicit Head(Parameter& weight) : weight_(weight) {}

  // (a) Coefficients are known: log-probabilities of the labels and, when training, every gradient in the same pass.
  //     logp[i] is written for each target row; the gradient is that of −Σ coefficient·logp.
  void loss(Tape& tape, Value hidden, const Targets& targets, const Tensor& logp, LogitHook* hook = nullptr) const;

  // (b) Coefficients come later: logp as a value whose gradient f32 [1,R] drives backward; logits are computed again.
  //     `lse` f32 [1,R] receives the normalisers.
  Value logprob(Tape& tape, Value hidden, const Targets& targets, const Tensor& lse) const;

  // Logits of some rows, fp32 [R,V] on the arena.
  Tensor logits(ops::Context& context, const Tensor& hidden_rows) const;

  // Rows whose logits are alive at a time.
  int64_t chunk_rows(int64_t capacity) const;

 private:
  Parameter& weight_;
};

}  // namespace attune::nn
