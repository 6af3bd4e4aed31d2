// Several adapters beside one base, chosen and combined while it runs: nothing of the base is loaded again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/adapter.h"

namespace attune::models {

struct NamedAdapter {
  std::string name, directory;
};

// What works beside a base. `chain`: adapters of which each was trained on top of those before it, so that they belong together; the last one
// works beside the weights, the others become part of them. Or `set`: adapters of their own, of which `use` chooses.
struct AdapterRequest {
  std::vector<std::string> chain;
  std::vector<NamedAdapter> set;
  std::string use;  // as parse_weights reads it; empty: all of them

  bool empty() const { return chain.empty() && set.empty(); }
  std::vector<std::string> directories() const;
};

// One number for each adapter, by which its scale is multiplied; 0: it is off. `text` is "none", names joined by "+", each with
// a weight where it is not 1: "law", "law+tone", "0.7*law+0.3*tone". Refuses names that are not in the set, and names them.
std::vector<double> parse_weights(const std::string& text, const std::vector<NamedAdapter>& set);
// The way back; weights of 1 are left out.
std::string weights_text(const std::vector<double>& weights, const std::vector<NamedAdapter>& set);

// Refuses what has no sum: DoRA beside another adapter or with a weight (its magnitudes divide by the length of the whole row), an adapter that
// replaces a tensor which another one changes too, and a weight on one that replaces any.
struct Summand {
  std::string name;
  double weight = 1;
  bool dora = false;
  std::vector<std::string> changed, replaced;  // tensors of the base; those that the adapter has as a whole are in both
};
void check_sum(const std::vector<Summand>& summands);

class AdapterSet {
 public:
  // Declares slots beside `model`, which has the base's architecture with what all of them ask for (adapted_config), and has
  // its layers held as `quantization`. Before there is storage. Refuses what cannot be switched: one of several that brings new tokens,
  // or saves a module as a whole that would be quantised for the others.
  AdapterSet(Decoder& model, std::vector<NamedAdapter> adapters, const Quantization& quantization = {});
  ~AdapterSet();

  const std::vector<NamedAdapter>& adapters() const { return adapters_; }
  uint64_t bytes(DType dtype) const;  // of all of them
  // Behind the base's weights: reads them, as `dtype`. None of them is on.
  void load(DType dtype);

  // Puts these weights of adapters (one for each) beside the base, in place of what was there. The sum is what merging would
  // add; one adapter alone answers with the bits of a model that was loaded with it. What an adapter saves as a whole changes places with the
  // base's. Refuses what has no sum, and leaves everything as it was.
  void select(const std::vector<double>& weights);
  const std::vector<double>& weights() const { return weights_; }
  // Whether select would refuse them: throws as it does.
  void check(const std::vector<double>& weights) const;

 private:
  struct Member;
  void exchange(Member& member);

  Decoder& model_;
  std::vector<NamedAdapter> adapters_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<double> weights_;
};

}  // namespace attune::models
