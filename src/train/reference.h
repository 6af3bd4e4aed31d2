// What the reference model says of every answer, once before the run instead of in every update: the reference needs no
// memory while the policy trains, and later epochs and resumed runs do not compute it again.
#pragma once

#include "train/setup.h"

namespace attune::train {

// What an engine is told that only looks, at the batches of a run with these options.
EngineOptions reference_options(const EngineOptions& run);

// Refuses a `ref_model` that cannot be the run's reference: of another kind, or with other tokens.
void check_reference(const RunSetup& setup);

// Log-probabilities of the samples that this run will look at, kept in output_dir.
class ReferenceLogps {
 public:
  explicit ReferenceLogps(RunSetup& setup);
  // Whether some are missing that the run needs; what is in output_dir already was read.
  bool missing() const;
  // Whether those in output_dir are another model's than the one that is the reference now.
  bool changed() const { return changed_; }
  // Computes them with the model as it is now, through the run's own engine. Shows progress.
  void fill(Engine& engine);
  // The same with the model of `ref_model`, which is loaded for it and gone when this returns.
  void fill_with(const std::string& directory);

 private:
  struct Part {
    data::TokenSet* set;
    const data::Batcher* batches;
    std::string name;
    bool training;
    int64_t steps;  // of the first epoch that are looked at
    bool later_epochs;
  };
  std::map<std::string, std::string> identity() const;
  void load();
  void store() const;
  template <class F>
  void for_each_missing(F&& f) const;

  RunSetup& setup_;
  fs::path file_;
  std::vector<Part> parts_;
  std::map<std::string, std::string> reference_;  // the model, its adapters …: by content
  bool changed_ = false;
};

}  // namespace attune::train
