// The head: the largest matrix, and never all of its logits at once. Works on labelled rows only, in chunks of tokens; or,
// where updates inside backward want the weight's gradient final piece by piece, in slabs of the vocabulary: one pass for
// the normalisers, a second for the gradients.
#pragma once

#include <optional>

#include "nn/linear.h"
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
  bool by_probability = false;  // each token's gradient is multiplied by the probability of its label
};

struct HeadOptions {
  bool normalise_rows = false;  // NormHead: logits = x·ŵᵀ over rows of length 1; the saved rows are not normalised
  float softcap = 0;            // c > 0: logits = c·tanh(logits/c)
  float z_loss = 0;             // while training, the loss of a token grows by z_loss·(largest logit)²
  int64_t chunk_bytes = 320'000'000;  // of logits alive at a time, though never fewer than 64 rows or 256 words of them
};

class Head {
 public:
  // `weight` [V,d], possibly the embedding's (not with normalised rows: the gradient of the embedding would be
  // projected with that of the head).
  explicit Head(Parameter& weight, const HeadOptions& options = {});

  // Logits grow by scale·(x·Aᵀ)·Bᵀ. Not with normalised rows, and not where the weight is trained.
  void adapt(const std::optional<Adapter>& adapter) { adapter_ = adapter; }
  const std::optional<Adapter>& adapter() const { return adapter_; }

  // (a) Coefficients are known: log-probabilities of the labels and, when training, every gradient in the same pass.
  //     The gradient is that of −Σ coefficient·logp, where logp is less z_loss·(largest logit)² while training. The
  //     hook sees logits as the loss does: behind normalised rows and the soft cap.
  void loss(Tape& tape, Value hidden, const Targets& targets, const LossCall& call) const;

  // (b) Coefficients come later: logp as a value whose gradient f32 [1,R] drives backward; logits are computed again.
  //     `lse` f32 [1,R] receives the normalisers; `correct` as in LossCall.
  Value logprob(Tape& tape, Value hidden, const Targets& targets, const Tensor& lse, const Tensor& correct = {}) const;

  // Logits of some rows, fp32 [R,V] on the arena.
  Tensor logits(ops::Context& context, const Tensor& hidden_rows) const;

  // Rows whose logits are alive at a time; and, in slabs, the words whose logits are.
  int64_t chunk_rows(int64_t capacity) const;
  int64_t slab_words(int64_t capacity) const;

 private:
  // One chunk of logits, and what their way back needs.
  struct Chunk {
    Tensor logits;
    Tensor low;     // scale·x·Aᵀ [R,r] of the adapter
    Tensor capped;  // a copy, where there is a soft cap and a backward
  };
  // Rows of the weight, and where NormHead asks for it 1/‖w‖ of each, f32 [1,S].
  struct Words {
    int64_t first = 0;
    Tensor weight, inverse_norms;
  };
  Words all_words(ops::Context& context) const;  // the norms lie on the arena
  // f(parameter) for each that learns.
  template <class F>
  void for_each_trained(F&& f) const {
    for (Parameter* p : {&weight_, adapter_ ? adapter_->a : nullptr, adapter_ ? adapter_->b : nullptr})
      if (p && p->trainable) f(*p);
  }
  bool trains() const {
    bool any = false;
    for_each_trained([&](Parameter&) { any = true; });
    return any;
  }
  // logits += scale·(x·Aᵀ)·Bᵀ; what it hands out is scale·x·Aᵀ.
  Tensor adapt(ops::Context& context, const Tensor& hidden_rows, const Words& words, const Tensor& logits) const;
  void adapter_gradients(Tape& tape, const Tensor& low, const Tensor& dlogits, const Tensor& hidden_rows, const Tensor& dhidden) const;
  Chunk chunk(ops::Context& context, const Tensor& hidden_rows, const Words& words, bool backward) const;
  void dlogits_back(ops::Context& context, const Chunk& chunk, const Words& words, const Tensor& dlogits) const;
  void chunk_gradients(Tape& tape, const Chunk& chunk, const Words& words, const Tensor& dlogits, const Tensor& hidden_rows,
                       const Tensor& dhidden) const;
  void finish_weight_gradient(Tape& tape, const Words& words) const;
  void loss_in_chunks(Tape& tape, Value hidden, const Targets& targets, const LossCall& call, Value dhidden) const;
  void loss_in_slabs(Tape& tape, Value hidden, const Targets& targets, const LossCall& call, Value dhidden, RowSlabs how) const;

  Parameter& weight_;
  std::optional<Adapter> adapter_;
  HeadOptions options_;
};

}  // namespace attune::nn
