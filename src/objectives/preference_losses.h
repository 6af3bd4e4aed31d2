// The losses that compare a preferred answer with another: functions of four log-probabilities, and nothing else. Each
// stands beside the paper it comes from; where papers and tools differ, the tools that people compare with decide (TRL).
#pragma once

#include <string>
#include <vector>

namespace attune::objectives {

// One pair. Log-probabilities are sums over the tokens of an answer; those of the reference are 0 where there is none.
struct Pair {
  double chosen = 0, rejected = 0;
  double chosen_reference = 0, rejected_reference = 0;
  double chosen_tokens = 1, rejected_tokens = 1;
};

// A loss and how it changes with `chosen` and `rejected`.
struct PairLoss {
  double loss = 0, d_chosen = 0, d_rejected = 0;
  PairLoss& add(const PairLoss& other, double weight);
};

struct PreferenceOptions {
  double beta = 0.1;
  double label_smoothing = 0;  // the share of pairs that are labelled the wrong way round
  double simpo_gamma = 0.5;    // simpo: by how much the chosen answer should win
  double discopop_tau = 0.05;
  double cpo_alpha = 1;        // cpo: weight of the SFT term
};

struct PreferenceLoss {
  const char* name;
  PairLoss (*of)(const Pair&, const PreferenceOptions&);
  bool reference;  // needs the log-probabilities of a reference model
  bool average;    // its rewards are means over tokens, not sums
  const char* source;
};

const std::vector<PreferenceLoss>& preference_losses();
// nullptr where there is none.
const PreferenceLoss* find_preference_loss(const std::string& name);

}  // namespace attune::objectives
