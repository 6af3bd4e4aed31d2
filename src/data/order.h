// Which samples form which micro-batch: pure functions, so that resuming seeks and nothing has to be replayed.
#pragma once

#include <cstdint>
#include <vector>

#include "data/token_set.h"
#include "tensor/batch.h"

namespace attune::data {

// A stateless permutation of [0, n): place → item, a function of (seed, epoch). Feistel network with cycle walking.
class Permutation {
 public:
  Permutation(int64_t n, uint64_t seed, uint64_t epoch);
  int64_t operator[](int64_t place) const;
  int64_t size() const { return n_; }

 private:
  int64_t n_;
  int half_bits_;
  uint64_t key_;
};

struct BatchingOptions {
  int64_t micro_batch_size = 8;   // groups, or packs when packing
  int64_t micro_batches = 1;      // per step
  bool packing = false;
  int64_t cutoff_len = 2048;      // tokens a pack holds
  int64_t group_size = 1;         // consecutive samples that must share a micro-batch
  bool probes = false;            // the last sample of each group is only looked at: it goes to Step::probes
  bool shuffle = true;
  bool group_by_length = false;   // samples of similar length share a micro-batch; not with packing
  bool drop_last = false;         // an epoch's last micro-batch is left out when it is not full
  uint64_t seed = 42;
};

// Deals samples into steps. An epoch's last step may be smaller.
class Batcher {
 public:
  Batcher(const TokenSet& set, const BatchingOptions& options);

  int64_t steps_in_epoch(int64_t epoch) const;
  // Fills `step` (memory is reused) with step number `index` of `epoch`.
  void make_step(int64_t epoch, int64_t index, Step& step) const;
  // What no micro-batch exceeds.
  const BatchCapacity& capacity() const { return capacity_; }
  // The same for the first `epochs` alone, whose micro-batches are looked at one by one: the longest samples seldom
  // meet in one. Beyond kMostLooks samples it is capacity().
  BatchCapacity capacity_of(int64_t epochs) const;
  static constexpr int64_t kMostLooks = 20'000'000;
  const BatchingOptions& options() const { return options_; }

 private:
  // Groups (as places in the epoch's order) that go together; one entry per pack, or per group without packing.
  const std::vector<std::vector<int64_t>>& packs(int64_t epoch) const;
  void fill_packs(int64_t epoch) const;
  void pack_window(std::vector<int64_t> groups, uint64_t deal_key) const;
  void group_window(std::vector<int64_t> groups, uint64_t deal_key) const;
  int64_t learnt() const { return options_.group_size - (options_.probes ? 1 : 0); }  // samples of a group
  // Over the samples of a group that are learnt, or its probe, whichever is more: both go through the same memory.
  template <class F>
  int64_t most(int64_t group, F&& count) const;
  int64_t group_tokens(int64_t group) const;
  void add_sample(MicroBatch& batch, int64_t sample, int32_t group) const;

  const TokenSet& set_;
  BatchingOptions options_;
  BatchCapacity capacity_;
  mutable int64_t packed_epoch_ = -1;
  mutable std::vector<std::vector<int64_t>> packs_;
  mutable std::vector<float> weights_;  // of one sequence at a time
};

}  // namespace attune::data
