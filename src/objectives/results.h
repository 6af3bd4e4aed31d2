// What an objective has to say beside the loss of a micro-batch.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tensor/batch.h"

namespace attune::objectives {

// A sequence as far as its labels tell.
struct SequenceLogp {
  double logp = 0;  // Σ weight·log-probability of its labels
  int64_t labels = 0, correct = 0;
  SideValues side;
};

// What a sequence came to: over any set of sequences, Σ loss / Σ weight is the loss. Where a loss belongs to a pair, the
// chosen one carries it.
struct Outcome {
  int64_t sample = 0;
  double loss = 0, weight = 0;
  int64_t labels = 0, correct = 0;  // labelled tokens, and those whose label was the likeliest word
  double margin = NAN;              // of a pair: reward of the chosen answer less that of the rejected one
};

// Weighted means with names ("rewards/margins").
class Measures {
 public:
  struct Entry {
    std::string name;
    double sum = 0, weight = 0;
    bool known() const { return weight > 0; }
    double mean() const { return sum / weight; }
  };
  Measures() = default;
  explicit Measures(const std::vector<std::string>& names) {
    for (const std::string& name : names) entries_.push_back({name});
  }
  void add(size_t which, double value, double weight = 1) {
    entries_[which].sum += value * weight;
    entries_[which].weight += weight;
  }
  void clear() {
    for (Entry& e : entries_) e.sum = e.weight = 0;
  }
  std::vector<Entry>& entries() { return entries_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace attune::objectives
