#include "objectives/preference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "objectives/sequence_logps.h"
#include "util/error.h"

namespace attune::objectives {
namespace {

enum Measure : size_t { chosen_reward, rejected_reward, accuracy, margin, chosen_logp, rejected_logp, chosen_nll };

// AOT matches the policy's log-ratios with the reference's by rank: entry i is the reference's log-ratio for pair i.
std::vector<double> matched_by_rank(std::span<const SequenceLogp> all) {
  const size_t n = all.size() / 2;
  std::vector<double> policy(n), reference(n), out(n);
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) {
    policy[i] = all[2 * i].logp - all[2 * i + 1].logp;
    reference[i] = static_cast<double>(all[2 * i].side.reference_logp) - all[2 * i + 1].side.reference_logp;
  }
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return policy[a] < policy[b]; });
  std::sort(reference.begin(), reference.end());
  for (size_t k = 0; k < n; ++k) out[order[k]] = reference[k];
  return out;
}

}  // namespace

Preference::Preference(std::vector<Term> terms, const PreferenceOptions& options) : terms_(std::move(terms)), options_(options) {
  for (const Term& t : terms_) matched_ |= std::string_view(t.loss->name) == "aot";
}

bool Preference::needs_reference() const {
  return std::any_of(terms_.begin(), terms_.end(), [](const Term& t) { return t.loss->reference; });
}

std::vector<std::string> Preference::measure_names() const {
  return {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "nll_loss"};
}

PairLoss Preference::of(const Pair& pair, double matched_reference) const {
  PairLoss sum;
  for (const Term& t : terms_) {
    Pair p = pair;
    if (std::string_view(t.loss->name) == "aot") p.chosen_reference = matched_reference, p.rejected_reference = 0;
    sum.add(t.loss->of(p, options_), t.weight);
  }
  return sum;
}

void Preference::note(const BatchView& batch, size_t first, const SequenceLogp& c, const SequenceLogp& r, double loss) const {
  // As TRL's trainers log: means over tokens where the loss takes them.
  const bool average = std::all_of(terms_.begin(), terms_.end(), [](const Term& t) { return t.loss->average; });
  const auto logp = [&](const SequenceLogp& s) { return average ? s.logp / static_cast<double>(s.labels) : s.logp; };
  const auto reward = [&](const SequenceLogp& s) { return options_.beta * (logp(s) - (needs_reference() ? s.side.reference_logp : 0)); };
  const double won = reward(c), lost = reward(r);
  if (Measures* m = batch.measures) {
    m->add(chosen_reward, won);
    m->add(rejected_reward, lost);
    m->add(accuracy, won > lost);
    m->add(margin, won - lost);
    m->add(chosen_logp, logp(c));
    m->add(rejected_logp, logp(r));
    m->add(chosen_nll, -c.logp / static_cast<double>(c.labels));
  }
  if (!batch.outcomes) return;
  const auto& samples = batch.batch().sequence_samples;
  batch.outcomes->push_back({samples[first], loss, 1, c.labels, c.correct, won - lost});
  batch.outcomes->push_back({samples[first + 1], 0, 0, 0, 0});
}

double Preference::run(nn::Tape& tape, models::Decoder& model, const BatchView& batch, DType compute, const models::ForwardOptions& options) const {
  AnswerPass pass(tape, model, batch, compute, options);
  if (tape.context().dry()) {
    if (tape.training()) pass.backward({});
    return 0;
  }
  const std::vector<SequenceLogp>& s = pass.sequences();
  if (s.size() % 2 != 0) fail("internal error: a micro-batch of pairs has {} sequences", s.size());
  const bool seen = !batch.ahead().empty();
  const std::vector<double> matched = matched_ ? matched_by_rank(seen ? batch.ahead() : std::span(s)) : std::vector<double>();
  std::vector<double> slope(s.size());
  double loss = 0;
  for (size_t i = 0; i + 1 < s.size(); i += 2) {
    const SequenceLogp &c = s[i], &r = s[i + 1];
    const Pair pair{c.logp, r.logp, c.side.reference_logp, r.side.reference_logp, static_cast<double>(c.labels), static_cast<double>(r.labels)};
    const PairLoss l = of(pair, matched_ ? matched[((seen ? batch.first_ahead() : 0) + i) / 2] : 0);
    const double share = c.side.weight / batch.normaliser();
    slope[i] = l.d_chosen * share;
    slope[i + 1] = l.d_rejected * share;
    loss += l.loss * share;
    note(batch, i, c, r, l.loss * c.side.weight);
  }
  if (tape.training() && std::isfinite(loss)) pass.backward(slope);
  return loss;
}

}  // namespace attune::objectives
