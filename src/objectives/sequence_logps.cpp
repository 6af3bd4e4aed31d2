#include "objectives/sequence_logps.h"

#include <algorithm>

#include "ops/context.h"
#include "tensor/transfer.h"

namespace attune::objectives {
namespace {

// The sequence that each label stands in: f(sequence, label). Labels stand in the order of the stream.
template <class F>
void for_each_label(const MicroBatch& b, F&& f) {
  size_t s = 0;
  for (size_t i = 0; i < b.label_rows.size(); ++i) {
    while (b.label_rows[i] >= b.cu_seqlens[s + 1]) ++s;
    f(s, i);
  }
}

}  // namespace

void sum_by_sequence(const BatchView& batch, std::vector<SequenceLogp>& out) {
  const MicroBatch& b = batch.batch();
  const auto logp = batch.logp_on_host(), correct = batch.correct_on_host();
  out.assign(static_cast<size_t>(b.sequence_count()), {});
  for (size_t s = 0; s < out.size(); ++s) out[s].side = b.side[s];
  for_each_label(b, [&](size_t s, size_t i) {
    out[s].logp += static_cast<double>(b.loss_weights[i]) * logp[i];
    out[s].labels += 1;
    out[s].correct += correct[i] != 0;
  });
}

void measure_sequences(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, std::vector<SequenceLogp>& out) {
  ArenaScope scope(tape.context().arena());
  tape.begin(false);
  const models::ForwardOptions options;
  nn::Value hidden = model.forward(tape, batch.stream(), compute, options);
  model.head().loss(tape, hidden, batch.targets(), {batch.logp(), batch.correct()});
  out.clear();
  if (!tape.context().dry()) sum_by_sequence(batch, out);
}

AnswerPass::AnswerPass(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, const models::ForwardOptions& options)
    : tape_(tape), batch_(batch) {
  nn::Value hidden = model.forward(tape, batch.stream(), compute, options);
  const Tensor lse = tape.context().arena().vector(batch.targets().rows.capacity, DType::f32).columns(0, batch.targets().rows.count);
  logp_ = model.head().logprob(tape, hidden, batch.targets(), lse, batch.correct());
  if (tape.context().dry()) return;
  tape.context().device().copy(batch.logp().data, logp_->value.data, static_cast<uint64_t>(batch.targets().rows.count) * sizeof(float));
  sum_by_sequence(batch, sequences_);
}

void AnswerPass::backward(std::span<const double> slope) {
  const Tensor gradient = tape_.context().arena().vector(batch_.targets().rows.capacity, DType::f32);
  if (!tape_.context().dry()) {
    const MicroBatch& b = batch_.batch();
    std::vector<float> values(b.label_rows.size());
    for_each_label(b, [&](size_t s, size_t i) { values[i] = static_cast<float>(slope[s] * b.loss_weights[i]); });
    put(tape_.context().device(), gradient, 0, values);
  }
  logp_->gradient = gradient;
  logp_->gradient_written = true;
  tape_.backward();
}

}  // namespace attune::objectives
