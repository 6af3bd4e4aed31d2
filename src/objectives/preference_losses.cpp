#include "objectives/preference_losses.h"

#include <cmath>

namespace attune::objectives {
namespace {

double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }
double dsigmoid(double x) { return sigmoid(x) * sigmoid(-x); }

double chosen_ratio(const Pair& p) { return p.chosen - p.chosen_reference; }
double rejected_ratio(const Pair& p) { return p.rejected - p.rejected_reference; }
double difference(const Pair& p) { return chosen_ratio(p) - rejected_ratio(p); }

// A loss f(x) of x = β·difference, with f'(x).
PairLoss of_difference(const PreferenceOptions& o, double loss, double slope) { return {loss, o.beta * slope, -o.beta * slope}; }

// −log σ(x), smoothed (cDPO), with its slope.
PairLoss logistic(double x, double smoothing) {
  return {-(1 - smoothing) * log_sigmoid(x) - smoothing * log_sigmoid(-x), -(1 - smoothing) * sigmoid(-x) + smoothing * sigmoid(x), 0};
}

PairLoss dpo(const Pair& p, const PreferenceOptions& o) {
  const PairLoss l = logistic(o.beta * difference(p), o.label_smoothing);
  return of_difference(o, l.loss, l.d_chosen);
}

PairLoss hinge(const Pair& p, const PreferenceOptions& o) {
  const double x = o.beta * difference(p);
  return of_difference(o, std::max(0.0, 1 - x), x < 1 ? -1 : 0);
}

// Means over tokens: the authors' own form, so that β means the same for answers of any length.
PairLoss ipo(const Pair& p, const PreferenceOptions& o) {
  const double miss = chosen_ratio(p) / p.chosen_tokens - rejected_ratio(p) / p.rejected_tokens - 1 / (2 * o.beta);
  return {miss * miss, 2 * miss / p.chosen_tokens, -2 * miss / p.rejected_tokens};
}

PairLoss robust(const Pair& p, const PreferenceOptions& o) {
  const double x = o.beta * difference(p), e = o.label_smoothing, scale = 1 / (1 - 2 * e);
  return of_difference(o, (-(1 - e) * log_sigmoid(x) + e * log_sigmoid(-x)) * scale, (-(1 - e) * sigmoid(-x) - e * sigmoid(x)) * scale);
}

PairLoss exo(const Pair& p, const PreferenceOptions& o) {
  const double x = o.beta * difference(p), e = o.label_smoothing;
  return of_difference(o, sigmoid(x) * (log_sigmoid(x) - std::log1p(-e)) + sigmoid(-x) * (log_sigmoid(-x) - std::log(e)),
                       dsigmoid(x) * (x - std::log1p(-e) + std::log(e)));
}

PairLoss nca(const Pair& p, const PreferenceOptions& o) {
  const double c = o.beta * chosen_ratio(p), r = o.beta * rejected_ratio(p);
  return {-log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-r), o.beta * (-sigmoid(-c) + 0.5 * sigmoid(c)), o.beta * 0.5 * sigmoid(r)};
}

PairLoss bco(const Pair& p, const PreferenceOptions& o) {
  const double c = o.beta * chosen_ratio(p), r = o.beta * rejected_ratio(p);
  return {-log_sigmoid(c) - log_sigmoid(-r), -o.beta * sigmoid(-c), o.beta * sigmoid(r)};
}

PairLoss sppo(const Pair& p, const PreferenceOptions& o) {
  const double c = chosen_ratio(p) - 0.5 / o.beta, r = rejected_ratio(p) + 0.5 / o.beta;
  return {c * c + r * r, 2 * c, 2 * r};
}

PairLoss apo_zero(const Pair& p, const PreferenceOptions& o) {
  const double c = o.beta * chosen_ratio(p), r = o.beta * rejected_ratio(p);
  return {sigmoid(-c) + sigmoid(r), -o.beta * dsigmoid(c), o.beta * dsigmoid(r)};
}

PairLoss apo_down(const Pair& p, const PreferenceOptions& o) {
  const double c = o.beta * chosen_ratio(p), x = o.beta * difference(p);
  return {sigmoid(c) + sigmoid(-x), o.beta * (dsigmoid(c) - dsigmoid(x)), o.beta * dsigmoid(x)};
}

PairLoss discopop(const Pair& p, const PreferenceOptions& o) {
  const double x = o.beta * difference(p), t = x / o.discopop_tau, m = sigmoid(t), dm = dsigmoid(t) / o.discopop_tau;
  // e⁻ˣ·m, in which e⁻ˣ alone may overflow where m is zero.
  const double logistic = -log_sigmoid(x), exponential = x >= 0 ? std::exp(-x) * m : std::exp(t - x) / (1 + std::exp(t));
  return of_difference(o, logistic * (1 - m) + exponential, -sigmoid(-x) * (1 - m) - logistic * dm - exponential + exponential * sigmoid(-t) / o.discopop_tau);
}

PairLoss dpo_by_token(const Pair& p, const PreferenceOptions& o) {
  const PairLoss l = logistic(o.beta * (chosen_ratio(p) / p.chosen_tokens - rejected_ratio(p) / p.rejected_tokens), o.label_smoothing);
  return {l.loss, o.beta * l.d_chosen / p.chosen_tokens, -o.beta * l.d_chosen / p.rejected_tokens};
}

PairLoss sft(const Pair& p, const PreferenceOptions&) { return {-p.chosen / p.chosen_tokens, -1 / p.chosen_tokens, 0}; }

PairLoss simpo(const Pair& p, const PreferenceOptions& o) {
  const PairLoss l = logistic(o.beta * (p.chosen / p.chosen_tokens - p.rejected / p.rejected_tokens) - o.simpo_gamma, o.label_smoothing);
  return {l.loss, o.beta * l.d_chosen / p.chosen_tokens, -o.beta * l.d_chosen / p.rejected_tokens};
}

// log(1 − eˣ) for x < 0.
double log1mexp(double x) { return x > -0.693 ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x)); }

PairLoss orpo(const Pair& p, const PreferenceOptions& o) {
  // A mean log-probability of 0 has infinite odds.
  const double c = std::min(p.chosen / p.chosen_tokens, -1e-12), r = std::min(p.rejected / p.rejected_tokens, -1e-12);
  const double odds = c - r - (log1mexp(c) - log1mexp(r)), slope = -o.beta * sigmoid(-odds);
  PairLoss l{-o.beta * log_sigmoid(odds), slope / -std::expm1(c) / p.chosen_tokens, -slope / -std::expm1(r) / p.rejected_tokens};
  return l.add(sft(p, o), 1);
}

PairLoss cpo(const Pair& p, const PreferenceOptions& o) {
  const PairLoss l = logistic(o.beta * (p.chosen - p.rejected), o.label_smoothing);
  return of_difference(o, l.loss, l.d_chosen).add(sft(p, o), o.cpo_alpha);
}

}  // namespace

PairLoss& PairLoss::add(const PairLoss& other, double weight) {
  loss += weight * other.loss;
  d_chosen += weight * other.d_chosen;
  d_rejected += weight * other.d_rejected;
  return *this;
}

const std::vector<PreferenceLoss>& preference_losses() {
  static const std::vector<PreferenceLoss> losses{
      {"sigmoid", dpo, true, false, "DPO, arXiv:2305.18290; with label smoothing cDPO"},
      {"hinge", hinge, true, false, "SLiC on DPO's rewards, arXiv:2309.06657"},
      {"ipo", ipo, true, false, "IPO, arXiv:2310.12036"},
      {"robust", robust, true, false, "arXiv:2403.00409"},
      {"exo_pair", exo, true, false, "EXO, arXiv:2402.00856"},
      {"nca_pair", nca, true, false, "NCA, arXiv:2402.05369"},
      {"bco_pair", bco, true, false, "BCO on pairs, arXiv:2404.04656"},
      {"sppo_hard", sppo, true, false, "SPPO, arXiv:2405.00675"},
      // As sigmoid; what is matched with what is decided over all pairs of the step (objectives/preference.cpp).
      {"aot", dpo, true, false, "AOT, arXiv:2406.05882"},
      {"apo_zero", apo_zero, true, false, "APO, arXiv:2408.06266"},
      {"apo_down", apo_down, true, false, "APO, arXiv:2408.06266"},
      {"discopop", discopop, true, false, "DiscoPOP, arXiv:2406.08414"},
      {"sigmoid_norm", dpo_by_token, true, false, "DPO with means over tokens"},
      {"sft", sft, false, true, "the chosen answer alone; for mixtures"},
      {"orpo", orpo, false, true, "ORPO, arXiv:2403.07691"},
      {"simpo", simpo, false, true, "SimPO, arXiv:2405.14734"},
      {"cpo", cpo, false, false, "CPO, arXiv:2401.08417"}};
  return losses;
}

const PreferenceLoss* find_preference_loss(const std::string& name) {
  for (const PreferenceLoss& l : preference_losses())
    if (name == l.name) return &l;
  return nullptr;
}

}  // namespace attune::objectives
