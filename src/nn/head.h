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

struct HeadOptions {
  bool normalise_rows = false;  // NormHead: logits = x·ŵᵀ over rows of length 1; the saved rows are not normalised
  float softcap = 0;            // c > 0: logits = c·tanh(logits/c)
  float z_loss = 0;             // while training, the loss of a token grows by z_loss·(largest logit)²
};

class Head {
 public:
  // `weight` [V,d], possibly the embedding's (not with normalised rows: the gradient of the embedding would be
  // projected with that of the head).
  explicit Head(Parameter& weight, const HeadOptions& options = {});

  // (a) Coefficients are known: log-probabilities of the labels and, when training, every gradient in the same pass.
  //     The gradient is that of −Σ coefficient·logp, where logp is less z_loss·(largest logit)² while training. The
  //     hook sees logits as the loss does: behind normalised rows and the soft cap.
  void loss(Tape& tape, Value hidden, const Targets& targets, const LossCall& call) const;

  // (b) Coefficients come later: logp as a value whose gradient f32 [1,R] drives backward; logits are computed again.
  //     `lse` f32 [1,R] receives the normalisers.
  Value logprob(Tape& tape, Value hidden, const Targets& targets, const Tensor& lse) const;

  // Logits of some rows, fp32 [R,V] on the arena.
  Tensor logits(ops::Context& context, const Tensor& hidden_rows) const;

  // Rows whose logits are alive at a time.
  int64_t chunk_rows(int64_t capacity) const;

 private:
  // One chunk of logits, and what their way back needs.
  struct Chunk {
    Tensor logits;
    Tensor capped;  // a copy, where there is a soft cap and a backward
  };
  Tensor inverse_norms(ops::Context& context) const;  // f32 [1,V] on the arena, or undefined
  Chunk chunk(ops::Context& context, const Tensor& hidden_rows, const Tensor& inverse_norms, bool backward) const;
  void chunk_gradients(Tape& tape, const Chunk& chunk, const Tensor& inverse_norms, const Tensor& dlogits,
                       const Tensor& hidden_rows, const Tensor& dhidden) const;
  void finish_weight_gradient(Tape& tape, const Tensor& inverse_norms) const;

  Parameter& weight_;
  HeadOptions options_;
};

}  // namespace attune::nn
