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

// What one pass of the loss is to do and where its results go.
struct LossCall {
  Tensor logp;              // f32 [1,R]: log-probability of each label (against the smoothed target where there is one)
  Tensor correct;           // f32 [1,R]: 1 where no word is likelier than the label; undefined: not wanted
  float label_smoothing = 0;
  LogitHook* hook = nullptr;
};

class Head {
 public:
  // `weight` [V,d], possibly the embedding's.
  explicit Head(Parameter& weight) : weight_(weight) {}

  // (a) Coefficients are known: log-probabilities of the labels and, when training, every gradient in the same pass.
  //     The gradient is that of −Σ coefficient·logp.
  void loss(Tape& tape, Value hidden, const Targets& targets, const LossCall& call) const;

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
