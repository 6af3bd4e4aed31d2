// Log-probabilities of whole answers: the labels of each sequence put together.
#pragma once

#include <span>

#include "objectives/objective.h"

namespace attune::objectives {

// Sums batch.logp() and batch.correct() by sequence, weighted as the labels are; replaces `out`.
void sum_by_sequence(const BatchView& batch, std::vector<SequenceLogp>& out);

// A forward pass that only looks. Replaces `out`; in dry mode it stays empty.
void measure_sequences(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, std::vector<SequenceLogp>& out);

// A forward pass whose loss is a function of the sequences' log-probabilities; `backward` says how it changes with each.
class AnswerPass {
 public:
  AnswerPass(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, const models::ForwardOptions& options);
  // In the batch's order; empty in dry mode.
  const std::vector<SequenceLogp>& sequences() const { return sequences_; }
  // slope[s] = dloss / d logp of sequence s. Not read in dry mode.
  void backward(std::span<const double> slope);

 private:
  nn::Tape& tape_;
  const BatchView& batch_;
  nn::Value logp_;
  std::vector<SequenceLogp> sequences_;
};

}  // namespace attune::objectives
